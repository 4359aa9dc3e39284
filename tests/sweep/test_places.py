"""--set on axes that stand within concat, when and zip: replaced there, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raysweep.errors import SweepError
from raysweep.sweep import load_sweep
from raysweep.sweep.places import replaced
from raysweep.yamlfile import dump_yaml

NESTED = {
    "size": [8],
    "concat": [
        {"gamma": 0, "concat": [{"gamma": 1, "lr": 3}, {"lr": 4}]},
        {"when": [{"if": {"size": 8}, "then": {"gamma": [2, 3]}}]},
        {"zip": {"gamma": [0, 1], "arm": ["a", "b"]}},
    ],
}


def test_an_axis_is_replaced_in_every_branch_that_has_it() -> None:
    assert replaced(NESTED, {"gamma": [5, 6]}) == {
        "size": [8],
        "concat": [
            {"gamma": [5, 6], "concat": [{"gamma": [5, 6], "lr": 3}, {"lr": 4}]},
            {"when": [{"if": {"size": 8}, "then": {"gamma": [5, 6]}}]},
            {"zip": [{"gamma": [5, 6], "arm": ["a", "b"]}]},
        ],
    }
    assert replaced(NESTED, {"size": 9, "other": 1}) == {**NESTED, "size": 9, "other": 1}


@pytest.mark.parametrize("given", [{"gamma": {"range": 3}}, {"gamma": [1]}, {"gamma": 7}, {"arm": ["a", "b", "c"]}])
def test_in_a_zip_only_as_many_values_have_a_meaning(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(SweepError) as caught:
        replaced(NESTED, given)
    for words in (f"--set {name}: ", "stands in grid.concat[2].zip[0] beside ", "(2), but got ", "by --set, too"):
        assert words in str(caught.value)
    both = {"gamma": {"range": 3}, "arm": ["a", "b", "c"]}
    assert replaced(NESTED, both)["concat"][2] == {"zip": [both]}


def train(config: dict[str, Any]) -> dict[str, float]:
    return {"loss": 1.0}


def test_the_cells_of_a_file_are_those_of_the_new_values(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    branches = [{"arm": ["a", "b"], "gamma": [0, 1]}, {"arm": "c", "zip": {"gamma": [0, 1], "lr": [2, 3]}}]
    presets = {"smoke": {"concat": [{"arm": ["a", "b"], "gamma": [0, 1]}]}}
    grid = {"concat": branches, "seed": 0}
    file.write_text(dump_yaml({"name": "s", "experiment": "test_places:train", "grid": grid, "presets": presets}))
    for overrides, preset, cells in (
        (["gamma=5,6"], None, {("a", 5), ("a", 6), ("b", 5), ("b", 6), ("c", 5), ("c", 6)}),
        (["gamma=5"], "smoke", {("a", 5), ("b", 5)}),
        (["arm=y-1"], None, {("y-1", 0), ("y-1", 1)}),  # words are known wherever the axis stands
    ):
        runs = load_sweep(file, overrides, preset).runs
        assert {*zip(runs.column("arm"), runs.column("gamma"), strict=True)} == cells
    with pytest.raises(SweepError, match=r"--set gamma: must be an integer, as in .*, but got \[.x., .y.\]"):
        load_sweep(file, ["gamma=x,y"])
