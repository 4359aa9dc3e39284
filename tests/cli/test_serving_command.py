"""`raysweep allocate --inference-tokens` and `--loss`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Cli

from raysweep.laws.counts import above_all


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(n.size))
    path = tmp_path / "runs.csv"
    pl.DataFrame({"N": n, "D": d, "loss": (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * noise}).write_csv(path)
    return ["allocate", str(path), "--x", "N", "--x", "D", "--y", "loss", "--bootstrap", "60"]


def test_the_optimum_with_inference_stands_beside_that_of_training_alone(cli: Cli, arguments: list[str]) -> None:
    code, out, err = cli(*arguments, "--loss", "2.2", "--inference-tokens", "1e12")
    assert code == 0, err
    for part in ("FLOPs = 6 N D + 2 N x 1e+12 tokens of inference", "training-only N", "(saved: "):
        assert part in out
    (served,) = json.loads(cli(*arguments, "--loss", "2.2", "--inference-tokens", "1e12", "--json")[1])
    (alone,) = json.loads(cli(*arguments, "--loss", "2.2", "--json")[1])
    n, d = (one["value"] for one in alone["params"][:2])
    assert served["training_only"]["x"] == pytest.approx(n, rel=1e-6)
    assert served["training_only"]["budget"] == pytest.approx(6 * n * d + 2e12 * n, rel=1e-6)
    assert served["budget"] < served["training_only"]["budget"]
    assert "training_only" not in alone


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--loss", "2", "--budget", "1e20"], "--budget or --loss must be given, and not both, but got both"),
        (["--loss", "nan"], "--loss is a value of y, positive and finite, but got nan"),
        (["--budget", "1e20", "--inference-tokens", "-1"], "--inference-tokens must be finite and at least 0"),
        (["--budget", "1e20", "--inference-tokens", "1e9", "--law", "power"], "--law must have two scales"),
        (["--loss", "1"], "A loss must lie above what the law can reach"),
    ],
)
def test_wrong_targets_are_refused(cli: Cli, arguments: list[str], more: list[str], message: str) -> None:
    code, out, err = cli(*arguments, *more)
    assert (code, out) == (2, "")
    assert message in err


def test_less_than_one_parameter_is_said_to_be_no_run(cli: Cli, tmp_path: Path) -> None:
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(10, 1000, 5), np.geomspace(10, 1000, 5)))
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(n.size))
    frame = pl.DataFrame({"N": n, "D": d, "loss": (1.7 + 4 * n**-0.34 + 4 * d**-0.28) * noise})
    frame.write_csv(tmp_path / "counts.csv")
    frame.with_columns(N=pl.col("N") / 1e3).write_csv(tmp_path / "thousands.csv")
    asked = ["--x", "N", "--x", "D", "--y", "loss", "--bootstrap", "60"]
    budgets = ["--budget", "2", "--budget", "1e5", "--json"]
    found = json.loads(cli("allocate", str(tmp_path / "counts.csv"), *asked, *budgets)[1])
    assert found[0]["params"][0]["value"] < 1
    assert found[0]["details"]["below_one"].startswith("Less than one: N = 0.78")
    assert "the least that was measured is N = 10 and D = 10." in found[0]["details"]["below_one"]
    (found, _) = json.loads(cli("allocate", str(tmp_path / "thousands.csv"), *asked, *budgets)[1])
    assert found["params"][0]["value"] < 1  # of a thousand
    assert "below_one" not in found["details"]
    fit = ["fit", str(tmp_path / "counts.csv"), "--law", "chinchilla", *asked]
    assert "Less than one: N = 0.5;" in cli(*fit, "--predict", "N=.5,D=20")[1]
    assert "Less than one" not in cli(*fit, "--predict", "N=1.5,D=20")[1]


def test_an_interval_above_the_whole_is_said_to_be_impossible_for_a_share(cli: Cli, tmp_path: Path) -> None:
    n = np.geomspace(1e5, 1e8, 10)
    noise = np.exp(0.05 * np.random.default_rng(1).standard_normal(n.size))
    share = (0.1 + 0.7 / (1 + (n / 3e6) ** -0.8)) * noise
    asked = ["--x", "n", "--y", "acc", "--law", "sigmoid", "--bootstrap", "60", "--predict", "1e10"]
    for times, said in ((1, "If acc is a share, it is at most 1:"), (100, "If acc is in percent, it is at most 100:")):
        pl.DataFrame({"n": n, "acc": times * share}).write_csv(tmp_path / "acc.csv")
        assert said in cli("fit", str(tmp_path / "acc.csv"), *asked)[1]
        assert "is at most" not in cli("fit", str(tmp_path / "acc.csv"), *asked[:-1], "1e6")[1]
    assert above_all("score", 300.0, [1e9]) == above_all("loss", None, [1e9]) == ""
