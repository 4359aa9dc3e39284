"""Axes of a user's function, as its grid makes them: lists, null, and those of one branch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from function_tools import Go, table


def test_axes_may_hold_lists_mappings_and_null(go: Go, tmp_path: Path) -> None:
    seen: list[Any] = []

    def train(config: dict[str, Any]) -> dict[str, float]:
        seen.append((config["hidden"], config["clip"], config["opt"]))
        return {"loss": 1.0, "hidden": config["hidden"]}

    grid = {"hidden": [[64, 64], [128]], "clip": [None, 1.0], "opt": [{"name": "sgd", "betas": [0.9, 1.0]}]}
    assert go(train, grid).counts.ok == 4
    assert ([64, 64], None, {"name": "sgd", "betas": [0.9, 1.0]}) in seen
    frame = table(tmp_path)
    assert set(frame["hidden"]) == {"[64, 64]", "[128]"}
    assert frame["clip"].dtype == pl.Float64
    again = {"hidden": [[64.0, 64], [128], [32]], "clip": [None, 1], "opt": [{"betas": [0.9, 1], "name": "sgd"}]}
    go(train, again)
    assert len(seen) == 6  # equal values are the same cells


@pytest.mark.parametrize("values", [[1.0, 2.0], ["norm", "value"], [3], [True], [[1, 2]]])
def test_an_axis_that_was_null_alone_may_have_values_later(values: list[Any], go: Go, tmp_path: Path) -> None:
    seen: list[Any] = []

    def train(config: dict[str, Any]) -> dict[str, float]:
        seen.append(config["clip"])
        return {"loss": 1.0}

    assert go(train, {"clip": [None], "size": [1, 2, 3, 4]}).counts.ok == 4
    assert table(tmp_path)["clip"].null_count() == 4
    assert go(train, {"clip": [None, *values], "size": [1, 2, 3, 4]}).counts.ok == 4 + 4 * len(values)
    assert len(seen) == 4 + 4 * len(values)
    found = table(tmp_path)["clip"]
    assert found.null_count() == 4
    expected = {str(v) if isinstance(v, list) else v for v in values}
    assert set(found.drop_nulls()) == expected


def test_an_axis_of_one_branch_is_absent_from_the_others(go: Go, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def train(config: dict[str, Any]) -> dict[str, float]:
        seen.append(config)
        return {"loss": 1.0}

    branches = [{"optimizer": "sgd", "momentum": [0.0, 0.9]}, {"optimizer": "adam", "beta2": [0.99, 0.999]}]
    go(train, {"lr": 0.1, "concat": branches})
    assert [sorted(config) for config in seen] == [["lr", "momentum", "optimizer"]] * 2 + [
        ["beta2", "lr", "optimizer"]
    ] * 2
    assert table(tmp_path)["momentum"].null_count() == 2
    when = [
        {"if": {"optimizer": b["optimizer"]}, "then": {k: v for k, v in b.items() if k != "optimizer"}}
        for b in branches
    ]
    go(train, {"lr": 0.1, "optimizer": ["sgd", "adam"], "when": when})
    assert len(seen) == 4  # the same cells
