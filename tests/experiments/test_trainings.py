"""Runs of a user's function as a whole: one row per cell, curves of one training, early stops, errors, classes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from function_tools import Go, table

import raysweep
from raysweep.errors import SweepError
from raysweep.logs import list_logs, read_log
from raysweep.store import Store

# --- one cell, one row ------------------------------------------------------------------------------------


def test_a_second_row_for_a_cell_is_an_error_that_names_observed(go: Go, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> Iterator[dict[str, float]]:
        for epoch in (1, 8):
            yield {"at": epoch, "loss": 1.0 / epoch}

    assert go(train, {"n": [1, 2]}).counts.failed == 2
    (error,) = set(table(tmp_path)["error"])
    assert "gave a second one (at was 1.0, now 8.0)" in error
    assert "`observed:`" in error
    assert "loss" not in table(tmp_path).columns or table(tmp_path)["loss"].is_null().all()


def test_a_second_row_takes_back_the_first_also_where_others_were_kept(go: Go, tmp_path: Path) -> None:
    """A row for each batch instead of each epoch: the first batch's loss is no epoch's."""

    def train(config: dict[str, Any]) -> Iterator[dict[str, float]]:
        for epoch in (1, 2):
            yield {"epoch": epoch, "loss": 3.0}
        yield {"epoch": 2, "loss": 2.0}

    assert go(train, {"n": 1, "epoch": [1, 2, 3]}, ("epoch",)).counts.failed == 3
    assert set(table(tmp_path)["status"]) == {"failed"}
    assert "a second one for epoch = 2" in table(tmp_path)["error"][0]


def test_a_run_that_is_trained_again_replaces_its_curve_as_a_whole(go: Go, tmp_path: Path) -> None:
    tries: list[int] = []

    def train(config: dict[str, Any]) -> Iterator[dict[str, float]]:
        tries.append(1)
        luck = len(tries)  # no seed fixes it
        for epoch in (1, 2, 3):
            if epoch == 3 and luck == 1:
                raise RuntimeError("node lost")
            yield {"epoch": epoch, "loss": 1.0 / epoch, "luck": luck}

    grid = {"n": 1, "epoch": [1, 2, 3]}
    first = go(train, grid, ("epoch",))
    assert (first.counts.ok, first.counts.failed) == (2, 1)
    assert go(train, grid, ("epoch",)).counts.ok == 3
    assert set(table(tmp_path)["luck"]) == {2}
    assert table(tmp_path)["training_id"].n_unique() == 1


def test_a_worse_second_training_does_not_replace_a_better_first(go: Go, tmp_path: Path) -> None:
    tries: list[int] = []

    def train(config: dict[str, Any]) -> Iterator[dict[str, float]]:
        tries.append(1)
        for epoch in (1, 2, 3):
            if epoch == 4 - len(tries):
                raise RuntimeError(f"try {len(tries)}")
            yield {"epoch": epoch, "loss": 1.0 / epoch, "luck": len(tries)}

    grid = {"n": 1, "epoch": [1, 2, 3]}
    go(train, grid, ("epoch",))
    outcome = go(train, grid, ("epoch",))
    assert (outcome.counts.ok, outcome.counts.failed) == (2, 1)
    assert set(table(tmp_path)["luck"].drop_nulls()) == {1}
    go(train, grid, ("epoch",), resources={"max_failures": 1})
    assert set(table(tmp_path)["luck"].drop_nulls()) == {1}


@pytest.mark.parametrize("width", [np.float16, np.float32, np.float64, torch.float32, torch.bfloat16])
def test_an_observed_number_of_few_bits_is_the_one_asked_for(go: Go, tmp_path: Path, width: Any) -> None:
    def train(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for share in (0.1, 0.2, 0.3):
            value = torch.tensor(share, dtype=width) if isinstance(width, torch.dtype) else width(share)
            yield {"share": value, "loss": 1.0}
            yield {"share": 0.75, "loss": 2.0}  # nobody asked

    assert go(train, {"n": 1, "share": [0.1, 0.2, 0.3]}, ("share",)).counts.ok == 3
    assert sorted(table(tmp_path)["share"]) == [0.1, 0.2, 0.3]


def test_rows_that_match_no_cell_are_named(go: Go, tmp_path: Path) -> None:
    go(lambda config: [{"t": 0.31, "loss": 1.0}], {"n": 1, "t": [0.3, 0.1]}, ("t",))
    assert "1 rows matched no cell, e.g. t = 0.31" in table(tmp_path)["error"][0]


# --- early stops ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["its own row", "in the last row", "returned", "silent"])
def test_a_run_that_stops_early_is_finished(go: Go, tmp_path: Path, way: str) -> None:
    tries: list[int] = []

    def loop(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
        tries.append(1)
        yield {"epoch": 1, "loss": 1.0}
        yield {"epoch": 2, "loss": 0.5, **({"stopped_at": 2} if way == "in the last row" else {})}
        if way == "its own row":
            yield {"stopped_at": 2}

    def reporting(config: dict[str, Any]) -> dict[str, Any]:
        for row in loop(config):
            raysweep.report(row)
        return {"stopped_at": 2}

    grid = {"n": 1, "epoch": [1, 2, 3, 4]}
    for _ in range(2):
        outcome = go(reporting if way == "returned" else loop, grid, ("epoch",))
        assert (outcome.counts.ok, outcome.counts.skipped, outcome.counts.failed) == (2, 2, 0)
    assert len(tries) == 1
    reason = table(tmp_path).filter(pl.col("status") == "skipped")["error"][0]
    assert ("stopped itself at 2" if way != "silent" else "ended early, after epoch 2") in reason


def test_a_value_left_out_in_the_middle_is_no_early_stop(go: Go) -> None:
    outcome = go(lambda c: ({"epoch": e, "loss": 1.0} for e in (1, 3)), {"n": 1, "epoch": [1, 2, 3]}, ("epoch",))
    assert (outcome.counts.ok, outcome.counts.failed) == (2, 1)


# --- what is raised ---------------------------------------------------------------------------------------


class Panic(BaseException):
    """As of Rust."""


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt("mine"), asyncio.CancelledError("gone"), Panic("unwrap"), GeneratorExit("x"), SystemExit(3)],
)
def test_whatever_a_function_raises_fails_its_run_alone(go: Go, tmp_path: Path, error: BaseException) -> None:
    def train(config: dict[str, Any]) -> dict[str, float]:
        if config["n"] == 2:
            raise error
        return {"loss": 1.0}

    outcome = go(train, {"n": [1, 2, 3]})
    assert (outcome.counts.ok, outcome.counts.failed) == (2, 1)
    (reason,) = table(tmp_path)["error"].drop_nulls()
    assert type(error).__name__ in reason


def test_a_run_that_takes_too_long_fails_with_the_reason(go: Go, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> dict[str, float]:
        while config["n"] == 2:
            with contextlib.suppress(Exception):
                continue
        return {"loss": 1.0}

    outcome = go(train, {"n": [1, 2, 3]}, resources={"minutes": 0.5 / 60})
    assert (outcome.counts.ok, outcome.counts.failed) == (2, 1)
    assert "took longer than 0.5 s" in table(tmp_path)["error"].drop_nulls()[0]


def test_an_error_that_is_its_own_cause_or_cannot_be_printed_is_an_error(go: Go, tmp_path: Path) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

        def __bool__(self) -> bool:
            raise ValueError("neither")

    def train(config: dict[str, Any]) -> dict[str, float]:
        if config["n"] == 1:
            try:
                raise ZeroDivisionError
            except ZeroDivisionError as error:
                raise error from error
        if config["n"] == 2:
            raise ValueError("on top") from Mute()
        if config["n"] == 3:
            raise Mute
        raise ValueError("half of a pair: \ud800")

    assert go(train, {"n": [1, 2, 3, 4]}).counts.failed == 4
    errors = dict(table(tmp_path).select("n", "error").iter_rows())
    assert "ZeroDivisionError" in errors[1]
    assert "ValueError" in errors[2]
    assert "Mute" in errors[3]
    assert "ValueError: half of a pair: \\ud800" in errors[4]


def test_an_error_after_the_only_row_keeps_the_row(go: Go, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> Iterator[dict[str, float]]:
        yield {"loss": 0.5}
        raise ValueError("cannot save the model")

    assert go(train, {"n": 1}).counts.ok == 1
    assert table(tmp_path)["loss"].to_list() == [0.5]
    (listed,) = list_logs(Store(str(tmp_path / "store")))
    assert "ValueError: cannot save the model" in read_log(Store(str(tmp_path / "store")), listed["run"])[1]


def test_a_contradiction_that_the_function_swallows_fails_the_run(go: Go, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for epoch in (1, 1, 2):
            with contextlib.suppress(Exception):
                raysweep.report(epoch=epoch, loss=1.0)

    assert go(train, {"n": 1, "epoch": [1, 2]}, ("epoch",)).counts.failed == 2
    assert "gave a second one for epoch = 1" in table(tmp_path)["error"][0]


def test_a_word_among_numbers_is_the_odd_one(go: Go, tmp_path: Path) -> None:
    words = {1: "broken", 2: 0.5, 3: "null", 4: "0.25", 5: "broken", 6: 0.5}
    outcome = go(lambda config: {"loss": words[config["n"]], "n_seen": config["n"]}, {"n": list(words)})
    assert (outcome.counts.ok, outcome.counts.failed) == (5, 1)
    assert table(tmp_path).filter(pl.col("status") == "failed")["n"].to_list() == [5]


def test_a_cell_before_the_checkpoint_is_trained_from_the_start(go: Go, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> Iterator[dict[str, float]]:
        saved = raysweep.checkpoint.load()
        start = int((saved / "epoch").read_text()) if saved else 0
        for epoch in range(start + 1, max(config["epoch"]) + 1):
            with raysweep.checkpoint.save() as folder:
                (folder / "epoch").write_text(str(epoch))
            yield {"epoch": epoch, "loss": 1.0, "start": start}

    assert go(train, {"n": 1, "epoch": [1, 4]}, ("epoch",)).counts.ok == 2
    assert go(train, {"n": 1, "epoch": [1, 2, 4]}, ("epoch",)).counts.ok == 3
    assert set(table(tmp_path)["start"]) == {0}
    assert go(train, {"n": 1, "epoch": [1, 2, 4, 8]}, ("epoch",)).counts.ok == 4
    assert table(tmp_path).sort("epoch")["start"].to_list() == [0, 0, 0, 4]


@pytest.mark.parametrize(
    "row",
    [
        types.SimpleNamespace(loss=0.5),
        dataclasses.make_dataclass("Row", [("loss", float)])(0.5),
        pd.Series({"loss": 0.5}),
    ],
)
def test_rows_may_be_records_of_other_kinds(go: Go, tmp_path: Path, row: Any) -> None:
    assert go(lambda config: row, {"n": 1}).counts.ok == 1
    assert table(tmp_path)["loss"].to_list() == [0.5]


def test_what_cannot_be_called_is_refused_before_anything_runs(go: Go) -> None:
    async def train(config: dict[str, Any]) -> dict[str, float]:
        return {"loss": 1.0}

    with pytest.raises(SweepError, match="must be a plain function, but is `async def`"):
        go(train, {"n": 1})
    with pytest.raises(SweepError, match="takes no 'm'"):
        go(lambda n, k=1: {"loss": 1.0}, {"n": 1, "m": 2})


def test_one_bug_stops_the_sweep_before_all_runs_met_it(go: Go) -> None:
    tries: list[int] = []

    def train(config: dict[str, Any]) -> None:
        tries.append(1)
        raise ValueError(f"bad shape {config['n']}")

    outcome = go(train, {"n": {"range": [1, 401]}}, resources={"max_failures": 3})
    assert len(tries) < 40
    assert "runs failed for one reason and none succeeded: ValueError: bad shape" in outcome.stopped
    assert outcome.pending == 400 - outcome.counts.failed


class Trainer:
    """As a library's user writes one."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def train(self) -> dict[str, float]:
        return {"loss": self.config["n"] * 1.0}


class Called:
    def __call__(self, config: dict[str, Any]) -> dict[str, float]:
        return {"loss": config["n"] * 1.0}


@dataclasses.dataclass
class Unhashable:
    scale: float = 1.0

    def __call__(self, config: dict[str, Any]) -> dict[str, float]:
        return {"loss": config["n"] * self.scale}


class Named:
    def __init__(self, n: int, lr: float = 0.1) -> None:
        self.n = n

    def train(self) -> dict[str, float]:
        return {"loss": self.n * 1.0}


class Optional:
    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.config = config or {}

    def train(self) -> dict[str, float]:
        return {"loss": self.config["n"] * 1.0}


class Stepwise:
    def train(self, n: int) -> dict[str, float]:
        return {"loss": n * 1.0}


@pytest.mark.parametrize("code", [Trainer, Called, Called(), Unhashable(), Named, Optional, Stepwise])
def test_classes_with_train_or_call_are_functions(go: Go, tmp_path: Path, code: Any) -> None:
    assert go(code, {"n": [1, 2]}).counts.ok == 2
    assert sorted(table(tmp_path)["loss"]) == [1.0, 2.0]
