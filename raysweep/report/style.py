"""What figures share: colours, sizes, names of axes."""

from __future__ import annotations

from typing import Any

import polars as pl

__all__ = ["COLOURS", "MARKERS", "PANEL", "STYLE", "axis_name", "sample"]

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
)  # Okabe & Ito, colour-blind safe
MARKERS = "osD^vPX"
STYLE: Any = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
PANEL = (4.6, 3.6)  # inches
_POINTS = 4000  # more are a stain


def axis_name(name: str) -> str:
    """What an axis of the figure is called."""
    known = {
        "n_train": "training items N",
        "steps": "training steps",
        "epistemic": "epistemic error (nats)",
        "total": "total loss",
    }
    return known.get(name, name.replace("_", " "))


def sample(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows, or as many of them as a figure can show."""
    return rows if rows.height <= _POINTS else rows.sample(_POINTS, seed=0)
