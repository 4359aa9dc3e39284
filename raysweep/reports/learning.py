"""Learning curves: a measurement against the time within its run, for each scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import pyarrow as pa
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from raysweep.errors import FitError
from raysweep.laws.column import Column
from raysweep.laws.notes import group_name
from raysweep.laws.points import points
from raysweep.laws.request import FitRequest
from raysweep.reports.style import MOST_PANELS, NO_LABELS, PANEL, STYLE, axis_name, differing, panelled, value_label

__all__ = ["Curves", "learning_curves", "learning_figure"]


@dataclass(frozen=True)
class Curves:
    """Learning curves: one line per value of x, the mean over replicates, with a shade that is their range.

    Attributes:
        frame: Every snapshot. Rows that agree in x, time and `apart` are replicates.
        x, y: Columns of the scale and of the measurement.
        time: The innermost axis of time that varies: steps within a round, say.
        apart: Columns of which each combination of values has a panel: whatever else separates runs, and the outer
            axes of time, over which nothing is averaged.
    """

    frame: pl.DataFrame
    x: str
    y: str
    time: str
    apart: tuple[str, ...]

    @property
    def caption(self) -> str:
        panels = f", one panel for each {' and '.join(self.apart)}" if self.apart else ""
        return f"{self.y} against {self.time}{panels}; lines: means, shades: ranges over replicates (seeds)."


def learning_curves(table: pa.Table, columns: Mapping[str, Column], request: FitRequest) -> Curves | None:
    """The learning curves behind a fit, from the rows that it takes; None where no time varies or time is a scale."""
    x, *scales = request.x
    times = [name for name in table.column_names if name in columns and columns[name].axis_role == "time"]
    if not times or {*times} & {*request.x}:
        return None
    by = tuple(dict.fromkeys((*request.by, *scales, *times)))
    try:
        window = request.window if request.bounded == x else None
        found = points(table, FitRequest((x,), request.y, by=by, where=request.where, window=window))
    except FitError:  # the fit says why
        return None
    varying = [name for name in found.by if found.frame[name].n_unique() > 1]
    *outer, time = [name for name in times if name in varying] or [""]
    if not time:
        return None
    curves = found.frame.group_by([x, *(name for name in varying if name != time)])
    if curves.agg(pl.col(time).n_unique())[time].max() == 1:  # other times in other settings are no curve
        return None
    return Curves(found.frame, x, request.y, time, (*(name for name in varying if name not in times), *outer))


def learning_figure(curves: Curves, labels: Mapping[str, str] = NO_LABELS) -> Figure:
    """Learning curves, of which the first panels are drawn. An axis with a value that is not positive, such as round 0,
    is linear.
    """
    frame, y, time, colour_by, panel_by = curves.frame, curves.y, curves.time, curves.x, list(curves.apart)
    every = frame.select(panel_by).unique().sort(panel_by).to_dicts() if panel_by else [{}]
    shown = differing(every)
    values = frame[colour_by].unique().sort().to_list()
    shades = plt.get_cmap("viridis")(np.linspace(0.05, 0.9, len(values)))
    scales = {f"{axis}scale": _scale(frame[name]) for axis, name in (("x", time), ("y", y))}
    columns = 3 if len(every) == 3 or len(every) >= MOST_PANELS else min(len(every), 2)
    with plt.rc_context(STYLE):
        figure, panels = panelled(every, columns, axis_name(time, labels), axis_name(y, labels), PANEL[1] * 0.85)
        for axis, panel in panels:
            part = frame.filter(pl.all_horizontal(pl.lit(True), *(pl.col(k).eq_missing(v) for k, v in panel.items())))
            for value, shade in zip(values, shades, strict=True):
                curve = part.filter(pl.col(colour_by) == value).group_by(time).agg(
                    mean=pl.col(y).mean(), low=pl.col(y).min(), high=pl.col(y).max()
                ).sort(time)  # fmt: skip
                axis.plot(curve[time], curve["mean"], color=shade, lw=1.4, label=value_label(colour_by, value))
                axis.fill_between(curve[time], curve["low"], curve["high"], color=shade, alpha=0.15, lw=0)
            axis.set(**scales, title=group_name({name: panel[name] for name in shown}, " = "))
            for side, scale in zip((axis.xaxis, axis.yaxis), scales.values(), strict=True):
                if scale == "log":
                    side.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                    side.set_minor_formatter(NullFormatter())
        panels[0][0].legend(title=axis_name(colour_by, labels), ncols=2, fontsize=7.5, title_fontsize=8)
    return figure


def _scale(values: pl.Series) -> str:
    least: Any = values.min()
    return "log" if least is not None and least > 0 else "linear"
