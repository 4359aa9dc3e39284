"""Resources of packs that several workers train together: what may be asked for, and what a plan makes of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CLASSIFIER_SWEEP, FUNCTION_SWEEP
from typer.testing import CliRunner

from raysweep.cli import app
from raysweep.errors import PackError, SweepError
from raysweep.plan import Plan, make_plan
from raysweep.store import Store
from raysweep.sweep import Sweep
from raysweep.sweep.schema import Resources

WIDE = {"width": 4, "depth": 8, "batch": 4096}  # most of a lane's bytes are activations


def test_gpus_per_run_are_workers_of_one_gpu_each() -> None:
    found = Resources.model_validate({"gpus_per_run": 4, "cpus": 8})
    assert (found.workers_per_run, found.gpus, found.cpus) == (4, 1.0, 8.0)
    assert Resources.model_validate(found.model_dump()) == found
    assert Resources().workers_per_run == 1


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"gpus_per_run": 0}, "resources.gpus_per_run: must be at least 1, but got 0"),
        ({"gpus_per_run": 2.5}, "resources.gpus_per_run: .*2.5"),
        ({"workers_per_run": 0}, "resources.workers_per_run: must be at least 1, but got 0"),
        ({"gpus_per_run": 2, "workers_per_run": 4}, r"means workers_per_run=2, but got \(workers_per_run=4\)"),
        ({"gpus_per_run": 2, "gpus": 0.5}, r"means gpus=1, but got \(gpus=0.5\)"),
        ({"workers_per_run": 2, "gpus": 0.5}, "one GPU or none, but got .*gpus=0.5"),
        ({"workers_per_run": 17}, r"`workers_per_run <= batch` must hold, but got \(workers_per_run=17, batch=16\)"),
    ],
)
def test_what_makes_no_sense_is_refused(make_sweep: Callable[..., Sweep], resources: dict[str, Any], said: str) -> None:
    with pytest.raises(SweepError, match=said):
        _ = make_sweep(CLASSIFIER_SWEEP, resources=resources).runs


def test_an_experiment_whose_runs_cannot_be_divided_says_so(make_sweep: Callable[..., Sweep]) -> None:
    with pytest.raises(SweepError, match=r"as `classifier` is, but got \(experiment=.*workers_per_run=2\)"):
        _ = make_sweep(FUNCTION_SWEEP, resources={"workers_per_run": 2}).runs


def test_workers_share_the_activations_of_a_lane_and_its_work_is_the_same(
    memory_store: Store, make_sweep: Callable[..., Sweep]
) -> None:
    one = make_plan(make_sweep(CLASSIFIER_SWEEP, WIDE), memory_store, 1)
    four = make_plan(make_sweep(CLASSIFIER_SWEEP, WIDE, resources={"workers_per_run": 4}), memory_store, 1)
    assert one.flops == four.flops
    assert (one.to_json()["workers"], four.to_json()["workers"]) == (1, 4)
    (alone,), (together,) = ([g.cost for g in plan.groups] for plan in (one, four))
    kept = 12.0 * alone.parameters  # parameters, gradients and velocity; the workers' sum of gradients comes on top
    assert together.bytes == pytest.approx(kept + 4 * alone.parameters + (alone.bytes - kept) / 4)
    assert one.runs.keys.tolist() == four.runs.keys.tolist()


def test_a_plan_and_its_price_count_all_workers_of_a_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    Path("tiny.yaml").write_text(yaml.safe_dump({**CLASSIFIER_SWEEP, "resources": {"workers_per_run": 3}}))
    said = CliRunner().invoke(app, ["plan", "tiny.yaml"]).output
    assert "8 runs -> 2 packs of 3 workers, 2 at a time" in said
    assert "each worker of a pack may take" in said
    Path("tiny.yaml").write_text(yaml.safe_dump({**CLASSIFIER_SWEEP, "resources": {"gpus_per_run": 4}}))
    found = json.loads(CliRunner().invoke(app, ["plan", "tiny.yaml", "--price", "aws:p5", "--json"]).output)
    assert found["workers"] == 4
    assert found["price"]["per_pack"] == {"cpus": 4.0, "gpus": 4.0}
    assert found["price"]["packs_per_machine"] == 2  # of 8 GPUs


def test_a_lane_that_does_not_fit_is_spread_over_as_many_workers_as_it_needs(
    memory_store: Store, make_sweep: Callable[..., Sweep]
) -> None:
    def plan(memory: float, **resources: float) -> Plan:
        limit = {"memory_gib": memory / 2**30, **resources}
        return make_plan(make_sweep(CLASSIFIER_SWEEP, WIDE, resources=limit), memory_store, 4)

    whole = plan(1e12).groups[0].cost.bytes
    for share, gpus, workers in ((0.3, 1, 4), (0.6, 0, 2), (1.1, 1, 1)):
        found = plan(share * whole, gpus=gpus)
        assert set(found.workers) == {workers}
        assert all(group.cost.bytes <= share * whole for group in found.groups)
        assert sum(len(pack) for pack in found.packs(workers)) == len(found.runs)
        assert not list(found.packs(2 * workers))
        assert bool(found.spread) == (workers > 1)
    assert plan(0.3 * whole, workers_per_run=8).workers[0] == 8  # which already fits
    for memory, gpus in ((10.0, 1), (0.3 * whole, 0.5)):  # parameters are not shared; a part of a GPU stays one
        with pytest.raises(PackError, match=r"make the run smaller$"):
            plan(memory, gpus=gpus)


def test_only_the_shapes_that_need_it_are_spread(memory_store: Store, make_sweep: Callable[..., Sweep]) -> None:
    grid = {**WIDE, "width": [4, 64]}
    costs = [g.cost.bytes for g in make_plan(make_sweep(CLASSIFIER_SWEEP, grid), memory_store, 1).groups]
    limit = {"memory_gib": (min(costs) + 0.5 * (max(costs) - min(costs))) / 2**30, "gpus": 1}
    found = make_plan(make_sweep(CLASSIFIER_SWEEP, grid, resources=limit), memory_store, 1)
    assert {dict(g.shape)["width"]: n for g, n in zip(found.groups, found.workers, strict=True)} == {4: 1, 64: 2}
    assert list(found.spread) == [2]
    assert [shape["workers"] for shape in found.to_json()["shapes"]] == list(found.workers)


def test_a_plan_says_which_runs_are_spread_and_a_run_where_they_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_sweep: Callable[..., Sweep], memory_store: Store
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = make_plan(make_sweep(CLASSIFIER_SWEEP, WIDE), memory_store, 1).groups[0].cost.bytes
    sweep = {**CLASSIFIER_SWEEP, "grid": {**CLASSIFIER_SWEEP["grid"], **WIDE}}
    Path("tiny.yaml").write_text(yaml.safe_dump({**sweep, "resources": {"memory_gib": 0.6 * whole / 2**30}}))
    said = CliRunner().invoke(app, ["plan", "tiny.yaml"]).output
    assert "would not fit on one worker's memory; 2 workers share each batch" in " ".join(said.split())
    refused = CliRunner().invoke(app, ["run", "tiny.yaml", "--executor", "inline", "--store", "store"])
    assert "2 workers, which could train it together, cannot be had" in str(refused.exception)
