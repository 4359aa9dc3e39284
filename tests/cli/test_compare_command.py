"""The command that compares two arms: words, JSON, figures, and one clear error for each wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Cli

ARMS = ["--arm", "lr=0.1,1", "--x", "n", "--y", "loss", "--bootstrap", "100"]
COUNTS = ["--arm", "lr=0.1,1", "--successes", "c", "--trials", "t", "--bootstrap", "100"]


@pytest.fixture
def runs(tmp_path: Path) -> str:
    n = np.geomspace(1e2, 1e6, 6)
    rng = np.random.default_rng(0)
    frames = [
        pl.DataFrame({"n": n, "loss": (0.3 + a * n**-0.4) * np.exp(0.01 * rng.standard_normal(6))}).with_columns(
            lr=lr, seed=seed, c=rng.integers(0, 5, 6), t=8
        )
        for lr, a in ((0.1, 4.0), (1.0, 5.0))
        for seed in range(3)
    ]
    path = tmp_path / "runs.csv"
    pl.concat(frames).write_csv(path)
    return str(path)


def test_arms_are_compared_in_words_json_and_a_figure(cli: Cli, runs: str) -> None:
    code, out, _ = cli("compare", runs, *ARMS, "--pair", "seed", "--predict", "1e8", "--figure", "arms.png")
    assert code == 0
    assert "3 pairs by seed" in out
    assert "at n = 1e+08: " in out
    assert "alpha: 0.1 - 1.0 = " in out
    assert "cross" in out
    assert Path("arms.png").stat().st_size > 10_000
    (record,) = json.loads(cli("compare", runs, *ARMS, "--pair", "seed", "--json")[1])
    assert (record["paired"], record["arm"]) == (True, {"column": "lr", "values": [0.1, 1.0]})
    assert record["crossings"]["words"] in " ".join(cli("compare", runs, *ARMS, "--pair", "seed")[1].split())


def test_pass_at_k_is_compared_with_its_figure(cli: Cli, runs: str) -> None:
    code, out, _ = cli("compare", runs, *COUNTS, "--figure", "passk.png")
    assert code == 0
    assert out.startswith("pass@k of 0.1 minus that of 1.0; 18 and 18 units, unpaired")
    assert Path("passk.png").exists()
    (record,) = json.loads(cli("compare", runs, *COUNTS, "--as", "ratio", "--k", "1,2", "--k", "4", "--json")[1])
    assert [point["x"] for point in record["curve"]] == [1, 2, 4]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*ARMS[2:], "--arm", "lr=0.1"], "--arm must be COL=A,B"),
        ([*ARMS[2:], "--arm", "lr=1,1.0"], "1 and 1.0 are one value"),
        ([*ARMS[2:], "--arm", "lr=0.1,2"], "No row has lr = 2"),
        ([*ARMS[2:], "--arm", "nowhere=0.1,2"], "no column 'nowhere'"),
        ([*ARMS[2:], "--arm", "n=100,1000000"], "a column besides x, y and by"),
        ([*ARMS, "--as", "quotient"], "--as must be ratio or difference"),
        ([*ARMS, "--pair", "nowhere"], "no column 'nowhere'"),
        ([*ARMS, "--pair", "seed", "--run", "c"], "Name one"),
        ([*ARMS, "--law", "chinchilla", "--x", "t"], "over one scale"),
        ([*ARMS[:-2], "--bootstrap", "0"], "--bootstrap must be at least 100"),
        ([*ARMS, "--k", "1,2"], "--k are budgets of pass@k and come with --successes and --trials"),
        ([*ARMS, "--figure", "arms.gif"], "--figure must be a .png"),
        ([*ARMS, "--predict", "-1"], "must give a positive number for n"),
        ([*COUNTS, "--x", "n"], "without --x, --y and --predict"),
        ([*COUNTS, "--k", "1.5"], "--k must be whole numbers from 1 to 1e+15 separated by commas, but got '1.5'"),
        ([*COUNTS, "--k", "9"], "whole numbers from 1 to 8"),
        ([*COUNTS, "--pair", "seed"], "one row in each arm"),
        ([*COUNTS, "--huber", "1e-3"], "no law is fitted, but got --huber"),
        ([*ARMS, "--shared", "alpha"], "a law of its own"),
        ([*ARMS, "--prior", "alpha=.4+-.1"], "a law of its own"),
        ([*ARMS, "--pair", "n"], "got n, a scale"),
    ],
)
def test_wrong_input_is_one_clear_error(cli: Cli, runs: str, arguments: list[str], said: str) -> None:
    code, out, err = cli("compare", runs, *arguments)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert err.count("error:") == 1


def test_errors_of_x_are_stated_for_an_arm_as_for_a_fit(cli: Cli, runs: str) -> None:
    pl.read_csv(runs).with_columns(se=0.3 * pl.col("n")).write_csv("errors.csv")
    (record,) = json.loads(cli("compare", "errors.csv", *ARMS, "--x-se", "se", "--json")[1])
    assert all("errors_in_x" in fit["notes"] for fit in record["fits"])
    (alone,) = json.loads(cli("fit", "errors.csv", *ARMS[2:], "--x-se", "se", "--where", "lr < 1", "--json")[1])
    assert "errors_in_x" in alone["notes"]
