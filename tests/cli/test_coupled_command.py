"""`--shared`, `--prior` and `--envelope` on a command line and in a sweep file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import FUNCTION_SWEEP, Cli
from test_cli import write

from raysweep.laws.saved import load_fits

OPTIONS = ["--law", "power+floor", "--x", "x", "--y", "y", "--by", "arm", "--bootstrap", "60"]


@pytest.fixture
def runs(tmp_path: Path) -> str:
    rng, x = np.random.default_rng(0), np.geomspace(1e2, 1e6, 8)
    frames = [
        pl.DataFrame({"arm": arm, "x": x, "y": (floor + 5 * x**-0.4) * np.exp(0.02 * rng.standard_normal(8))})
        for arm, floor in (("a", 0.3), ("b", 0.6))
    ]
    pl.concat(frames).write_csv(tmp_path / "runs.csv")
    return str(tmp_path / "runs.csv")


def test_shared_parameters_and_a_prior_are_reported(cli: Cli, runs: str) -> None:
    code, out, err = cli("fit", runs, *OPTIONS, "--shared", "alpha,A", "--prior", "alpha=.4+-.1", "--predict", "1e7")
    assert code == 0, err
    for part in (
        "compared with other laws (AICc above the best, held-out log error): power+floor, alpha and A shared +0.0",
        "shared: alpha and A are the same in 2 groups (F test that they differ: p = ",
        "prior: Priors: alpha = 0.4 +- 0.1 (normal); without it 0.",
        "predicted at x = 1e+07",
    ):
        assert part in out
    arguments = [*OPTIONS, "--shared", "alpha,A", "--save", "fits.json", "--json"]
    one, other = json.loads(cli("fit", runs, *arguments)[1])
    assert one["params"][1:] == other["params"][1:]
    assert one["params"][0] != other["params"][0]
    code, out, err = cli("predict", "fits.json", "1e7")
    assert code == 0, err
    assert one["shared"] == ["alpha", "A"]
    table = cli("fit", runs, *OPTIONS, "--shared", "alpha", "--prior", "E=.5+-1", "--table", "md")[1]
    assert "; alpha shared by all groups; prior E = 0.5 +- 1; [low, high]" in table
    assert load_fits("fits.json")[0].groups[0].shared == ("alpha", "A")


def test_an_envelope_is_reported_without_a_new_run(cli: Cli, runs: str) -> None:
    code, out, err = cli("fit", runs, *OPTIONS, "--envelope", ".1", "--predict", "1e7", "--figure", "low.png")
    assert code == 0, err
    assert "under asymmetric squares of 0.1" in out
    assert "of a new run" not in out.replace("intervals of a new run are of the mean", "")
    assert Path("low.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_names_them_and_its_report_shows_them(cli: Cli) -> None:
    how = {"x": "size", "y": "loss", "law": "power"}
    specs = [
        {**how, "by": ["epoch"], "shared": "alpha", "prior": {"alpha": "0.4+-0.1", "A": [3, 1]}},
        {**how, "by": ["epoch"], "envelope": 0.1},
    ]
    grid = {"size": [10, 30, 100, 300, 1000], "seed": {"range": 2}, "epoch": [1, 2]}
    code, _, err = cli("run", write("toy.yaml", FUNCTION_SWEEP, grid=grid, fit=specs), "--executor", "inline")
    assert code == 0, err
    one, other, *lower = json.loads(cli("fit", "results/toy", "--json", "--bootstrap", "60")[1])
    assert one["params"][1] == other["params"][1]
    assert {"shared", "prior"} <= {*one["notes"]}
    assert [record["envelope"] for record in (one, *lower)] == [None, 0.1, 0.1]
    plain = json.loads(cli("fit", "results/toy", "--json", "--bootstrap", "0", "--law", "power")[1])
    assert not any({"shared", "prior"} & {*record["notes"]} for record in plain)
    assert Path("results/toy/report.html").exists()
    for wrong, message in (
        ({"shared": ["E"]}, "fit.0.shared: must name parameters of y = A x^-alpha, but got 'E'"),
        ({"prior": {"alpha": 0.5}}, "fit.0.prior: alpha must have a mean and a standard deviation"),
        ({"envelope": 2}, "fit.0.envelope: must lie in (0, 1)"),
    ):
        code, _, err = cli("plan", write("toy.yaml", FUNCTION_SWEEP, grid=grid, fit=[{**how, **wrong}]))
        assert (code, message in err) == (2, True), err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--shared", "alpa"],
            "fit: --shared: must name parameters of y = E + A x^-alpha, but got 'alpa'. Did you mean",
        ),
        (["--prior", "alpha"], "fit: --prior: must be written as alpha=0.5+-0.1, but got 'alpha'"),
        (["--prior", "alpha=1+-0"], "fit: --prior: alpha must have a standard deviation above 0, but got 0"),
        (["--prior", "E=1+-1", "--prior", "E=1+-1"], "fit: --prior: must name each parameter once, but got E twice"),
        (["--envelope", "1"], "fit: --envelope: must lie in (0, 1)"),
        (["--envelope", ".1", "--huber", ".1"], "fit: --envelope: must not come with huber"),
        (["--shared", "alpha", "--where", "arm = 'a'"], "fit: --shared: must have groups to share alpha"),
    ],
)
def test_wrong_values_are_refused(cli: Cli, runs: str, more: list[str], message: str) -> None:
    code, out, err = cli("fit", runs, *OPTIONS, *more)
    assert (code, out) == (2, "")
    assert message in err
