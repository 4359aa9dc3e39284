"""The common style of figures: colours, sizes, names of axes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from raysweep.errors import plain

__all__ = [
    "COLOURS",
    "MARKERS",
    "MOST_PANELS",
    "NO_LABELS",
    "PANEL",
    "STYLE",
    "axis_name",
    "differing",
    "looks",
    "panelled",
    "sample",
    "tame",
    "value_label",
]

# Okabe & Ito, colour-blind safe.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vPX"
_DECADES, _NARROW = 40.0, 4.0  # ratios of the ends of a logarithmic axis: above, powers of ten; below, few numbers
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
_TITLE = 44  # characters of a panel's title in the usual size
_LINE = 58  # characters of a line of a longer one, which is smaller
_LINES = 3  # of such a title
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


def looks(count: int) -> list[tuple[Any, str]]:
    """A colour and a marker for each of some curves in one panel, no two of which agree in both."""
    many = plt.get_cmap("viridis")(np.linspace(0.0, 0.9, count))
    return [(COLOURS[i] if count <= len(COLOURS) else tuple(many[i]), MARKERS[i % len(MARKERS)]) for i in range(count)]


def differing(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns in which groups differ: in a name, others would be the same everywhere."""
    return [name for name in (groups[0] if groups else ()) if len({str(group[name]) for group in groups}) > 1]


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
    titles = {axis.title for axis in figure.axes}
    for text in figure.findobj(Text):
        words = plain(text.get_text()).replace("\n", " ")
        if text in titles and len(words) > _TITLE:
            words = _wrapped(words)
            text.set_fontsize(8.5)
        elif len(words) > _LONGEST:
            words = f"{words[:_LONGEST]}..."
        text.set_text(words)
        if "$" in words:  # the labels of ticks, which are formulas, are not there yet
            text.set_parse_math(False)
    for axes in figure.axes:
        for side, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            if side.get_scale() == "log" and 0 < low < high:
                _tick(side, low, high)
    return figure


def _tick(side: Axis, low: float, high: float) -> None:
    """Few ticks on a logarithmic axis, in plain numbers where it has few powers of ten."""
    side.set_minor_formatter(NullFormatter())
    ratio, powers = high / low, math.floor(math.log10(high)) - math.ceil(math.log10(low)) + 1
    if ratio < _DECADES or powers < 2:
        side.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if ratio > _NARROW else MaxNLocator(4))
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _wrapped(words: str) -> str:
    """A title in lines that fit its panel, broken at commas where it has any."""
    lines = [""]
    for part in words.split(", "):
        whole = f"{lines[-1]}, {part}" if lines[-1] else part
        if len(whole) <= _LINE:
            lines[-1] = whole
        else:
            first, *others = textwrap.wrap(part, _LINE) or [""]
            lines = [*lines[:-1], f"{lines[-1]},", first, *others] if lines[-1] else [first, *others]
    return "\n".join(lines[:_LINES]) + ("..." if len(lines) > _LINES else "")


def sample(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows, or as many of them as a figure can show."""
    return rows if rows.height <= _POINTS else rows.sample(_POINTS, seed=0)
