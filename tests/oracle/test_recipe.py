"""A recipe's hash is part of every run's key: it never moves, and it moves with every field."""

import json

import pytest
from pydantic import ValidationError

from raysweep.errors import OracleError
from raysweep.oracle.gaussian import GaussianRecipe
from raysweep.oracle.recipe import Shape, parse_recipe, recipe_hash
from raysweep.oracle.shared_flow import FlowRecipe

GOLDEN = {
    "flow": (FlowRecipe(), "d68ed240c53ac2c9"),
    "flow, changed": (FlowRecipe(noise=0.05, layers=4, hidden=32, epochs=3, seed=7), "04beac0b33c260b8"),
    "gaussian": (GaussianRecipe(), "7fffa19a9c9151b2"),
    "gaussian, with prior": (GaussianRecipe(classes=3, dim=4, prior=(0.5, 0.25, 0.25)), "23398e4e837fe0b8"),
}
OTHER = {
    FlowRecipe: {
        "noise": 0.1, "layers": 3, "hidden": 64, "blocks": 1, "epochs": 61, "batch": 64, "lr": 1e-3, "holdout": 0.2,
        "seed": 1,
    },
    GaussianRecipe: {"classes": 3, "dim": 3, "separation": 2.5, "prior": (0.7, 0.3), "layers": 5, "seed": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_hash_is_golden(name):
    recipe, expected = GOLDEN[name]
    assert recipe_hash(recipe) == expected


@pytest.mark.parametrize("kind", OTHER)
def test_every_field_enters_the_hash(kind):
    assert set(OTHER[kind]) == set(kind.model_fields) - {"kind", "data"}  # there is one data set so far
    hashes = [recipe_hash(kind()), *(recipe_hash(kind(**{field: value})) for field, value in OTHER[kind].items())]
    assert len(set(hashes)) == len(hashes)


def test_the_data_enters_the_hash_by_content(monkeypatch):
    from raysweep import data

    before, digits = recipe_hash(FlowRecipe()), data.load("digits")
    changed = data.Dataset(digits.x, digits.y, digits.classes, digits.levels, "another sha")
    monkeypatch.setattr(data, "load", lambda name: changed)
    assert recipe_hash(FlowRecipe()) != before
    assert recipe_hash(GaussianRecipe()) == GOLDEN["gaussian"][1]


@pytest.mark.parametrize("recipe", [r for r, _ in GOLDEN.values()], ids=GOLDEN)
def test_json_round_trip_in_any_key_order(recipe):
    fields = recipe.model_dump(mode="json")
    text = json.dumps(dict(reversed(fields.items())))
    assert parse_recipe(text, "here") == recipe
    assert recipe_hash(parse_recipe(text, "here")) == recipe_hash(recipe)


def test_a_whole_number_and_its_float_are_one_recipe():
    assert recipe_hash(GaussianRecipe(separation=2)) == recipe_hash(GaussianRecipe(separation=2.0))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"kind": "gaussian", "colour": 1}',
        '{"kind": "cube"}',
        '{"kind": "gaussian", "dim": 1}',
        '{"kind": "gaussian", "classes": 2, "prior": [0.5, 0.25, 0.25]}',
        '{"kind": "gaussian", "classes": 2, "prior": [1.0, 0.0]}',
        '{"kind": "gaussian", "classes": 2, "prior": [1.5, -0.5]}',
        '{"kind": "gaussian", "prior": [NaN, 1.0]}',
        '{"kind": "flow", "seed": 18446744073709551616}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_recipe_is_refused_by_the_name_of_its_file(text):
    with pytest.raises(OracleError, match=r"store/recipe\.json: must hold a recipe"):
        parse_recipe(text, "store/recipe.json")


def test_the_message_names_the_unknown_key():
    with pytest.raises(OracleError, match="colour"):
        parse_recipe('{"kind": "gaussian", "colour": 1}', "here")


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        FlowRecipe().seed = 3


def test_shapes_are_known_before_anything_is_made():
    assert FlowRecipe().shape == Shape(64, 10)
    assert GaussianRecipe(dim=7, classes=3).shape == Shape(7, 3)
