"""Packs that several workers train together on Ray: the same rows, whatever happens to one of the workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from conftest import CLASSIFIER_SWEEP, FUNCTION_SWEEP
from polars.testing import assert_frame_equal

from raysweep.errors import PackError
from raysweep.executors import Counts, Feed, Job, make_executor
from raysweep.executors.hosts import Hosts
from raysweep.pack import make_pack
from raysweep.run import run
from raysweep.store import Store
from raysweep.store.leases import Claims
from raysweep.sweep import Sweep

# No lane fits on one worker in this memory, and all do on two, which therefore train each pack together.
RESOURCES = {"memory_gib": 3600 / 2**30, "timeout": 20, "checkpoint_seconds": 0.01}
THREE = {**CLASSIFIER_SWEEP, "experiment": "team_toy:Fragile", "resources": RESOURCES}
NOT_RESULTS = ["pack", "lane", "attempt", "device", "seconds", "finished_at", "flops_eval"]  # the last: since a resume


def cells(store: Store) -> pl.DataFrame:
    return pl.read_parquet(store.path("cells.parquet")).sort("cell")


@pytest.mark.usefixtures("ray_up")
def test_of_three_cells_on_two_workers_one_is_killed_one_is_stopped_and_all_others_come_back_as_from_one_device(
    tmp_path: Path, make_sweep: Callable[..., Sweep]
) -> None:
    (tmp_path / "kill-6").touch()
    (tmp_path / "stall-4").touch()  # the last pack, so that no other trainer is started for one after it
    grid = {"width": [4, 5, 6], "n_train": 32, "seed": 0, "markers": str(tmp_path), "batch": 17}
    sweep = make_sweep(THREE, grid)  # Ray has two CPUs: the workers of one pack
    store, alone = Store(str(tmp_path / "store")), Store(str(tmp_path / "alone"))
    outcome = run(sweep, store, make_executor("ray"))
    assert (outcome.counts.ok, outcome.counts.failed) == (10, 2)
    found = cells(store)
    (bad,) = found.filter(status="failed").select("width", "steps", "error").unique().rows()
    assert bad[:2] == (4, 16)
    assert bad[2].endswith("took longer than 20 s, the limit of a run")
    # The one whose worker was killed at step 8 was tried again, and went on from the state saved at step 4.
    tried = found.filter(status="ok").select("width", "steps", "attempt").unique().sort("width", "steps").rows()
    assert tried == [(4, 4, 1), (5, 4, 1), (5, 16, 1), (6, 4, 1), (6, 16, 2)]

    run(make_sweep(THREE, grid, resources={}), alone, make_executor("inline"))
    good = pl.col("cell").is_in(found.filter(status="ok")["cell"].implode())
    assert all(device.startswith("2 x ") for device in found.filter(good)["device"])
    assert_frame_equal(
        found.filter(good).drop(NOT_RESULTS), cells(alone).filter(good).drop(NOT_RESULTS), rel_tol=1e-5, abs_tol=1e-6
    )


@pytest.mark.usefixtures("ray_up")
def test_as_many_packs_are_handed_out_as_there_is_room_for_and_one_without_room_comes_again(
    tmp_path: Path, make_sweep: Callable[..., Sweep]
) -> None:
    from raysweep.executors.raytune import PackOrder, PackSearch

    store, said = Store(str(tmp_path)), []
    runs = make_sweep(FUNCTION_SWEEP).runs
    packs = [make_pack(runs.take([i])) for i in range(3)]
    feed = Feed(packs, lambda some: list(some), Claims(store, "me"), 1, lambda pack, why: Counts(), said.append)
    for cpus, room in ((1.0, 1), (0.5, 2)):  # Ray has two CPUs
        job = Job("{}", "", (), store, "", "", cpus=cpus, gpus=0.0, workers=2)
        search = PackSearch(feed, PackOrder(feed), lambda counts: None, Hosts(str), job)
        given = [search.suggest(str(i)) for i in range(3)]
        assert [one is not None for one in given] == [i < room for i in range(3)]
        for i in range(room):
            search.on_trial_complete(str(i), {"no_room": 60, "done": True})
        assert said == ["no room for the 2 workers of a pack within 60 s; it waits"] * room
        said.clear()
    assert {feed.ask().id for _ in packs} == {pack.id for pack in packs}  # type: ignore[union-attr]


@pytest.mark.usefixtures("ray_up")
def test_a_pack_with_more_workers_than_ray_can_hold_is_refused_at_once(
    tmp_path: Path, make_sweep: Callable[..., Sweep]
) -> None:
    sweep = make_sweep(CLASSIFIER_SWEEP, resources={"workers_per_run": 3})
    with pytest.raises(PackError, match=r"a pack needs 3 CPUs for its 3 workers, but this Ray has 2"):
        run(sweep, Store(str(tmp_path / "store")), make_executor("ray"))
    assert not (tmp_path / "store").exists()


def test_the_inline_executor_refuses_workers(tmp_path: Path, make_sweep: Callable[..., Sweep]) -> None:
    sweep = make_sweep(CLASSIFIER_SWEEP, resources={"workers_per_run": 2})
    with pytest.raises(PackError, match=r"must run on Ray, but got \(workers_per_run=2, executor=inline\)"):
        run(sweep, Store(str(tmp_path / "store")), make_executor("inline"))
    assert not (tmp_path / "store").exists()
