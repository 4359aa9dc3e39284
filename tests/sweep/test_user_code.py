"""Sweeps of a function or an experiment of a user's own: axes from the grid, and mistakes that are named."""

import json
import sys

import pytest
from test_resolve import refused

from raysweep.store import Store
from raysweep.sweep import load_sweep
from raysweep.sweep.stored import stored_runs


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A user's module, and a sweep of it."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def user_(code, reference, grid="{a: [1, 2]}", extra=""):
        module = f"user_{abs(hash((tmp_path, code)))}"
        (tmp_path / f"{module}.py").write_text(code)
        named = reference.replace("M:", f"{module}:").replace("M.", f"{module}.")
        path = tmp_path / "s.yaml"
        path.write_text(f"name: u\nexperiment: {named}\ngrid: {grid}\n{extra}\n")
        return path

    return user_


TRAIN = "def train(config):\n    return {'loss': config['a']}\n"


def test_a_plain_function_takes_its_axes_from_the_grid(user):
    sweep = load_sweep(
        user(TRAIN, "M:train", "{a: {geom: [1, 100, 3]}, b: [0, 0.5], c: x, t: [1, 2]}", "observed: [t]")
    )
    assert {n: (a.type, a.kind) for n, a in sweep.axes.items()} == {
        "a": (int, "shape"), "b": (float, "shape"), "c": (str, "shape"), "t": (int, "observed"),
    }  # fmt: skip
    assert (len(sweep.runs), sweep.runs.cells) == (6, 12)


def test_a_plain_functions_grid_may_derive_and_exclude(user, tmp_path):
    grid = "{a: [2, 4, 8], b: [1, 2], size: a * b / 2, t: [1, 2], exclude: [{a: 8, b: 2}, {size: 1, t: 2}]}"
    sweep = load_sweep(user(TRAIN, "M:train", grid, "observed: [t]"))
    found = [sweep.runs.row(i) for i in range(len(sweep.runs))]
    assert {(r["a"], r["b"], r["size"]) for r in found} == {(2, 1, 1), (2, 2, 2), (4, 1, 2), (4, 2, 4), (8, 1, 4)}
    assert sweep.axes["size"].type is int
    assert sweep.runs.cells == 9
    store = Store(str(tmp_path / "store"))
    store.write(f"sweeps/{sweep.hash}.yaml", sweep.text.encode())
    store.write(f"axes/{sweep.hash}.json", json.dumps(sweep.declaration).encode())
    store.write("env.json", json.dumps({"sweep": sweep.hash}).encode())
    assert stored_runs(store).keys.tolist() == sweep.runs.keys.tolist()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("size=abc", ["--set size: must be an integer, as in ", "'abc'"]),
        ("size=1,abc", ["axis size must have values of one type", "[1, 'abc']"]),
        ("size='8'", ["--set size: must be an integer", "'8'"]),
        ("size=true", ["--set size: must be an integer", "True"]),
        ("size=[1,2],[3]", ["--set size: must be an integer", "[[1, 2], [3]]"]),
        ("lr=fast", ["--set lr: must be a number", "'fast'"]),
        ("opt=3", ["--set opt: must be", "3"]),
        ("size=Width * 2", ["grid.size", "'Width'", "Did you mean 'width'"]),
    ],
)
def test_a_value_of_another_kind_than_the_axis_of_a_function_has_is_refused(user, override, words):
    grid = "{size: [1, 2], lr: 0.5, opt: sgd, width: 4}"
    refused(user(TRAIN, "M:train", grid), *words, overrides=[override])


def test_any_number_and_null_are_of_the_kind_of_an_axis_of_numbers(user):
    sweep = load_sweep(user(TRAIN, "M:train", "{size: [1, 2], lr: 0.5, clip: 1.0}"), ["size=1.5", "lr=2", "clip=null"])
    row = sweep.runs.row(0)
    assert {name: sweep.axes[name].plain(value) for name, value in row.items()} == {"size": 1.5, "lr": 2, "clip": None}


def test_an_axis_of_the_store_may_be_set_beside_a_preset_and_a_presets_name_is_no_axis(user):
    path = user(TRAIN, "M:train", extra="presets: {small: {a: 1}}")
    assert load_sweep(path, ["b=3"], "small", known=["b"]).runs.row(0) == {"a": 1, "b": 3}
    refused(path, "--set small: must be an axis", overrides=["small=3"], preset="small")


def test_a_version_makes_every_cell_new(user):
    path = user(TRAIN, "M:train")
    bumped = user(TRAIN, "M:train", extra="version: 2")
    one = load_sweep(path).runs.keys.tolist()
    path.write_text(path.read_text().replace("version: 2", ""))
    assert not set(one) & set(load_sweep(bumped).runs.keys.tolist())


@pytest.mark.parametrize(
    ("code", "reference", "grid", "extra", "words"),
    [
        (TRAIN, "M:trian", "{a: 1}", "", ["'trian'", "Did you mean 'train'?"]),
        (TRAIN, "no_such_module:train", "{a: 1}", "", ["importable", "'no_such_module'", "looked in"]),
        (TRAIN, "M.sub:train", "{a: 1}", "", ["importable", "looked in"]),
        (TRAIN, ":train", "{a: 1}", "", ["importable", "''"]),
        ("import no_such_thing\n", "M:train", "{a: 1}", "", ["importable", "no_such_thing"]),
        ("def train(:\n", "M:train", "{a: 1}", "", ["importable", "SyntaxError"]),
        ("train = 3\n", "M:train", "{a: 1}", "", ["`def train(config)`", "int"]),
        (TRAIN, "M:train", "{a: [1, x]}", "", ["axis a", "one type", "[1, 'x']"]),
        (TRAIN, "M:train", "{a: 1}", "observed: [b]", ["observed must name axes", "'b'"]),
        (
            TRAIN,
            "M:train",
            "{a: 1, seconds: 2}",
            "",
            ["an axis must not", "'seconds'", "other than attempt, cell"],
        ),
        (TRAIN, "M:train", "{a: [1, 2], b: aa * 2 + a}", "", ["grid.b", "'aa'", "Valid names: a, b"]),
        (TRAIN, "M:train", "{a: [1, 2], t: 1, b: t * 2}", "observed: [t]", ["grid.b", "observed axes", "t"]),
        (TRAIN, "M:train", "{a: [1, 2], exclude: {a: 3}}", "", ["grid.exclude[0].a", "a = 3", "1, 2"]),
        (TRAIN, "M:train", "{a: [1, 2], exclude: {aa: 3}}", "", ["grid.exclude[0].aa", "Valid names: a"]),
        (TRAIN, "M:train", "{a: no}", "", ["grid.a: line 3", "no is false"]),
        ("class Mine:\n    pass\n", "M:Mine", "{a: 1}", "", ["every member", "Experiment"]),
        ("class Mine:\n    def __init__(self, x): ...\n", "M:Mine", "{a: 1}", "", ["`train` or `__call__`"]),
    ],
)
def test_a_users_mistake_is_named(user, code, reference, grid, extra, words):
    refused(user(code, reference, grid, extra), "s.yaml: ", *words)


def test_a_users_experiment_may_be_a_class_or_an_instance(user):
    code = "from raysweep.experiments.classifier import Classifier\nclass Mine(Classifier):\n    pass\nmine = Mine()\n"
    for reference in ("M:Mine", "M:mine"):
        sweep = load_sweep(user(code, reference, "{width: 8}", "world: {kind: gaussian}"))
        assert not isinstance(sweep.experiment, type)
        assert len(sweep.runs) == 1
