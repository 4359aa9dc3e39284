"""The sweep files that ship: they load, their header tells the truth, and they have the presets smoke and full."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
    assert load_sweep(path, preset="full").runs.cells == sweep.runs.cells
    assert 0 < load_sweep(path, preset="smoke").runs.cells < sweep.runs.cells / 10
