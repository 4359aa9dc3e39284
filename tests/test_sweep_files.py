"""The sweep files that ship: they load, their header tells the truth, and they have the presets smoke and full."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from raysweep.laws import fit
from raysweep.sweep import load_sweep

FILES = sorted((Path(__file__).parent.parent / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=[p.stem for p in FILES])
def test_a_shipped_sweep_says_what_it_is(path: Path) -> None:
    sweep = load_sweep(path)
    header = " ".join(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    for word in ("Question:", "Cells:", "ost:"):
        assert word in header
    (runs,) = re.findall(r"= ([\d,]+) runs", header)
    assert int(runs.replace(",", "")) == len(sweep.runs)
    assert sweep.name == path.stem
    assert load_sweep(path, preset="full").file == sweep.file
    assert 0 < load_sweep(path, preset="smoke").runs.cells < sweep.runs.cells / 10


PAPERS = ("features_", "richness_", "bmd_")
FITTED = [path for path in FILES if path.stem.startswith(PAPERS) and load_sweep(path).file.fit]


@pytest.mark.parametrize("path", FITTED, ids=[p.stem for p in FITTED])
def test_the_fits_of_a_papers_sweep_find_their_rows_in_its_preset_smoke(path: Path) -> None:
    sweep = load_sweep(path, preset="smoke")
    rows = [
        {**sweep.runs.row(i), **dict(zip(observed.names, values, strict=True))}
        for i, code in enumerate(sweep.runs.observed_code)
        for observed in [sweep.runs.observed[code]]
        for values in observed.cells.values()
    ]
    frame = pl.DataFrame(rows, infer_schema_length=None).with_columns(unreachable=pl.lit(1e-9), loss=pl.lit(1.0))
    for spec in sweep.file.fit:
        assert len(spec.scales) == 1
        table = frame.with_columns((2 + 1 / pl.col(spec.scales[0])).alias(spec.y))
        asked = {"x": spec.scales, "y": spec.y, "by": spec.by, "where": spec.where, "window": spec.window}
        assert any(group.error is None for group in fit(table, spec.law, **asked, bootstrap=0))
