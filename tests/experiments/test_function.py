"""A user's own function: what it is given, what its rows become, and how its mistakes are told."""

import inspect
import math
import sys

import numpy as np
import pytest

from raysweep.axes import index_axes
from raysweep.enumeration import enumerate_runs
from raysweep.errors import SweepError
from raysweep.experiment import RESERVED, Context, Stamp, row_schema, stamp
from raysweep.experiments.function import FunctionExperiment, infer_axes, source_sha
from raysweep.grid import expand
from raysweep.sweep import from_mapping, load_sweep


def measure(function, grid, observed=()):
    """Every ledger row the function's runs give, as dicts."""
    experiment = FunctionExperiment("mine:train", function, infer_axes(grid, observed, "here"))
    axes = index_axes(experiment.axes)
    runs = enumerate_runs(expand(grid, axes), axes, "mine")
    schema = row_schema(experiment)
    rows = []
    for part in experiment.run(runs, Context()):
        rows += stamp(part, runs, schema, Stamp("p", 1, "cpu")).to_pylist()
    assert len({r["cell"] for r in rows}) == len(rows)
    assert len(rows) == runs.cells  # every cell has a row, whatever happens
    return rows


def test_a_dict_is_one_row_and_every_run_is_trained_once():
    seen = []

    def train(config):
        seen.append(config)
        return {"loss": config["a"] / 2, "word": "x", "flag": True, "count": 10**17}

    rows = measure(train, {"a": [1, 2], "b": 0.5})
    assert seen == [{"a": 1, "b": 0.5}, {"a": 2, "b": 0.5}]
    assert [(r["loss"], r["word"], r["flag"], r["count"]) for r in rows] == [
        (0.5, "x", 1.0, 1e17),
        (1.0, "x", 1.0, 1e17),
    ]
    assert {r["status"] for r in rows} == {"ok"}


def test_a_generator_is_given_the_observed_values_and_yields_a_row_for_each():
    def train(config):
        assert config["t"] == (1, 2, 4)
        for t in range(6):  # rows nobody asked for are left out
            yield {"t": t, "loss": 1 / (1 + t), "a": config["a"]}

    rows = measure(train, {"a": [1, 2], "t": [4, 1, 2]}, ["t"])
    assert [(r["a"], r["t"], r["loss"]) for r in rows] == [(a, t, 1 / (1 + t)) for a in (1, 2) for t in (1, 2, 4)]


def test_a_list_of_rows_is_as_good_as_a_generator():
    rows = measure(lambda config: [{"t": t, "loss": 1.0} for t in config["t"]], {"a": 1, "t": [1, 2]}, ["t"])
    assert [r["status"] for r in rows] == ["ok", "ok"]


def test_raising_half_way_keeps_what_was_measured_and_fails_only_the_rest_of_that_run():
    def train(config):
        yield {"t": 1, "loss": 0.5}
        if config["a"] == 2:
            raise RuntimeError("out of luck")
        yield {"t": 2, "loss": 0.25}

    rows = {(r["a"], r["t"]): r for r in measure(train, {"a": [1, 2, 3], "t": [1, 2]}, ["t"])}
    assert {k for k, r in rows.items() if r["status"] == "failed"} == {(2, 2)}
    failed = rows[2, 2]
    assert "RuntimeError: out of luck" in failed["error"]
    assert len(failed["error"].splitlines()) <= 12
    assert "loss" not in failed


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_number_that_is_not_finite_makes_its_row_diverged(bad):
    (row,) = measure(lambda config: {"loss": bad, "fine": 1.0}, {"a": 1})
    assert (row["status"], row["error"]) == ("diverged", "not finite: loss")


def test_scalars_of_numpy_and_torch_are_numbers_also_as_observed_values():
    import torch

    def train(config):
        for t in np.array(config["t"]):
            yield {"t": t, "loss": np.float32(0.5), "torch": torch.tensor(2), "one": np.array([3])}

    rows = measure(train, {"a": 1, "t": [1, 2]}, ["t"])
    assert [(r["t"], r["loss"], r["torch"], r["one"], r["status"]) for r in rows] == [
        (1, 0.5, 2.0, 3.0, "ok"), (2, 0.5, 2.0, 3.0, "ok"),
    ]  # fmt: skip


def test_an_observed_number_need_not_be_spelt_like_the_sweeps():
    rows = measure(
        lambda config: [{"t": 0.1 + 0.2, "loss": 1}, {"t": "1", "loss": 2}], {"a": 1, "t": [0.3, 1.0]}, ["t"]
    )
    assert [(r["t"], r["loss"], r["status"]) for r in rows] == [(0.3, 1.0, "ok"), (1.0, 2.0, "ok")]


def test_an_axis_echoed_back_is_harmless():
    (row,) = measure(lambda config: {**config, "a": "something else", "loss": 1.0}, {"a": 7})
    assert (row["a"], row["loss"], row["status"]) == (7, 1.0, "ok")


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, ["must return a dict or yield dicts", "None"]),
        (3.5, ["must return a dict or yield dicts", "3.5"]),
        ("loss", ["must return a dict or yield dicts", "'loss'"]),
        ([1.0], ["must return or yield dicts", "1.0"]),
        ({"t": 1, "loss": [1, 2]}, ["numbers and words", "loss", "[1, 2]"]),
        ({"t": 1, "loss": None}, ["numbers and words", "loss", "None"]),
        ({"t": 1, "loss": np.zeros(3)}, ["numbers and words", "loss", "array"]),
        ({"t": 1, "loss": 1 + 2j}, ["numbers and words", "loss", "(1+2j)"]),
        ({"loss": 1.0}, ["must hold its observed axes", "['t']"]),
        ({"t": 1.5, "loss": 1.0}, ["t must be an integer", "1.5"]),
        ({"t": 1, 3: 1.0}, ["name of its own", "3"]),
    ],
)
def test_a_row_that_is_none_fails_its_cells_with_a_clear_reason(returned, words):
    rows = measure(lambda config: returned, {"a": 1, "t": [1, 2]}, ["t"])
    assert [r["status"] for r in rows] == ["failed", "failed"]
    for word in words:
        assert word in rows[0]["error"]


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_metric_named_like_a_ledger_column_fails_with_a_clear_reason(name):
    (row,) = measure(lambda config: {"loss": 1.0, name: 1}, {"a": 1})
    assert row["status"] == "failed"
    assert f"{name!r} is a column of every ledger" in row["error"]


def test_a_function_may_count_its_own_flops():
    (row,) = measure(lambda config: {"loss": 1.0, "flops": 12}, {"a": 1})
    assert (row["flops"], row["status"]) == (12.0, "ok")


def test_cells_without_a_row_fail_and_say_which():
    rows = measure(lambda config: {"t": 1, "loss": 1.0}, {"a": 1, "t": [1, 2]}, ["t"])
    assert [r["status"] for r in rows] == ["ok", "failed"]
    assert "no row with {'t': 2}" in rows[1]["error"]


def test_a_metric_that_changes_from_number_to_word_fails_that_row():
    rows = measure(lambda config: {"loss": 1.0 if config["a"] == 1 else "low"}, {"a": [1, 2]})
    assert [r["status"] for r in rows] == ["ok", "failed"]
    assert "a number or a word in all rows, but loss is now 'low'" in rows[1]["error"]


@pytest.mark.parametrize(
    ("grid", "types"),
    [
        ({"a": [1, 2], "b": 1.5, "c": "x", "d": True}, {"a": int, "b": float, "c": str, "d": bool}),
        ({"a": [1, 2.5]}, {"a": float}),
        ({"a": {"geom": [1, 8, 4]}, "b": {"linear": [0.0, 1, 3]}}, {"a": int, "b": float}),
        ({"a": {"geom": [0.1, 10.0, 3]}, "b": {"range": 3}}, {"a": float, "b": int}),
        ({"zip": {"a": [1, 2], "b": ["x", "y"]}}, {"a": int, "b": str}),
        ({"concat": [{"a": 1}, {"a": 2.5}], "b": 1}, {"a": float, "b": int}),
        ({"a": [1], "when": {"if": {"a": 1}, "then": {"b": 0.5}}}, {"a": int, "b": float}),
    ],
)
def test_axes_are_typed_by_their_values(grid, types):
    assert {a.name: a.type for a in infer_axes(grid, (), "here")} == types


def test_mixed_types_and_unknown_observed_names_are_refused():
    with pytest.raises(SweepError, match=r"here: axis a must have values of one type, but got \[1, 'x'\]"):
        infer_axes({"a": [1, "x"]}, (), "here")
    with pytest.raises(SweepError, match=r"here: observed must name axes of the grid, but got 'tt'"):
        infer_axes({"t": [1]}, ("tt",), "here")


def train_in_a_few_lines(config):
    rng = np.random.default_rng(config["seed"])
    for step in config["step"]:
        yield {"step": step, "loss": config["n"] ** -0.5 + rng.normal() / (10 * step)}


def test_ones_own_training_function_takes_under_15_lines(tmp_path, monkeypatch):
    function = inspect.getsource(train_in_a_few_lines)
    sweep = (
        "name: own\nexperiment: own_train:train_in_a_few_lines\nobserved: [step]\n"
        "grid: {n: [10, 100], seed: {range: 3}, step: [1, 2]}\n"
    )
    assert len((function + sweep).splitlines()) < 15
    (tmp_path / "own_train.py").write_text("import numpy as np\n\n\n" + function)
    (tmp_path / "own.yaml").write_text(sweep)

    monkeypatch.setattr(sys, "path", [*sys.path])
    loaded = load_sweep(tmp_path / "own.yaml")
    assert (len(loaded.runs), loaded.runs.cells) == (6, 12)
    parts = list(loaded.experiment.run(loaded.runs, Context()))
    assert sum(len(p) for p in parts) == 12


def test_a_source_hash_changes_with_the_module_only():
    mine = FunctionExperiment("x", train_in_a_few_lines, ())
    assert source_sha(mine) == source_sha(FunctionExperiment("y", measure, ()))
    assert source_sha(mine) != source_sha(FunctionExperiment("x", from_mapping, ()))
    assert source_sha(FunctionExperiment("x", len, ())) == ""
