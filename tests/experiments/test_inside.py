"""What a run of a user's function may say and ask while it runs: reports, folders, checkpoints, logs, seeds."""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from function_tools import Go, table

import raysweep
from raysweep.executors import place
from raysweep.experiment import Context
from raysweep.experiments.function import FunctionExperiment
from raysweep.experiments.inferred import infer_axes
from raysweep.grid.axes import index_axes
from raysweep.grid.enumeration import enumerate_runs
from raysweep.grid.expand import expand
from raysweep.logs import list_logs, read_log
from raysweep.plan import make_plan
from raysweep.status import status
from raysweep.store import Store
from raysweep.sweep import from_mapping


def test_loops_that_cannot_yield_report(go: Go, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for epoch in range(1, 4):
            raysweep.report(epoch=epoch, loss=1.0 / epoch, val={"acc": 0.5})

    assert go(train, {"n": [1, 2], "epoch": [1, 3]}, ("epoch",)).counts.ok == 4
    assert sorted(table(tmp_path)["loss"]) == [1 / 3, 1 / 3, 1, 1]
    assert set(table(tmp_path)["val/acc"]) == {0.5}


def test_outside_of_a_run_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raysweep.report(loss=1.0)
    with raysweep.checkpoint.save() as folder:
        (folder / "x").touch()
    assert raysweep.checkpoint.load() is None
    assert (raysweep.run_key(), raysweep.run_dir()) == ("", tmp_path)


def test_a_run_that_was_abandoned_is_not_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysweep.experiments.function._EVERY", -1.0)  # a batch after every row
    seen: list[str] = []

    def train(config: dict[str, Any]) -> Iterator[dict[str, float]]:
        for epoch in (1, 2):
            seen.append(raysweep.run_key())
            yield {"epoch": epoch, "loss": 1.0}

    grid = {"n": 1, "epoch": [1, 2]}
    experiment = FunctionExperiment("mine:train", train, infer_axes(grid, ("epoch",), "here"))
    axes = index_axes(experiment.axes)
    runs = enumerate_runs(expand(grid, axes), axes, "mine")
    abandoned, other = experiment.run(runs, Context()), experiment.run(runs, Context())
    next(abandoned)
    assert raysweep.run_key() == ""
    next(other)
    abandoned.close()  # type: ignore[attr-defined]
    assert raysweep.run_key() == ""
    assert len([*other]) > 0
    assert raysweep.run_key() == ""
    assert seen == [runs.key(0)] * 3


def test_each_run_has_a_key_and_a_folder_of_its_own(go: Go, tmp_path: Path) -> None:
    seen: dict[str, Path] = {}

    def train(config: dict[str, Any]) -> dict[str, float]:
        seen[raysweep.run_key()] = raysweep.run_dir()
        if config["n"] == 1:
            (raysweep.run_dir() / "model.ckpt").write_text("1")
        return {"loss": 1.0}

    go(train, {"n": [1, 2, 3]})
    assert set(seen) == set(table(tmp_path)["run"])
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
    frame = table(tmp_path).sort("epoch")
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
    frame = table(tmp_path).select("seed", "a", "b", "c").unique()
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
        assert outcome.counts.ok == 2, set(table(tmp_path)["error"])
        assert os.environ["RAYSWEEP_TEST_KEPT"] == "old"
        assert "RAYSWEEP_TEST_NEW" not in os.environ
        assert (Path.cwd(), warnings.filters) == (before, filters)
    finally:
        os.environ.pop("RAYSWEEP_TEST_KEPT", None)
    assert seen[0][:2] == ({"KEPT": "old", "NEW": None}, before)
    assert seen == [seen[0]] * 3
