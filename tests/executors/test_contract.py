"""Every executor gives the same rows: the same cells, and the same values to float precision."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from conftest import CLASSIFIER_SWEEP, FUNCTION_SWEEP
from polars.testing import assert_frame_equal

from raysweep import run as run_module
from raysweep.errors import OracleError, PackError, SweepError
from raysweep.executors import Job, make_executor
from raysweep.executors.work import check_store
from raysweep.oracle.gaussian import GaussianRecipe
from raysweep.oracle.recipe import folder_of
from raysweep.oracle.world import load_world
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import Sweep

UNEQUAL = ["seconds", "finished_at"]


def rows_of(store: Store) -> pl.DataFrame:
    return pl.read_parquet(store.path("cells.parquet")).sort("cell").drop(UNEQUAL)


@pytest.mark.usefixtures("ray_up")
def test_packs_on_ray_equal_packs_inline_in_a_trained_world(tmp_path: Path, make_sweep: Callable[..., Sweep]) -> None:
    flow = {"kind": "flow", "data": "digits", "noise": 0.5, "layers": 2, "hidden": 16, "epochs": 3}
    sweep = make_sweep(CLASSIFIER_SWEEP, world=flow)
    stores = {name: Store(str(tmp_path / name)) for name in ("inline", "ray")}
    # The world is trained without Ray Train, whose workers cost seconds: test_train and tests/cluster do that.
    assert run(sweep, stores["inline"], make_executor("inline")).counts.ok == sweep.runs.cells

    (folder,) = stores["inline"].folders("oracle")
    curve = stores["inline"].read_json(f"oracle/{folder}/curve.json")
    assert [p["epoch"] for p in curve] == [1, 2, 3]
    assert curve[-1]["nll"] < curve[0]["nll"]
    assert not stores["inline"].list(f"oracle/{folder}/checkpoint")  # it has ended
    assert all(a["passed"] for a in stores["inline"].read_json(f"oracle/{folder}/audit.json"))
    world = load_world(stores["inline"], f"oracle/{folder}")

    shutil.copytree(tmp_path / "inline/oracle", tmp_path / "ray/oracle")
    assert run(sweep, stores["ray"], make_executor("ray")).counts.ok == sweep.runs.cells
    assert set(rows_of(stores["ray"])["world_sha"]) == {world.sha}
    inline, ray = (rows_of(stores[name]).drop("pack", "lane") for name in ("inline", "ray"))
    assert_frame_equal(inline, ray, rel_tol=1e-4, abs_tol=1e-6)


@pytest.mark.usefixtures("ray_up")
def test_a_worker_that_sees_another_store_stops_the_run_at_once(
    tmp_path: Path, make_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(FUNCTION_SWEEP)
    original = run_module.open_store
    monkeypatch.setattr(run_module, "open_store", lambda *args: original(*args) + "another host's")
    with pytest.raises(PackError, match="every worker must see the driver's store"):
        run(sweep, Store(str(tmp_path)), make_executor("ray"))


@pytest.mark.usefixtures("ray_up")
@pytest.mark.parametrize("name", ["inline", "ray"])
def test_a_call_answers_and_raises_what_the_function_raised(name: str, tmp_path: Path) -> None:
    executor = make_executor(name)
    job = Job("{}", "sweep", (), Store(str(tmp_path)), "", "", 1.0, 0.0)
    recipe = GaussianRecipe()
    assert executor.call(job, folder_of, recipe) == folder_of(recipe)
    with pytest.raises(OracleError, match=r"must hold recipe\.json"):
        executor.call(job, load_world, job.store)


def test_in_a_folder_only_the_drivers_token_will_do_and_in_an_object_store_any(any_store: Store) -> None:
    with pytest.raises(PackError, match="sees none"):
        check_store(any_store, "mine")
    any_store.write("store.json", b"that of a driver which made it in the same instant")
    if any_store.is_local:
        with pytest.raises(PackError, match="sees another"):
            check_store(any_store, "mine")
    else:
        check_store(any_store, "mine")


def test_inline_refuses_what_it_cannot_give(tmp_path: Path, make_sweep: Callable[..., Sweep]) -> None:
    with pytest.raises(SweepError, match="address names a Ray cluster, but the executor is inline"):
        make_executor("inline", "auto")
    if not torch.cuda.is_available():
        sweep = make_sweep(FUNCTION_SWEEP, resources={"gpus": 1})
        with pytest.raises(PackError, match="a pack needs 1 GPUs, but torch sees none here"):
            run(sweep, Store(str(tmp_path / "store")), make_executor("inline"))
        assert not (tmp_path / "store").exists()


def test_a_sweep_that_is_finished_needs_no_resources(tmp_path: Path, make_sweep: Callable[..., Sweep]) -> None:
    store = Store(str(tmp_path))
    run(make_sweep(FUNCTION_SWEEP), store, make_executor("inline"))
    sweep = make_sweep(FUNCTION_SWEEP, resources={"gpus": 1000})
    for name in ("inline", "ray"):
        assert run(sweep, store, make_executor(name)).pending == 0
