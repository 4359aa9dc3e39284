"""Runs of a user's function as a whole: one row per cell, curves of one training, early stops, reports, checkpoints."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import logging
import os
import random
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import raysweep
from raysweep.errors import SweepError
from raysweep.executors import make_executor, place
from raysweep.ledger.log import CELLS
from raysweep.logs import list_logs, read_log
from raysweep.plan import make_plan
from raysweep.run import Outcome, run
from raysweep.status import status
from raysweep.store import Store
from raysweep.sweep import from_mapping

Go = Callable[..., Outcome]


@pytest.fixture
def go(tmp_path: Path) -> Go:
    """Runs a function over a grid into one store."""

    def go_(train: Any, grid: Mapping[str, Any], observed: tuple[str, ...] = (), **more: Any) -> Outcome:
        sweep = from_mapping({"name": "t", "experiment": train, "grid": grid, "observed": observed, **more})
        return run(sweep, Store(str(tmp_path / "store")), make_executor("inline"), stream=io.StringIO)

    return go_


def rows(tmp_path: Path) -> pl.DataFrame:
    return pl.read_parquet(tmp_path / "store" / CELLS)


# --- one cell, one row ------------------------------------------------------------------------------------


def test_a_second_row_for_a_cell_is_an_error_that_names_observed(go: Go, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> Iterator[dict[str, float]]:
        for epoch in (1, 8):
            yield {"at": epoch, "loss": 1.0 / epoch}

    assert go(train, {"n": [1, 2]}).counts.failed == 2
    (error,) = set(rows(tmp_path)["error"])
    assert "gave a second one (at was 1.0, now 8.0)" in error
    assert "`observed:`" in error
    assert "loss" not in rows(tmp_path).columns or rows(tmp_path)["loss"].is_null().all()


def test_a_second_row_takes_back_the_first_also_where_others_were_kept(go: Go, tmp_path: Path) -> None:
    """A row for each batch instead of each epoch: the first batch's loss is no epoch's."""

    def train(config: dict[str, Any]) -> Iterator[dict[str, float]]:
        for epoch in (1, 2):
            yield {"epoch": epoch, "loss": 3.0}
        yield {"epoch": 2, "loss": 2.0}

    assert go(train, {"n": 1, "epoch": [1, 2, 3]}, ("epoch",)).counts.failed == 3
    assert set(rows(tmp_path)["status"]) == {"failed"}
    assert "a second one for epoch = 2" in rows(tmp_path)["error"][0]


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
    assert set(rows(tmp_path)["luck"]) == {2}
    assert rows(tmp_path)["training_id"].n_unique() == 1


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
    assert set(rows(tmp_path)["luck"].drop_nulls()) == {1}
    go(train, grid, ("epoch",), resources={"max_failures": 1})
    assert set(rows(tmp_path)["luck"].drop_nulls()) == {1}


@pytest.mark.parametrize("width", [np.float16, np.float32, np.float64, torch.float32, torch.bfloat16])
def test_an_observed_number_of_few_bits_is_the_one_asked_for(go: Go, tmp_path: Path, width: Any) -> None:
    def train(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for share in (0.1, 0.2, 0.3):
            value = torch.tensor(share, dtype=width) if isinstance(width, torch.dtype) else width(share)
            yield {"share": value, "loss": 1.0}
            yield {"share": 0.75, "loss": 2.0}  # nobody asked

    assert go(train, {"n": 1, "share": [0.1, 0.2, 0.3]}, ("share",)).counts.ok == 3
    assert sorted(rows(tmp_path)["share"]) == [0.1, 0.2, 0.3]


def test_rows_that_match_no_cell_are_named(go: Go, tmp_path: Path) -> None:
    go(lambda config: [{"t": 0.31, "loss": 1.0}], {"n": 1, "t": [0.3, 0.1]}, ("t",))
    assert "1 rows matched no cell, e.g. t = 0.31" in rows(tmp_path)["error"][0]


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
    reason = rows(tmp_path).filter(pl.col("status") == "skipped")["error"][0]
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
    (reason,) = rows(tmp_path)["error"].drop_nulls()
    assert type(error).__name__ in reason


def test_a_run_that_takes_too_long_fails_with_the_reason(go: Go, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> dict[str, float]:
        while config["n"] == 2:
            with contextlib.suppress(Exception):
                continue
        return {"loss": 1.0}

    outcome = go(train, {"n": [1, 2, 3]}, resources={"minutes": 0.5 / 60})
    assert (outcome.counts.ok, outcome.counts.failed) == (2, 1)
    assert "took longer than 0.5 s" in rows(tmp_path)["error"].drop_nulls()[0]


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
    errors = dict(rows(tmp_path).select("n", "error").iter_rows())
    assert "ZeroDivisionError" in errors[1]
    assert "ValueError" in errors[2]
    assert "Mute" in errors[3]
    assert "ValueError: half of a pair: \\ud800" in errors[4]


def test_an_error_after_the_only_row_keeps_the_row(go: Go, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> Iterator[dict[str, float]]:
        yield {"loss": 0.5}
        raise ValueError("cannot save the model")

    assert go(train, {"n": 1}).counts.ok == 1
    assert rows(tmp_path)["loss"].to_list() == [0.5]
    (listed,) = list_logs(Store(str(tmp_path / "store")))
    assert "ValueError: cannot save the model" in read_log(Store(str(tmp_path / "store")), listed["run"])[1]


def test_a_contradiction_that_the_function_swallows_fails_the_run(go: Go, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for epoch in (1, 1, 2):
            with contextlib.suppress(Exception):
                raysweep.report(epoch=epoch, loss=1.0)

    assert go(train, {"n": 1, "epoch": [1, 2]}, ("epoch",)).counts.failed == 2
    assert "gave a second one for epoch = 1" in rows(tmp_path)["error"][0]


def test_a_word_among_numbers_is_the_odd_one(go: Go, tmp_path: Path) -> None:
    words = {1: "broken", 2: 0.5, 3: "null", 4: "0.25", 5: "broken", 6: 0.5}
    outcome = go(lambda config: {"loss": words[config["n"]], "n_seen": config["n"]}, {"n": list(words)})
    assert (outcome.counts.ok, outcome.counts.failed) == (5, 1)
    assert rows(tmp_path).filter(pl.col("status") == "failed")["n"].to_list() == [5]


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
    assert set(rows(tmp_path)["start"]) == {0}
    assert go(train, {"n": 1, "epoch": [1, 2, 4, 8]}, ("epoch",)).counts.ok == 4
    assert rows(tmp_path).sort("epoch")["start"].to_list() == [0, 0, 0, 4]


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
    assert rows(tmp_path)["loss"].to_list() == [0.5]


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


# --- what a run may say and ask ---------------------------------------------------------------------------


def test_loops_that_cannot_yield_report(go: Go, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for epoch in range(1, 4):
            raysweep.report(epoch=epoch, loss=1.0 / epoch, val={"acc": 0.5})

    assert go(train, {"n": [1, 2], "epoch": [1, 3]}, ("epoch",)).counts.ok == 4
    assert sorted(rows(tmp_path)["loss"]) == [1 / 3, 1 / 3, 1, 1]
    assert set(rows(tmp_path)["val/acc"]) == {0.5}


def test_outside_of_a_run_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raysweep.report(loss=1.0)
    with raysweep.checkpoint.save() as folder:
        (folder / "x").touch()
    assert raysweep.checkpoint.load() is None
    assert (raysweep.run_key(), raysweep.run_dir()) == ("", tmp_path)


def test_each_run_has_a_key_and_a_folder_of_its_own(go: Go, tmp_path: Path) -> None:
    seen: dict[str, Path] = {}

    def train(config: dict[str, Any]) -> dict[str, float]:
        seen[raysweep.run_key()] = raysweep.run_dir()
        if config["n"] == 1:
            (raysweep.run_dir() / "model.ckpt").write_text("1")
        return {"loss": 1.0}

    go(train, {"n": [1, 2, 3]})
    assert set(seen) == set(rows(tmp_path)["run"])
    assert len(set(seen.values())) == 3
    kept = [path for path in seen.values() if path.exists()]
    assert [path.joinpath("model.ckpt").read_text() for path in kept] == ["1"]  # empty ones are gone


def test_a_checkpoint_survives_and_a_longer_horizon_goes_on_from_it(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    broken = [True]

    def train(config: dict[str, Any]) -> Iterator[dict[str, float]]:
        start = 0
        if saved := raysweep.checkpoint.load():
            start = int((saved / "epoch").read_text())
        for epoch in range(start + 1, max(config["epoch"]) + 1):
            if epoch == 3 and broken:
                broken.clear()
                raise RuntimeError("killed")
            trained.append(epoch)
            with raysweep.checkpoint.save() as folder:
                (folder / "epoch").write_text(str(epoch))
            yield {"epoch": epoch, "loss": 1.0 / epoch, "begun_at": start}

    grid = {"n": 1, "epoch": [1, 2, 4]}
    monkeypatch.setattr(place, "_LEAST", 0.0)
    monkeypatch.setattr(place, "_SHARE", float("inf"))  # keep each of them
    go(train, grid, ("epoch",))
    assert go(train, grid, ("epoch",)).counts.ok == 3
    assert trained == [1, 2, 3, 4]
    store, more = Store(str(tmp_path / "store")), {**grid, "epoch": [1, 2, 4, 6]}
    planned = make_plan(from_mapping({"name": "t", "experiment": train, "grid": more, "observed": ["epoch"]}), store, 1)
    assert (planned.again.restarted, planned.again.resumed) == (0, 1)
    assert go(train, more, ("epoch",)).counts.ok == 4
    assert trained == [1, 2, 3, 4, 5, 6]
    frame = rows(tmp_path).sort("epoch")
    assert frame["begun_at"].to_list() == [0, 0, 2, 4]
    assert frame["training_id"].n_unique() == 1


def test_what_a_run_prints_is_kept_and_shown_beside_its_failure(go: Go, tmp_path: Path) -> None:
    log = logging.getLogger("of this test")
    log.addHandler(logging.StreamHandler())  # as libraries do when they are imported

    def train(config: dict[str, Any]) -> dict[str, float]:
        print("epoch", config["n"])
        log.warning("careful %d", config["n"])
        print("x" * 100_000)
        print("y" * 400_000)
        if config["n"] == 2:
            print("about to fail")
            raise ValueError("no")
        return {"loss": 1.0}

    go(train, {"n": [1, 2]})
    store = Store(str(tmp_path / "store"))
    listed = list_logs(store)
    assert {one["status"] for one in listed} == {"ok", "failed"}
    _, text = read_log(store, listed[0]["run"][:6])
    assert text.startswith("epoch ")
    assert "careful" in text
    assert len(text) < 300_000
    assert "characters left out" in text
    (failure,) = status(store)["failures"]
    assert failure["example"]["log"][-1] == "about to fail"


def test_global_generators_are_seeded_for_each_run(go: Go, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> dict[str, float]:
        return {"a": random.random(), "b": float(np.random.rand()), "c": float(torch.rand(()))}

    go(train, {"n": [1, 2], "seed": [0, 1]})
    frame = rows(tmp_path).select("seed", "a", "b", "c").unique()
    assert len(frame) == 2  # runs of a seed draw the same, whatever came before
    assert frame["a"].n_unique() == frame["b"].n_unique() == frame["c"].n_unique() == 2


def test_what_a_run_sets_in_its_process_is_nothing_to_the_next(go: Go, tmp_path: Path) -> None:
    os.environ["RAYSWEEP_TEST_KEPT"] = "old"
    seen: list[Any] = []
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def train(config: dict[str, Any]) -> dict[str, float]:
        state = {name: os.environ.get(f"RAYSWEEP_TEST_{name}") for name in ("KEPT", "NEW")}
        draws = (random.random(), float(np.random.rand()), float(torch.rand(())))
        seen.append((state, Path.cwd(), warnings.filters[0], draws))
        os.environ["RAYSWEEP_TEST_KEPT"] = "changed"
        os.environ["RAYSWEEP_TEST_NEW"] = "1"
        os.chdir(elsewhere)
        warnings.simplefilter("ignore")
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        if config["n"] == 2:
            del os.environ["RAYSWEEP_TEST_KEPT"]
            raise ValueError("with all of it changed")
        return {"loss": 1.0}

    try:
        before, filters = Path.cwd(), [*warnings.filters]
        outcome = go(train, {"n": [1, 2, 3], "seed": 7})
        assert outcome.counts.ok == 2, set(rows(tmp_path)["error"])
        assert os.environ["RAYSWEEP_TEST_KEPT"] == "old"
        assert "RAYSWEEP_TEST_NEW" not in os.environ
        assert (Path.cwd(), warnings.filters) == (before, filters)
    finally:
        os.environ.pop("RAYSWEEP_TEST_KEPT", None)
    assert seen[0][:2] == ({"KEPT": "old", "NEW": None}, before)
    assert seen == [seen[0]] * 3


# --- axes -------------------------------------------------------------------------------------------------


def test_axes_may_hold_lists_mappings_and_null(go: Go, tmp_path: Path) -> None:
    seen: list[Any] = []

    def train(config: dict[str, Any]) -> dict[str, float]:
        seen.append((config["hidden"], config["clip"], config["opt"]))
        return {"loss": 1.0, "hidden": config["hidden"]}

    grid = {"hidden": [[64, 64], [128]], "clip": [None, 1.0], "opt": [{"name": "sgd", "betas": [0.9, 1.0]}]}
    assert go(train, grid).counts.ok == 4
    assert ([64, 64], None, {"name": "sgd", "betas": [0.9, 1.0]}) in seen
    frame = rows(tmp_path)
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
    assert rows(tmp_path)["clip"].null_count() == 4
    assert go(train, {"clip": [None, *values], "size": [1, 2, 3, 4]}).counts.ok == 4 + 4 * len(values)
    assert len(seen) == 4 + 4 * len(values)
    found = rows(tmp_path)["clip"]
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
    assert rows(tmp_path)["momentum"].null_count() == 2
    when = [
        {"if": {"optimizer": b["optimizer"]}, "then": {k: v for k, v in b.items() if k != "optimizer"}}
        for b in branches
    ]
    go(train, {"lr": 0.1, "optimizer": ["sgd", "adam"], "when": when})
    assert len(seen) == 4  # the same cells


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
    assert sorted(rows(tmp_path)["loss"]) == [1.0, 2.0]
