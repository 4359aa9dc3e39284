from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
import torch

from raysweep.cli import main

FAST = ["circle:0.5", "--width", "256", "--depth", "2", "--items", "240", "--seeds", "2"]


def code_of(*arguments: str) -> int:
    """The exit code of `raysweep difficulty ...`."""
    torch.set_num_threads(1)
    with patch.object(sys, "argv", ["raysweep", "difficulty", *arguments]), pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_a_task_is_described_scored_kept_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table holds two trainings: one falls as the lazy prediction does, one faster than either."""
    t = np.geomspace(10, 1e3, 12)
    falls = {"lazy": 0.5, "fast": 3.0}
    rows = [
        {"kind": k, "t": x, "loss": x**-p * (1 + 0.01 * (-1) ** i)} for k, p in falls.items() for i, x in enumerate(t)
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "trained.csv")
    kept, drawn = tmp_path / "task.json", tmp_path / "task.png"
    options = [
        "--against",
        str(tmp_path / "trained.csv"),
        "--by",
        "kind",
        "--out",
        str(kept),
        "--figure",
        str(drawn),
        "--train",
        "300",
    ]
    assert code_of(*FAST, *options) == 0
    said = capsys.readouterr().out
    record = json.loads(kept.read_text())
    beta = record["beta"]
    assert f"beta           {beta['value']:.3g} [{beta['low']:.3g}, {beta['high']:.3g}]" in said
    assert "circle:0.5: mlp of width 256 and depth 2, 2 initialisations, kernel on 240 items" in said
    assert f"{record['time_exponent']['rich']['value']:.3g}" in said
    assert {"can": "feature learning can improve", "undecided": "undecided whether"}[record["verdict"]] in said
    assert "extrapolated" in said
    assert "lazy, 300 items" in said
    assert record["curves"]["reused"][-1] > record["curves"]["lazy"][-1]
    fast, lazy = record["against"]
    assert fast["group"] == {"kind": "fast"}
    assert fast["measured"] == pytest.approx(3.0, abs=0.02)
    assert fast["agrees_with"] == []
    assert "lazy" in lazy["agrees_with"]
    assert re.search(r"kind = fast +3[.\d]* \[.*\] +neither +lazy ", said)
    assert drawn.read_bytes()[:4] == b"\x89PNG"


def test_json_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(*FAST, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["beta"]["low"] < 0.5 < record["beta"]["high"]
    assert len(record["curves"]["lazy"]) == len(record["curves"]["lambda_1_t"])


def test_a_slope_outside_the_curves_is_null_and_a_steep_kernel_is_undecided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One seed has no interval, and its times come before the curves' first."""
    t = np.geomspace(1e-4, 1e-3, 8)
    pl.DataFrame({"t": t, "loss": t**-0.5}).write_csv(tmp_path / "trained.csv")
    steep = [*FAST[:-4], "--activation", "tanh", "--items", "900", "--seeds", "2", "--train", "2000"]
    options = ["--against", str(tmp_path / "trained.csv"), "--out", str(tmp_path / "task.json")]
    assert code_of(*steep, *options) == 0
    said = capsys.readouterr().out
    record = json.loads((tmp_path / "task.json").read_text(), parse_constant=pytest.fail)
    assert set(record["against"][0]["predicted_in_window"].values()) == {None}
    assert "lazy -, rich -" in said
    assert "is not within the curves' times" in said
    assert "nan" not in said
    assert record["verdict"] == "undecided"
    assert "no power law" in record["reason"] or "no single power law" in record["reason"]
    assert all(limit["loss"] > 0 for limit in record["data_limit"])
    assert len(record["data_limit"]) < 5
    assert "Limits of" in said
    assert record["curves"]["reused"] is None


def test_items_that_do_not_exist_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).standard_normal((220, 4))
    np.savez(tmp_path / "own.npz", x=x, y=np.sin(3 * x[:, 0]))
    assert code_of(str(tmp_path / "own.npz"), "--width", "64", "--items", "5000", "--seeds", "2", "--json") == 0
    assert (
        json.loads(capsys.readouterr().out)["notes"][0]
        == "The kernel is measured on all 220 items of the data set: there are no 5,000."
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.array([[1.0], [np.nan], [np.inf]]), "y": np.zeros(3)}, "x has 2 that are NaN or infinite, the first "
         "of them x[1, 0]"),
        ({"x": np.ones((3, 1)), "y": np.array([0, 1, np.nan])}, "y has 1 that are NaN or infinite, the first of them "
         "y[2]"),
        ({"a": np.zeros(3), "y": np.zeros(3)}, "must hold x and y, or x_train, y_train, x_test and y_test, but holds "
         "a, y."),
    ],
)  # fmt: skip
def test_arrays_that_cannot_be_used_are_named(
    arrays: dict[str, np.ndarray], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "own.npz", **arrays)
    assert code_of(str(tmp_path / "own.npz")) == 2
    assert message in capsys.readouterr().err


def test_what_was_trained_is_read_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pl.DataFrame({"t": [1.0, 2.0, 3.0], "loss": [1.0, 0.7, 0.6]}).write_csv(tmp_path / "trained.csv")
    table = ["--against", str(tmp_path / "trained.csv")]
    wrong = (["--x", "time"], ["--y", "error"], ["--by", "kind"], ["--where", "kind = 1"], ["--where", "t >"])
    with patch("raysweep.forecast.forecast", side_effect=AssertionError("measured")):
        for options in (["--against", "gone.csv"], *([*table, *one] for one in wrong)):
            assert code_of(*FAST, *options) == 2
            assert capsys.readouterr().err.count("error:") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_images"], "data: must be digits or NAME"),
        (["gone.npz"], "an .npz that exists, but there is no file gone.npz"),
        ([*FAST, "--out", "task.txt"], "--out must be a .json in a folder that exists, but got 'task.txt'"),
        ([*FAST, "--figure", "task.gif"], "--figure must be a .png, .pdf or .svg"),
        ([*FAST, "--device", "tpu"], "--device must be one that is here, but got 'tpu'"),
        ([*FAST[:-2], "--seeds", "1"], "`seeds >= 2` must hold"),
        ([*FAST, "--memory", "nan"], "--memory must be positive and below 1,048,576 GiB, but got nan"),
        ([*FAST, "--memory", "inf"], "--memory must be positive"),
        ([*FAST, "--gamma", "inf"], "gamma: `0 <= gamma < inf` must hold"),
        (["own.csv"], "DATA must be digits, circle:BETA, NAME of NAME.npz in the folder RAYSWEEP_DATA, or an .npz"),
        ([*FAST, "--memory", "0.001"], "memory: half of it must hold the kernels"),
        ([*FAST, "--against", "gone.csv"], "There is no table at 'gone.csv'"),
        ([*FAST, "--against", "."], "'.' is a folder, not a table. Pass its files, such as './*.csv', or a store's"),
        (["circle:0.5", "--width", "0"], "greater than or equal to 1"),
    ],
)
def test_what_makes_no_sense_is_one_error(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert code_of(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("error:") == 1
