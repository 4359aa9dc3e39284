"""What a sweep that tunes says while it runs, and wrong entries of `tune`, `tuner` and `until` by file and key."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from conftest import CLASSIFIER_SWEEP, HERE

from raysweep.errors import SweepError
from raysweep.executors import make_executor
from raysweep.run import run
from raysweep.status import status
from raysweep.store import Store
from raysweep.sweep import from_mapping

BASE: dict[str, Any] = {
    "name": "t",
    "experiment": "toy_experiment:tunable",
    "observed": ["epoch"],
    "grid": {"size": [10, 100], "seed": {"range": 2}, "epoch": [1, 2]},
    "tune": {"lr": {"log": [1e-3, 0.4]}},
    "tuner": {"sampler": "qmc", "candidates": 2, "rounds": 2, "seeds": 1, "metric": "loss"},
    "fit": [{"law": "power", "x": "size", "y": "loss"}],
}
UNTIL = {key: value for key, value in BASE.items() if key not in ("tune", "tuner")} | {
    "grid": {**BASE["grid"], "lr": 0.1, "seed": {"range": 20}}
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"tuner": {"metric": "flops"}},
            r"tuner\.metric: .* that the function reports, but 'flops' is a column of every",
        ),
        ({"tuner": {"metric": "columns"}}, r"tuner\.metric: .* but 'columns' is a column of every ledger"),
        ({"tuner": {"metric": "size"}}, r"tuner\.metric: .* but 'size' is an axis"),
        ({"tuner": {"metric": ""}}, r"tuner\.metric: .* but '' is no name"),
        ({"tuner": {"seeds": True}}, r"tuner\.seeds: must be a number, but got True"),
        ({"tuner": {"scheduler": "asha"}}, r"tuner\.scheduler: must go with `sampler: optuna_search`"),
        (
            {"tune": {"lr": {"log": [0.1, None]}}},
            r"tune\.lr: log takes two numbers, \[low, high\], but got \[0\.1, None\]",
        ),
        ({"until": {"ci95": {"alpha": True}}}, r"until\.ci95\.alpha: must be a number, but got True"),
        ({"until": {"ci95": {"alpha": 0.1}}}, "until: must not come with `tune`, .* Tune first, and write the winners"),
    ],
)
def test_a_wrong_entry_is_named_before_anything_is_spent(changes: dict[str, Any], said: str) -> None:
    raw = {**BASE, **changes, "tuner": {**BASE["tuner"], **changes.get("tuner", {})}}
    with pytest.raises(SweepError, match=rf"^t\.yaml: {said}"):
        from_mapping(raw, "t.yaml", [HERE])


def test_only_a_function_may_search_through_tune() -> None:
    raw = {**CLASSIFIER_SWEEP, "tune": {"lr": {"log": [1e-3, 1]}}, "tuner": {"sampler": "optuna_search"}}
    with pytest.raises(
        SweepError, match=r"must be used with a function of your own, but got \(experiment=classifier\)"
    ):
        from_mapping(raw, "t.yaml")


def test_choices_may_be_lists(memory_store: Store) -> None:
    raw = {**BASE, "tune": {"lr": {"log": [1e-3, 0.4]}, "layers": [[8, 8], [16], {"wide": 4}]}}
    outcome = run(from_mapping(raw, "t.yaml", [HERE]), memory_store, make_executor("inline"))
    assert status(memory_store)["tuning"]["winners"] == 2
    ((name, _),) = memory_store.list("tuning")
    studies = json.loads(memory_store.read_text(f"tuning/{name}"))["studies"]
    assert all(study["winner"][1] in ([8, 8], [16], {"wide": 4}) for study in studies.values())
    again = run(from_mapping(raw, "t.yaml", [HERE]), memory_store, make_executor("inline"))
    assert again.counts == outcome.counts


def test_winners_are_announced_once_also_where_settings_end_in_different_rounds(memory_store: Store) -> None:
    """At gain 0 all candidates of the first round fail: that setting has no further round, and no winner."""
    stream = io.StringIO()
    grid = {**BASE["grid"], "size": 10, "concat": [{"gain": 1}, {"gain": 0}]}
    raw = {**BASE, "grid": grid, "experiment": "toy_experiment:gained"}
    run(from_mapping(raw, "t.yaml", [HERE]), memory_store, make_executor("inline"), stream=lambda: stream)
    said = [line for line in stream.getvalue().splitlines() if line.startswith("tune: ")]
    assert said == [
        "tune: round 1 of 2: 2 candidates of lr at 2 settings",
        "tune: round 2 of 2: 2 candidates of lr at 1 setting",
        "tune: winners of lr at 1 setting on 1 fresh seed",
    ]


def test_a_small_space_ends_early_and_its_winner_is_announced_with_the_others_round(memory_store: Store) -> None:
    stream = io.StringIO()
    sweep = from_mapping({**BASE, "tune": {"lr": [0.1, 0.2]}}, "t.yaml", [HERE])
    run(sweep, memory_store, make_executor("inline"), stream=lambda: stream)
    said = [line for line in stream.getvalue().splitlines() if line.startswith("tune: ")]
    assert [line.partition(" of")[0] for line in said] == ["tune: round 1", "tune: winners"]


@pytest.mark.parametrize(
    ("until", "said"),
    [
        ({"ci95": {"alph": 0.1}}, r"until\.ci95: must name a parameter .* Did you mean 'alpha'"),
        ({"ci95": {"alpha": 0.1}, "max_flop": 1}, r"until\.max_flop: unknown key\. Did you mean 'max_flops'"),
        ({"ci95": {"alpha": 0.1}, "max_rounds": False}, r"until\.max_rounds: must be a number, but got False"),
        ({}, r"until\.ci95: must be given"),
    ],
)
def test_a_wrong_rule_to_stop_is_named(until: dict[str, Any], said: str, make_until: Callable[..., Any]) -> None:
    with pytest.raises(SweepError, match=rf"^t\.yaml: {said}"):
        make_until(until)


@pytest.fixture
def make_until() -> Callable[..., Any]:
    return lambda until: from_mapping({**UNTIL, "until": until}, "t.yaml", [HERE])


@pytest.mark.parametrize(("ends", "said"), [([0.25, 0.49], 1), ([0.05, 0.49], 0)])
def test_a_winner_at_the_end_of_its_range_is_reported(ends: list[float], said: int, memory_store: Store) -> None:
    """The best rate at this size is 0.17. A design of 32 points has one in each 32nd of the range."""
    raw = {**BASE, "grid": {"size": 10, "seed": 0, "epoch": 1}, "tune": {"lr": {"log": ends}}}
    sweep = from_mapping({**raw, "tuner": {**BASE["tuner"], "candidates": 32, "rounds": 1}}, "t.yaml", [HERE])
    outcome = run(sweep, memory_store, make_executor("inline"))
    wanted = "tune: lr of 1 of 1 winner is within 5% of an end of its range: a wider one may hold better values"
    assert outcome.tuned.count(wanted) == said
