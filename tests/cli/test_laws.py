"""`raysweep fit` and `raysweep allocate` as a user meets them, on tables of several scales and on real runs."""

from __future__ import annotations

import json
import os
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from conftest import CLASSIFIER_SWEEP, FUNCTION_SWEEP, Cli
from test_cli import write

from raysweep.cli import laws
from raysweep.errors import SweepError
from raysweep.laws import fit
from raysweep.ledger.log import Ledger
from raysweep.reports.html import _explained
from raysweep.sweep import from_mapping
from raysweep.terminal import as_options

SHARED = Path(__file__).parents[3] / "shared/data"
RUNS = Path(os.environ.get("RAYSWEEP_DATA", SHARED)).absolute() / "scaling_runs"
SCALES = ["--x", "params", "--x", "tokens", "--y", "loss"]


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Chinchilla's law, 2 arms, 5 x 5 sizes and tokens, little noise, measured FLOPs of 8 N D."""
    rng = np.random.default_rng(0)
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    loss = (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * np.exp(0.002 * rng.standard_normal(n.size))
    frame = pl.DataFrame({"params": n, "tokens": d, "loss": loss, "flops": 8 * n * d})
    both = pl.concat([frame.with_columns(arm=pl.lit("a")), frame.with_columns(pl.col("loss") + 1, arm=pl.lit("b"))])
    path = tmp_path / "runs.csv"
    both.with_columns(pl.when(pl.int_range(pl.len()) == 0).then(None).otherwise("loss").alias("loss")).write_csv(path)
    return str(path)


def test_a_joint_law_is_told_in_a_paragraph_a_group(cli: Cli, table: str) -> None:
    arguments = ["fit", table, "--law", "chinchilla", *SCALES, "--by", "arm", "--bootstrap", "100"]
    code, out, err = cli(*arguments)
    assert code == 0, err
    assert out.count("loss = E + A N^-alpha + B D^-beta where N is column params and D is column tokens") == 2
    assert out.count("without the top 30% of scales") == 2
    assert out.count("alpha = 0.3") == 2
    assert out.count("a_opt = 0.4") == 2
    assert "fitted to 24 rows of 24 runs at 24 points of params and tokens: params 1e+07 to 1e+09" in out
    assert "beyond params x tokens = " in out
    assert out.count("dropped_null: ") == 1
    assert out.index("dropped_null: 1 of 25 rows") < out.index("All 2 groups:") < out.index("one_run_per_scale: ")
    records = json.loads(cli(*arguments, "--huber", "1e-3", "--holdout", "0", "--json")[1])
    assert [(r["group"], r["huber"], r["holdout"]) for r in records] == [({"arm": a}, 1e-3, None) for a in "ab"]
    assert [p["name"] for p in records[0]["params"]] == ["E", "A", "B", "alpha", "beta"]


def test_a_budget_is_allocated_with_intervals(cli: Cli, table: str) -> None:
    arguments = ["allocate", table, *SCALES, "--where", "arm = 'a'", "--bootstrap", "200"]
    code, out, err = cli(*arguments, "--budget", "1e21", "--budget", "1e23")
    assert code == 0, err
    assert "best params" in out
    assert "FLOPs = 6 N D" in out
    assert "extrapolated: " in out
    (record,) = json.loads(cli(*arguments, "--budget", "1e20", "--json")[1])
    best = {p["name"]: p for p in record["params"]}
    assert best["N*"]["ci_low"] < best["N*"]["value"] < best["N*"]["ci_high"]
    assert 6 * best["N*"]["value"] * best["D*"]["value"] == pytest.approx(1e20)
    (measured,) = json.loads(cli(*arguments, "--budget", "1e20", "--flops", "flops", "--json")[1])
    assert measured["cost"] == pytest.approx({"c": 8, "p": 1, "q": 1})


def test_a_figure_is_drawn(cli: Cli, table: str) -> None:
    arguments = ["fit", table, "--law", "chinchilla", *SCALES, "--by", "arm", "--bootstrap", "40"]
    assert cli(*arguments, "--figure", "fit.png")[0] == 0
    assert Path("fit.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = cli(*arguments, "--figure", "nowhere/fit.png")
    assert (code, "in a folder that exists" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["fit", "--law", "chinchilla", "--x", "params", "--y", "loss"],
            "takes 2 columns of x (N, D), but got 1: params",
        ),
        (["fit", "--x", "params", "--x", "tokens", "--y", "loss"], "takes 1 column of x (x), but got 2"),
        (["fit", "--x", "params", "--y", "los"], "Did you mean 'loss'"),
        (["fit", "--x", "params"], "--x and --y must be given"),
        (["fit", "--x", "params", "--y", "loss", "--huber", "0"], "huber=0"),
        (["fit", "--x", "params", "--y", "loss", "--holdout", "1"], "[0, 0.9]"),
        (["fit", "--x", "params", "--y", "arm"], "Column 'arm' must hold numbers, but row 1 of "),
        (["fit", "--x", "params", "--y", "loss", "--se", "arm"], "Column 'arm' must hold numbers, but row 1 of "),
        (["fit", "--x", "params", "--y", "loss", "--where", "params < 0"], "No rows are left"),
        (["fit", "--x", "params", "--y", "loss", "--level", "95"], "level=95"),
        (["allocate", *SCALES, "--budget", "-1"], "--budget is FLOPs, positive"),
        (["allocate", *SCALES, "--budget", "1e21", "--law", "power"], "Such laws are chinchilla, kaplan, time"),
        (["allocate", *SCALES, "--budget", "1e21", "--cost-per", "0"], "--cost-per"),
        (["allocate", *SCALES, "--budget", "1e21", "--cost-per", "6", "--flops", "flops"], "give one of them"),
        (["allocate", *SCALES, "--budget", "1e21", "--flops", "flop"], "Did you mean 'flops'?"),
        (["allocate", *SCALES], "--budget"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, cli: Cli, table: str) -> None:
    command, *options = arguments
    code, out, err = cli(command, table, *options)
    assert (code, out) == (2, ""), err
    assert message in err
    assert len(err.splitlines()) == 1


def test_help_says_what_each_law_is_for(cli: Cli) -> None:
    from raysweep.laws.forms import LAWS

    text = " ".join(cli("fit", "--help")[1].split())
    for name, one in LAWS.items():
        assert f"{name}: {one.formula}" in text


# Sweep files


def test_a_sweep_names_a_law_of_several_scales(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"law": "time", "x": ["size", "epoch"], "y": "loss", "huber": 1e-3, "holdout": 0, "at": "last"}
    grid = {"size": [10, 30, 100, 300], "seed": {"range": 2}, "epoch": [1, 2, 4, 8]}
    assert cli("run", write("toy.yaml", FUNCTION_SWEEP, grid=grid, fit=[spec]), "--executor", "inline")[0] == 0
    (record,) = json.loads(cli("fit", "results/toy", "--json", "--bootstrap", "40")[1])
    assert (record["law"], record["x"], record["n_points"], record["huber"]) == ("time", ["size", "epoch"], 32, 1e-3)
    # A ledger too large to hold is read from its compacted copy, where that is whole.
    monkeypatch.setattr(laws, "_LARGE", 0)
    monkeypatch.setattr(Ledger, "scan", None)
    assert json.loads(cli("fit", "results/toy", "--json", "--bootstrap", "40")[1]) == [record]
    assert sorted(p.name for p in Path("results/toy/figures").iterdir()) == ["1-time-loss-size-epoch-diagnostics.png"]


def test_options_that_are_given_apply_to_the_fits_that_a_sweep_names(cli: Cli) -> None:
    specs = [{"x": "size", "y": "loss", "by": ["epoch"], "where": "size < 1000", "holdout": 0, "huber": 1e-3}]
    grid = {"size": [10, 30, 100, 300, 1000], "seed": {"range": 2}, "epoch": [1, 2]}
    assert cli("run", write("toy.yaml", FUNCTION_SWEEP, grid=grid, fit=specs), "--executor", "inline")[0] == 0

    def fitted(*options: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(cli("fit", "results/toy", "--json", "--bootstrap", "0", *options)[1])
        return found

    def shown(*options: str) -> list[tuple[Any, ...]]:
        return [(one["law"], one["group"], one["n_points"], one["huber"]) for one in fitted(*options)]

    assert shown() == [("power", {"epoch": epoch}, 8, 1e-3) for epoch in (1, 2)]
    assert shown("--where", "epoch = 2 OR size > 0 AND epoch = 2") == [("power", {"epoch": 2}, 8, 1e-3)]
    assert shown("--law", "power+floor", "--huber", "0.1")[0] == ("power+floor", {"epoch": 1}, 8, 0.1)
    assert {one["cluster"] for one in fitted("--run", "seed")} == {"seed"}
    assert shown("--by", "seed", "--where", "epoch = 1") == [("power", {"seed": s}, 4, 1e-3) for s in (0, 1)]
    windowed = fitted("--window", "{low: 10 * epoch, high: 300}")
    assert [(one["window"], one["bounds"]["low"], one["bounds"]["rows"]) for one in windowed] == [
        ([10, 300], 10, 8),
        ([30, 300], 20, 8),
    ]
    for options, message in (
        (
            ["--window", "{low: 10 * epok}"],
            "error: fit: --window: low: there is no column 'epok'. Did you mean 'epoch'",
        ),
        (["--window", "{low: 10"], "fit: --window: must be valid YAML"),
        (["--window", "{low: 20000}"], "The window (20000 <= size, here from 20000) left 0 of 8 rows."),
        (["--law", "chinchilla"], "takes 2 columns of x (N, D), but got 1: size."),
        (["--by", "size"], "fit: --by: x, y and by must be different columns"),
        (["--at", "9999"], "at: a time needs an axis of time that is read along a run"),
    ):
        code, out, err = cli("fit", "results/toy", *options)
        assert (code, out) == (2, "")
        assert message in err


def test_the_window_of_a_sweeps_fit_reaches_its_report(cli: Cli) -> None:
    spec = {
        "x": "size",
        "y": "loss",
        "by": ["epoch"],
        "window": {"low": "15 * epoch", "high": "5 if epoch > 2 else inf"},
    }
    grid = {"size": [10, 30, 100, 300, 1000], "seed": {"range": 2}, "epoch": [1, 2, 3]}
    code, out, err = cli("run", write("toy.yaml", FUNCTION_SWEEP, grid=grid, fit=[spec]), "--executor", "inline")
    assert code == 0, err
    lines = ["size 30 to 1000 (window from 15: 8 of 10 rows)", "size 30 to 1000 (window from 30: 8 of 10 rows)"]
    assert [out.count(line) for line in lines] == [1, 1]
    page = Path("results/toy/report.html").read_text()
    assert "<td>30 to 1000 (window from 30: 8 of 10 rows)</td>" in page
    assert "<td>- (window 45 to 5: 0 of 10 rows)</td>" in page
    rule = "15 * epoch <= size <= (5 if epoch > 2 else inf)"
    assert f"Fitted where {escape(rule)}, here from 30: 8 of 10 rows." in page
    found = json.loads(cli("fit", "results/toy", "--json", "--bootstrap", "0")[1])
    assert [one["bounds"]["rule"] for one in found] == [rule] * 3
    assert [one.get("error", "")[-90:] for one in found][:2] == ["", ""]
    assert (
        "left 0 of 10 rows: low exceeds high in all of these rows (there, low = 45 and high = 5)" in found[2]["error"]
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"x": ["n_train", "width"], "y": "epistemic"},
            "fit.0.x: the law 'power' (y = A x^-alpha) takes 1 column of x (x), but got 2",
        ),
        (
            {"x": "n_train", "y": "epistemic", "huber": 0},
            "fit.0.huber: must be finite and > 0, where the loss turns linear in log units, but got huber=0",
        ),
        ({"x": "n_train", "y": "epistemic", "holdout": 1}, "fit.0.holdout"),
        (
            {"x": "n_train", "y": "epistemic", "window": {"high": "widht ** 2"}},
            "fit.0.window: high: there is no column 'widht'. Did you mean 'width'",
        ),
        ({"x": "n_train", "y": "epistemic", "se": "epistemic_so"}, "fit.0.se: must be an axis or a metric"),
        ({"x": ["n_train", "widht"], "y": "epistemic", "law": "chinchilla"}, "Did you mean 'width'"),
    ],
)
def test_a_fit_that_cannot_be_made_is_refused_with_the_sweep(spec: dict[str, object], message: str) -> None:
    with pytest.raises(SweepError) as caught:
        from_mapping(yaml.safe_load(yaml.safe_dump({**CLASSIFIER_SWEEP, "fit": [spec]})))
    assert message in str(caught.value)


# Real runs


@pytest.mark.parametrize(
    ("file", "arguments", "groups", "a_opt"),
    [
        ("misfitting_final.csv", ["--x", "N", "--x", "D", "--y", "loss"], 1, (0.5, 0.9)),
        ("gadre_overtraining.csv", ["--x", "N", "--x", "D", "--y", "loss_c4_val", "--by", "train_set"], 3, (0.35, 0.8)),
        ("isoflops_compiled.csv", [*SCALES, "--by", "experiment", "--where", "outlier = false"], 6, (0.25, 0.6)),
        ("steplaw_dense.csv.gz", ["--x", "N", "--x", "D", "--y", "loss", "--where", "loss < 4"], 1, (0.1, 0.9)),
    ],
)
def test_real_runs_are_fitted_and_allocated(
    file: str, arguments: list[str], groups: int, a_opt: tuple[float, float], cli: Cli
) -> None:
    path = RUNS / file
    if not path.exists():
        pytest.skip(f"{path} is absent; set RAYSWEEP_DATA")
    rest = [*arguments, "--bootstrap", "40", "--json"]
    code, out, err = cli("fit", str(path), "--law", "chinchilla", *rest)
    assert code == 0, err
    records = json.loads(out)
    assert len(records) == groups
    for record in records:
        (a, _) = record["derived"]
        assert a_opt[0] < a["value"] < a_opt[1]
        assert a["ci_low"] < a["value"] < a["ci_high"]
        assert record["holdout"] is None or record["holdout"]["rmse_log"] < 0.1
    code, out, err = cli("allocate", str(path), *rest, "--budget", "1e22")
    assert code == 0, err
    assert len(json.loads(out)) == groups


# What people have


def test_several_files_a_pattern_and_json_are_tables_for_each_command(cli: Cli, tmp_path: Path, table: str) -> None:
    rows = pl.read_csv(table).drop_nulls()
    for i in range(0, rows.height, 10):
        rows[i : i + 10].write_ndjson(tmp_path / f"trial-{i:02}.json")
    rest = ["--law", "chinchilla", *SCALES, "--by", "arm", "--bootstrap", "40", "--json"]
    rows.write_csv(tmp_path / "whole.csv")
    names = [f"trial-{i:02}.json" for i in range(0, rows.height, 10)]
    expected = cli("fit", "whole.csv", *rest)[1]
    assert cli("fit", "trial-*.json", *rest) == (0, expected, "")
    assert cli("fit", *names, *rest) == (0, expected, "")
    allocated = cli("allocate", "whole.csv", *rest, "--budget", "1e21")
    assert cli("allocate", *names, *rest, "--budget", "1e21") == allocated
    code, _, err = cli("fit", names[0], "results/toy", *rest)
    assert (code, "There is no table at 'results/toy'" in err) == (2, True)
    code, _, err = cli("fit", "trial-*.json")
    assert (code, "--x and --y must be given, for trial-*.json names no fits" in err) == (2, True)


def test_a_narrow_window_is_told_on_the_command_line(cli: Cli) -> None:
    n = np.linspace(1000, 1020, 12)
    pl.DataFrame({"n": n, "loss": n**-0.5 * (1 + 0.01 * np.sin(n))}).write_csv("w.csv")
    out = cli("fit", "w.csv", "--x", "n", "--y", "loss")[1]
    assert "  narrow_window: n spans a factor of 1.02 only" in out
    (record,) = json.loads(cli("fit", "w.csv", "--x", "n", "--y", "loss", "--json")[1])
    assert "narrow_window" in record["notes"]


def test_an_allocation_carries_the_notes_of_its_fit(cli: Cli) -> None:
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.linspace(1e9, 1.5e9, 5)))
    pl.DataFrame({"params": n, "tokens": d, "loss": 1.7 + 400 * n**-0.34 + 410 * d**-0.28}).write_csv("w.csv")
    rest = ["allocate", "w.csv", *SCALES, "--bootstrap", "0", "--budget", "1e30"]
    assert "  narrow_window: tokens spans a factor of 1.5 only" in cli(*rest)[1]
    (record,) = json.loads(cli(*rest, "--json")[1])
    assert {"narrow_window", "extrapolated"} <= set(record["notes"])


def test_an_allocation_beyond_data_that_speak_against_the_law_says_so(cli: Cli) -> None:
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6)))
    loss = (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * (1 + 0.02 * np.sin(1.5 * np.log(n)))
    pl.DataFrame({"params": n, "tokens": d, "loss": loss}).write_csv("bent.csv")
    rest = ["allocate", "bent.csv", *SCALES, "--bootstrap", "100", "--json", "--budget"]
    (far,) = json.loads(cli(*rest, "1e24")[1])
    assert "extrapolation_untrusted" in far["notes"]
    assert far["details"]["extrapolated"].endswith("(extrapolation_untrusted): do not believe them.")
    assert "extrapolated" not in json.loads(cli(*rest, "1e19")[1])[0]["notes"]


def test_what_a_note_asks_for_is_named_as_its_reader_types_it(cli: Cli) -> None:
    """In Python an argument, on a command line, in its JSON and in a report an option."""
    n = np.tile(np.geomspace(100, 1e6, 12), 2)
    arm = np.repeat(["old one", "new"], 12)
    y = n**-0.3 * np.where(arm == "new", 1.1, 1) * np.exp(0.01 * np.random.default_rng(0).normal(size=24))
    rows = pl.DataFrame({"n": n, "arm set": arm, "loss": y})
    rows.write_csv("pooled.csv")
    fitted = fit(rows, law="power", x="n", y="loss", bootstrap=0)
    assert "fit each with `by='arm set'`, or choose one with `where=`" in fitted.only.details["pooled_arm set"]
    asked = ["fit", "pooled.csv", "--law", "power", "--x", "n", "--y", "loss", "--bootstrap", "0"]
    wanted = "fit each with --by 'arm set', or choose one with --where. If its values are runs, name it with --run 'arm"
    assert wanted in " ".join(cli(*asked)[1].split())
    (record,) = json.loads(cli(*asked, "--json")[1])
    assert wanted in record["details"]["pooled_arm set"]
    assert escape(wanted) in _explained(fitted)
    code, _, error = cli(*asked, "--where", "n > 1e9")
    assert (code, "Check --where and the table." in error) == (2, True)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Name it with `run=`.", "Name it with --run."),
        ("set `x_se='a'`", "set --x-se a"),
        ("with `where=\"size = 'a b'\"`", "with --where \"size = 'a b'\""),
        ("with `by='$x'`", "with --by '$x'"),
        ("got `level=1`", "got --level 1"),
        ("`low < high`, `auto`, a=b, `a = b`", "`low < high`, `auto`, a=b, `a = b`"),
    ],
)
def test_arguments_become_options(said: str, shown: str) -> None:
    assert as_options(said) == shown
