"""The README's picture shows what its table holds, and the table is of the demo."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
from PIL import Image

from raysweep.sweep import load_sweep

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs/figures.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def small(path: Path) -> np.ndarray:
    """Grey levels in 0 to 1 of a picture at a quarter of its size: the fonts of another machine make no difference."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L").resize((300, 128)), dtype=float) / 255


def test_the_committed_picture_is_drawn_from_the_committed_table(figures: ModuleType, tmp_path: Path) -> None:
    table = pl.read_csv(figures.TABLE)
    drawn = figures.draw(table, figures.law_of(table))
    with Image.open(figures.PICTURE) as image:
        committed = image.info["Description"].splitlines()
    now = figures.words(drawn)
    assert len(committed) == len(now) == 6
    for there, here in zip(committed, now, strict=True):
        number = r"\d\.\d+"
        assert re.sub(number, "#", there) == re.sub(number, "#", here)
        numbers = [np.array(re.findall(number, text), dtype=float) for text in (there, here)]
        np.testing.assert_allclose(*numbers, atol=0.0021)  # rounded to 3 digits, and a draw may fall the other way
    figures.save(drawn, tmp_path / "demo.png")
    ours, theirs = small(tmp_path / "demo.png"), small(figures.PICTURE)
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.05
    assert np.sqrt(np.mean((1 - theirs) ** 2)) > 0.1  # an empty picture would be seen


def test_the_table_has_one_row_for_each_run_of_the_demo(figures: ModuleType) -> None:
    table, runs = pl.read_csv(figures.TABLE), load_sweep(ROOT / "sweeps/demo.yaml").runs
    assert table.select(figures.RUN).unique().height == table.height == len(runs)
    for name in figures.RUN:
        assert sorted(table[name].unique()) == sorted(runs.values[name])


def test_the_table_keeps_the_snapshot_that_is_best_on_the_other_sample(figures: ModuleType, tmp_path: Path) -> None:
    rows = {"labels": "hard", "width": 32, "n_train": 64, "seed": 0, "status": "ok", "epistemic_se": 0.1}
    cells = [
        {**rows, "steps": steps, "epistemic": y, "epistemic_select": chosen, "total": y + 1.0, "aleatoric": 1.0}
        for steps, y, chosen in [(1, 0.5, 0.9), (2, 0.7, 0.3), (3, 0.4, 0.6)]
    ]
    pl.DataFrame(cells).write_parquet(tmp_path / "cells.parquet")
    assert figures.table_of(tmp_path).select("steps", "epistemic", "total").rows() == [(2, 0.7, 1.7)]
