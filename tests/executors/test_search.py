"""Candidates through Ray Tune's OptunaSearch: one trial each, schedulers, and what a killed driver leaves behind.

Most tests drive the searcher and its trials as Tune does, without Tune's processes; the last one runs Tune.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import HERE

from raysweep.errors import LedgerError, SweepError
from raysweep.executors import make_executor
from raysweep.executors.inline import Inline
from raysweep.executors.raysearch import CandidateSearch, CandidateTrial
from raysweep.executors.search import Search
from raysweep.executors.trial import result
from raysweep.executors.work import Job, execute
from raysweep.ledger.rows import Counts
from raysweep.run import run
from raysweep.store import Store
from raysweep.store.leases import hold
from raysweep.sweep import Sweep, from_mapping
from raysweep.sweep.current import cells

pytest.importorskip("optuna")

SEARCHED: dict[str, Any] = {
    "name": "searched",
    "experiment": "toy_experiment:tunable",
    "observed": ["epoch"],
    "grid": {"size": [10, 1000], "seed": {"range": 2}, "epoch": [1, 2]},
    "tune": {"lr": {"log": [1e-3, 1.0]}},
    "tuner": {"sampler": "optuna_search", "candidates": 3, "rounds": 3, "seeds": 2},
    "fit": [{"law": "power", "x": "size", "y": "loss", "at": "last"}],
}
CANDIDATES = 9


def searched(tuner: dict[str, Any] | None = None, **changes: Any) -> Sweep:
    return from_mapping({**SEARCHED, **changes, "tuner": {**SEARCHED["tuner"], **(tuner or {})}}, "s.yaml", [HERE])


class Bench:
    """A worker's process, without Ray."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def reports(self, config: dict[str, Any], on_rows: Callable[[Any], None]) -> Iterator[dict[str, Any]]:
        for _ in execute(self.job, config["pack"], None, on_rows=on_rows):
            yield {**result(Counts()), "done": False}
        yield {**result(Counts()), "done": True}


class Simulated(Inline):
    """Tune with two workers, in this process.

    Args:
        stops: Whether a scheduler stops a candidate, by the report that it made.
        most: Candidates after whose end the driver is killed.
    """

    def __init__(self, stops: Callable[[dict[str, Any]], bool] = lambda report: False, most: float = math.inf) -> None:
        self.stops, self.most, self.searches = stops, most, list[Search]()

    def search(self, job: Job, search: Search, on_counts: Callable[[Counts], None]) -> str:
        self.searches.append(search)
        candidates, live, number = CandidateSearch(search, 2, on_counts), dict[str, Any](), 0
        trials = candidates.optuna._ot_study.trials
        assert sorted(t.value for t in trials if t.state.name == "COMPLETE") == sorted(search.known.values())
        assert sum(t.state.name == "PRUNED" for t in trials) == len(search.stopped)
        assert sum(t.state.name == "WAITING" for t in trials) == len(search.first)
        while True:
            while isinstance(config := candidates.suggest(str(number)), dict):
                trial = CandidateTrial.__new__(CandidateTrial)
                trial.bench = Bench(job)
                live[str(number)] = trial._reports(config), 1
                number += 1
            if not live:
                assert candidates.ended
                return candidates.stopped
            assert len(live) <= 2
            for name, (steps, at) in list(live.items()):
                report = {**next(steps), "training_iteration": at}
                if not report["done"] and not self.stops(report):
                    candidates.on_trial_result(name, report)
                    live[name] = steps, at + 1
                    continue
                steps.close()
                del live[name]
                candidates.on_trial_complete(name, report)
                self.most -= 1
                if self.most < 0:
                    raise KeyboardInterrupt


def frame(store: Store) -> pl.DataFrame:
    return pl.from_arrow(cells(store)[0])  # type: ignore[return-value]


def test_every_candidate_is_a_row_with_role_and_parent_and_the_best_is_measured_again(memory_store: Store) -> None:
    executor = Simulated()
    outcome = run(searched(), memory_store, executor)
    rows = frame(memory_store)
    assert outcome.pending == 0
    assert [(len(s.first), s.count, len(s.known)) for s in executor.searches] == [(3, CANDIDATES, 0)] * 2
    assert rows["parent"].n_unique() == 2
    for _, mine in rows.group_by("parent"):
        tried, won = (mine.filter(pl.col("role") == role) for role in ("candidate", "selected"))
        assert tried["lr"].n_unique() == CANDIDATES
        assert set(won["seed"]) == {2, 3}
        best = tried.group_by("lr", "run").agg(pl.col("loss_select").min(), ok=(pl.col("status") == "ok").all())
        mean = best.group_by("lr").agg(pl.col("loss_select").mean(), pl.col("ok").all()).filter(pl.col("ok"))
        assert set(won["lr"]) == {mean.sort("loss_select")["lr"][0]}
    assert not outcome.stopped


def test_a_candidate_that_is_stopped_early_keeps_its_rows_and_cannot_win(
    memory_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of its last run, also where its score is the best: it was not trained to its end."""
    monkeypatch.setattr("raysweep.experiments.function._EVERY", -1.0)  # rows come one by one
    best: list[float] = []

    def stops(report: dict[str, Any]) -> bool:
        if report["training_iteration"] != 3:  # the first row of the second seed
            return False
        best.append(report["score"])
        return bool(report["score"] == min(best))

    run(searched({"scheduler": "asha"}), memory_store, Simulated(stops))
    rows = frame(memory_store).filter(pl.col("role") == "candidate")
    early = rows.filter(pl.col("error").str.starts_with("retired by asha"))
    assert set(early["status"]) == {"skipped"}
    runs = rows.filter(pl.col("lr").is_in(early["lr"].implode()))
    assert "ok" in set(runs["status"])
    assert runs.group_by("run").len()["len"].unique().to_list() == [2]  # a row for every cell
    assert (
        early.height
        == early["run"].n_unique()
        == early.join(runs.filter(status="ok"), on=["run", "training_id"]).height
    )
    won = frame(memory_store).filter(pl.col("role") == "selected")
    assert won.height == 2 * 2 * 2
    assert set(won["lr"]).isdisjoint(early["lr"])


@pytest.mark.parametrize("lost", [False, True])
def test_a_killed_search_gives_back_what_was_evaluated_and_continues(lost: bool, memory_store: Store) -> None:
    """Killed after five candidates of the first setting; also where the record of what was asked is lost."""
    with pytest.raises(KeyboardInterrupt):
        run(searched(), memory_store, Simulated(most=4))
    before = frame(memory_store)
    if lost:
        for name, _ in memory_store.list("tuning"):
            memory_store.delete(f"tuning/{name}")
    executor = Simulated()
    outcome = run(searched(), memory_store, executor)
    first, second = executor.searches
    ended = before.filter(pl.col("size") == 10).group_by("lr").len().filter(pl.col("len") == 4).height
    assert 5 <= ended < CANDIDATES
    assert (len(first.known), first.count, len(second.known), second.count) == (
        ended,
        CANDIDATES - ended,
        0,
        CANDIDATES,
    )
    mean = before.group_by("lr", "run").agg(pl.col("loss_select").min(), (pl.col("status") == "ok").all())
    for (lr,), score in first.known.items():
        mine = mean.filter(pl.col("lr") == lr)
        assert score == (pytest.approx(mine["loss_select"].mean()) if mine["status"].all() else math.inf)
    ok = frame(memory_store).filter(pl.col("status") == "ok")
    again = ok.join(before.filter(pl.col("status") == "ok"), on="cell")
    assert again.height > 0
    assert (again["finished_at"] == again["finished_at_right"]).all()  # what was measured is not measured again
    assert outcome.pending == 0
    assert ok.filter(pl.col("role") == "selected").height == 2 * 2 * 2


def test_a_small_space_is_tried_whole_and_once_and_high_may_be_better(memory_store: Store) -> None:
    raw = {"tune": {"lr": [0.01, 0.1, 0.2, 0.3, 0.4]}, "grid": {**SEARCHED["grid"], "size": 10}}
    run(searched({"better": "high"}, **raw), memory_store, Simulated())
    rows = frame(memory_store)
    ((name, _),) = memory_store.list("tuning")
    (study,) = json.loads(memory_store.read_text(f"tuning/{name}"))["studies"].values()
    assert sorted(lr for asked in study["rounds"] for (lr,) in asked) == [0.01, 0.1, 0.2, 0.3, 0.4]
    assert set(rows.filter(pl.col("role") == "selected")["lr"]) == {0.01}  # the worst loss


def test_where_every_run_fails_for_one_reason_the_search_ends(memory_store: Store) -> None:
    raw = {"grid": {**SEARCHED["grid"], "gain": 0}, "resources": {"max_failures": 3}}
    outcome = run(searched(**raw, experiment="toy_experiment:gained"), memory_store, Simulated())
    assert outcome.stopped == ("3 runs failed for one reason and none succeeded: ValueError: nothing to train with")
    assert 3 <= frame(memory_store).filter(pl.col("status") == "failed")["run"].n_unique() <= 4


def test_a_search_that_cannot_be_made_is_refused_before_anything_is_written(memory_store: Store) -> None:
    with pytest.raises(
        SweepError, match=r"s\.yaml: tuner\.sampler: optuna_search must run on Ray, .* `--executor inline`"
    ):
        run(searched(), memory_store, make_executor("inline"))
    flat = searched({"scheduler": "asha", "metric": "loss"}, experiment="toy_experiment:flat", observed=[], grid={
        "size": [1, 2], "seed": 0,
    })  # fmt: skip
    with pytest.raises(SweepError, match=r"tuner\.scheduler: a function must be read along the way"):
        run(flat, memory_store, Simulated())
    assert not memory_store.list("")
    sweep = searched()
    with hold(memory_store) as other:
        other.take("search", {f"search {sweep.hash}"})
        with pytest.raises(LedgerError, match="one driver at a time must search with optuna_search"):
            run(sweep, memory_store, Simulated())


@pytest.mark.usefixtures("ray_up")
def test_tune_runs_the_candidates_and_asha_stops_some(tmp_path: Path) -> None:
    grid, tune = {"size": 10, "seed": {"range": 2}, "epoch": [1, 2]}, {"lr": {"log": [1e-3, 0.4]}}
    tuner = {"candidates": 4, "rounds": 2, "seeds": 1, "scheduler": "asha"}
    store = Store(str(tmp_path / "store"))
    outcome = run(
        searched(tuner, grid=grid, tune=tune, fit=[{**SEARCHED["fit"][0], "x": "epoch", "at": "best"}]),
        store,
        make_executor("ray"),
    )
    rows = frame(store)
    assert outcome.pending == 0
    tried = rows.filter(pl.col("role") == "candidate")
    assert tried["lr"].n_unique() == 8
    assert set(tried.group_by("lr").len()["len"]) == {4}
    assert tried.filter(pl.col("error").str.starts_with("retired by asha"))["lr"].n_unique() >= 1
    (won,) = set(rows.filter(pl.col("role") == "selected")["lr"])
    best = tried.group_by("lr", "run").agg(pl.col("loss_select").min(), (pl.col("status") == "ok").all())
    whole = best.group_by("lr").agg(pl.col("loss_select").mean(), pl.col("status").all()).filter(pl.col("status"))
    assert won == whole.sort("loss_select")["lr"][0]
