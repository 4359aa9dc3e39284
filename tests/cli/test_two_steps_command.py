"""`raysweep fit --then`: a metric is predicted through a loss."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from conftest import Cli

FIT = ["--law", "chinchilla", "--x", "N", "--x", "D", "--y", "loss", "--bootstrap", "200"]


@pytest.fixture
def table(tmp_path: Path) -> str:
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 4)))
    loss = (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * np.exp(0.002 * np.random.default_rng(0).standard_normal(n.size))
    pl.DataFrame({"N": n, "D": d, "loss": loss, "error": 0.8 - 1.4 * np.exp(-0.6 * loss)}).write_csv(tmp_path / "r.csv")
    return str(tmp_path / "r.csv")


def test_a_metric_is_predicted_through_its_loss(cli: Cli, table: str, tmp_path: Path) -> None:
    two = ["fit", table, *FIT, "--then", "exponential", "--metric", "error", "--predict", "N=1e10,D=1e12"]
    code, out, err = cli(*two, "--figure", str(tmp_path / "fit.png"))
    assert code == 0, err
    assert "error = eps - k exp(-gamma L), L = E + A N^-alpha + B D^-beta" in out
    assert "predicted at N = 1e+10, D = 1e+12: error = 0.38" in out
    assert (tmp_path / "fit-2.png").exists()
    loss, error = json.loads(cli(*two, "--json", "--draws")[1])
    (made,) = error["predictions"]
    assert made["new_low"] < made["ci_low"] < made["value"] < made["ci_high"] < made["new_high"]
    assert len(error["draws"]["values"]["gamma"]) == len(loss["draws"]["values"]["alpha"]) == 200
    assert "error(N=1e+10, D=1e+12)" in cli(*two, "--table", "md")[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--then", "sigmoid"], "fit: --then: must be given together with metric, which is not"),
        (["--metric", "error"], "fit: --metric: must be given together with then, which is not"),
        (["--then", "sgmoid", "--metric", "error"], "fit: --then: must be sigmoid or exponential, but got 'sgmoid'"),
        (["--then", "sigmoid", "--metric", "loss"], "fit: --metric: must be a column that is neither x, y nor in by"),
        (["--then", "sigmoid", "--metric", "acc"], "There is no column 'acc'"),
        (["--then", "sigmoid", "--metric", "error", "--save", "f.json"], "--save keeps laws of one step"),
    ],
)
def test_steps_that_cannot_be_taken_are_one_clear_error(cli: Cli, table: str, options: list[str], message: str) -> None:
    code, out, err = cli("fit", table, *FIT, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_constraint_is_said_to_hold_for_the_loss_alone(cli: Cli, table: str) -> None:
    two = ["fit", table, *FIT, "--then", "exponential", "--metric", "error", "--json"]
    code, out, err = cli(*two, "--fix", "alpha=.34")
    assert code == 0
    assert err == "note: --fix holds for the law of the loss, not for the second step\n"
    loss, error = ({one["name"] for one in record["params"]} for record in json.loads(out))
    assert "alpha" not in loss
    assert {"eps", "k", "gamma"} <= error
    assert cli(*two)[2] == ""


def test_a_sweep_names_a_second_step(cli: Cli) -> None:
    grid = {"size": [10, 20, 50, 100, 300, 1000, 3000, 10000], "epoch": [1, 2]}
    spec = {"x": "size", "y": "loss", "law": "power", "where": "epoch = 2", "then": "exponential", "metric": "acc"}
    (Path("stepped.py")).write_text(
        "import math\n\n\ndef train(config):\n    for epoch in (1, 2):\n"
        "        loss = 9 * config['size'] ** -0.3 / epoch\n"
        "        yield {'epoch': epoch, 'loss': loss, 'acc': 0.1 + 0.8 * math.exp(-loss)}\n"
    )
    sweep = {"name": "toy", "experiment": "stepped:train", "observed": ["epoch"], "grid": grid, "fit": [spec]}
    Path("toy.yaml").write_text(yaml.safe_dump(sweep))
    code, out, err = cli("run", "toy.yaml", "--executor", "inline")
    assert code == 0, err
    assert "acc = eps - k exp(-gamma L), L = A size^-alpha" in out + err
    assert {"1-power-loss-size.png", "2-power-acc-size.png"} <= {p.name for p in Path("results/toy/figures").iterdir()}
    _, second = json.loads(cli("fit", "results/toy", "--json", "--bootstrap", "0", "--predict", "1e6")[1])
    assert second["predictions"][0]["value"] == pytest.approx(0.1 + 0.8 * np.exp(-4.5 * 1e6**-0.3), rel=1e-4)
