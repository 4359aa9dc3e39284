"""The common style of figures: colours, sizes, names of axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from raysweep.errors import plain

__all__ = ["COLOURS", "MARKERS", "NO_LABELS", "PANEL", "STYLE", "axis_name", "panelled", "sample", "tame"]

# Okabe & Ito, colour-blind safe.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
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
MOST_PANELS = 6  # of a figure
NO_LABELS: Mapping[str, str] = MappingProxyType({})  # columns keep their names
_LONGEST = 120  # characters of a title or label
_POINTS = 4000  # more would be a blot


def panelled(
    every: Sequence[Mapping[str, Any]], columns: int, x: str, y: str, height: float = PANEL[1]
) -> tuple[Figure, list[tuple[Axes, Mapping[str, Any]]]]:
    """A figure with a panel for each of the first groups, and each panel with its group.

    Args:
        every: All groups, at least one.
        columns: Panels in a row.
        x, y: Names of the axes, which all panels share.
        height: Height of a panel in inches.
    """
    shown = every[:MOST_PANELS]
    lines = -(-len(shown) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(PANEL[0] * columns, height * lines),
        sharex=True, sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel(x)
    for row in axes:
        row[0].set_ylabel(y)
    if len(every) > len(shown):
        figure.suptitle(f"{len(shown)} of {len(every):,} panels", fontsize=9)
    return figure, list(zip(axes.flat, shown, strict=False))


def axis_name(name: str, labels: Mapping[str, str]) -> str:
    """The name of an axis in figures: its label, if it has one."""
    return labels.get(name, name.replace("_", " "))


def value_label(name: str | None, value: Any) -> str | None:
    """What a value of a column is called in a legend; None where there is no column."""
    if name is None:
        return None
    return f"{value:,}" if isinstance(value, int) else str(value)


def tame(figure: Figure) -> Figure:
    """The figure with a store's words as plain text: no formulas (`$`), no control characters, no overlong labels."""
    for text in figure.findobj(Text):
        words = plain(text.get_text()).replace("\n", " ")
        text.set_text(words if len(words) <= _LONGEST else f"{words[:_LONGEST]}...")
        if "$" in words:  # the labels of ticks, which are formulas, are not there yet
            text.set_parse_math(False)
    return figure


def sample(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows, or as many of them as a figure can show."""
    return rows if rows.height <= _POINTS else rows.sample(_POINTS, seed=0)
