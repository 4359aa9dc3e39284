"""The diagnostics of a fit as a figure: data, law and band; residuals; points held out and their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from raysweep.laws import Fit, GroupFit
from raysweep.laws.choice import held_out
from raysweep.laws.definition import Array
from raysweep.laws.points import Points
from raysweep.laws.predicted import Prediction, believed, predicted
from raysweep.laws.source import numbers
from raysweep.reports.style import COLOURS, NO_LABELS, PANEL, STYLE, axis_name, sample
from raysweep.reports.tables import title

__all__ = ["diagnostics_figure"]

_MOST = 6  # groups that are drawn
_LEVELS = 5  # curves of a law of two scales
_MAP = ListedColormap(plt.get_cmap("viridis")(np.linspace(0.0, 0.88, 256)))  # its yellow end is lost on white
Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]


def diagnostics_figure(
    fit: Fit, points: Points, labels: Mapping[str, str] = NO_LABELS, predict: Sequence[Mapping[str, float]] = ()
) -> Figure:
    """One row per group, for the first few that could be fitted: the law through its data, and the residuals.

    Hollow points were held out: the dashed law was fitted without them. A law of two scales is drawn as curves over the
    one with more values, at levels of the other, which is the colour; one of more scales as measurements against the
    law's values. Bands are of the mean law and, for one scale, of a new run. Laws reach to the points of scales
    `predict`, where diamonds have the interval of a new run and, thick, that of the mean if the law holds.
    """
    groups = [group for group in fit if group.error is None][:_MOST]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(groups),
            2,
            figsize=(PANEL[0] * 2.2, PANEL[1] * len(groups)),
            squeeze=False,
            layout="constrained",
            width_ratios=(1.25, 1.0),
        )
        for (left, right), group in zip(axes, groups, strict=True):
            rows = sample(points.of(group.group))
            x, y = np.stack([numbers(rows, name) for name in group.x]), numbers(rows, group.y)
            out = held_out(x, group.holdout.share) if group.holdout is not None else np.zeros(y.size, dtype=bool)
            drawn = (_curve, _surface, _agreement)[min(len(x), 3) - 1]
            drawn(left, group, x, y, out, labels, predicted(group, predict))
            _residuals(right, group, x, y, out, labels)
            left.set_title(title(group))
        if len(fit) > len(groups):
            figure.suptitle(f"the first {len(groups)} of {len(fit):,} groups", fontsize=9)
    return figure


def _curve(
    axis: Axes, group: GroupFit, x: Array, y: Array, out: Mask, labels: Mapping[str, str], ahead: Sequence[Prediction]
) -> None:
    """A law of one scale, with the bands of the mean and of a new run; beyond the data, of a law that may bend."""
    colour, grid = COLOURS[0], np.geomspace(*_reach(group, 0, ahead), 200)
    axis.plot(x[0, ~out], y[~out], "o", ms=3.5, color=colour, alpha=0.5, mew=0)
    if out.any():
        axis.plot(x[0, out], y[out], "o", ms=4, mfc="none", mec=colour, mew=0.8, alpha=0.8, label="held out")
    axis.plot(grid, group.predict(grid), color=colour, lw=1.6, label="all points")
    band, new = believed(group, grid[None]), believed(group, grid[None], new_run=True)
    for ends, alpha in ((new, 0.08), (band, 0.2)):
        if np.isfinite(ends).all():
            axis.fill_between(grid, ends[:, 0], ends[:, 1], color=colour, alpha=alpha, lw=0)
    if group.holdout is not None:
        axis.plot(grid, _second(group, grid[None]), "--", color=COLOURS[1], lw=1.4, label="without what was held out")
        axis.axvline(group.holdout.cut, color="#888888", lw=0.8, ls=":")
    _diamonds(axis, [one.x[group.x[0]] for one in ahead], ahead, [colour] * len(ahead))
    _logs(axis, axis_name(group.x[0], labels), axis_name(group.y, labels))
    axis.legend(loc="best")


def _reach(group: GroupFit, scale: int, ahead: Sequence[Prediction]) -> tuple[float, float]:
    """The range of one scale with the points that are predicted."""
    values = [*group.window[scale], *(one.x[group.x[scale]] for one in ahead)]
    return min(values), max(values)


def _diamonds(axis: Axes, at: Sequence[float], ahead: Sequence[Prediction], colours: Sequence[Any]) -> None:
    """What is predicted along the horizontal axis, with the intervals of a new run and of the mean if the law holds."""
    for i, (x, one, colour) in enumerate(zip(at, ahead, colours, strict=True)):
        if one.new_run is not None:
            axis.plot([x, x], one.new_run, color=colour, lw=1.1)
        if one.own is not None:
            axis.plot([x, x], one.own, color=colour, lw=2.2, alpha=0.6, label="if the law holds" if i == 0 else None)
        axis.plot([x], [one.value], "D", ms=4.5, mfc="white", mec=colour, label="predicted" if i == 0 else None)


def _surface(
    axis: Axes, group: GroupFit, x: Array, y: Array, out: Mask, labels: Mapping[str, str], ahead: Sequence[Prediction]
) -> None:
    """A law of two scales: curves over the first of them that has more values, coloured by the other."""
    values = [np.unique(scale) for scale in x]
    along = int(values[1].size > values[0].size)
    other = 1 - along
    norm = LogNorm(*_reach(group, other, ahead))
    colours = _MAP(norm(x[other]))
    axis.scatter(x[along, ~out], y[~out], s=16, c=colours[~out], alpha=0.75, lw=0)
    axis.scatter(x[along, out], y[out], s=20, facecolors="none", edgecolors=colours[out], lw=0.9)
    wanted = np.log(np.geomspace(*group.window[other], _LEVELS))
    nearest = np.abs(np.log(values[other]) - wanted[:, None]).argmin(axis=1)
    grid = np.geomspace(*group.window[along], 200)
    for i, level in enumerate(values[other][np.unique(nearest)]):
        # A curve ends about where its level's data do: beyond, it would show more than was measured.
        near = np.abs(np.log(x[other] / level)) <= 0.35
        ends = x[along, near].min() / 1.3, x[along, near].max() * 1.3
        part = grid[(grid >= ends[0]) & (grid <= ends[1])]
        scales = np.empty((2, part.size))
        scales[along], scales[other] = part, level
        colour = _MAP(norm(level))
        axis.plot(part, group.predict(scales), color=colour, lw=1.5, label="all points" if i == 0 else None)
        _band(axis, group, part, scales, colour)
        if group.holdout is not None:
            name = "without what was held out" if i == 0 else None
            axis.plot(part, _second(group, scales), "--", color=colour, lw=1.2, label=name)
    for one in ahead:  # a curve of its own, from where the data begin
        level = one.x[group.x[other]]
        part = np.geomspace(*_reach(group, along, [one]), 200)
        scales = np.empty((2, part.size))
        scales[along], scales[other] = part, level
        axis.plot(part, group.predict(scales), "-.", color=_MAP(norm(level)), lw=1.0)
        _band(axis, group, part, scales, _MAP(norm(level)))
    places = [one.x[group.x[along]] for one in ahead]
    _diamonds(axis, places, ahead, [_MAP(norm(one.x[group.x[other]])) for one in ahead])
    bar = axis.figure.colorbar(plt.cm.ScalarMappable(norm, _MAP), ax=axis, pad=0.02, aspect=30)
    bar.ax.set_title(axis_name(group.x[other], labels), fontsize=8, loc="left")
    bar.outline.set_visible(False)
    _logs(axis, axis_name(group.x[along], labels), axis_name(group.y, labels))
    if out.any():
        axis.plot([], [], "o", ms=4.5, mfc="none", mec="#555555", mew=0.8, label="held out")
    legend = axis.legend(loc="best")
    for line in legend.get_lines():
        line.set_color("#555555")


def _agreement(
    axis: Axes, group: GroupFit, x: Array, y: Array, out: Mask, labels: Mapping[str, str], ahead: Sequence[Prediction]
) -> None:
    """A law of more than two scales: the measurements against the law's values; on the line they are equal."""
    law, colour = group.predict(x), COLOURS[0]
    places = [one.value for one in ahead]
    ends = [min([law.min(), *places]), max([law.max(), *places])]
    axis.plot(ends, ends, color=colour, lw=1.6, label="all points")
    axis.plot(law[~out], y[~out], "o", ms=3.5, color=colour, alpha=0.5, mew=0)
    if out.any():
        axis.plot(law[out], y[out], "o", ms=4, mfc="none", mec=colour, mew=0.8, alpha=0.8, label="held out")
    _diamonds(axis, places, ahead, [colour] * len(ahead))
    name = axis_name(group.y, labels)
    _logs(axis, f"{name} by the law", name)
    axis.legend(loc="best")


def _band(axis: Axes, group: GroupFit, along: Array, scales: Array, colour: Any) -> None:
    """The band of the mean at scales, [axes, points], over the one that is drawn, where there are draws."""
    ends = believed(group, scales)
    if np.isfinite(ends).all():
        axis.fill_between(along, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, lw=0)


def _residuals(axis: Axes, group: GroupFit, x: Array, y: Array, out: Mask, labels: Mapping[str, str]) -> None:
    """Residuals from the law, in per cent; for points held out, also from the law fitted without them."""
    law = group.predict(x)
    at, name = (x[0], group.x[0]) if len(x) == 1 else (law, f"{group.y} by the law")
    off = 100 * np.log(y / law)
    axis.axhline(0.0, color="#555555", lw=0.9)
    axis.plot(at[~out], off[~out], "o", ms=3.5, color=COLOURS[0], alpha=0.5, mew=0, label="from the law of all points")
    axis.plot(at[out], off[out], "o", ms=4, mfc="none", mec=COLOURS[0], mew=0.8, alpha=0.8)
    if out.any():
        second = 100 * np.log(y[out] / _second(group, x[:, out]))
        label = "held out: from the law without them"
        axis.plot(at[out], second, "x", ms=4, color=COLOURS[1], mew=0.9, alpha=0.8, label=label)
    _logs(axis, axis_name(name, labels), f"100 log({axis_name(group.y, labels)} / law)", yscale="linear")
    high = 1.35 * max(np.abs(axis.get_ylim()))
    axis.set_ylim(-high, high)
    axis.legend(loc="upper left", fontsize=7.5)


def _second(group: GroupFit, x: Array) -> Array:
    """The law without what was held out, at scales [axes, points]."""
    assert group.holdout is not None
    return group.law.predict(x, np.array([group.holdout.params[name] for name in group.law.names]))


def _logs(axis: Axes, x: str, y: str, yscale: str = "log") -> None:
    """Logarithmic axes; plain numbers where an axis spans less than a factor of 30."""
    axis.set(xscale="log", yscale=yscale, xlabel=x, ylabel=y)
    for side, ends in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim()))[: 2 if yscale == "log" else 1]:
        if ends[0] > 0 and ends[1] / ends[0] < 30:
            side.set_major_locator(
                LogLocator(subs=(1.0, 2.0, 5.0)) if ends[1] / ends[0] > 5 else MaxNLocator(6, steps=[1, 2, 5, 10])
            )
            side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            side.set_minor_locator(NullLocator())
