"""The command line as a user meets it: output, JSON, errors and exit codes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from conftest import CLASSIFIER_SWEEP, FUNCTION_SWEEP, Cli

from raysweep.ledger.log import Ledger
from raysweep.store import Store


def write(name: str, sweep: dict[str, Any], **changes: Any) -> str:
    Path(name).write_text(yaml.safe_dump({**sweep, **changes}, sort_keys=False))
    return name


def test_plan_shows_the_collapse_and_runs_nothing(cli: Cli, tmp_path: Path) -> None:
    file = write("tiny.yaml", CLASSIFIER_SWEEP)
    code, out, _ = cli("plan", file)
    assert code == 0
    assert "32 cells -> 8 runs -> 2 packs" in out
    assert "width=4" in out
    assert "assumed; nothing measured in this store yet" in out
    code, out, _ = cli("plan", file, "--json", "--set", "width=4,8,16", "--set", "seed={range: 3}")
    found = json.loads(out)
    assert (found["cells"], found["runs"], found["pending_cells"]) == (72, 18, 72)
    assert [s["shape"]["width"] for s in found["shapes"]] == [4, 8, 16]
    assert not (tmp_path / "results").exists()


def test_a_plan_says_what_it_costs(cli: Cli) -> None:
    file = write("tiny.yaml", CLASSIFIER_SWEEP)
    code, out, _ = cli("plan", file, "--price", "aws:p5", "--machines", "2")
    assert code == 0
    assert "on 2 x aws:p5.48xlarge (8 x H100 80GB, 192 CPUs)" in out
    assert "A GUESS: the rate is assumed" in out
    found = json.loads(cli("plan", file, "--price", "aws:p5", "--json")[1])["price"]
    assert (found["machine"], found["machines"], found["rate_measured"]) == ("aws:p5.48xlarge", 1, False)
    assert "price" not in json.loads(cli("plan", file, "--json")[1])


def test_a_sweep_from_run_to_report(cli: Cli, tmp_path: Path) -> None:
    file = write("tiny.yaml", CLASSIFIER_SWEEP, grid={**CLASSIFIER_SWEEP["grid"], "n_train": [32, 64, 128, 256]})
    Path(file).write_text(Path(file).read_text() + "fit: [{law: power, x: n_train, y: epistemic, by: [width]}]\n")
    code, out, err = cli("run", file, "--executor", "inline")
    assert code == 0
    assert "plan: 64 cells -> 16 runs -> 2 packs" in err
    assert "tiny: 64 ok of 64 cells" in out
    assert out.rstrip().splitlines()[-1] == "report: results/tiny/report.html"
    assert "alpha" in out
    page = (tmp_path / "results/tiny/report.html").read_text()
    assert page.count("<img") == 4  # the law, its diagnostics, learning curves, calibration
    assert "src='data:image/png;base64," in page
    assert "http" not in page.split("<title>")[1]  # self-contained
    assert sorted(p.name for p in (tmp_path / "results/tiny/figures").iterdir()) == [
        "1-power-epistemic-n_train-diagnostics.png",
        "1-power-epistemic-n_train.png",
        "calibration.png",
        "learning-curves.png",
    ]

    code, out, _ = cli("status", "results/tiny", "--json")
    found = json.loads(out)
    assert (found["done"], found["pending"], found["cells"]["ok"]) == (64, 0, 64)
    assert found["worlds"][0]["passed"] is True
    assert found["drivers"] == []

    code, out, _ = cli("plan", file)
    assert "nothing to do: every cell is finished in results/tiny" in out
    assert "time:" not in out
    code, out, _ = cli("plan", file, "--set", "seed=0..2")
    assert "64 of 96 cells are finished in results/tiny; left to do: 32 cells in 8 runs" in out

    code, out, _ = cli("fit", "results/tiny", "--x", "n_train", "--y", "epistemic", "--by", "width", "--json")
    fits = json.loads(out)
    assert [f["group"] for f in fits] == [{"width": 4}, {"width": 8}]
    for one in fits:
        assert one["law"] == "power"
        assert [p["name"] for p in one["params"]] == ["A", "alpha"]
        assert all(p["ci_low"] < p["value"] < p["ci_high"] for p in one["params"])
    assert json.loads(cli("fit", "results/tiny", "--json")[1]) == fits  # the fit that the sweep names

    code, out, _ = cli("audit", "results/tiny", "--at", "temperature=1", "--at", "temperature=2", "--items", "500")
    assert code == 0
    assert out.count("self_calibration") == 2
    assert cli("compact", "results/tiny")[0] == 0


def test_one_more_value_runs_only_the_new_cells(cli: Cli) -> None:
    file = write("toy.yaml", FUNCTION_SWEEP, fit=[])  # figures would take seconds
    assert cli("run", file, "--executor", "inline")[0] == 0
    before = {name for name, _ in Store("results/toy").list("ledger")}
    code, out, err = cli("run", file, "--executor", "inline", "--set", "size=10,100,1000,10000")
    assert code == 0
    assert "plan: 6 cells -> 2 runs" in err
    assert "toy: 24 ok of 24 cells" in out
    after = {name for name, _ in Store("results/toy").list("ledger")}
    assert before < after
    code, out, err = cli("run", file, "--executor", "inline", "--set", "epoch=1,2,3,4")
    assert "plan: 24 cells -> 6 runs" in err  # each run again, for its one new epoch
    assert "6 partly finished runs: 0 resume from a checkpoint, 6 are trained again from their start" in err
    assert "6 rows of other grids are left out" in out
    assert len(Ledger(Store("results/toy")).scan().table) == 30


def test_failed_cells_exit_1_and_are_grouped_by_cause(cli: Cli, tmp_path: Path) -> None:
    grid = {"run_id": {"range": 4}, "how": "raise", "markers": str(tmp_path)}
    file = write("bad.yaml", {"name": "bad", "experiment": "toy_experiment:fragile", "grid": grid})
    for i in (1, 3):
        (tmp_path / f"raise-{i}").touch()
    code, out, _ = cli("run", file, "--executor", "inline")
    assert code == 1
    assert "2 ok, 2 failed of 4 cells" in out
    code, out, _ = cli("status", "results/bad")
    assert "failed x 2: ValueError: run # was told to fail" in out
    assert "2 ok, 2 failed of 4; 2 pending" in out
    assert cli("run", file, "--executor", "inline")[0] == 0


def test_a_run_without_an_ok_cell_says_why(cli: Cli) -> None:
    grid = {"width": 6, "dim": 8, "n_train": 20, "bmd_points": 0, "loss": "square", "optimiser": "sgd", "lr": 1e9}
    file = write("far.yaml", {"name": "far", "experiment": "double_descent", "grid": {**grid, "steps": [5, 6]}})
    code, out, _ = cli("run", file, "--executor", "inline")
    assert code == 0
    assert "0 ok, 2 diverged of 2 cells" in out
    assert "diverged x 2: loss not finite or above" in out
    assert "no cell is ok" in out
    assert "`--retry diverged`" in out
    out = cli("report", "results/far")[1]
    assert "No cell has a result to fit (2 diverged). The most frequent cause, of 2: loss not finite or above" in out
    page = Path("results/far/report.html").read_text()
    assert page.index("What was found") < page.index("<h2>Failures</h2>") < page.index("<h2>Regenerate</h2>")


ERRORS = {
    "misspelt axis": (
        {"grid": {"n_trian": [1]}},
        "grid.n_trian: must be an axis of the experiment, but got 'n_trian'. Did you mean 'n_train'?",
    ),
    "misspelt key": ({"wordl": 1}, "wordl: unknown key. Did you mean 'world'"),
    "out of bounds": ({"grid": {"width": [0]}}, "grid.width: width must be an integer in [1, 65536] units, but got 0"),
    "no world": ({"world": None}, "experiment classifier needs a `world:`"),
    "unknown law": ({"fit": [{"law": "pwoer", "x": "n_train", "y": "epistemic"}]}, "Did you mean 'power'"),
    "unknown metric": (
        {"fit": [{"x": "n_train", "y": "epistemik"}]},
        "fit.0.y: must be an axis or a metric, but got 'epistemik'. Did you mean 'epistemic'",
    ),
    "misspelt needed key": ({"experimnt": "classifier"}, "experimnt: unknown key. Did you mean 'experiment'?"),
    "no room for the classes": (
        {"world": {"kind": "gaussian", "classes": 5, "dim": 2}},
        "world.dim: `classes <= dim + 1` must hold",
    ),
    "unknown experiment": ({"experiment": "clasifier"}, "Did you mean 'classifier'?"),
    "a function by a dot": ({"experiment": "mine.train"}, "Did you mean 'mine:train'?"),
    "a function by its file": ({"experiment": "./mine.py:train"}, "which is a file. Name the module: mine:train"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_one_line_that_names_file_key_rule_and_value(case: str, cli: Cli, tmp_path: Path) -> None:
    change, message = ERRORS[case]
    file = write("bad.yaml", {**CLASSIFIER_SWEEP, **change})
    for command in ("plan", "run"):
        code, out, err = cli(command, file)
        assert code == 2
        assert out == ""
        assert err.startswith("error: bad.yaml: ")
        assert message in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "missing.yaml"], "missing.yaml: cannot be read"),
        (["run", "tiny.yaml", "--executor", "dask"], "executor must be one of ray, inline, but got 'dask'"),
        (["plan", "tiny.yaml", "--price", "aws:p5.48xlage"], "Did you mean 'aws:p5.48xlarge'"),
        (["plan", "tiny.yaml", "--price", "aws:p5", "--prices", "no.yaml"], "no.yaml: cannot be read"),
        (["plan", "tiny.yaml", "--price", "aws:p5", "--machines", "0"], "--machines: must be at least 1, but got 0"),
        (["plan", "tiny.yaml", "--set", "width"], "--set must be axis=values, but got 'width'"),
        (["plan", "tiny.yaml", "--preset", "smok"], "presets has no 'smok'"),
        (["status", "nowhere"], "store nowhere: must hold env.json"),
        (["report", "nowhere"], "store nowhere: must hold env.json"),
        (["fit", "nowhere.csv", "--x", "a", "--y", "b"], "nowhere.csv"),
        (["fit", "table.csv"], "--x and --y must be given"),
        (["fit", "table.csv", "--x", "n", "--y", "los"], "Did you mean 'loss'?"),
        (["fit", "table.csv", "--x", "n", "--y", "loss", "--where", "n >"], "'n >'"),
        (["fit", "table.csv", "--x", "n", "--y", "loss", "--law", "pwer"], "Did you mean 'power'"),
        (["fit", "broken.parquet", "--x", "n", "--y", "loss"], "broken.parquet"),
        (["fit", "table.csv", "--x", "n", "--y", "loss", "--by", "n"], "must be different columns"),
        (["fit", "damaged", "--x", "n", "--y", "loss"], "env.json must be JSON"),
        (["status", "damaged"], "env.json must be JSON"),
        (["report", "damaged"], "env.json must be JSON"),
        (["run", "tiny.yaml", "--executor", "inline", "--store", "table.csv"], "table.csv"),
        (["plan", "tiny.yaml", "--store", "table.csv"], "table.csv"),
        (["compact", "nowhere"], "compact: nowhere must hold a ledger"),
        (["audit", "nowhere"], "audit: nowhere must be a world's folder"),
    ],
)
def test_every_input_error_exits_2_with_one_line(arguments: list[str], message: str, cli: Cli) -> None:
    write("tiny.yaml", CLASSIFIER_SWEEP)
    Path("table.csv").write_text("n,loss\n1,3\n2,2\n4,1.5\n8,1\n")
    Path("broken.parquet").write_bytes(b"PAR1 no")
    Path("damaged/ledger").mkdir(parents=True)
    Path("damaged/env.json").write_text("{bad")
    code, _, err = cli(*arguments)
    assert code == 2, err
    assert message in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


def test_usage_errors_exit_2(cli: Cli) -> None:
    assert cli("run")[0] == 2
    assert cli("nothing")[0] == 2
    write("tiny.yaml", CLASSIFIER_SWEEP)
    assert cli("run", "tiny.yaml", "--retry", "failed")[0] == 2


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_fit_takes_any_table(ending: str, cli: Cli) -> None:
    rng = np.random.default_rng(0)
    n = np.repeat([10, 30, 100, 300, 1000], 3)
    frame = pl.DataFrame({"n": n, "loss": 5.0 * n**-0.5 * np.exp(rng.normal(0, 0.02, n.size)), "arm": ["a"] * n.size})
    getattr(frame, f"write_{ending}")(f"table.{ending}")
    code, out, _ = cli("fit", f"table.{ending}", "--x", "n", "--y", "loss", "--where", "arm = 'a'", "--json")
    assert code == 0
    ((a, alpha),) = [f["params"] for f in json.loads(out)]
    assert alpha["ci_low"] < alpha["value"] < alpha["ci_high"]
    assert math.isclose(alpha["value"], 0.5, rel_tol=0.05)
    assert math.isclose(a["value"], 5.0, rel_tol=0.05)
    assert "alpha = 0." in cli("fit", f"table.{ending}", "--x", "n", "--y", "loss")[1]


def test_doctor_finds_this_machine_fit(cli: Cli) -> None:
    code, out, _ = cli("doctor", "--store", "results/new", "--json")
    assert not Path("results/new").exists()
    found = {f["name"]: f for f in json.loads(out)}
    assert found["ray"]["ok"]
    assert found["store"]["ok"]
    assert code == (0 if all(f["ok"] for f in found.values()) else 1)
