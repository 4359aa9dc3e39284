"""Figures of a sweep: frames and fits in, matplotlib Figures out. Nothing here reads or writes files."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from raysweep.laws import Fit, GroupFit
from raysweep.laws.points import Points
from raysweep.reports.style import COLOURS, MARKERS, PANEL, STYLE, axis_name, sample

__all__ = ["calibration_figure", "law_figure", "learning_figure", "theory_figure"]

_MOST, _MOST_PANELS = 28, 6  # groups and panels that are drawn
_BESIDE = 9  # entries of a legend that fit into a plot


def law_figure(
    fit: Fit, points: Points, floor: str | None = None, total: str | None = None, expected: str | None = None
) -> Figure:
    """Measured points, the fitted law and its interval band, one panel per value of the last by-column.

    Args:
        fit: Of y on one scale; of many groups the first are drawn.
        points: What it was fitted to.
        floor: Column drawn as a grey line (the aleatoric part), in the same panels.
        total: Column drawn hollow above (the total loss).
        expected: Column drawn as a dashed line (the theory of y).
    """
    names, (x,), drawn = points.by, fit.x, fit.groups[:_MOST]
    panels = sorted({group.group[names[-1]] for group in drawn}, key=str)[:_MOST_PANELS] if len(names) > 1 else [None]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1,
            len(panels),
            figsize=(PANEL[0] * len(panels), PANEL[1]),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axis, panel in zip(axes[0], panels, strict=True):
            groups = [g for g in drawn if panel is None or g.group[names[-1]] == panel]
            for i, group in enumerate(groups):
                name = ", ".join(f"{k} = {v}" for k, v in group.group.items() if panel is None or k != names[-1])
                _law_series(axis, group, points.of(group.group), i % len(COLOURS), name, total, expected)
            if floor is not None:
                part = points.frame.filter(pl.col(names[-1]) == panel) if panel is not None else points.frame
                level = part.group_by(x).agg(pl.col(floor).mean()).sort(x)
                axis.plot(level[x], level[floor], color="#888888", lw=1.2, ls=":", label=floor)
            axis.set(
                xscale="log",
                yscale="log",
                xlabel=axis_name(x),
                title=f"{names[-1]} = {panel}" if panel is not None else "",
            )
            if len(axis.get_legend_handles_labels()[1]) <= _BESIDE:
                axis.legend(loc="best")
            else:
                axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=6, labelspacing=0.2)
                figure.set_figwidth(figure.get_figwidth() + 2.2)
        axes[0][0].set_ylabel(axis_name(fit.y) + (f"  (hollow: {axis_name(total)})" if total else ""))
    return figure


def _law_series(
    axis: Axes, group: GroupFit, rows: pl.DataFrame, i: int, name: str, total: str | None, expected: str | None
) -> None:
    colour, marker = COLOURS[i], MARKERS[i]
    (x,) = group.x
    shown = sample(rows)
    axis.plot(shown[x].to_numpy(), shown[group.y].to_numpy(), marker, ms=3.2, color=colour, alpha=0.45, mew=0)
    if total is not None:
        mean = rows.group_by(x).agg(pl.col(total).mean()).sort(x)
        axis.plot(mean[x], mean[total], marker, ms=4.5, mfc="none", mec=colour, mew=0.9, ls="-", lw=0.5, color=colour)
    if expected is not None:
        told = rows.group_by(x).agg(pl.col(expected).median()).sort(x)
        axis.plot(told[x], told[expected].cast(pl.Float64), "--", color=colour, lw=1.1)
    if group.error is not None or not group.params:
        return
    grid = np.geomspace(*group.window[0], 100)
    axis.plot(
        grid, group.predict(grid), color=colour, lw=1.6, label=f"{name or group.law.name}: {exponent_text(group)}"
    )
    band = group.band(grid)
    if np.isfinite(band).all():
        axis.fill_between(grid, band[:, 0], band[:, 1], color=colour, alpha=0.18, lw=0)


def theory_figure(points: Points, expected: str) -> Figure:
    """What was measured, as medians with the quartiles of replicates, and the theory as lines.

    Colours are the by-column of most values; a panel for each combination of the others, of the first few.

    Args:
        points: Of y on one scale, with the column `expected`.
        expected: What the theory says of y; null where it says nothing.
    """
    (x,), y, frame = points.x, points.y, points.frame
    colour_by = max(points.by, key=lambda name: frame[name].n_unique(), default=None)
    panel_by = [name for name in points.by if name != colour_by]
    found = frame.group_by(panel_by or pl.lit(0)).agg(told=pl.col(expected).is_not_null().any())
    every = found.sort("told", *panel_by, descending=[True, *(False for _ in panel_by)]).select(panel_by).to_dicts()
    panels = every[:_MOST_PANELS] if panel_by else [{}]  # those with a theory first
    values = frame[colour_by].unique().sort().to_list() if colour_by else [None]
    many = plt.get_cmap("viridis")(np.linspace(0.0, 0.9, len(values)))
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    lines = -(-len(panels) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            lines, columns, figsize=(PANEL[0] * columns, PANEL[1] * lines),
            sharex=True, sharey=True, squeeze=False, layout="constrained",
        )  # fmt: skip
        for axis, panel in itertools.zip_longest(axes.flat, panels):
            if panel is None:
                axis.set_visible(False)
                continue
            part = points.of(panel)
            for i, value in enumerate(values):
                own = part.filter(pl.col(colour_by).eq_missing(pl.lit(value))) if colour_by else part
                colour = COLOURS[i] if len(values) <= len(COLOURS) else many[i]
                at = own.group_by(x).agg(
                    low=pl.col(y).quantile(0.25), middle=pl.col(y).median(), high=pl.col(y).quantile(0.75),
                    told=pl.col(expected).median(),
                ).sort(x)  # fmt: skip
                axis.plot(at[x], at["middle"], "o", ms=3.2, color=colour, mew=0, label=_value(colour_by, value))
                axis.fill_between(at[x], at["low"], at["high"], color=colour, alpha=0.2, lw=0)
                axis.plot(at[x], at["told"].cast(pl.Float64), "-", color=colour, lw=1.1)
            axis.set(xscale="log", yscale="log", title=", ".join(f"{k} = {v}" for k, v in panel.items()))
        for row in axes:
            row[0].set_ylabel(axis_name(y))
        for axis in axes[-1]:
            axis.set_xlabel(axis_name(x))
        handles, labels = axes.flat[0].get_legend_handles_labels()
        title = axis_name(colour_by) if colour_by else None
        _legend(figure, axes.flat[0], [*handles, Line2D([], [], color="#555555", lw=1.1)], [*labels, "theory"], title)
        if panel_by and len(every) > len(panels):
            figure.suptitle(f"{len(panels)} of {len(every):,} panels", fontsize=9)
    return figure


def _legend(figure: Figure, axis: Axes, handles: Sequence[Any], labels: Sequence[str], title: str | None) -> None:
    """In the plot, or beside it where it would cover the plot."""
    if len(labels) <= _BESIDE:
        axis.legend(handles, labels, loc="best", title=title, fontsize=7.5, title_fontsize=8)
        return
    columns = -(-len(labels) // 24)
    figure.set_figwidth(figure.get_figwidth() + 0.6 + columns * (0.4 + 0.05 * max(map(len, labels))))
    look: Any = {"fontsize": 6.5, "title_fontsize": 8, "labelspacing": 0.2, "ncols": columns}
    figure.legend(handles, labels, loc="outside right upper", title=title, **look)


def _value(name: str | None, value: Any) -> str | None:
    if name is None:
        return None
    return f"{value:,}" if isinstance(value, int) else str(value)


def learning_figure(frame: pl.DataFrame, y: str, time: str, colour_by: str, panel_by: Sequence[str]) -> Figure:
    """Mean of y against training time, one line per value of `colour_by`, one panel per `panel_by` combination.

    The shade is the range over replicates.
    """
    panels = frame.select(panel_by).unique().sort(panel_by).to_dicts() if panel_by else [{}]
    panels = panels[:6]
    values = frame[colour_by].unique().sort().to_list()
    shades = plt.get_cmap("viridis")(np.linspace(0.05, 0.9, len(values)))
    columns = min(len(panels), 2)
    lines = -(-len(panels) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            lines, columns, figsize=(PANEL[0] * columns, PANEL[1] * 0.85 * lines),
            sharex=True, sharey=True, squeeze=False, layout="constrained",
        )  # fmt: skip
        for axis, panel in itertools.zip_longest(axes.flat, panels):
            if panel is None:
                axis.set_visible(False)
                continue
            part = frame.filter(pl.all_horizontal(pl.lit(True), *(pl.col(k).eq_missing(v) for k, v in panel.items())))
            for value, shade in zip(values, shades, strict=True):
                own = part.filter((pl.col(colour_by) == value) & (pl.col(time) > 0))
                curve = own.group_by(time).agg(
                    mean=pl.col(y).mean(), low=pl.col(y).min(), high=pl.col(y).max()
                ).sort(time)  # fmt: skip
                axis.plot(
                    curve[time],
                    curve["mean"],
                    color=shade,
                    lw=1.4,
                    label=_value(colour_by, value),
                )
                axis.fill_between(curve[time], curve["low"], curve["high"], color=shade, alpha=0.15, lw=0)
            axis.set(xscale="log", yscale="log", title=", ".join(f"{k} = {v}" for k, v in panel.items()))
            axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.yaxis.set_minor_formatter(NullFormatter())
        for axis in axes[-1]:
            axis.set_xlabel(axis_name(time))
        for row in axes:
            row[0].set_ylabel(axis_name(y))
        axes.flat[0].legend(title=axis_name(colour_by), ncols=2, fontsize=7.5, title_fontsize=8)
    return figure


def calibration_figure(rows: pl.DataFrame, x: str, colour_by: str, audits: Sequence[Mapping[str, Any]]) -> Figure:
    """Left: the oracle's posterior against how often its classes occur. Right: classifiers' ECE against x."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(PANEL[0] * 2, PANEL[1]), layout="constrained")
        left.plot([0, 1], [0, 1], color="#888888", lw=1, ls=":")
        for i, audit in enumerate(audits):
            stated, seen, count = (np.array(c) for c in zip(*audit["reliability"], strict=True))
            error = 2 * np.sqrt(np.maximum(seen * (1 - seen), 1e-9) / count)
            label = f"temperature {audit['temperature']:g}"
            left.errorbar(stated, seen, error, fmt=MARKERS[i % 7], ms=3.5, lw=1, color=COLOURS[i % 7], label=label)
        left.set(xlabel="posterior of a class", ylabel="how often it is the generating class", title="oracle")
        if audits:
            left.legend(title="2 s.e. bars", title_fontsize=8)
        for i, value in enumerate(rows[colour_by].unique().sort().to_list()):
            part = rows.filter(pl.col(colour_by) == value).group_by(x).agg(
                mean=pl.col("ece").mean(), low=pl.col("ece").min(), high=pl.col("ece").max()
            ).sort(x)  # fmt: skip
            right.plot(
                part[x], part["mean"], MARKERS[i % 7] + "-", ms=4, color=COLOURS[i % 7], label=f"{colour_by} = {value}"
            )
            right.fill_between(part[x], part["low"], part["high"], color=COLOURS[i % 7], alpha=0.15, lw=0)
        right.set(
            xscale="log", xlabel=axis_name(x), ylabel="expected calibration error", title="classifiers, best snapshot"
        )
        right.legend()
    return figure


def exponent_text(group: GroupFit) -> str:
    """`alpha = 0.43 [0.40, 0.46]`; the exponent in attempts is beta."""
    name = next((name for name in ("alpha", "beta") if name in group.params), None)
    if name is None:
        return group.law.formula
    value = group.params[name]
    if name not in group.intervals:
        return f"{name} = {value:.3f}"
    low, high = group.intervals[name]
    return f"{name} = {value:.3f} [{low:.3f}, {high:.3f}]"
