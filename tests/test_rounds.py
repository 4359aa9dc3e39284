"""A sweep that tunes, from the file to the laws: rounds, roles, winners, and what a killed driver leaves behind."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import CLASSIFIER_SWEEP, HERE

from raysweep.cli.status import lines
from raysweep.errors import SweepError
from raysweep.executors import make_executor
from raysweep.forget import choose, drop_statements
from raysweep.laws import fit
from raysweep.ledger.log import Ledger, sequence
from raysweep.plan import make_plan
from raysweep.rounds import Rounds
from raysweep.run import Outcome, run
from raysweep.status import status
from raysweep.store import Store
from raysweep.suggest import suggestion
from raysweep.sweep import Sweep, from_mapping
from raysweep.sweep.current import cells, current
from raysweep.sweep.until import read_target

TUNED: dict[str, Any] = {
    "name": "tuned",
    "experiment": "toy_experiment:tunable",
    "observed": ["epoch"],
    "grid": {"size": [10, 100, 1000], "seed": {"range": 2}, "epoch": [1, 2]},
    "tune": {"lr": {"log": [1e-3, 1.0]}},
    "tuner": {"sampler": "qmc", "candidates": 4, "rounds": 3, "seeds": 3},
    "fit": [{"law": "power", "x": "size", "y": "loss", "at": "last"}],
}
RUNS = 3 * (3 * 4 * 2 + 3)


def tuned(grid: dict[str, Any] | None = None, tuner: dict[str, Any] | None = None, **changes: Any) -> Sweep:
    raw = {**TUNED, "grid": {**TUNED["grid"], **(grid or {})}, "tuner": {**TUNED["tuner"], **(tuner or {})}, **changes}
    return from_mapping(raw, "tuned.yaml", [HERE])


def execute(sweep: Sweep, store: Store) -> Outcome:
    return run(sweep, store, make_executor("inline"))


def frame(store: Store) -> pl.DataFrame:
    return pl.from_arrow(cells(store)[0])  # type: ignore[return-value]


def asked(store: Store) -> Any:
    ((name, _),) = store.list("tuning")
    return json.loads(store.read_text(f"tuning/{name}"))["studies"]


def test_every_setting_has_its_candidates_and_its_winner_on_fresh_seeds(memory_store: Store) -> None:
    store, sweep = memory_store, tuned(tuner={"candidates": 8})
    outcome = execute(sweep, store)
    rows = frame(store)
    assert outcome.counts.total == 2 * 3 * (3 * 8 * 2 + 3) == rows.height
    assert rows["parent"].n_unique() == 3 == rows.group_by("parent").agg(pl.col("size").n_unique()).height
    for (parent,), mine in rows.group_by("parent"):
        candidates, won = (mine.filter(pl.col("role") == role) for role in ("candidate", "selected"))
        assert candidates["lr"].n_unique() == 24
        assert set(candidates["seed"]) == {0, 1}
        assert set(won["seed"]) == {2, 3, 4}
        ok = candidates.group_by("run").agg(pl.all().first(), best=pl.col("loss_select").min())
        mean = ok.group_by("lr").agg(pl.col("best").mean(), pl.col("status").first()).filter(pl.col("status") == "ok")
        assert set(won["lr"]) == {mean.sort("best")["lr"][0]}, parent
        optimum = 0.3 * won["size"][0] ** -0.25
        assert abs(math.log(won["lr"][0] / optimum)) < 0.3  # the design's spacing
    (law,) = fit(cells(store)[0], law="power", x="size", y="loss", where="epoch = 2")
    assert law.params["alpha"] == pytest.approx(0.5, abs=0.05)
    assert {"dropped_candidate", "follows_lr"} <= {note.partition(":")[0] for note in law.notes}
    assert outcome.tuned[0].startswith(
        "tune: 3 winners by loss_select, measured again on 3 fresh seeds; selection bias"
    )


def test_a_plan_counts_all_rounds_and_status_what_is_asked(memory_store: Store) -> None:
    store, sweep = memory_store, tuned()
    rounds = Rounds(sweep, store)
    whole = make_plan(rounds.rehearsed(rounds.resume()), store, 1).to_json()
    assert (whole["runs"], whole["cells"]) == (RUNS, 2 * RUNS)
    assert len(sweep.runs) == 3 * 4 * 2  # before anything is measured, a sweep is its first round
    assert not store.exists("tuning")
    outcome = execute(sweep, store)
    found = status(store)
    assert found["tuning"]["said"] == [*outcome.tuned] != []
    assert (found["total"], found["pending"]) == (2 * RUNS, found["cells"]["failed"])
    offered = suggestion(store, [read_target("alpha", 1e-3)]).rows
    assert sum(row.add for row in offered) > 0
    assert {(row.so_far, row.left) for row in offered} == {(3, 0)}  # candidates' seeds are not the winners'
    assert {key: found["tuning"][key] for key in ("settings", "round", "winners")} == {
        "settings": 3,
        "round": 3,
        "winners": 3,
    }


@pytest.mark.parametrize("sampler", ["qmc", "tpe", "cmaes"])
def test_a_killed_driver_ends_in_the_same_place(sampler: str, memory_store: Store) -> None:
    """Killed between two rounds, in the middle of one, and among the winners, its record of what was asked lost, too:
    the candidates and the winners are those of a driver that was never killed.
    """
    if sampler != "qmc":
        pytest.importorskip("optuna" if sampler == "tpe" else "cmaes")
    sweep = tuned({"size": [10, 100], "epoch": [1, 2]}, {"sampler": sampler}, tune={"lr": {"log": [1e-3, 0.4]}})
    whole = memory_store
    execute(sweep, whole)
    wanted, rows = asked(whole), Ledger(whole).scan().table.drop_columns(["columns"])
    first = {lr for study in wanted.values() for (lr,) in study["rounds"][0]}
    second = first | {lr for study in wanted.values() for (lr,) in study["rounds"][1][::2]}
    lr, role = rows.column("lr").to_pylist(), rows.column("role").to_pylist()
    left = {
        "between": [value in first and part == "candidate" for value, part in zip(lr, role, strict=True)],
        "within": [value in second and part == "candidate" for value, part in zip(lr, role, strict=True)],
        "winners": [part == "candidate" or i % 2 == 0 for i, part in enumerate(role)],
    }
    for name, mask in left.items():
        store = Store(f"{memory_store.uri}-{name}")
        order = np.random.default_rng(0).permutation(sum(mask))
        kept = rows.filter(mask).take(order)
        Ledger(store).append(kept, next(sequence()))
        assert len(kept) < len(rows)
        execute(sweep, store)
        assert asked(store) == wanted, name
        assert sorted(frame(store)["cell"]) == sorted(rows.column("cell").to_pylist()), name


def test_a_value_added_to_an_axis_leaves_the_other_settings_as_they_are(memory_store: Store) -> None:
    store = memory_store
    execute(tuned({"size": [10, 100]}), store)
    before = frame(store)
    execute(tuned({"size": [10, 30, 100]}), store)
    after = frame(store)
    assert (
        after.filter(pl.col("status") == "ok")
        .filter(pl.col("size") != 30)
        .select("cell", "finished_at")
        .sort("cell")
        .equals(before.filter(pl.col("status") == "ok").select("cell", "finished_at").sort("cell"))
    )
    assert after.filter(pl.col("size") == 30)["run"].n_unique() == RUNS // 3


def test_more_rounds_continue_the_search_and_choose_again(memory_store: Store) -> None:
    store = memory_store
    execute(tuned(tuner={"rounds": 1}), store)
    first = {name: study["rounds"] for name, study in asked(store).items()}
    execute(tuned(tuner={"rounds": 2}), store)
    both = frame(store).filter(pl.col("role") == "candidate")
    assert both["run"].n_unique() == 3 * 2 * 4 * 2
    found = [json.loads(store.read_text(f"tuning/{name}"))["studies"] for name, _ in store.list("tuning")]
    longer = max(found, key=lambda studies: len(next(iter(studies.values()))["rounds"]))
    assert {name: study["rounds"][:1] for name, study in longer.items()} == first


def test_a_setting_whose_candidates_all_fail_has_no_winner_and_holds_up_no_other(memory_store: Store) -> None:
    sweep = tuned({"size": [10, 100], "concat": [{"gain": 1}, {"gain": 0}]}, experiment="toy_experiment:gained")
    outcome = execute(sweep, memory_store)
    rows = frame(memory_store)
    assert set(rows.filter(pl.col("role") == "selected")["gain"]) == {1}
    assert rows.filter(pl.col("gain") == 0)["lr"].n_unique() == 2 * 4  # nothing to learn from: no further round
    assert outcome.tuned[-1] == "tune: no winner at 2 settings: no candidate trained at each of its seeds"


def test_the_best_of_noise_flatters_itself_and_a_fresh_seed_says_so(memory_store: Store) -> None:
    grid = {"size": list(range(1, 9)), "epoch": 1}
    sweep = tuned(grid, {"metric": "loss", "candidates": 8, "seeds": 8}, experiment="toy_experiment:flat", observed=[])
    (said,) = [line for line in execute(sweep, memory_store).tuned if "bias" in line]
    mean, low, high = (float(part.strip("[],%")) for part in said.rsplit(": ", 1)[1].split())
    assert low < mean < high < 0


def test_a_metric_that_no_row_has_is_named_after_the_first_round(memory_store: Store) -> None:
    with pytest.raises(
        SweepError, match=r"tuner\.metric: must be a metric of the rows that is a number, but got 'los'. Did you mean"
    ):
        execute(tuned(tuner={"metric": "los"}), memory_store)


def test_candidates_are_lanes_of_one_pack(memory_store: Store) -> None:
    raw = {
        **CLASSIFIER_SWEEP,
        "grid": {**CLASSIFIER_SWEEP["grid"], "width": 4, "k": 1},
        "tune": {"lr": {"log": [1e-3, 1.0]}},
        "tuner": {"sampler": "qmc", "candidates": 4, "rounds": 2, "seeds": 2, "metric": "accuracy_select"},
    }
    store = memory_store
    execute(from_mapping(raw, "tuned.yaml"), store)
    rows = frame(store)
    assert rows["pack"].n_unique() == 3  # a round each, and the winners
    assert rows["parent"].n_unique() == 2 == rows["n_train"].n_unique()
    best = rows.group_by("run").agg(pl.all().first(), score=pl.col("accuracy_select").max())
    mean = best.filter(pl.col("role") == "candidate").group_by("n_train", "lr").agg(pl.col("score").mean())
    for (n,), mine in mean.group_by("n_train"):
        won = rows.filter((pl.col("n_train") == n) & (pl.col("role") == "selected"))
        assert set(won["data_seed"]) == {2, 3} == set(won["init_seed"])
        assert mine.filter(pl.col("lr") == won["lr"][0])["score"][0] == mine["score"].max()  # high is better


def test_what_rested_on_forgotten_rows_is_chosen_again(memory_store: Store) -> None:
    store, sweep = memory_store, tuned()
    first = execute(sweep, store)
    before = asked(store)
    chosen = choose(store, "role = 'candidate' AND size = 100")
    current(store).ledger.forget(chosen.table.column("cell"), "a test")
    drop_statements(store)
    assert not store.list("tuning")
    left = status(store)
    assert left["total"] is None is left["pending"]  # what is to be done is chosen again, and unknown until then
    said = " ".join(lines(left))
    assert "the store lacks what its tuning chose" in said
    assert "settings" not in said
    again = execute(tuned(), store)
    assert asked(store) == before  # the rows that come again are the same, and so is all that follows from them
    assert again.counts == first.counts


def test_a_round_tries_the_best_of_the_neighbouring_settings(memory_store: Store) -> None:
    pytest.importorskip("optuna")
    execute(
        tuned(tuner={"sampler": "tpe", "candidates": 8, "rounds": 2}, tune={"lr": {"log": [1e-3, 0.4]}}), memory_store
    )
    rows = frame(memory_store).filter(pl.col("role") == "candidate")
    best = rows.group_by("size", "parent", "lr", "run").agg(pl.col("loss_select").min())
    score = best.group_by("size", "parent", "lr").agg(pl.col("loss_select").mean())
    first, second = {}, {}
    for (size, parent), mine in score.group_by("size", "parent"):
        rounds = [[lr for (lr,) in points] for points in asked(memory_store)[parent]["rounds"]]
        first[size] = mine.filter(pl.col("lr").is_in(rounds[0])).sort("loss_select")["lr"][0]
        second[size] = set(rounds[1])
    assert {first[10], first[1000]} <= second[100]
    assert first[100] in second[10] & second[1000]
    assert first[1000] not in second[10]
