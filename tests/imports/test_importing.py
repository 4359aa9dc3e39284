"""From another tool's results to a fit and to a run of what is missing; what does not match is refused."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from conftest import Cli
from studies import loss, optuna_journal, optuna_sqlite, tune, wandb_folders, wandb_runs

from raysweep.executors import make_executor
from raysweep.ledger.log import CELLS, OTHERS
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import load_sweep

Found = Callable[..., dict[str, Any]]
SIZES = (10, 100, 1000)


_CODE = """
from pathlib import Path

def once(config):
    with Path("calls").open("a") as calls:
        calls.write(f"{config['size']}\\n")
    return {"loss": config["size"] ** -0.5}

def history(config):
    with Path("calls").open("a") as calls:
        calls.write(f"{config['size']}\\n")
    for epoch in config["epoch"]:
        yield {"epoch": epoch, "loss": config["size"] ** -0.5 / epoch}
"""


@pytest.fixture
def cli(cli: Cli, tmp_path: Path) -> Cli:
    """Runs `raysweep ARGUMENTS` beside a module of functions: (exit code, standard output, standard error)."""
    name = f"old_{tmp_path.name.replace('-', '_')}_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(_CODE)
    (tmp_path / "module").write_text(name)
    return cli


@pytest.fixture
def sweep(cli: Cli, tmp_path: Path) -> Callable[..., str]:
    """Writes a sweep file of the function."""

    def write(grid: dict[str, Any], function: str = "once", **more: Any) -> str:
        raw = {"name": "mine", "experiment": f"{(tmp_path / 'module').read_text()}:{function}", "grid": grid}
        fit = [{"law": "power", "x": "size", "y": "loss"}]
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**raw, "fit": fit, **more}))
        return "sweep.yaml"

    return write


@pytest.fixture
def found(cli: Cli) -> Callable[..., dict[str, Any]]:
    """What an import says, as JSON; it must have worked."""

    def bring(*arguments: str) -> dict[str, Any]:
        code, out, err = cli("import", *arguments, "--json")
        assert code == 0, err
        return dict(json.loads(out))

    return bring


def table(path: Path, sizes: tuple[int, ...] = SIZES, seeds: int = 1, lr: float = 0.1) -> Path:
    rows = [f"{n},{lr},{seed},{loss(n)!r}" for n in sizes for seed in range(seeds)]
    path.write_text("\n".join(["size,lr,seed,loss", *rows]) + "\n")
    return path


def write(tool: str, folder: Path, sizes: tuple[int, ...] = SIZES) -> tuple[str, list[str]]:
    """A finished study of a tool, and the options that say what its names are here."""
    if tool == "csv":
        return str(table(folder / "runs.csv", sizes)), []
    if tool == "tune":
        trials = [
            {"config": {"model": {"size": n}, "lr": 0.1}, "results": [{"loss": 9.0}, {"loss": loss(n)}]} for n in sizes
        ]
        return str(tune(folder / "exp", trials)), []
    if tool == "wandb":
        runs = [{"config": {"size": n, "lr": 0.1}, "summary": {"loss": loss(n), "_step": 3}} for n in sizes]
        return str(wandb_runs(folder / "export.json", runs)), []
    if tool == "wandb folders":
        runs = [{"config": {"size": n, "lr": 0.1}, "summary": {"loss": loss(n), "_runtime": 3}} for n in sizes]
        return str(wandb_folders(folder / "wandb", runs)), []
    trials = [{"params": {"n": n, "lr": 0.1}, "value": loss(n)} for n in sizes]
    if tool == "optuna":
        return str(optuna_sqlite(folder / "o.db", trials)), ["--rename", "size=n", "--rename", "loss=value"]
    return str(optuna_journal(folder / "o.log", trials, "loss")), ["--rename", "size=n"]


def alpha(law: dict[str, Any]) -> float:
    return float({one["name"]: one["value"] for one in law["params"]}["alpha"])


def extend(file: str, **options: Any) -> int:
    """Cells that are finished once a sweep has been run into the store."""
    return run(load_sweep(file), Store("store"), make_executor("inline"), stream=io.StringIO, **options).counts.ok


@pytest.mark.parametrize("tool", ["csv", "tune", "wandb", "wandb folders", "optuna", "optuna journal"])
def test_an_old_study_is_fitted_and_extended(
    tool: str, cli: Cli, found: Found, sweep: Callable[..., str], tmp_path: Path
) -> None:
    path, options = write(tool, tmp_path)
    file = sweep({"size": [10, 100, 1000, 10000], "lr": 0.1})
    arguments = ["store", path, "--from", tool.split()[0], "--sweep", file, *options]
    first = found(*arguments)
    assert (first["trials"], first["cells"], first["added"], first["others"]) == (3, {"ok": 3}, 3, 0)
    assert first["pending"] == 1
    (law,) = json.loads(cli("fit", "store", "--json", "--bootstrap", "0")[1])
    assert alpha(law) == pytest.approx(0.5)
    rows = pl.read_parquet(tmp_path / "store" / CELLS)
    assert rows["device"].unique().to_list() == [f"imported from {tool.split()[0]}"]
    assert rows["pack"][0].startswith(f"import-{tool.split()[0]}-")
    assert rows["training_id"].n_unique() == 3
    assert rows["code_sha"].null_count() == 3
    assert found(*arguments)["added"] == 0

    assert extend(file) == 4
    assert Path("calls").read_text() == "10000\n"
    laws = json.loads(cli("fit", "store", "--json", "--bootstrap", "0")[1])
    assert {one["group"]["code_sha"] is None for one in laws} == {True, False}  # apart from the code of today
    assert extend(file, accept_code=True) == 4
    (law,) = json.loads(cli("fit", "store", "--json", "--bootstrap", "0")[1])
    assert alpha(law) == pytest.approx(0.5)
    assert law["n_points"] == 4
    assert Path("calls").read_text() == "10000\n"


def test_trials_of_other_grids_are_kept_and_count_once_the_grid_grows(
    cli: Cli, found: Found, sweep: Callable[..., str], tmp_path: Path
) -> None:
    path = str(table(tmp_path / "runs.csv", (10, 100, 50, 70)))
    file = sweep({"size": [10, 100], "lr": 0.1})
    said = found("store", path, "--from", "csv", "--sweep", file)
    assert (said["others"], said["pending"], said["added"]) == (2, 0, 4)
    assert pl.read_parquet(tmp_path / "store" / OTHERS)["size"].sort().to_list() == [50, 70]
    grown = sweep({"size": [10, 50, 70, 100, 2], "lr": [0.1, 0.5]})
    assert found("store", path, "--from", "csv", "--sweep", grown)["pending"] == 6
    assert extend(grown) == 10
    assert sorted(Path("calls").read_text().split()) == sorted(["2", "2", "10", "50", "70", "100"])


def test_without_a_sweep_the_trials_are_the_grid(
    cli: Cli, found: Found, sweep: Callable[..., str], tmp_path: Path
) -> None:
    path = str(table(tmp_path / "runs.csv", seeds=2))
    said = found("store", path, "--from", "csv", "--axes", "size,lr,seed", "--name", "old")
    assert (said["sweep"], said["cells"], said["pending"], said["others"]) == ("old", {"ok": 6}, 0, 0)
    (law,) = json.loads(cli("fit", "store", "--x", "size", "--y", "loss", "--json", "--bootstrap", "0")[1])
    assert alpha(law) == pytest.approx(0.5)
    status = json.loads(cli("status", "store", "--json")[1])
    assert (status["total"], status["done"]) == (6, 6)
    assert cli("report", "store")[0] == 0
    file = sweep({"size": [*SIZES, 10000], "lr": 0.1, "seed": [0, 1]})
    assert extend(file, same_as="imported:old") == 8
    assert Path("calls").read_text() == "10000\n10000\n"
    other = str(table(tmp_path / "other.csv"))
    code, _, err = cli("import", "store", other, "--from", "csv", "--axes", "size")
    assert code == 2
    assert "give --sweep FILE" in err


def test_replicates_are_numbered_or_refused(cli: Cli, found: Found, sweep: Callable[..., str], tmp_path: Path) -> None:
    path = str(table(tmp_path / "runs.csv", seeds=2))
    said = found("own", path, "--from", "csv", "--axes", "size,lr")
    assert any("an axis `seed` numbers them" in note for note in said["notes"])
    rows = pl.read_parquet(tmp_path / "own" / CELLS)
    assert rows.group_by("size").agg(pl.col("seed").sort())["seed"].to_list() == [[0, 1]] * 3
    twice = tmp_path / "twice.csv"
    twice.write_text("size,seed,loss\n10,0,1\n100,0,1\n10.0,0,2\n")
    code, _, err = cli("import", "x", str(twice), "--from", "csv", "--axes", "size,seed")
    assert code == 2
    assert "twice.csv:1 and twice.csv:3 are both" in err
    unseeded = tmp_path / "unseeded.csv"
    unseeded.write_text("size,lr,loss\n10,0.1,1\n10,0.1,2\n100,0.1,2\n10,0.1,3\n")
    code, _, err = cli("import", "x", str(unseeded), "--from", "csv", "--sweep", sweep({"size": [10], "lr": 0.1}))
    assert code == 2
    assert "add an axis `seed`" in err
    assert not Path("x").exists()
    file = sweep({"size": [10, 100], "lr": 0.1, "seed": [7, 8]})
    said = found("seeded", str(unseeded), "--from", "csv", "--sweep", file)
    assert (said["pending"], said["others"]) == (1, 1)  # 100 has no second trial; the third of 10 is seed 9
    assert pl.read_parquet(tmp_path / "seeded" / OTHERS)["seed"].to_list() == [9]


def test_histories(cli: Cli, found: Found, sweep: Callable[..., str], tmp_path: Path) -> None:
    trials: list[dict[str, Any]] = [
        {"config": {"size": n}, "results": [{"epoch": e, "loss": loss(n) / e} for e in (1, 2, 3)]} for n in SIZES
    ]
    trials.append({"config": {"size": 5}, "results": [{"epoch": 1, "loss": 1.0}], "error": "ValueError: boom"})
    trials.append({"config": {"size": 6}, "results": [{"epoch": 1, "loss": 1.0}], "status": "RUNNING"})
    path = str(tune(tmp_path / "exp", trials))
    file = sweep({"size": [5, *SIZES], "epoch": [1, 3, 4]}, "history", observed=["epoch"])
    said = found("store", path, "--from", "tune", "--sweep", file)
    assert said["cells"] == {"ok": 10, "failed": 2}
    assert said["others"] == 3  # epoch 2 was not asked for
    assert "1 trial had not ended: left out." in said["notes"]
    rows = pl.read_parquet(tmp_path / "store" / CELLS).filter(pl.col("status") == "failed")
    assert rows["error"].str.contains("ValueError: boom").all()
    assert rows["epoch"].sort().to_list() == [3, 4]
    whole = pl.read_parquet(tmp_path / "store" / CELLS).filter((pl.col("size") == 10) & (pl.col("epoch") == 3))
    assert whole["seconds"].to_list() == [1.5]
    assert whole["finished_at"].dt.epoch("s").to_list() == [1795860960]
    own = found("own", path, "--from", "tune", "--observed", "epoch", "--metric", "loss")
    assert (own["cells"], own["pending"]) == ({"ok": 10, "failed": 2}, 2)
    assert found("own", path, "--from", "tune", "--observed", "epoch", "--metric", "loss")["added"] == 0
    # A table in the long form is the same history.
    lines = [f"{n},{e},{loss(n) / e!r}" for n in SIZES for e in (1, 2, 3)]
    (tmp_path / "long.csv").write_text("\n".join(["size,epoch,loss", *lines]))
    said = found("long", "long.csv", "--from", "csv", "--axes", "size", "--observed", "epoch")
    assert (said["cells"], said["pending"]) == ({"ok": 9}, 0)
    assert json.loads(cli("status", "long", "--json")[1])["runs"] == 3


def test_a_trial_that_failed_and_was_restored_counts_as_finished(
    found: Found, sweep: Callable[..., str], tmp_path: Path
) -> None:
    file = sweep({"size": list(SIZES)})
    trials: list[dict[str, Any]] = [{"config": {"size": n}, "results": [{"loss": loss(n)}]} for n in SIZES]
    broken = [*trials[:2], {**trials[2], "error": "OSError: no space"}]
    path = tune(tmp_path / "exp", broken)
    assert found("store", str(path), "--from", "tune", "--sweep", file)["cells"] == {"ok": 2, "failed": 1}
    shutil.rmtree(path)
    said = found("store", str(tune(path, trials)), "--from", "tune", "--sweep", file)
    assert (said["added"], said["pending"]) == (1, 0)
    assert found("store", str(path), "--from", "tune", "--sweep", file)["added"] == 0
    assert pl.read_parquet(tmp_path / "store" / CELLS)["status"].to_list() == ["ok"] * 3


def test_a_run_of_the_stores_own_is_left_as_it_is(
    cli: Cli, found: Found, sweep: Callable[..., str], tmp_path: Path
) -> None:
    file = sweep({"size": [10, 100], "lr": 0.1})
    assert extend(file) == 2
    path = str(table(tmp_path / "runs.csv"))
    assert [found("store", path, "--from", "csv", "--sweep", file)["added"] for _ in range(2)] == [1, 0]
    assert pl.read_parquet(tmp_path / "store" / CELLS)["device"].str.contains("imported").sum() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sweep", "sweep.yaml"], "must have the parameter dropout"),
        (["--sweep", "sweep.yaml", "--set", "dropout=0.1,0.2"], "the one value"),
        (["--sweep", "sweep.yaml", "--set", "drop=0.1"], "--set drop must name an axis"),
        (["--sweep", "sweep.yaml", "--set", "dropout=0.1", "--rename", "loss=los"], "Did you mean 'loss'"),
        (["--sweep", "sweep.yaml", "--set", "dropout=0.1", "--rename", "loss"], "must be HERE=THERE"),
        (["--sweep", "sweep.yaml", "--set", "dropout=0.1", "--rename", "acc=loss"], "must have the metric loss"),
        (["--sweep", "sweep.yaml", "--axes", "size"], "are for an import without --sweep"),
        (["--axes", "size,width"], "no trial has 'width'"),
        (["--axes", "size", "--metric", "los"], "Did you mean 'loss'"),
        (["--axes", "size", "--observed", "epoch"], "must have the observed axis epoch"),
        ([], "which columns are parameters; name them by --axes"),
        (["--axes", "size", "--study", "s"], "--study names a study of an Optuna storage"),
    ],
)
def test_what_does_not_match_is_refused_and_nothing_is_written(
    options: list[str], message: str, cli: Cli, sweep: Callable[..., str], tmp_path: Path
) -> None:
    sweep({"size": [10, 100], "dropout": 0.1})
    table(tmp_path / "runs.csv")
    code, _, err = cli("import", "store", "runs.csv", "--from", "csv", *options)
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert not Path("store").exists()


def test_a_parameter_that_varies_and_is_no_axis_is_refused(
    cli: Cli, found: Found, sweep: Callable[..., str], tmp_path: Path
) -> None:
    runs = [{"config": {"size": n, "lr": 0.1, "host": f"node{n}"}, "summary": {"loss": loss(n)}} for n in SIZES]
    path = str(wandb_runs(tmp_path / "export.json", runs))
    file = sweep({"size": list(SIZES), "lr": 0.1})
    code, _, err = cli("import", "store", path, "--from", "wandb", "--sweep", file)
    assert code == 2
    assert "parameter host has 3 values" in err
    assert found("store", path, "--from", "wandb", "--sweep", file, "--ignore", "host")["pending"] == 0
    inner = [{"config": {"size": 10, "ema": {"size": n}}, "summary": {"loss": 1.0}} for n in SIZES]
    path = str(wandb_runs(tmp_path / "inner.json", inner))
    code, _, err = cli("import", "inner", path, "--from", "wandb", "--sweep", file, "--set", "lr=0.1")
    assert code == 2
    assert "parameter ema/size has 3 values" in err
    both = [{"config": {"a": {"size": 1}, "b": {"size": 2}}, "summary": {"loss": 1.0}}]
    path = str(wandb_runs(tmp_path / "both.json", both))
    code, _, err = cli("import", "inner", path, "--from", "wandb", "--sweep", file, "--set", "lr=0.1")
    assert code == 2
    assert "fits a/size, b/size; say which by --rename size=a/size" in err


def test_numbers_of_few_bits_and_what_is_not_finite(found: Found, sweep: Callable[..., str], tmp_path: Path) -> None:
    runs = [
        {"config": {"size": 10, "lr": 0.30000001192092896}, "summary": {"loss": 1.0}},
        {"config": {"size": 100, "lr": 0.3}, "summary": {"loss": "NaN"}},
        {"config": {"size": 1000, "lr": 0.3}, "summary": {}},
    ]
    path = str(wandb_runs(tmp_path / "export.json", runs))
    said = found("store", path, "--from", "wandb", "--sweep", sweep({"size": list(SIZES), "lr": 0.3}))
    assert (said["cells"], said["pending"], said["others"]) == ({"ok": 1, "diverged": 1}, 1, 0)
    assert any("1 trial without a result" in note for note in said["notes"])
