"""A winner taken along an axis: candidates at one scale only, and the rows of every scale on fresh seeds."""

from __future__ import annotations

import io
import json
from typing import Any

import polars as pl
import pytest
from conftest import HERE

from raysweep.errors import SweepError
from raysweep.executors import make_executor
from raysweep.plan import make_plan
from raysweep.rounds import Rounds, described
from raysweep.run import run
from raysweep.status import status
from raysweep.store import Store
from raysweep.sweep import Sweep, from_mapping
from raysweep.sweep.current import cells

TAKEN: dict[str, Any] = {
    "name": "taken",
    "experiment": "toy_experiment:gained",
    "observed": ["epoch"],
    "grid": {"size": [10, 100, 1000], "gain": [1, 2], "seed": {"range": 2}, "epoch": [1, 2]},
    "tune": {"lr": {"log": [1e-3, 0.4]}},
    "tuner": {"sampler": "qmc", "candidates": 4, "rounds": 2, "seeds": 3, "transfer": {"size": 100}},
    "fit": [{"law": "power", "x": "size", "y": "loss", "at": "last"}],
}
CANDIDATES, RUNS = 2 * 8 * 2, 2 * 8 * 2 + 6 * 3  # two gains, eight candidates, two seeds; six settings, three seeds


def taken(tuner: dict[str, Any] | None = None, **changes: Any) -> Sweep:
    return from_mapping({**TAKEN, **changes, "tuner": {**TAKEN["tuner"], **(tuner or {})}}, "t.yaml", [HERE])


def frame(store: Store) -> pl.DataFrame:
    return pl.from_arrow(cells(store)[0])  # type: ignore[return-value]


def test_candidates_are_tried_at_one_size_and_its_winner_is_measured_at_all(memory_store: Store) -> None:
    sweep = taken()
    rounds = Rounds(sweep, memory_store)
    assert len(make_plan(rounds.rehearsed(rounds.resume()), memory_store, 1).runs) == RUNS
    outcome = run(sweep, memory_store, make_executor("inline"))
    rows = frame(memory_store)
    assert outcome.counts.ok == 2 * RUNS == rows.height
    tried, won = (rows.filter(pl.col("role") == role) for role in ("candidate", "selected"))
    assert set(tried["size"]) == {100}
    assert tried["run"].n_unique() == CANDIDATES
    for (gain,), mine in won.group_by("gain"):
        score = tried.filter(pl.col("gain") == gain).group_by("lr", "run").agg(pl.col("loss_select").min())
        best = score.group_by("lr").agg(pl.col("loss_select").mean()).sort("loss_select")["lr"][0]
        assert set(mine["lr"]) == {best}
        assert set(mine["size"]) == {10, 100, 1000}
        assert set(mine["seed"]) == {2, 3, 4}
    assert outcome.tuned[0].startswith("tune: 2 winners by loss_select")  # those that were chosen by a score of theirs
    found = status(memory_store)["tuning"]
    assert (found["settings"], found["searched"], found["winners"]) == (6, 2, 6)
    assert "at 2 of 6 settings (size=100; the others take the winners)" in described(found)


def test_candidates_are_halved_where_they_are_tried_and_nowhere_else(memory_store: Store) -> None:
    """At gain 0 all of them fail on the way to the rung: there is nothing more to do there, nor to say."""
    grid = {**TAKEN["grid"], "gain": [1, 0], "epoch": [1, 2, 4]}
    sweep = taken({"halving": {"min_resource": 2, "reduction_factor": 2}}, grid=grid)
    stream = io.StringIO()
    run(sweep, memory_store, make_executor("inline"), stream=lambda: stream)
    rows = frame(memory_store).filter(pl.col("gain") == 1)
    tried, won = (rows.filter(pl.col("role") == role) for role in ("candidate", "selected"))
    last = tried.group_by("lr").agg(pl.col("epoch").max())["epoch"].to_list()
    assert set(tried["size"]) == {100}
    assert sorted(last) == 4 * [2] + 4 * [4]
    assert won.group_by("size").agg(pl.col("epoch").max()).sort("size").rows() == [(10, 4), (100, 4), (1000, 4)]
    assert won["lr"].n_unique() == 1
    said = [line.partition(" of lr")[0] for line in stream.getvalue().splitlines() if line.startswith("tune: ")]
    rounds = [f"tune: round {i} of 2{what}" for i in (1, 2) for what in (": 4 candidates", ", halved: 2 candidates")]
    assert said == [*rounds, "tune: winners"]
    found = status(memory_store)["tuning"]
    assert found["retired"] == 4 + 4
    assert "(size=100; the others take the winners) with qmc: round 1 of 2, 4 candidates each, halved" in described(
        found
    )
    before, (name, _) = frame(memory_store), memory_store.list("tuning")[0]
    record = memory_store.read_json(f"tuning/{name}")["studies"]
    memory_store.delete(f"tuning/{name}")
    run(sweep, memory_store, make_executor("inline"), skip_failed=True)
    assert memory_store.read_json(f"tuning/{name}")["studies"] == record
    assert frame(memory_store).sort("cell")["finished_at"].equals(before.sort("cell")["finished_at"])


def test_a_rung_must_lie_on_the_runs_that_are_tried() -> None:
    """The large ones are read along the way; those at the size where candidates are tried are not."""
    grid = {key: value for key, value in TAKEN["grid"].items() if key not in ("size", "epoch")}
    grid["concat"] = [{"size": 100, "epoch": 2}, {"size": 1000, "epoch": [1, 2]}]
    with pytest.raises(SweepError, match=r"t\.yaml: tuner\.halving: a time of epoch .* got \(epoch=\[2\]"):
        len(taken({"halving": {"min_resource": 1}}, grid=grid).runs)


def test_a_winner_chosen_again_is_taken_again_and_nothing_else_is_trained(memory_store: Store) -> None:
    run(taken({"rounds": 1}), memory_store, make_executor("inline"))
    first = frame(memory_store)
    outcome = run(taken(), memory_store, make_executor("inline"))
    rows = frame(memory_store)
    lr = {gain: set(mine["lr"]) for (gain,), mine in rows.filter(pl.col("role") == "selected").group_by("gain")}
    assert all(len(values) == 1 for values in lr.values())
    both = rows.join(first, on="cell")
    assert both.filter(pl.col("role") == "candidate").height == CANDIDATES  # half of the runs, two cells of each
    assert (both["finished_at"] == both["finished_at_right"]).all()
    assert run(taken(), memory_store, make_executor("inline")).counts == outcome.counts


def test_a_lost_record_of_what_was_asked_leads_to_the_same_winners(memory_store: Store) -> None:
    run(taken(), memory_store, make_executor("inline"))
    ((name, _),) = memory_store.list("tuning")
    before, rows = json.loads(memory_store.read_text(f"tuning/{name}")), frame(memory_store).sort("cell")
    memory_store.delete(f"tuning/{name}")
    run(taken(), memory_store, make_executor("inline"))
    assert json.loads(memory_store.read_text(f"tuning/{name}")) == before
    assert frame(memory_store).sort("cell")["finished_at"].equals(rows["finished_at"])


@pytest.mark.parametrize(
    ("transfer", "said"),
    [
        (
            {"sise": 10},
            r"t\.yaml: tuner\.transfer\.sise: must be an axis of the grid, but got 'sise'. Did you mean 'size'",
        ),
        ({"seed": 0}, r"transfer\.seed: must be an axis along which settings differ, but seed is a seed"),
        ({"epoch": 1}, r"transfer\.epoch: must be an axis along which settings differ, but epoch is observed"),
        ({"lr": 0.1}, r"transfer\.lr: must be an axis of the grid"),
        ({"size": "large"}, r"transfer\.size: size must be an integer, but got 'large'"),
        (
            {"size": 11},
            r"t\.yaml: tuner\.transfer: the grid must have a setting at size=11 .* the one at size=10 has none",
        ),
    ],
)
def test_what_cannot_be_transferred_is_named(transfer: dict[str, Any], said: str, memory_store: Store) -> None:
    with pytest.raises(SweepError, match=said):
        run(taken({"transfer": transfer}), memory_store, make_executor("inline"))
    assert not memory_store.list("")


def test_a_derived_axis_that_changes_with_the_scale_must_be_named_too() -> None:
    grid = {**TAKEN["grid"], "items": "size * 2"}
    with pytest.raises(SweepError, match="Name every axis that changes with these, too"):
        len(taken(grid=grid).runs)
    assert len(taken({"transfer": {"size": 100, "items": 200}}, grid=grid).runs) == 2 * 4 * 2
