"""The sweep file: what it accepts, and that every refusal names the file, the key, the rule and the value."""

import re
import textwrap

import pytest
from pydantic import ValidationError

from raysweep.errors import SweepError
from raysweep.oracle.recipe import kinds
from raysweep.sweep import from_mapping, load_sweep
from raysweep.sweep.schema import Budget, FitSpec, Resources, SweepFile, explain
from raysweep.yamlfile import parse_yaml

WORLD = {"kind": "gaussian", "dim": 2, "classes": 2}
BASE = """\
name: small
experiment: classifier
world: {kind: gaussian, dim: 2, classes: 2}
grid:
  width: [16, 32]
  lr: 1e-3
  seed: {range: 2}
"""


@pytest.fixture
def write(tmp_path):
    def write_(text, name="s.yaml"):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return tmp_path / name

    return write_


def refused(path, *words, overrides=(), preset=None):
    with pytest.raises(SweepError) as caught:
        _ = load_sweep(path, overrides, preset).runs
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return str(caught.value)


def test_a_good_file_resolves_and_1e_3_is_a_number(write):
    sweep = load_sweep(write(BASE))
    assert len(sweep.runs) == 4
    assert sweep.runs.values["lr"] == (0.001,)
    assert sweep.file.grid["lr"] == 0.001


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("1E3", 1000.0), (".5e1", 5.0), ("-2.e0", -2.0)])
def test_exponents_are_numbers(text, value):
    assert parse_yaml(text, "here") == value
    assert parse_yaml(f"a: [{text}, {text}]", "here") == {"a": [value, value]}


@pytest.mark.parametrize("text", ["1e5abc", "e5", "1e", "2e-3x", "1.5e3.2"])
def test_words_that_start_like_exponents_are_words(text):
    assert parse_yaml(text, "here") == text


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("experimnt: x", ["experimnt: unknown key", "Did you mean 'experiment'?"]),
        ("resources: {cpu: 2}", ["resources.cpu: unknown key", "Did you mean 'cpus'"]),
        ("budget: {flop: 2}", ["budget.flop: unknown key", "Did you mean 'flops'?"]),
        ("fit: [{law: power, x: a, yy: b}]", ["fit.0."]),
        ("fit: [{law: power, x: a, y: b, bye: [c]}]", ["fit.0.bye: unknown key", "Did you mean 'by'?"]),
        ("fit: [{law: power, x: a}]", ["fit.0.y: must be given"]),
        ("resources: {lanes: 0}", ["resources.lanes", "must be at least 1, but got 0"]),
        ("resources: {cpus: many}", ["resources.cpus", "number", "'many'"]),
        ("resources: 3", ["resources: must be a mapping, but got 3"]),
        ("version: 0", ["version: must be at least 1, but got 0"]),
        ("version: 2", ["`version` are for plain functions", "version=2"]),
        ("observed: [steps]", ["`observed`", "steps"]),
        ("presets: {smoke: 3}", ["presets.smoke: must be a mapping, but got 3"]),
        ("observed: steps", ["observed: must be a list, but got 'steps'"]),
        ("fit: power", ["fit: must be a list, but got 'power'"]),
        ("fit: [{law: power, x: 3, y: b}]", ["fit.0.x: must be a word or a list, but got 3"]),
        ("fit: [{law: power, x: [a, 3], y: b}]", ["fit.0.x.1: must be a word, but got 3. In quotes it is one: '3'"]),
        ("budget: {3: 1}", ["budget: keys must be words, but got 3"]),
    ],
)
def test_a_wrong_key_or_value_is_named_with_the_nearest_valid(write, extra, words):
    path = write(BASE + extra + "\n")
    assert refused(path, *words).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("world", "words"),
    [
        ("{kind: gaussian, dims: 2}", ["world.dims: unknown key", "Did you mean 'dim'?"]),
        ("{kind: gaussian, dim: 1}", ["world.dim", "must be at least 2, but got 1"]),
        ("{kind: flow, hiden: 2}", ["world.hiden: unknown key", "Did you mean 'hidden'?"]),
        ("{kind: gausian}", ["world: kind must be", "'gausian'. Did you mean 'gaussian'?"]),
        ("{dim: 2}", ["world", "kind", "{'dim': 2}"]),
        ("3", ["world", "3"]),
        ("missing.yaml", ["missing.yaml: cannot be read"]),
    ],
)
def test_a_wrong_world_is_refused(write, world, words):
    refused(write(BASE.replace("{kind: gaussian, dim: 2, classes: 2}", world)), *words)


def test_a_world_may_be_a_file_beside_the_sweep(write):
    write("kind: gaussian\ndim: 2\nclasses: 2\n", "w.yaml")
    here = load_sweep(write(BASE))
    there = load_sweep(write(BASE.replace("{kind: gaussian, dim: 2, classes: 2}", "w.yaml"), "t.yaml"))
    assert there.runs.keys.tolist() == here.runs.keys.tolist()


def test_a_classifier_without_world_is_refused(write):
    refused(write("name: a\nexperiment: classifier\ngrid: {}\n"), "s.yaml", "classifier needs a `world:`")


def test_a_training_set_larger_than_its_pool_is_refused(write):
    refused(
        write(BASE + "  n_train: [10, 100]\n  pool: 50\n"), "s.yaml: grid.n_train", "`n_train <= pool`", "100", "50"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [a", ["must be valid YAML"]),
        ("a: &x 1\nb: *x\n", ["valid YAML", "aliases"]),
        ("name: a\nname: b\n", ["keys must be distinct", "'name'", "line 2"]),
        ("grid: {width: 1, lr: 2, width: 3}\n", ["keys must be distinct", "'width'"]),
        ("name: !!python/object/apply:os.system [ls]\n", ["valid YAML", "python/object"]),
        ("name: 2024-05-32\n", ["name: line 1", "date"]),
        ("name: \x00", ["valid YAML"]),
        ("", ["must be a mapping", "None"]),
        ("- 1", ["must be a mapping", "[1]"]),
        ("name: a\ngrid: 3\n", ["`grid` mapping", "3"]),
        ("name: a\nexperiment: classifier\n", ["grid: must be given"]),
        ("experiment: classifier\ngrid: {}\n", ["name: must be given"]),
        ("name: a\nexperiment: clasifier\ngrid: {}\n", ["'clasifier'", "Did you mean 'classifier'?"]),
        ("name: a\nexperiment: classifier\ngrid: {1: 2}\n", ["grid: keys must be words, but got 1"]),
    ],
)
def test_what_is_no_sweep_is_refused_in_one_line(write, text, words):
    path = write(text)
    assert "\n" not in refused(path, str(path), *words)


def test_a_nested_yaml_bomb_and_a_huge_file_are_refused(write, tmp_path):
    refused(write("[" * 5000), "must be valid YAML")
    refused(write("# " + "x" * (1 << 20)), "under 1 MiB", "bytes")
    refused(tmp_path, "cannot be read")
    refused(tmp_path / "none.yaml", "none.yaml: cannot be read")
    (tmp_path / "latin").write_bytes(b"name: \xe9")
    refused(tmp_path / "latin", "cannot be read")


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "", "a b", "x" * 65, "a\n", "-x", "C:\\x"])
def test_a_name_that_is_no_plain_folder_is_refused(name):
    with pytest.raises(SweepError, match="name: "):
        from_mapping({"name": name, "experiment": "classifier", "grid": {}, "world": WORLD})


def test_a_missing_function_or_module_is_refused_by_what_a_user_may_mean(write, monkeypatch):
    write("def train_all(config): ...\n_HIDDEN = 1\n", "module_of_two.py")
    path = write("name: a\nexperiment: module_of_two:train\ngrid: {a: 1}\n")
    said = refused(path, "must define 'train'", "Did you mean 'train_all'? Valid names: train_all")
    assert said.endswith("train_all")
    monkeypatch.chdir(path.parent)
    said = refused(write("name: a\nexperiment: no_such_module:train\ngrid: {a: 1}\n", "t.yaml"), "looked in")
    assert said.count(str(path.parent)) == 2  # the file's own name, and the folder once


def test_an_unknown_law_is_refused_by_those_of_a_file_which_include_auto():
    for fit, says in (
        (
            {"law": "powr", "x": "width", "y": "nll"},
            "fit.0.law: There is no law 'powr'. Did you mean 'power'.*: auto",
        ),
        ({"x": "width", "y": "width"}, "fit.0.y: .*by=nothing"),
    ):
        with pytest.raises(SweepError, match=says):
            from_mapping({"name": "a", "experiment": "classifier", "grid": {}, "world": WORLD, "fit": [fit]})


@pytest.mark.parametrize("part", ["", "fit", "resources", "budget", "world"])
def test_every_key_refuses_a_wrong_type_in_plain_words(part):
    models = {"": SweepFile, "fit": FitSpec, "resources": Resources, "budget": Budget, "world": kinds()["gaussian"]}
    good = {"": {}, "fit": {"x": "width", "y": "loss"}, "world": {"kind": "gaussian"}}.get(part, {})
    base = {"name": "t", "experiment": "classifier", "grid": {"width": [1]}, "world": WORLD}
    for key in models[part].model_fields:
        said = []
        for wrong in (3, "word", [[3]], {"a": {}}, {3: 1}, None, float("nan")):
            value = {**good, key: wrong}
            raw = {**base, **(value if not part else {part: [value] if part == "fit" else value})}
            try:
                SweepFile.model_validate(raw)
            except ValidationError as error:
                said.append(explain(error, raw, "sweep"))
        assert said, key
        for one in said:
            assert not re.search("[Ii]nput|instance|tuple|dict|string|integer|pydantic|key]|should|valid [^nk]", one), (
                one
            )
            assert key in one


# --- overrides and presets --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "axis", "values"),
    [
        ("width=64", "width", (64,)),
        ("width=64,128", "width", (64, 128)),
        ("width=[64, 128]", "width", (64, 128)),
        ("lr=1e-3,2e-3", "lr", (0.001, 0.002)),
        ("labels=hard,soft", "labels", ("hard", "soft")),
        ("n_train={geom: [64, 1024, 3]}", "n_train", (64, 256, 1024)),
        (" seed = {range: 3} ", "seed", (0, 1, 2)),
        ("seed=0..3", "seed", (0, 1, 2, 3)),
        ("seed=0..10..5,7", "seed", (0, 5, 10, 7)),
        ("n_train=geom(64, 1024, 3)", "n_train", (64, 256, 1024)),
        ("lr=linear(0.1, 0.3, 3)", "lr", (0.1, 0.2, 0.3)),
        ("n_train=width * 4", "n_train", (64, 128)),
        ("n_train=max(width, 20),40", "n_train", (20, 40, 32)),
        ("batch=1e2", "batch", (100,)),
    ],
)
def test_set_replaces_an_axis(write, override, axis, values):
    assert load_sweep(write(BASE), [override]).runs.values[axis] == values


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("width", ["--set must be axis=values", "'width'"]),
        ("=3", ["--set must be axis=values", "'=3'"]),
        ("width=", ["--set must be axis=values"]),
        ("width=[1", ["--set width=[1", "valid YAML"]),
        ("widht=1", ["grid.widht", "Did you mean 'width'?"]),
        ("width=wide", ["grid.width", "an integer", "'wide'"]),
        ("n_train={goem: [1, 2, 3]}", ["grid.n_train", "Did you mean 'geom'?"]),
        ("seed=0:3", ["--set seed=0:3", "start..end", "'0:3'"]),
        ("width=1,000", ["--set width=1,000", "looks like one number"]),
        ("n_train=widht * 4", ["grid.n_train", "'widht'", "Did you mean 'width'"]),
    ],
)
def test_a_bad_override_is_refused(write, override, words):
    refused(write(BASE), *words, overrides=[override])


def test_an_axis_is_set_once(write):
    refused(
        write(BASE), "--set must give an axis once", "'width=1'", "'width=2'", overrides=["width=1", "lr=2", "width=2"]
    )


def test_a_preset_may_name_another_world(write):
    write("kind: gaussian\ndim: 5\nclasses: 3\n", "other.yaml")
    path = write(BASE + "presets: {wide: {width: 64, world: other.yaml}, inline: {world: {kind: gaussian, dim: 7}}}\n")
    worlds = [load_sweep(path, preset=preset) for preset in (None, "wide", "inline")]
    assert [sweep.file.world.dim for sweep in worlds] == [2, 5, 7]
    assert [sweep.runs.values["width"] for sweep in worlds] == [(16, 32), (64,), (16, 32)]
    assert len({sweep.identity for sweep in worlds}) == 3
    refused(write(BASE + "presets: {wide: {world: {kind: gaussian, dmi: 7}}}\n"), "world.dmi", preset="wide")


def test_an_exclusion_that_a_preset_makes_senseless_says_what_to_do(write):
    text = BASE + "  exclude: {width: 16, seed: 1}\npresets: {small: {width: 8}, none: {width: 8, exclude: []}}\n"
    assert len(load_sweep(write(text)).runs) == 3
    refused(write(text), "grid.exclude[0].width", "width = 16", "preset replaces width", preset="small")
    assert len(load_sweep(write(text), preset="none").runs) == 2
    assert len(load_sweep(write(text), ["exclude={width: 8, seed: 0}"], "small").runs) == 1


def test_a_preset_may_replace_the_resources(write):
    path = write(BASE + "resources: {gpus: 1, lanes: 3}\npresets: {small: {width: 8, resources: {cpus: 2}}}\n")
    assert load_sweep(path).file.resources.gpus == 1
    small = load_sweep(path, preset="small").file.resources
    assert (small.cpus, small.gpus, small.lanes) == (2, 0, None)


PRESETS = BASE + "presets:\n  smoke: {width: 8, steps: [1, 2]}\n  tiny: {depth: 1}\n"


def test_a_preset_comes_before_overrides_and_full_is_the_grid_itself(write):
    path = write(PRESETS)
    assert load_sweep(path, preset="smoke").runs.values["width"] == (8,)
    assert load_sweep(path, ["width=4"], "smoke").runs.values["width"] == (4,)
    assert load_sweep(path, preset="full").runs.keys.tolist() == load_sweep(path).runs.keys.tolist()


def test_an_unknown_or_malformed_preset_is_refused(write):
    refused(write(PRESETS), "presets", "'smok'", "Did you mean 'smoke'?", "full", preset="smok")
    refused(write(BASE + "presets: [1]\n"), "presets", "[1]", preset="smoke")
    refused(write(BASE + "presets: {smoke: abc}\n"), "presets", "abc", preset="smoke")


def test_a_resolved_text_loads_to_the_same_runs(write):
    sweep = load_sweep(write(PRESETS), ["lr=0.1,0.2"], "smoke")
    again = load_sweep(write(sweep.text, "again.yaml"))
    assert again.runs.keys.tolist() == sweep.runs.keys.tolist()
    assert (again.hash, again.text) == (sweep.hash, sweep.text)


def test_presets_fits_resources_and_budget_enter_no_key(write):
    extra = "resources: {lanes: 3}\nbudget: {cells: 9}\nfit: [{x: n_train, y: nll}]\n"
    assert load_sweep(write(PRESETS + extra)).runs.keys.tolist() == load_sweep(write(BASE, "b.yaml")).runs.keys.tolist()


def test_the_worlds_recipe_enters_the_key(write):
    other = load_sweep(write(BASE.replace("dim: 2", "dim: 3"), "o.yaml"))
    assert not set(other.runs.keys.tolist()) & set(load_sweep(write(BASE)).runs.keys.tolist())


# --- a user's own experiment ------------------------------------------------------------------------------
