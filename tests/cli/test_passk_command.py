from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from raysweep.cli import main


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two models on 60 problems, 500 trials each."""
    rng = np.random.default_rng(0)
    parts = [
        pl.DataFrame({"model": [name] * 60, "c": rng.binomial(500, rng.beta(a, 20.0, size=60)), "n": [500] * 60})
        for name, a in (("small", 0.3), ("large", 0.9))
    ]
    file = tmp_path / "counts.csv"
    pl.concat(parts).write_csv(file)
    return file


def told(*arguments: str) -> int:
    """The exit code of `raysweep passk ...`."""
    import sys
    from unittest.mock import patch

    with patch.object(sys, "argv", ["raysweep", "passk", *arguments]), pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def test_each_model_has_a_curve_an_exponent_and_a_forecast(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--successes", "c", "--trials", "n", "--by", "model", "--k", "1,10", "--k", "1e4", "--holdout", "50"]
    assert told(str(table), *options) == 0
    said = capsys.readouterr().out
    assert "model = small: 60 problems, 500 trials each" in said
    assert "extrapolated" in said
    assert "exponent of 1 - pass@k over k = 50 to 500" in said
    assert "predicted from 50 trials per problem up to k = 500" in said
    assert told(str(table), *options, "--json") == 0
    small, large = json.loads(capsys.readouterr().out)
    assert small["group"] == {"model": "small"}
    assert [one["k"] for one in small["pass_at_k"]] == [1, 10, 10_000]
    assert small["tail"]["interval"][0] < 0.3 < small["tail"]["interval"][1]
    assert large["tail"]["interval"][0] < 0.9 < large["tail"]["interval"][1]
    assert large["exponent"]["value"] > small["exponent"]["value"]
    for one in (*small["pass_at_k"], *large["pass_at_k"]):
        assert one["interval"][0] <= one["value"] <= one["interval"][1]
    assert 0 <= small["holdout"]["covered"] <= 1
    assert "if success rates are" in said
    (beta, *others) = small["shapes"]
    assert (beta["name"], beta["supported"], len(others)) == ("Beta", True, 3)
    (wide,) = (one["interval"] for one in small["pass_at_k"] if one["extrapolated"])
    (narrow,) = (one["interval"] for one in beta["pass_at_k"])
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_rates_of_no_known_shape_have_bounds_and_no_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    c = rng.binomial(100, rng.choice([0.002, 0.02, 0.2, 0.6], 100))
    file = tmp_path / "counts.csv"
    pl.DataFrame({"c": c, "n": 100}).write_csv(file)
    options = ["--successes", "c", "--trials", "n", "--k", "10,1e5", "--bootstrap", "100"]
    assert told(str(file), *options) == 0
    said = capsys.readouterr().out
    assert "between [" in said
    assert "no_shape" in said
    assert "rejected" in said
    assert told(str(file), *options, "--json") == 0
    (one,) = json.loads(capsys.readouterr().out)
    within, further = one["pass_at_k"]
    assert within["value"] is not None
    assert further["value"] is None
    assert 0.5 < further["interval"][0] < further["interval"][1] <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--successes", "c", "--trials", "m"], "There is no column 'm'"),
        (["--successes", "model", "--trials", "n"], "Column 'model' must hold numbers, but row 1 of "),
        (["--successes", "n", "--trials", "c"], "`0 <= successes <= trials` must hold"),
        (["--successes", "c", "--trials", "n", "--k", "1,2.5"], "--k must be whole numbers from 1 to 1e+15"),
        (["--successes", "c", "--trials", "n", "--k", "0"], "--k must be whole numbers from 1 to 1e+15"),
        (["--successes", "c", "--trials", "n", "--window", "5"], "--window must be LOW,HIGH"),
        (["--successes", "c", "--trials", "n", "--window", "5,5000"], "fewest trials=500"),
        (["--successes", "c", "--trials", "n", "--holdout", "500"], "holdout=500, fewest trials=500"),
        (
            ["--successes", "c", "--trials", "n", "--bootstrap", "5"],
            "'--bootstrap': it must be greater than or equal to 100, but got '5'",
        ),
        (["--successes", "c", "--trials", "n", "--where", "n > 900"], "leaves none. Widen it"),
        (["--successes", "c", "--trials", "n", "--level", "2"], "--level must be in [0.5, 1)"),
    ],
)
def test_what_makes_no_sense_is_one_error(
    options: list[str], message: str, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(str(table), *options) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("error:") == 1


def test_a_missing_count_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "t.parquet"
    pl.DataFrame({"c": [1, None, 2], "n": [5, 5, 5]}).write_parquet(file)
    assert told(str(file), "--successes", "c", "--trials", "n") == 2
    assert "1 are missing" in capsys.readouterr().err


def test_json_and_several_files_are_tables(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--successes", "c", "--trials", "n", "--by", "model", "--k", "1,10", "--json"]
    assert told(str(table), *options) == 0
    expected = json.loads(capsys.readouterr().out)
    rows = pl.read_csv(table)
    rows[:60].write_json(table.parent / "p-small.json")
    rows[60:].write_ndjson(table.parent / "p-large.jsonl")
    for files in (
        [str(table.parent / "p-*.json*")],
        [str(table.parent / f"p-{n}") for n in ("small.json", "large.jsonl")],
    ):
        assert told(*files, *options) == 0
        found = json.loads(capsys.readouterr().out)
        assert sorted(found, key=str) == sorted(expected, key=str)
    assert told(*files, *options[:4], "--by", "file", "--k", "1", "--json") == 0
    assert [one["group"] for one in json.loads(capsys.readouterr().out)] == [
        {"file": "p-small.json"},
        {"file": "p-large.jsonl"},
    ]
