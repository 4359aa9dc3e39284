"""Figures of a sweep: frames and fits in, matplotlib Figures out. Nothing here reads or writes files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from raysweep.display import Companion
from raysweep.display import Figure as Shown
from raysweep.laws import Fit, GroupFit
from raysweep.laws.notes import group_name
from raysweep.laws.points import Points
from raysweep.oracle.audits import place
from raysweep.reports.style import (
    COLOURS,
    MARKERS,
    MOST_PANELS,
    NO_LABELS,
    PANEL,
    STYLE,
    axis_name,
    differing,
    looks,
    panelled,
    sample,
    value_label,
)
from raysweep.reports.tables import parameter

__all__ = ["MOST", "law_figure", "law_panels", "metric_figure", "theory_figure"]

MOST = 28  # groups that are drawn in a panel
_BESIDE = 9  # entries of a legend that fit into a plot
_WIDE = 48  # letters of an entry that fit into a plot


def law_panels(fit: Fit, by: Sequence[str]) -> list[tuple[Any, list[GroupFit]]]:
    """The panels of a law's figure: the value of the last by-column, None where it does not vary, and its groups.

    Of many groups and panels only the first are drawn.
    """
    last = by[-1] if len(by) > 1 else None
    values = sorted({group.group[last] for group in fit}, key=_ordered)[:MOST_PANELS] if last else []
    if last is None or len(values) == 1:
        return [(None, [*fit.groups[:MOST]])]
    return [(value, [group for group in fit if group.group[last] == value][:MOST]) for value in values]


def _ordered(value: Any) -> tuple[bool, Any]:
    """Numbers by their size, then words."""
    return (False, value) if isinstance(value, int | float) else (True, str(value))


def law_figure(
    fit: Fit,
    points: Points,
    companions: Sequence[Companion] = (),
    expected: str | None = None,
    labels: Mapping[str, str] = NO_LABELS,
) -> Figure:
    """Measured points, the fitted law and its interval band, one panel per value of the last by-column.

    Args:
        fit: A fit of y on one scale; `law_panels` says which groups are drawn.
        companions: Columns drawn beside it, in the same panels.
        expected: Column drawn as a dashed line (the theory of y).
    """
    hollow = [companion.column for companion in companions if companion.drawn == "means"]
    names, (x,), panels = points.by, fit.x, law_panels(fit, points.by)
    drawn = [group for _, groups in panels for group in groups]
    # A column that is the same in every group would only make the legend too wide for the plot.
    distinct = differing([group.group for group in drawn]) if len(drawn) > 1 else names
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(PANEL[0] * len(panels), PANEL[1]), sharey=True, squeeze=False, layout="constrained"
        )
        for axis, (panel, groups) in zip(axes[0], panels, strict=True):
            shown = [n for n in distinct if panel is None or n != names[-1]]
            for group, look in zip(groups, looks(len(groups)), strict=True):
                name = group_name({n: group.group[n] for n in shown}, " = ")
                _law_series(axis, group, points.of(group.group), look, name, hollow, expected)
            for floor in [companion.column for companion in companions if companion.drawn == "floor"]:
                part = points.frame.filter(pl.col(names[-1]) == panel) if panel is not None else points.frame
                level = part.group_by(x).agg(pl.col(floor).mean()).filter(pl.col(floor) > 0).sort(x)
                if level.height:  # a logarithmic axis has no 0
                    axis.plot(level[x], level[floor], color="#888888", lw=1.2, ls=":", label=axis_name(floor, labels))
            axis.set(
                xscale="log",
                yscale="log",
                xlabel=axis_name(x, labels),
                title=f"{names[-1]} = {panel}" if panel is not None else "",
            )
            entries = axis.get_legend_handles_labels()[1]  # none where no group was fitted
            longest = max(map(len, entries), default=0)
            if len(entries) > _BESIDE or longest > _WIDE:
                axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=6, labelspacing=0.2)
                figure.set_figwidth(figure.get_figwidth() + max(2.2, 0.4 + 0.045 * longest))
            elif entries:
                axis.legend(loc="best")
        also = f"  (hollow: {', '.join(axis_name(name, labels) for name in hollow)})" if hollow else ""
        axes[0][0].set_ylabel(axis_name(fit.y, labels) + also)
        if len(drawn) < len(fit):
            figure.suptitle(f"{len(drawn)} of {len(fit):,} groups", fontsize=9)
    return figure


def _law_series(
    axis: Axes,
    group: GroupFit,
    rows: pl.DataFrame,
    look: tuple[Any, str],
    name: str,
    hollow: Sequence[str],
    expected: str | None,
) -> None:
    colour, marker = look
    (x,) = group.x
    shown, failed = sample(rows), group.error is not None or not group.params
    label = f"{name or group.law.name}: not fitted" if failed and rows.height else None
    axis.plot(
        shown[x].to_numpy(), shown[group.y].to_numpy(), marker, ms=3.2, color=colour, alpha=0.45, mew=0, label=label
    )
    for total in hollow:
        mean = rows.group_by(x).agg(pl.col(total).mean()).sort(x)
        axis.plot(mean[x], mean[total], marker, ms=4.5, mfc="none", mec=colour, mew=0.9, ls="-", lw=0.5, color=colour)
    if expected is not None:
        theory = rows.group_by(x).agg(pl.col(expected).median()).sort(x)
        axis.plot(theory[x], theory[expected].cast(pl.Float64), "--", color=colour, lw=1.1)
    if failed:
        return
    grid = np.geomspace(*group.window[0], 100)
    label = f"{name or group.law.name}: {exponent_text(group)}"
    axis.plot(grid, group.predict(grid), color=colour, lw=1.6, marker=marker, ms=4, mew=0, markevery=[], label=label)
    band = group.band(grid)
    if np.isfinite(band).all():
        axis.fill_between(grid, band[:, 0], band[:, 1], color=colour, alpha=0.18, lw=0)


def theory_figure(points: Points, expected: str, labels: Mapping[str, str] = NO_LABELS) -> Figure:
    """Measurements as medians with the quartiles of replicates, and the theory as lines.

    Colours are the by-column with most values; each combination of the others has a panel, for the first few.

    Args:
        points: Points of y on one scale, with the column `expected`.
        expected: Column of the theory's value of y; null where there is none.
    """
    (x,), y, frame = points.x, points.y, points.frame
    colour_by = max(points.by, key=lambda name: frame[name].n_unique(), default=None)
    panel_by = [name for name in points.by if name != colour_by]
    found = frame.group_by(panel_by or pl.lit(0)).agg(_theory=pl.col(expected).is_not_null().any())
    found = found.sort("_theory", *panel_by, descending=[True, *(False for _ in panel_by)])  # those with a theory first
    every = found.select(panel_by).to_dicts() if panel_by else [{}]
    values = frame[colour_by].unique().sort().to_list() if colour_by else [None]
    seen, shown = looks(len(values)), differing(every)
    columns = 2 if len(every) == 4 else min(len(every), 3)
    with plt.rc_context(STYLE):
        figure, panels = panelled(every, columns, axis_name(x, labels), axis_name(y, labels))
        for axis, panel in panels:
            part = points.of(panel)
            for value, (colour, marker) in zip(values, seen, strict=True):
                own = part.filter(pl.col(colour_by).eq_missing(pl.lit(value))) if colour_by else part
                at = own.group_by(x).agg(
                    low=pl.col(y).quantile(0.25), middle=pl.col(y).median(), high=pl.col(y).quantile(0.75),
                    _theory=pl.col(expected).median(),
                ).sort(x)  # fmt: skip
                axis.plot(at[x], at["middle"], marker, ms=3.2, color=colour, mew=0, label=value_label(colour_by, value))
                axis.fill_between(at[x], at["low"], at["high"], color=colour, alpha=0.2, lw=0)
                axis.plot(at[x], at["_theory"].cast(pl.Float64), "-", color=colour, lw=1.1)
            axis.set(xscale="log", yscale="log", title=group_name({n: panel[n] for n in shown}, " = "))
        first = panels[0][0]
        handles, entries = first.get_legend_handles_labels()
        name = axis_name(colour_by, labels) if colour_by else None
        _legend(figure, first, [*handles, Line2D([], [], color="#555555", lw=1.1)], [*entries, "theory"], name)
    return figure


def _legend(figure: Figure, axis: Axes, handles: Sequence[Any], labels: Sequence[str], title: str | None) -> None:
    """A legend in the plot, or beside it where it would cover the plot."""
    if len(labels) <= _BESIDE:
        axis.legend(handles, labels, loc="best", title=title, fontsize=7.5, title_fontsize=8)
        return
    columns = -(-len(labels) // 24)
    figure.set_figwidth(figure.get_figwidth() + 0.6 + columns * (0.4 + 0.05 * max(map(len, labels))))
    look: Any = {"fontsize": 6.5, "title_fontsize": 8, "labelspacing": 0.2, "ncols": columns}
    figure.legend(handles, labels, loc="outside right upper", title=title, **look)


def metric_figure(
    rows: pl.DataFrame,
    shown: Shown,
    x: str,
    by: Sequence[str],
    audits: Sequence[Mapping[str, Any]] = (),
    labels: Mapping[str, str] = NO_LABELS,
) -> Figure:
    """A metric against x: mean and range for each group; on the left the world's reliability, if it is shown.

    Args:
        by: Columns that tell groups apart; of many groups only the first are drawn.
        audits: Audits of the world whose reliability is drawn.
    """
    panels = 1 + shown.reliability
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, panels, figsize=(PANEL[0] * panels, PANEL[1]), squeeze=False, layout="constrained"
        )
        if shown.reliability:
            _reliability(axes[0][0], audits)
        right = axes[0][-1]
        groups = rows.select(by).unique().sort(by).to_dicts() if by else [{}]
        drawn = groups[:MOST]
        for group, (colour, marker) in zip(drawn, looks(len(drawn)), strict=True):
            own = rows.filter(pl.all_horizontal(pl.lit(True), *(pl.col(k).eq_missing(v) for k, v in group.items())))
            part = own.group_by(x).agg(
                mean=pl.col(shown.y).mean(), low=pl.col(shown.y).min(), high=pl.col(shown.y).max()
            ).sort(x)  # fmt: skip
            label = ", ".join(filter(None, (value_label(k, v) for k, v in group.items() if v is not None)))
            right.plot(part[x], part["mean"], marker=marker, ms=4, color=colour, label=label)
            right.fill_between(part[x], part["low"], part["high"], color=colour, alpha=0.15, lw=0)
        right.set(xscale="log", xlabel=axis_name(x, labels), ylabel=axis_name(shown.y, labels), title=shown.title)
        if by:
            handles, entries = right.get_legend_handles_labels()
            _legend(figure, right, handles, entries, ", ".join(axis_name(name, labels) for name in by))
    return figure


def _reliability(axis: Axes, audits: Sequence[Mapping[str, Any]]) -> None:
    """The oracle's posterior against the frequency of its classes."""
    axis.plot([0, 1], [0, 1], color="#888888", lw=1, ls=":")
    for i, audit in enumerate(audits):
        stated, seen, count = (np.array(c) for c in zip(*audit["reliability"], strict=True))
        error = 2 * np.sqrt(np.maximum(seen * (1 - seen), 1e-9) / count)
        label = place(audit["at"]).removeprefix(" at ")
        axis.errorbar(stated, seen, error, fmt=MARKERS[i % 7], ms=3.5, lw=1, color=COLOURS[i % 7], label=label)
    axis.set(xlabel="posterior of a class", ylabel="how often it is the generating class", title="oracle")
    if audits:
        axis.legend(title="2 s.e. bars", title_fontsize=8)


def exponent_text(group: GroupFit) -> str:
    """`alpha = 0.43 [0.40, 0.46]`; the exponent in attempts is beta."""
    name = next((name for name in ("alpha", "beta") if name in group.params), None)
    if name is None:
        return group.law.formula
    value, shown = group.params[name], parameter(group, name)
    if name not in group.intervals:
        return f"{shown} = {value:.3f}"
    low, high = group.intervals[name]
    return f"{shown} = {value:.3f} [{low:.3f}, {high:.3f}]"
