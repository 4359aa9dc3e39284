"""The columns that a sweep file's fits name: refused or doubted before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import CLASSIFIER_SWEEP

from raysweep.errors import SweepError
from raysweep.sweep import from_mapping


def train(config: dict[str, Any]) -> dict[str, float]:
    return {"loss": 1.0, "val_size": 2.0}


FUNCTION: dict[str, Any] = {
    "name": "t",
    "experiment": train,
    "grid": {"size": [8, 64], "tokens": "20 * size", "seed": [0, 1], "epoch": [1, 2]},
    "observed": ["epoch"],
}
FIT: dict[str, Any] = {"x": "size", "y": "loss"}


@pytest.mark.parametrize(
    ("change", "place", "meant"),
    [
        ({"x": "sise"}, "x", "size"),
        ({"x": "token"}, "x", "tokens"),  # a derived axis
        ({"x": "epochs", "by": ["size"]}, "x", "epoch"),  # an observed one
        ({"x": ["size", "tokns"], "law": "chinchilla"}, "x", "tokens"),
        ({"y": "tokenz"}, "y", "tokens"),
        ({"se": "epcoh"}, "se", "epoch"),
        ({"where": "sede >= 1 AND loss < 2"}, "where", "seed"),
        ({"where": '"tokenn" > abs(loss)'}, "where", "tokens"),
        ({"window": {"low": 1, "high": "2 * tokems"}}, "window", "tokens"),
    ],
)
def test_a_column_close_to_an_axis_of_a_function_is_doubted(change: dict[str, Any], place: str, meant: str) -> None:
    (note,) = from_mapping({**FUNCTION, "fit": [FIT, {**FIT, **change}]}).notes
    assert note.startswith(f"fit.1.{place}: ")
    assert note.endswith(f"Did you mean {meant!r}?")


@pytest.mark.parametrize(
    "fit",
    [
        FIT,
        {**FIT, "y": "val_size"},
        {"x": "tokens", "y": "accuracy", "se": "accuracy_se", "by": ["epoch"]},
        {**FIT, "where": "loss < 2 AND status = 'sise' AND NOT seed IN (1, 2)"},
        {**FIT, "x": "flops", "window": {"high": "2 * epoch"}},
    ],
)
def test_what_may_be_a_metric_of_a_function_is_not_doubted(fit: dict[str, Any]) -> None:
    assert from_mapping({**FUNCTION, "fit": [fit]}).notes == ()


@pytest.mark.parametrize(
    ("change", "place", "meant"),
    [
        ({"x": "widht"}, "x", "width"),
        ({"y": "epistemc"}, "y", "epistemic"),
        ({"se": "epistemic_s"}, "se", "epistemic_se"),
        ({"by": ["sede"]}, "by", "seed"),
        ({"window": {"low": "2 * widht"}, "x": "n_train"}, "window", "width"),
    ],
)
def test_a_column_that_an_experiment_does_not_have_is_refused(change: dict[str, Any], place: str, meant: str) -> None:
    with pytest.raises(SweepError, match=rf"fit\.0\.{place}: .*Did you mean .{meant}."):
        from_mapping({**CLASSIFIER_SWEEP, "fit": [{"x": "width", "y": "nll", **change}]})


def test_a_condition_of_an_experiments_fit_is_doubted_by_its_metrics_too() -> None:
    fit = {"x": "width", "y": "nll", "where": "epistemc < 1"}
    (note,) = from_mapping({**CLASSIFIER_SWEEP, "fit": [fit]}).notes
    assert "Did you mean 'epistemic'?" in note


GRID = {"size": [8, 64], "gamma": [0, 2], "epoch": [1, 2]}


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (
            {"window": {"low": "1 / gamma"}},
            r"low: `1 / gamma` must have a value in every row, but at gamma=0: .*else 0`",
        ),
        (
            {"window": {"low": "20 + gamma", "high": "5"}},
            r"at every setting of the grid: at gamma=0, low = 20 and high = 5",
        ),
        ({"window": {"low": "20 + gamma", "high": 5}, "where": "gamma > 0"}, "at every setting of the grid"),
        ({"window": [1, 2]}, r"must be a mapping such as {low: 10, high: 1000}, but got \[1, 2\]"),
        ({"window": "10"}, "must be a mapping such as {low: 10, high: 1000}, but got '10'"),
    ],
)
def test_a_window_that_the_grid_makes_impossible_is_refused_before_anything_runs(
    fit: dict[str, Any], message: str
) -> None:
    with pytest.raises(SweepError, match=rf"fit\.0\.window: .*{message}"):
        from_mapping({**FUNCTION, "grid": GRID, "fit": [{**FIT, **fit}]})


@pytest.mark.parametrize(
    ("window", "where", "notes"),
    [
        ({"low": "1 / gamma"}, "gamma > 0", 0),
        ({"low": "1 / gamma"}, "size > 9", 1),  # it may leave out gamma = 0
        ({"low": "1 / gamma if gamma else 0", "high": "100"}, None, 0),
        ({"low": "20 if gamma else 1", "high": "5"}, None, 0),  # empty at some settings only
        ({"low": "loss", "high": "1 / accuracy"}, None, 0),  # known when the function returns them
    ],
)
def test_a_window_that_some_row_may_keep_is_accepted(window: dict[str, Any], where: str | None, notes: int) -> None:
    fit = {**FIT, "window": window, "where": where}
    assert len(from_mapping({**FUNCTION, "grid": GRID, "fit": [fit]}).notes) == notes


def test_a_window_is_computed_at_the_cells_that_the_grid_has() -> None:
    grid = {"concat": [{"gamma": 0, "size": 8}, {"gamma": [1, 2], "size": [8, 64], "depth": "size * 0"}], "epoch": [1]}
    fit = {"x": "epoch", "y": "loss", "window": {"low": "1 / (gamma - 1 if size > 8 else 1)"}}
    with pytest.raises(SweepError, match="at gamma=1, size=64: "):
        from_mapping({**FUNCTION, "grid": grid, "fit": [fit]})
    assert from_mapping({**FUNCTION, "grid": grid, "fit": [{**fit, "window": {"low": "1 / (1 - depth)"}}]}).notes == ()


def test_one_by_column_may_stand_alone() -> None:
    assert from_mapping({**FUNCTION, "fit": [{**FIT, "by": "epoch"}]}).file.fit[0].request.by == ("epoch",)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        *((key, r"must have an entry, but got \{\}\. Leave the key out") for key in ("fix", "tie", "bound", "prior")),
        ("window", "must have a bound, low or high, but got neither"),
    ],
)
def test_a_mapping_without_entries_is_refused(key: str, said: str) -> None:
    with pytest.raises(SweepError, match=rf"^t: fit\.1\.{key}: {said}"):
        from_mapping({**FUNCTION, "fit": [FIT, {**FIT, key: {}}]}, "t")
    from_mapping({**FUNCTION, "fit": [{**FIT, key: None}]})  # a null is a key that is left out


def test_a_condition_of_no_words_is_refused() -> None:
    with pytest.raises(SweepError, match=r"^t: fit\.0\.where: must be a condition on rows, but got ' '\. Leave it out"):
        from_mapping({**FUNCTION, "fit": [{**FIT, "where": " "}]}, "t")
