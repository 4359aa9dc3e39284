from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import pytest
from conftest import CLASSIFIER_SWEEP, FUNCTION_SWEEP, HERE

from raysweep.errors import OracleError, PackError, SweepError
from raysweep.executors import Counts, Feed, make_executor
from raysweep.executors.inline import Inline
from raysweep.executors.work import Job, execute
from raysweep.ledger.log import CELLS, Ledger
from raysweep.oracle.flow_world import FlowWorld
from raysweep.pack import make_pack
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import Sweep


def test_every_row_is_complete_and_typed(any_store: Store, make_sweep: Callable[..., Sweep]) -> None:
    sweep = make_sweep(CLASSIFIER_SWEEP)
    outcome = run(sweep, any_store, make_executor("inline"))
    assert (outcome.counts.ok, outcome.pending) == (32, 0)
    frame = pl.read_parquet(any_store.read(CELLS))
    assert frame["cell"].n_unique() == 32
    assert frame["run"].n_unique() == 8
    may_be_null = {"parent", "error", "git_commit", "git_dirty", "training_id", "bmd", "bmd_se", "epistemic_base"}
    never_null = [n for n in frame.columns if n not in may_be_null]
    assert frame.select(pl.col(never_null).null_count()).sum_horizontal().item() == 0
    assert frame["parent"].is_null().all()
    assert set(frame["role"]) == {"grid"}
    assert frame["data_seed"].to_list() == frame["seed"].to_list()
    gap = (frame["total"] - frame["aleatoric"] - frame["epistemic"]).abs().max()
    assert isinstance(gap, float)
    assert gap < 1e-12
    last = frame.group_by("run").agg(pl.col("flops").max(), pl.col("steps").max())
    assert (last["flops"] > 0).all()
    assert any_store.read_json("env.json")["sweep"] == sweep.hash
    assert any_store.exists(f"sweeps/{sweep.hash}.yaml")


def test_a_second_run_does_nothing(any_store: Store, make_sweep: Callable[..., Sweep]) -> None:
    sweep = make_sweep(FUNCTION_SWEEP)
    run(sweep, any_store, make_executor("inline"))
    parts = Ledger(any_store).scan().parts
    said = io.StringIO()
    outcome = run(sweep, any_store, make_executor("inline"), stream=lambda: said)
    assert outcome.counts.ok == sweep.runs.cells
    assert Ledger(any_store).scan().parts == parts
    assert said.getvalue() == ""


def test_two_grids_share_a_store_and_their_common_cells(tmp_path: Path, make_sweep: Callable[..., Sweep]) -> None:
    store = Store(str(tmp_path))
    run(make_sweep(FUNCTION_SWEEP), store, make_executor("inline"))
    wider = make_sweep(FUNCTION_SWEEP, {"seed": {"range": 3}})
    outcome = run(wider, store, make_executor("inline"))
    assert outcome.counts.ok == 27
    assert outcome.scan.table.num_rows == 27  # the common cells were not run again
    assert len(store.list("sweeps")) == 2


def test_a_diverged_lane_is_a_row_with_its_step_and_its_neighbours_finish(
    tmp_path: Path, make_sweep: Callable[..., Sweep]
) -> None:
    sweep = make_sweep(CLASSIFIER_SWEEP, {"lr": [0.02, 1e30], "steps": [16, 64], "width": 8})
    outcome = run(sweep, Store(str(tmp_path)), make_executor("inline"))
    frame = pl.read_parquet(tmp_path / "cells.parquet")
    bad = frame.filter(pl.col("status") == "diverged")
    assert outcome.counts.diverged == bad.height > 0
    assert set(bad["lr"]) == {1e30}
    assert frame.filter(pl.col("lr") == 0.02)["status"].unique().to_list() == ["ok"]
    assert bad["error"].str.contains(r"loss not finite.* (at|by) step \d+").all()
    assert bad["epistemic"].is_null().all()
    again = run(sweep, Store(str(tmp_path)), make_executor("inline"), retry_diverged=True)
    assert again.counts == outcome.counts


def test_a_failed_audit_stops_the_sweep_before_any_cell(
    tmp_path: Path, make_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = FlowWorld.log_posterior

    def swapped(self: FlowWorld, x: object, temperature: float = 1.0) -> object:
        return honest(self, x, temperature)[:, [1, 0, 2]]  # type: ignore[arg-type]

    monkeypatch.setattr(FlowWorld, "log_posterior", swapped)
    world = {**CLASSIFIER_SWEEP["world"], "seed": 99}  # its samples are in no cache yet
    store = Store(str(tmp_path))
    with pytest.raises(OracleError, match=r"audit failed at temperature 1: self_calibration must be within 4"):
        run(make_sweep(CLASSIFIER_SWEEP, world=world), store, make_executor("inline"))
    assert Ledger(store).scan().parts == 0


def test_a_plan_over_budget_spends_nothing(tmp_path: Path, make_sweep: Callable[..., Sweep]) -> None:
    sweep = make_sweep(CLASSIFIER_SWEEP, budget={"flops": 1e3})
    with pytest.raises(SweepError, match=r"budget\.flops: at most 1000 may be spent, but the plan needs"):
        run(sweep, Store(str(tmp_path)), make_executor("inline"))
    assert Ledger(Store(str(tmp_path))).scan().parts == 0


def test_a_pack_stopped_half_way_keeps_what_it_finished(tmp_path: Path, make_sweep: Callable[..., Sweep]) -> None:
    sweep, store = make_sweep(CLASSIFIER_SWEEP, {"width": 8}), Store(str(tmp_path))
    run(sweep, store, make_executor("inline"))  # makes the world
    folder = store.folders("oracle")[0]
    fresh = make_sweep(CLASSIFIER_SWEEP, {"width": 8, "seed": [7]})
    text = fresh.file.model_dump_json()
    token = store.read("store.json").decode()
    job = Job(text, "sweep.yaml", (str(HERE),), store, f"oracle/{folder}", token, cpus=1, gpus=0)
    work = execute(job, make_pack(fresh.runs))
    assert next(work).ok == 4  # the first of two snapshots: 2 sizes x 2 budgets
    work.close()
    pending = Ledger(store).pending(fresh.runs)
    assert pending.cells == 4
    assert {pending.observed[c].values("steps") for c in pending.observed_code.tolist()} == {(16,)}


def test_planning_and_running_work_without_polars(tmp_path: Path) -> None:
    script = f"""
import sys
for name in ("polars", "matplotlib"):
    sys.modules[name] = None
sys.path.insert(0, {str(HERE)!r})
from conftest import FUNCTION_SWEEP
import yaml
open("toy.yaml", "w").write(yaml.safe_dump(FUNCTION_SWEEP))
from raysweep.cli import app
for arguments in (["plan", "toy.yaml"], ["run", "toy.yaml", "--executor", "inline"], ["status", "results/toy"],
                  ["compact", "results/toy"]):
    try:
        app(arguments)
    except SystemExit as stop:
        assert stop.code in (0, None), arguments
"""
    script = script.replace("from conftest import FUNCTION_SWEEP", f"FUNCTION_SWEEP = {FUNCTION_SWEEP!r}")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "is not installed here" in done.stdout
    assert "toy: 18 ok of 18" in done.stdout


def test_planning_any_built_in_experiment_imports_neither_torch_nor_ray(tmp_path: Path) -> None:
    script = """
import sys
from raysweep.experiments import BUILT_IN, built_in
from raysweep.sweep import from_mapping
from raysweep.plan import make_plan
from raysweep.store import Store
for name in BUILT_IN:
    world = {"world": {"kind": "gaussian"}} if built_in(name).needs_world else {}
    make_plan(from_mapping({"name": "a", "experiment": name, **world, "grid": {"seed": 1}}), Store("nowhere"), 2)
    assert not {"torch", "ray", "polars", "matplotlib"} & set(sys.modules), (name, sorted(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ({"precision": "tf32"}, r"grid\.precision: tf32 must run on a GPU.*resources\.gpus=0"),
        ({"model": "vit", "patch": 3}, r"grid\.model: vit needs square images.*4 numbers|grid\.patch"),
        ({"n_train": 10**6}, r"n_train <= pool"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    tmp_path: Path, make_sweep: Callable[..., Sweep], grid: dict[str, object], told: str
) -> None:
    store = tmp_path / "store"
    with pytest.raises(SweepError, match=told):
        run(make_sweep(CLASSIFIER_SWEEP, grid), Store(str(store)), make_executor("inline"))
    assert not store.exists() or not list(store.iterdir())


@dataclass
class Cramped(Inline):
    """Lanes that run out of memory on fewer than `enough` workers; of at most `most`, only worker 0 is played."""

    enough: int
    most: int
    passes: list[tuple[int, list[int]]] = field(default_factory=list)

    def check(self, cpus: float, gpus: float, workers: int) -> None:
        if workers > self.most:
            raise PackError("there are no more")

    def run(self, job: Job, feed: Feed, on_counts: Callable[[Counts], None]) -> None:
        lanes = []
        while (pack := feed.ask()) is not None:
            lanes.append(len(pack))
            if job.workers < self.enough:
                on_counts(feed.too_large(pack.id, "full"))
            else:
                for counts in execute(replace(job, workers=1), pack):
                    on_counts(counts)
                feed.done(pack.id)
        self.passes.append((job.workers, lanes))


def test_a_lane_that_runs_out_of_memory_alone_goes_to_twice_as_many_workers(
    tmp_path: Path, make_sweep: Callable[..., Sweep]
) -> None:
    sweep, said = make_sweep(CLASSIFIER_SWEEP), io.StringIO()
    store, executor = Store(str(tmp_path / "a")), Cramped(enough=4, most=4)
    assert run(sweep, store, executor, stream=lambda: said).counts.ok == sweep.runs.cells
    assert [workers for workers, _ in executor.passes] == [1, 2, 4]
    assert [lanes for _, lanes in executor.passes[1:]] == [[1] * 8] * 2
    assert "a run ran out of memory; 4 workers will train it together" in said.getvalue()
    for few in (Cramped(enough=4, most=2), Cramped(enough=32, most=99)):  # no more workers; no more items in a batch
        store = Store(str(tmp_path / str(few.most)))
        assert run(sweep, store, few).counts.failed == sweep.runs.cells
        assert max(workers for workers, _ in few.passes) == min(few.most, 16)
        errors = pl.read_parquet(store.path(CELLS))["error"]
        assert set(errors) == {"out of memory with one lane: full"}
