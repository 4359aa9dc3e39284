"""A user's own function: what it is given, what its rows become, and how its mistakes are told."""

import inspect
import json
import math
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest

from raysweep.errors import SweepError
from raysweep.experiment import Context
from raysweep.experiments.function import FunctionExperiment
from raysweep.experiments.inferred import infer_axes
from raysweep.grid.axes import index_axes
from raysweep.grid.enumeration import enumerate_runs
from raysweep.grid.expand import expand
from raysweep.ledger.precedence import best_rows
from raysweep.ledger.rows import RESERVED, Stamp, row_schema, stamp
from raysweep.sweep import load_sweep


def measure(function, grid, observed=()):
    """Every ledger row the function's runs give, as dicts."""
    experiment = FunctionExperiment("mine:train", function, infer_axes(grid, observed, "here"))
    axes = index_axes(experiment.axes)
    runs = enumerate_runs(expand(grid, axes), axes, "mine")
    schema = row_schema(experiment)
    parts = [stamp(part, runs, schema, Stamp("p", 1, "cpu")) for part in experiment.run(runs, Context())]
    table = pa.concat_tables(parts, promote_options="permissive")
    kept = best_rows(table)
    rows = (table if kept is None else table.filter(pa.array(kept))).to_pylist()
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


def test_a_number_beyond_the_largest_is_infinite_and_the_run_diverged():
    (row,) = measure(lambda config: {"loss": -(10**400)}, {"a": 1})
    assert (row["status"], row["loss"]) == ("diverged", -math.inf)


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
    assert failed["loss"] is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_number_that_is_not_finite_makes_its_row_diverged(bad):
    (row,) = measure(lambda config: {"loss": bad, "error_rate": bad}, {"a": 1})
    assert (row["status"], row["error"]) == ("diverged", "not finite: loss, error_rate")


def test_a_placeholder_beside_a_finite_number_does_not_spoil_its_row():
    (row,) = measure(lambda config: {"train_loss": 0.5, "val_loss": math.nan}, {"a": 1})
    assert (row["status"], row["train_loss"]) == ("ok", 0.5)
    assert math.isnan(row["val_loss"])


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


@pytest.mark.parametrize("given", [7, 7.0, np.int8(7), np.float32(7), "7"])
def test_an_axis_echoed_back_is_harmless(given):
    (row,) = measure(lambda config: {**config, "a": given, "loss": 1.0}, {"a": 7})
    assert (row["a"], row["loss"], row["status"]) == (7, 1.0, "ok")


@pytest.mark.parametrize("given", [8, 7.1, "seven", [7], float("nan")])
def test_a_value_that_contradicts_its_axis_fails_the_run_with_both(given):
    (row,) = measure(lambda config: {"loss": 1.0, "a": given}, {"a": 7})
    assert row["status"] == "failed"
    assert row.get("loss") is None
    assert f"a is an axis and 7 in this run, but the function gave a = {given!r}" in row["error"]


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, ["must return a dict, yield dicts or call raysweep.report()", "None"]),
        (3.5, ["must return a dict or yield dicts", "3.5"]),
        ("loss", ["must return a dict or yield dicts", "'loss'"]),
        ([1.0], ["must return or yield dicts", "1.0"]),
        ({"loss": 1.0}, ["must hold its observed axes", "['t']"]),
        ({"t": "soon", "loss": 1.0}, ["t must be an integer", "soon"]),
        ({"t": float("nan"), "loss": 1.0}, ["finite value of its observed axis t", "nan"]),
        ({"t": (1, 2), "loss": 1.0}, ["one value of its observed axis t", "(1, 2)"]),
        ({"t": 1, (3, 4): 1.0}, ["must have a name", "(3, 4)"]),
        ({"t": 1, "loss": None}, ["must hold a metric (not None)"]),
        (
            [{"t": 1, "loss": 1}, {"t": 1, "val_loss": 2}],
            ["second one for t = 1", "all that was measured there in one"],
        ),
    ],
)
def test_a_row_that_is_none_fails_its_cells_with_a_clear_reason(returned, words):
    rows = measure(lambda config: returned, {"a": 1, "t": [1, 2]}, ["t"])
    assert [r["status"] for r in rows] == ["failed", "failed"]
    for word in words:
        assert word in rows[0]["error"]


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_metric_named_like_a_ledger_column_is_kept_under_another_name(name):
    (row,) = measure(lambda config: {"loss": 1.0, name: 2}, {"a": 1})
    assert (row["status"], row["loss"], row[f"metric_{name}"]) == ("ok", 1.0, 2.0)


@pytest.mark.parametrize(
    ("given", "columns"),
    [
        ({"val": {"loss": 1, "top": {"5": 2}}}, {"val/loss": 1.0, "val/top/5": 2.0}),
        ({"loss": None}, {"loss": None}),
        ({"losses": [1, 2.5]}, {"losses/0": 1.0, "losses/1": 2.5}),
        ({"losses": np.arange(2)}, {"losses/0": 0.0, "losses/1": 1.0}),
        ({"losses": list(range(100))}, {"losses": str([float(i) for i in range(100)])}),
        ({"x": 1 + 2j}, {"x": "(1+2j)"}),
        ({"x": Decimal("0.5"), "y": Fraction(1, 4)}, {"x": 0.5, "y": 0.25}),
        ({"x": np.float16(0.5), "y": np.bool_(True)}, {"x": 0.5, "y": 1.0}),
        ({3: 1.0}, {"3": 1.0}),
        ({"x": {1, 2}.__class__}, {"x": "<class 'set'>"}),
    ],
)
def test_what_is_measured_is_kept_whatever_it_is(given, columns):
    (row,) = measure(lambda config: {"kept": 1.0, **given}, {"a": 1})
    assert (row["status"], row["kept"]) == ("ok", 1.0)
    assert {name: row[name] for name in columns} == columns


def test_what_a_function_does_to_its_config_does_not_reach_the_next_run():
    def train(config):
        config["layers"].append(1)
        return {"layers_count": len(config["layers"]), "name": config["optim"].pop("name", "gone")}

    rows = measure(train, {"size": [1, 2], "layers": [[8, 8]], "optim": [{"name": "sgd", "lr": 0.1}]})
    assert [(r["layers_count"], r["name"]) for r in rows] == [(3.0, "sgd"), (3.0, "sgd")]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_table_is_its_rows(library):
    frame = pytest.importorskip(library).DataFrame({"t": [1, 2], "loss": [1.0, 0.5]})
    rows = measure(lambda config: frame, {"a": 1, "t": [1, 2]}, ["t"])
    assert [(r["t"], r["loss"], r["status"]) for r in rows] == [(1, 1.0, "ok"), (2, 0.5, "ok")]


def test_a_run_that_ended_early_says_which_rows_matched_no_cell():
    """As where epochs are counted from 0 in the code, but from 1 in the sweep."""
    rows = measure(lambda config: ({"t": t, "loss": 1.0} for t in range(4)), {"a": 1, "t": [1, 2, 4]}, ["t"])
    assert [r["status"] for r in rows] == ["ok", "ok", "skipped"]
    assert "after t 2; 2 rows matched no cell, e.g. t = 0; t = 3" in rows[2]["error"]


def test_an_observed_axis_taken_for_a_number_is_explained():
    rows = measure(lambda config: [{"t": t, "loss": 1.0} for t in range(config["t"])], {"a": 1, "t": [1, 2]}, ["t"])
    assert "t is observed: config['t'] is the tuple of all values asked for. Train to the largest" in rows[0]["error"]


def test_a_row_of_very_many_metrics_keeps_them_all():
    (row,) = measure(lambda config: {f"m{i}": i for i in range(3000)}, {"a": 1})
    assert (row["status"], row["m0"], row["m499"]) == ("ok", 0.0, 499.0)
    assert json.loads(row["more_metrics"])["m2999"] == 2999.0


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
    assert "a number or a word in all rows, but loss was 1.0 and is now 'low'" in rows[1]["error"]


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


def test_values_under_a_key_are_told_to_be_a_list():
    grid = {"a": {"values": [1, 2]}}
    axes = index_axes(infer_axes(grid, (), "here"))
    with pytest.raises(SweepError, match=r"A list needs no key: a: \[1, 2\]"):
        expand(grid, axes)


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
