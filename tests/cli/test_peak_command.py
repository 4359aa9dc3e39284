"""`raysweep peak`: sentences for a reader, JSON for a program, one error for what makes no sense."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer

from raysweep.cli import app


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng, x = np.random.default_rng(0), np.geomspace(10, 1000, 15)
    rows = [
        {"model": m, "seed": seed, "n": n, "error": e, "bmd": 1 + e / 2}
        for m, top in (("a", 100), ("b", 200))
        for seed in range(5)
        for n, e in zip(x, np.exp(-(np.log(x / top) ** 2)) + 0.01 * rng.standard_normal(15), strict=True)
    ]
    path = tmp_path / "curves.csv"
    pl.DataFrame(rows).write_csv(path)
    return path


def asked(*options: str) -> None:
    app(["peak", *options], standalone_mode=False)


def test_peaks_in_words_and_as_json(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [str(table), "--x", "n", "--y", "bmd", "--y", "error", "--by", "model", "--run", "seed"]
    asked(*options)
    said = capsys.readouterr().out
    assert "model = a:\n  bmd peaks at n = " in said
    assert "the peak of bmd lies at 1 [" in said
    asked(*options, "--json")
    found = json.loads(capsys.readouterr().out)
    assert [one["group"]["model"] for one in found] == ["a", "b"]
    for one, top in zip(found, (100, 200), strict=True):
        bmd, error = one["peaks"]
        assert bmd["location"]["interval"][0] < top < bmd["location"]["interval"][1]
        assert bmd["location"]["value"] == pytest.approx(error["location"]["value"])
        assert bmd["height"]["value"] == pytest.approx(1.5, abs=0.02)
        assert one["shifts"][0]["interval"] == pytest.approx([1, 1], abs=0.2)


def test_a_maximum_at_the_end_is_an_error(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked(str(table), "--x", "n", "--y", "error", "--by", "model", "--run", "seed", "--where", "n < 150")
    said = capsys.readouterr().out
    assert "model = b:\n  error: The highest mean must lie inside the range of x" in said


def test_what_holds_for_several_groups_is_printed_once(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pl.read_csv(table)
    none = [row.with_columns(error=pl.lit(None, dtype=pl.Float64)) for row in (rows.head(1), rows.tail(1))]
    pl.concat([rows, *none]).write_csv(table)
    options = [str(table), "--x", "n", "--y", "error", "--run", "seed", "--by", "model"]
    asked(*options)
    assert capsys.readouterr().out.count("1 of 76 rows without a finite n and error were dropped") == 1
    pl.concat([rows, none[0]]).write_csv(table)
    asked(*options)
    assert "\n  dropped_null: 1 of 76 rows" in capsys.readouterr().out  # of the first group alone


def test_intervals_are_not_optional(table: Path) -> None:
    with pytest.raises(typer.BadParameter, match="greater than or equal to 100"):
        asked(str(table), "--x", "n", "--y", "error", "--bootstrap", "0")
