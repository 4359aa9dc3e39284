"""The twin peaks of docs/bmd.md: page, figure and theory agree with the committed table, which has every scale."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from raysweep.experiments.bmd import EXPERIMENT
from raysweep.sweep import load_sweep

ROOT = Path(__file__).parent.parent
UNIT, DIM = 300, 100  # the fixed one of N and P, and D


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "analysis")
    return importlib.import_module("bmd_figure")


@pytest.fixture
def table() -> pl.DataFrame:
    return pl.read_csv(ROOT / "docs/bmd/twin_peaks.csv")


def grey(path: Path) -> np.ndarray:
    """Grey levels in 0 to 1 at a quarter of the size: the fonts of another machine make no difference."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L").resize((243, 126)), dtype=float) / 255


def test_the_page_has_the_tables_of_the_committed_rows(figure: ModuleType, table: pl.DataFrame) -> None:
    page, made = (ROOT / "docs/bmd.md").read_text(), list(figure.tables(table))
    assert [one.count("\n") - 1 for one in made] == [18, 16, 16, 10, 9, 9]  # rows
    for one in made:
        assert f"\n\n{one}\n\n" in page, (
            "docs/bmd.md is out of step: run analysis/bmd_figure.py, which prints its tables"
        )


def test_the_committed_figure_is_drawn_from_the_committed_rows(
    figure: ModuleType, table: pl.DataFrame, tmp_path: Path
) -> None:
    folder, open_before = ROOT / "docs/bmd", plt.get_fignums()
    figure.save(table, tmp_path)
    assert (tmp_path / "twin_peaks.csv").read_bytes() == (folder / "twin_peaks.csv").read_bytes()
    with Image.open(folder / "twin_peaks.png") as image:
        assert image.info["Description"] == figure.hash_of(folder / "twin_peaks.csv")
    ours, committed = (grey(one / "twin_peaks.png") for one in (tmp_path, folder))
    assert np.sqrt(np.mean((ours - committed) ** 2)) < 0.05 < np.sqrt(np.mean((1 - committed) ** 2))
    assert plt.get_fignums() == open_before


def test_the_table_has_the_scales_of_the_sweeps_and_the_theory_of_now(table: pl.DataFrame) -> None:
    for name, along, column in (("twin_peaks", "N / P", "width"), ("data", "P / N", "n_train")):
        scales = sorted(load_sweep(ROOT / f"sweeps/bmd_{name}.yaml").runs.values[column])
        for _, curve in table.filter(along=along, loss="square").group_by("activation", "setting"):
            assert sorted(curve["ratio"]) == pytest.approx([x / UNIT for x in scales], abs=5e-5)
    square = table.filter(loss="square")
    scaled = (UNIT * square["ratio"]).round().cast(pl.Int64)
    against_width = square["along"] == "N / P"
    noise = square["setting"].str.extract(r"label noise ([\d.]+)").cast(pl.Float64).fill_null(0.0)
    settings = pl.DataFrame(
        {
            "loss": square["loss"],
            "activation": square["activation"],
            "teacher": ["sign"] * len(square),
            "width": scaled.zip_with(against_width, pl.repeat(UNIT, len(square), eager=True)),
            "n_train": scaled.zip_with(~against_width, pl.repeat(UNIT, len(square), eager=True)),
            "dim": [DIM] * len(square),
            "label_noise": noise,
            "target_noise": [0.0] * len(square),
            "ridge": square["ridge"],
        }
    )
    names = ("test_error", "bmd", "bmd_formula")
    theory = EXPERIMENT.theory(settings.to_arrow(), set(names))
    for name in names:
        np.testing.assert_allclose(square[f"{name}_theory"], theory[name].to_numpy(), atol=1e-4)
        measured, low, high = (square[f"{name}{end}"].to_numpy() for end in ("", "_low", "_high"))
        assert ((low < measured) & (measured < high)).all()
        assert np.median(np.abs(measured / theory[name].to_numpy() - 1)) < 0.02
