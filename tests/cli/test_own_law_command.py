"""`--formula`, `--fix`, `--tie` and `--bound` on a command line and in a sweep file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import FUNCTION_SWEEP, Cli
from test_cli import write

OWN = ["--formula", "E + A*N**-a + B*D**-b", "--positive", "A,B", "--x", "N", "--x", "D", "--y", "loss"]


@pytest.fixture
def runs(tmp_path: Path) -> str:
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(n.size))
    path = tmp_path / "runs.csv"
    pl.DataFrame({"N": n, "D": d, "loss": (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * noise}).write_csv(path)
    return str(path)


def test_a_formula_is_reported_as_any_law(cli: Cli, runs: str) -> None:
    code, out, err = cli("fit", runs, *OWN, "--bootstrap", "60", "--figure", "own.png")
    assert code == 0, err
    assert "formula: loss = E + A*N**-a + B*D**-b\n" in out
    for part in ("without the top 30% of scales", "its interval excludes E = 0", "formula, E = 0 +", "held out: "):
        assert part in out
    assert Path("own.png").read_bytes().startswith(b"\x89PNG")
    (record,) = json.loads(cli("fit", runs, *OWN, "--tie", "b=a", "--fix", "E=1.7", "--bootstrap", "0", "--json")[1])
    assert (record["law"], record["formula"]) == ("formula, E = 1.7, b = a", "y = 1.7 + A*N**-a + B*D**-a")
    assert [p["name"] for p in record["params"]] == ["A", "a", "B"]


def test_a_law_of_three_scales_is_drawn(cli: Cli, runs: str, tmp_path: Path) -> None:
    rates = pl.Series([1e-3, 3e-3, 1e-2, 3e-2, 1e-1] * 5).shuffle(seed=1)
    pl.read_csv(runs).with_columns(lr=rates).write_csv(tmp_path / "three.csv")
    arguments = ["--law", "product", "--x", "N", "--x", "D", "--y", "loss", "--bootstrap", "60", "--figure", "own.png"]
    code, out, err = cli("fit", "three.csv", *arguments, "--x", "lr")
    assert code == 0, err
    assert "where x1 is column N and x2 is column D and x3 is column lr" in out
    assert Path("own.png").read_bytes().startswith(b"\x89PNG")


def test_an_allocation_keeps_constraints(cli: Cli, runs: str) -> None:
    arguments = ["allocate", runs, *OWN[4:], "--bootstrap", "60", "--budget", "1e20", "--json"]
    (record,) = json.loads(cli(*arguments, "--fix", "alpha=0.34", "--fix", "beta=0.28")[1])
    best = {p["name"]: p["value"] for p in record["params"]}
    assert best["N*"] == pytest.approx((0.34 * 400 / (0.28 * 410) * (1e20 / 6) ** 0.28) ** (1 / 0.62), rel=0.05)
    code, _, err = cli("allocate", runs, *OWN, "--budget", "1e20")
    assert (code, "takes no formula" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--formula", "E + A*N**-a"], "fit: --formula: must name every scale, as its column or as x2"),
        (["--formula", "N + D*open(1)"], "fit: --formula: a law may hold numbers, names"),
        (["--formula", "a*N*D", "--positive", "b"], "fit: --positive: must name parameters of 'a*N*D', but got 'b'"),
        (["--formula", "a*N*D", "--law", "power"], "fit: --law: must be 'formula' where a formula is given"),
        (["--law", "formula"], "and only there, but got 'formula' and no formula"),
        (["--law", "chinchilla", "--fix", "alpha"], "fit: --fix: must be written as alpha=0.5, but got 'alpha'"),
        (["--law", "chinchilla", "--fix", "alpha=1", "--fix", "alpha=2"], "fit: --fix: must name each parameter once"),
        (["--law", "chinchilla", "--bound", "alpha=2"], "fit: --bound: alpha must have a lowest and a highest value"),
    ],
)
def test_bad_forms_are_one_line(arguments: list[str], message: str, cli: Cli, runs: str) -> None:
    code, out, err = cli("fit", runs, *OWN[4:], *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


def test_a_sweep_names_forms_of_its_own(cli: Cli) -> None:
    specs = [
        {"formula": "A * size**-a", "positive": "A", "x": "size", "y": "loss", "by": ["epoch"]},
        {"law": "power+floor", "fix": {"E": 0}, "x": "size", "y": "loss", "by": ["epoch"]},
    ]
    grid = {"size": [10, 30, 100, 300, 1000], "seed": {"range": 2}, "epoch": [1, 2]}
    path = write("toy.yaml", FUNCTION_SWEEP, grid=grid, fit=specs)
    code, _, err = cli("run", path, "--executor", "inline")
    assert code == 0, err
    records = json.loads(cli("fit", "results/toy", "--json", "--bootstrap", "40")[1])
    assert [r["law"] for r in records] == ["formula", "formula", "power+floor, E = 0", "power+floor, E = 0"]
    for own, held in zip(records[:2], records[2:], strict=True):
        values = [[p["value"] for p in r["params"]] for r in (own, held)]
        assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert "loss = A * size**-a" in Path("results/toy/report.html").read_text()
    changed = json.loads(cli("fit", "results/toy", "--json", "--bootstrap", "0", "--law", "power")[1])
    assert {r["law"] for r in changed} == {"power"}
    for wrong, message in (
        ({**specs[0], "formula": "A * size^-a"}, "fit.0.formula: a law may hold numbers"),
        ({**specs[1], "tie": {"E": "B"}}, "fit.0.tie: must name parameters of y = E + A x^-alpha, but got 'B'"),
    ):
        code, _, err = cli("plan", write("toy.yaml", FUNCTION_SWEEP, grid=grid, fit=[wrong]))
        assert (code, message in err) == (2, True), err
