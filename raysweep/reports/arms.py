"""The figure of a comparison: both arms, their ratio or difference with its bands, and where they may cross."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raysweep.laws.arms import Comparison
from raysweep.laws.notes import group_name
from raysweep.reports.style import COLOURS, PANEL, STYLE

__all__ = ["arms_figure"]

_MOST = 6  # comparisons that are drawn
_POINTS = 2000  # of an arm


def arms_figure(found: Sequence[Comparison]) -> Figure:
    """One row for each of the first comparisons: the laws through their data, where laws were fitted, and beside them
    the comparison with its pointwise (dark) and simultaneous (light) band. Where the arms may cross is grey.
    """
    shown = found[:_MOST]
    columns = 2 if shown[0].fits else 1
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(shown),
            columns,
            figsize=(PANEL[0] * columns, PANEL[1] * len(shown)),
            squeeze=False,
            layout="constrained",
        )
        for row, one in zip(axes, shown, strict=True):
            if one.fits:
                _laws(row[0], one)
                row[0].set_title(group_name(one.group, " = "))
            _contrast(row[-1], one)
        if len(found) > len(shown):
            figure.suptitle(f"{len(shown)} of {len(found):,} comparisons", fontsize=9)
    return figure


def _laws(axis: Axes, one: Comparison) -> None:
    grid = one.contrast.x
    for fit, (x, y), name, colour in zip(one.fits, one.seen, one.arm.names, COLOURS, strict=False):
        some = slice(None, None, 1 + x.size // _POINTS)
        axis.plot(x[some], y[some], "o", ms=3.5, color=colour, alpha=0.5, mew=0)
        axis.plot(grid, fit.predict(grid), color=colour, lw=1.6, label=f"{one.arm.column} = {name}")
        band = fit.band(grid)
        axis.fill_between(grid, band[:, 0], band[:, 1], color=colour, alpha=0.2, lw=0)
    axis.set(xscale="log", yscale="log", xlabel=one.x, ylabel=one.y)
    axis.legend(loc="best")


def _contrast(axis: Axes, one: Comparison) -> None:
    found, colour = one.contrast, COLOURS[2]
    for low, high in found.crossings().sets:
        axis.axvspan(max(low, found.x[0]), min(high, found.x[-1]), color="#888888", alpha=0.15, lw=0)
    axis.axhline(1.0 if one.ratio else 0.0, color="#555555", lw=0.9)
    for band, alpha, name in (
        (found.simultaneous, 0.15, "simultaneous band"),
        (found.pointwise, 0.3, "pointwise band"),
    ):
        ends = one.shown(band)
        finite = np.isfinite(ends).all(axis=1)
        axis.fill_between(found.x, ends[:, 0], ends[:, 1], where=finite, color=colour, alpha=alpha, lw=0, label=name)
    axis.plot(found.x, one.shown(found.value), color=colour, lw=1.6)
    for at in found.crossings().estimates:
        axis.axvline(at, color="#555555", lw=0.8, ls=":")
    a, b = one.arm.names
    axis.set(xscale="log", xlabel=one.x, ylabel=f"{one.y}, {a} {'/' if one.ratio else '-'} {b}")
    positive = one.shown(found.simultaneous)
    if one.ratio and math.isfinite(float(positive.max())) and positive.max() / max(float(positive.min()), 1e-300) > 3:
        axis.set_yscale("log")
    axis.legend(loc="best")
