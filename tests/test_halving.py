"""Successive halving of candidates: which pass a rung, that the others are spared, and that a kill changes nothing."""

from __future__ import annotations

import math
import uuid
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import CLASSIFIER_SWEEP, HERE

from raysweep.executors import make_executor
from raysweep.executors.keeping import FOLDER
from raysweep.ledger.log import Ledger, sequence
from raysweep.plan import make_plan
from raysweep.rounds import Rounds
from raysweep.run import Outcome, run
from raysweep.selection import passed, ranked
from raysweep.status import status
from raysweep.store import Store
from raysweep.sweep import Sweep, from_mapping
from raysweep.sweep.current import cells
from raysweep.sweep.halved import Ladder
from raysweep.training import loop

WIDE = {"lr": {"log": [1e-3, 1e15]}}
HALVED: dict[str, Any] = {
    "name": "halved",
    "experiment": "toy_experiment:tunable",
    "observed": ["epoch"],
    "grid": {"size": [10, 100], "seed": {"range": 2}, "epoch": [1, 2, 3, 6, 9, 12]},
    "tune": {"lr": {"log": [1e-3, 1.0]}},
    "tuner": {"sampler": "qmc", "candidates": 9, "rounds": 2, "seeds": 2, "halving": {"min_resource": 1}},
    "fit": [{"law": "power", "x": "size", "y": "loss", "at": "last"}],
}
TRAINED: dict[str, Any] = {
    **CLASSIFIER_SWEEP,
    "grid": {**CLASSIFIER_SWEEP["grid"], "width": 4, "k": 1, "steps": [2, 4, 8, 32], "precision": "float64"},
    "tune": {"lr": {"log": [1e-3, 1.0]}},
    "tuner": {
        "sampler": "qmc",
        "candidates": 8,
        "rounds": 1,
        "seeds": 2,
        "metric": "nll_select",
        "halving": {"reduction_factor": 2, "min_resource": 4},
    },
}


def halved(raw: dict[str, Any] = HALVED, tuner: dict[str, Any] | None = None, **changes: Any) -> Sweep:
    return from_mapping({**raw, "tuner": {**raw["tuner"], **(tuner or {})}, **changes}, "halved.yaml", [HERE])


def execute(sweep: Sweep, store: Store) -> Outcome:
    return run(sweep, store, make_executor("inline"))


def frame(store: Store) -> pl.DataFrame:
    return pl.from_arrow(cells(store)[0])  # type: ignore[return-value]


def recorded(store: Store) -> Any:
    ((name, _),) = store.list("tuning")
    return store.read_json(f"tuning/{name}")["studies"]


def test_rungs_lie_at_times_that_are_read_and_each_lets_one_in_so_many_pass() -> None:
    times = {
        (3.0, 1.0): (1, 3, 9), (2.0, 1.0): (1, 2, 6, 9), (2.0, 3.0): (3, 6), (3.0, 4.0): (6,),
        (3.0, 12.0): (), (100.0, 0.5): (1,),
    }  # fmt: skip
    whole = halved(tuner={"halving": None}).runs.observed[0]
    for (factor, least), rungs in times.items():
        assert Ladder("epoch", factor, least).rungs(whole) == rungs, (factor, least)
    assert halved().runs.observed[0].values("epoch") == (1,)
    counts = [Ladder("epoch", factor, 1).passing(n) for factor, n in ((3, 27), (3, 8), (3, 2), (1.5, 9), (1.1, 11))]
    assert counts == [9, 2, 1, 6, 10]


def test_the_best_pass_and_rank_before_those_that_were_retired() -> None:
    scores = np.array([3.0, np.inf, 1.0, 1.0, np.nan, 2.0])
    np.testing.assert_array_equal(passed(scores, 1), [2])
    np.testing.assert_array_equal(passed(scores, 3), [2, 3, 5])
    np.testing.assert_array_equal(passed(scores, 6), [0, 2, 3, 5])
    until = np.array([np.inf, np.inf, 3.0, 9.0, 9.0, np.inf])
    np.testing.assert_array_equal(ranked(scores, until), [1, np.inf, 5, 3, np.inf, 0])


@pytest.fixture(scope="module")
def stores() -> tuple[Store, Store, Outcome]:
    """A sweep that halves, and a grid in which each of its candidates is trained to its end."""
    store, grid = (Store(f"memory://{uuid.uuid4().hex}") for _ in range(2))
    outcome = execute(halved(), store)
    rates = sorted(set(frame(store)["lr"]))
    plain = {key: value for key, value in HALVED.items() if key not in ("tune", "tuner")}
    execute(from_mapping({**plain, "grid": {**HALVED["grid"], "lr": rates}}, "t", [HERE]), grid)
    return store, grid, outcome


def best_until(rows: pl.DataFrame, epoch: int) -> dict[float, float]:
    """By rate: the mean over seeds of the best score up to an epoch; infinity where a seed failed."""
    early = rows.filter(pl.col("epoch") <= epoch)
    each = early.group_by("lr", "seed").agg(pl.col("loss_select").min(), ok=(pl.col("status") == "ok").all())
    mean = each.group_by("lr").agg(pl.col("loss_select").mean(), pl.col("ok").all())
    return {lr: score if ok else math.inf for lr, score, ok in mean.iter_rows()}


def test_the_worse_candidates_are_retired_at_each_rung_and_nothing_else_changes(
    stores: tuple[Store, Store, Outcome],
) -> None:
    store, grid, outcome = stores
    rows, every = frame(store), frame(grid)
    tuned = rows.filter(pl.col("role") == "candidate")
    same = ["cell", "status", "size", "lr", "epoch", "loss", "loss_select"]
    mine = every.filter(pl.col("cell").is_in(tuned["cell"].implode()))
    assert mine.select(same).sort("cell").equals(tuned.select(same).sort("cell"))
    studies = recorded(store)
    assert len(studies) == 2
    for name, study in studies.items():
        here = tuned.filter(pl.col("parent") == name)
        whole = every.filter((pl.col("size") == here["size"][0]) & pl.col("lr").is_in(here["lr"].implode()))
        last = dict(here.group_by("lr").agg(pl.col("epoch").max()).iter_rows())
        for points in study["rounds"]:
            left = [lr for (lr,) in points]
            for rung, count in ((1, 3), (3, 1)):
                score = best_until(whole, rung)
                on = sorted(left, key=lambda lr: score[lr])[:count]
                assert {last[lr] for lr in left if lr not in on} == {rung}
                left = on
            assert [last[lr] for lr in left] == [12]
        score = best_until(here.filter(pl.col("lr").is_in([lr for lr in last if last[lr] == 12])), 12)
        won = rows.filter((pl.col("role") == "selected") & (pl.col("parent") == name))
        assert set(won["lr"]) == {min(score, key=lambda lr: score[lr])}
        assert set(won["epoch"]) == {1, 2, 3, 6, 9, 12}
    found = status(store)
    assert (found["tuning"]["retired"], found["pending"]) == (2 * 16, found["cells"]["failed"])
    share = (12 * 1 + 4 * 3 + 2 * 12) / 18 / 12
    assert outcome.tuned[-1] == (
        f"tune: halving retired 32 of 36 candidates: on average a training ended after {share:.0%} of its epoch"
    )


def test_a_killed_driver_ends_in_the_same_place(stores: tuple[Store, Store, Outcome]) -> None:
    """Killed on the way to a rung and in the second round, its record lost, too; also where a grid has measured what
    lies beyond a rung, which must decide nothing there.
    """
    whole, grid, _ = stores
    wanted, (rows, every) = recorded(whole), (Ledger(s).scan().table.drop_columns(["columns"]) for s in (whole, grid))
    first = [lr for study in wanted.values() for (lr,) in study["rounds"][0]]
    for name, table in (("on the way to a rung", rows), ("in the second round", every)):
        lr, epoch = (np.array(table.column(column).to_pylist()) for column in ("lr", "epoch"))
        of_first, half = np.isin(lr, first), np.random.default_rng(0).permutation(len(table)) % 2 > 0
        on_the_way = of_first & ((epoch <= 1) | ((epoch <= 3) & half))
        kept = table.filter(on_the_way if table is rows else of_first | ((epoch <= 1) & half))
        store = Store(f"{whole.uri}-{name}")
        Ledger(store).append(kept.take(np.random.default_rng(1).permutation(len(kept))), next(sequence()))
        execute(halved(), store)
        assert recorded(store) == wanted, name
        assert sorted(frame(store)["cell"]) == sorted(rows.column("cell").to_pylist()), name


def _killed(rounds: Rounds, stage: Sweep) -> None:
    raise KeyboardInterrupt


def test_what_passes_a_rung_continues_from_its_state_and_a_plan_says_what_that_costs(
    memory_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    gradients = loop._Stack._gradients
    monkeypatch.setattr(loop._Stack, "_gradients", lambda self: steps.append(len(self.lanes)) or gradients(self))
    sweep = halved(TRAINED)
    rounds = Rounds(sweep, memory_store)
    planned = make_plan(rounds.rehearsed(rounds.resume()), memory_store, 1).to_json()
    with monkeypatch.context() as patch:
        patch.setattr(Rounds, "after", _killed)
        with pytest.raises(KeyboardInterrupt):
            execute(sweep, memory_store)
    assert sum(steps) == 2 * 2 * 8 * 4  # the first rung
    execute(sweep, memory_store)
    taken = sum(steps)
    rows = frame(memory_store)
    ends = rows.group_by("run", "role", "n_train").agg(pl.col("steps").max(), pl.col("flops").max())
    trained = ends.filter(pl.col("role") == "candidate")
    assert sorted(trained["steps"]) == sorted(2 * 2 * (4 * [4] + 2 * [8] + 2 * [32]))
    assert taken == ends["steps"].sum()  # no lane takes a step twice, and none that is retired takes any
    assert not memory_store.list(FOLDER)
    assert ends["flops"].sum() == planned["flops"]
    steps.clear()
    plain = Store(f"{memory_store.uri}-plain")
    execute(halved(TRAINED, {"halving": None}), plain)
    assert sum(steps) > 2 * taken
    both = rows.join(frame(plain), on="cell", suffix="_plain")
    assert both.filter(pl.col("role") == "candidate").height == rows.filter(pl.col("role") == "candidate").height
    for metric in ("nll", "nll_select", "epistemic"):
        np.testing.assert_allclose(both[metric], both[f"{metric}_plain"], rtol=1e-9, atol=1e-12)


def test_a_lane_that_diverges_is_retired_at_the_next_rung_and_frees_no_place(memory_store: Store) -> None:
    grid = {**TRAINED["grid"], "n_train": 32, "seed": 0}
    sweep = halved(TRAINED, {"halving": {"reduction_factor": 1.5, "min_resource": 4}}, grid=grid, tune=WIDE)
    execute(sweep, memory_store)
    rows = frame(memory_store).filter(pl.col("role") == "candidate")
    last = rows.group_by("lr").agg(pl.col("steps").max(), sound=(pl.col("status") == "ok").all()).sort("lr")
    assert last["sound"].to_list() == 2 * [True] + 6 * [False]
    assert sorted(last["steps"][:2]) == [8, 32]
    assert last["steps"].to_list()[2:] == 6 * [4]  # although five of eight might pass
