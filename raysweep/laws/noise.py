"""Noise: how the spread of log y about a law changes with scale, and weights that follow it.

The log of the variance is taken to be linear in one log scale (or, of several, in the log of their product). Its slope
comes from a gamma regression of squared residuals on scale, freed of what the fit took from them: for normal errors,
restricted maximum likelihood (Smyth & Verbyla 1999). It counts only where a test finds it, a t test of the slope of
absolute residuals (Glejser 1969), which heavy tails hardly mislead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

from raysweep.laws.batch import Group, solve_all
from raysweep.laws.definition import Array
from raysweep.laws.deviation import departure
from raysweep.laws.group import lack_of_fit
from raysweep.laws.growth import Growth
from raysweep.laws.remains import remains
from raysweep.laws.resampling import tangent

__all__ = ["followed", "growth", "ignored"]

_FOUND = 0.01  # p-value below which the spread is taken to change with scale
_HINTED = 0.6  # p-value below which draws and bands follow it even so; found by coverage
_MISFIT = 0.05  # p-value of lack of fit below which replicates alone tell the spread
_FEWEST = 5.0  # degrees of freedom below which nothing is tested
_LEAST, _MOST = 1.25, 100.0  # largest spread over the smallest that counts, and that is believed
_ALL = 0.99  # a point of which the fit took this share, or more, tells nothing
_EXACT = 1e-8  # residuals below this are rounding errors
_DEPENDENT = {"few_seeds", "crossed_seeds"}  # notes of points that are correlated: a few curves' swings are no spread
_ROUNDS = 3  # alternations of fit and weights
_STEPS, _SETTLED = 50, 1e-6


def followed(groups: Sequence[Group], names: Sequence[str], huber: float | None) -> list[Group]:
    """The groups, whose scales are called `names`, with how their spread changes; where that is found, weighted by its
    inverse square and fitted again."""
    out, base = list(groups), [g.weights / g.weights.mean() if g.error is None else g.weights for g in groups]
    known = {i: one for i, group in enumerate(groups) if (one := growth(group, base[i])) is not None}
    for i, one in known.items():
        out[i] = replace(out[i], growth=one)
    found = [i for i, one in known.items() if one.found]
    for again in reversed(range(_ROUNDS)):
        some = [_weighted(out[i], base[i]) for i in found]
        solved = solve_all(some, [g.weights for g in some], huber)
        for i, group, (values, status) in zip(found, some, solved, strict=True):
            fitted = replace(group, values=values, status=status)
            out[i] = _regrown(fitted, base[i]) if again else _noted(fitted, names)
    return out


def ignored(group: Group) -> dict[str, str]:
    """What is to be said of a fit whose weights follow no spread, where the spread changes."""
    one = None if group.error is not None else growth(group, group.weights / group.weights.mean())
    if one is None or not one.found:
        return {}
    text = (
        f"The spread about the law {'grows' if one.slope > 0 else 'falls'} with scale, by a factor of "
        f"{max(one.factor, 1 / one.factor):.2g} (t test, p = {one.p_value:.1g}). A fit with shared parameters or "
        "priors does not follow it: points count alike, and the interval of a new run takes the mean spread. Compare a "
        "fit without them."
    )
    return {"noise_not_followed": text}


def growth(group: Group, base: Array) -> Growth | None:
    """How the spread of a fit's residuals changes with scale; None where nothing hints that it does.

    Args:
        group: Fitted with the weights `base`, mean 1, [points].
    """
    if (
        group.error is not None
        or group.data.x_se is not None
        or not (base > 0).all()
        or _DEPENDENT & group.data.details.keys()
    ):
        return None
    units = _units(group, base)
    if units.free.sum() < _FEWEST or math.sqrt(float((units.size**2).mean())) < _EXACT:
        return None
    u = np.log(group.data.x)
    tried = [(_p_value(units, np.array(along) @ u, group.run), along) for along in _directions(len(u))]
    p_value, along = min(tried)
    p_value *= len(tried)  # Bonferroni
    if p_value >= _HINTED:
        return None
    v = np.array(along) @ u
    window = float(v.min()), float(v.max())
    start = Growth(along, 0.0, 0.0, float(v.mean()), window, p_value, found=p_value < _FOUND)
    out = _sloped(start, units)
    if max(out.factor, 1 / out.factor) < _LEAST:
        return None
    # Only a spread that falls: large errors at large scales look like a bend, too, and to miss them makes intervals of
    # larger scales too narrow.
    return None if out.slope < 0 and _bends(group, base) else out


def _bends(group: Group, base: Array) -> bool:
    """Whether residuals follow a smooth curve: what a wrong law leaves is largest at the ends, and no noise."""
    data, u = group.data, np.log(group.data.x)
    left = remains(u, np.log(data.y) - np.log(group.law.predict(data.x, group.values)), base)
    if left.spare:  # replicates tell the spread by themselves
        return False
    p_value = departure(group.law, group.values, left)
    return p_value is not None and p_value < _MISFIT


def _weighted(group: Group, base: Array) -> Group:
    assert group.growth is not None
    weights = base / group.growth.at(group.data.x) ** 2
    return replace(group, weights=weights / weights.mean())


def _regrown(group: Group, base: Array) -> Group:
    assert group.growth is not None
    return replace(group, growth=_sloped(group.growth, _units(group, base)))


def _noted(group: Group, names: Sequence[str]) -> Group:
    one = group.growth
    assert one is not None
    along = " times ".join(name for name, there in zip(names, one.along, strict=True) if there)
    code, verb = ("noise_grows", "grows") if one.slope > 0 else ("noise_falls", "falls")
    text = (
        f"The spread about the law {verb} with {along}, by a factor of {max(one.factor, 1 / one.factor):.2g} over the "
        f"data (t test, p = {one.p_value:.1g}). Points are weighted by its inverse square, and intervals and "
        "predictions follow it."
    )
    return replace(group, details={**group.details, code: text})


def _directions(axes: int) -> Iterator[tuple[float, ...]]:
    """Each scale by itself, and the product of all."""
    for axis in range(axes):
        yield tuple(float(axis == other) for other in range(axes))
    if axes > 1:
        yield (1.0,) * axes


@dataclass(frozen=True)
class _Units:
    """Points whose spread can be seen.

    Attributes:
        size: Absolute residuals over the root of what the fit left of them, [points].
        free: Degrees of freedom of each, in (0, 1], [points].
        u: Log scales, [axes, points].
        rows: Their places among the group's points, [points].
    """

    size: Array
    free: Array
    u: Array
    rows: npt.NDArray[np.int64]


def _units(group: Group, base: Array) -> _Units:
    data, u, t = group.data, np.log(group.data.x), np.log(group.data.y)
    centre, _, q = tangent(group.law, u, t, group.weights, group.values)
    residual, taken = (t - centre) * np.sqrt(base), (q**2).sum(axis=1)
    p_value = lack_of_fit(data.x, residual, len(group.law.parameters), group.run)
    if p_value is not None and p_value < _MISFIT:  # what a wrong law leaves is no noise: deviations from means
        at = np.unique(data.x, axis=1, return_inverse=True)[1].ravel()
        total = np.bincount(at, base)
        residual = (t - (np.bincount(at, base * t) / total)[at]) * np.sqrt(base)
        taken = base / total[at]
    rows = np.flatnonzero(taken < _ALL)
    free = 1.0 - taken[rows]
    return _Units(np.abs(residual[rows]) / np.sqrt(free), free, u[:, rows], rows)


def _p_value(units: _Units, v: Array, run: npt.NDArray[np.int64]) -> float:
    """That of the t test that absolute residuals do not change with v, [all points]; by runs, where these have several
    points each."""
    v, cluster = v[units.rows], np.unique(run[units.rows], return_inverse=True)[1]
    weight = units.free / units.free.sum()
    away = v - weight @ v
    spread = float(weight @ away**2)
    if spread <= 0:
        return 1.0
    level = float(weight @ units.size)
    slope = float(weight @ (units.size * away)) / spread
    rest = units.size - level - slope * away
    clusters = int(cluster.max()) + 1
    if clusters < v.size:
        spare = clusters - 1.0
        scores = np.bincount(cluster, weight * (units.size - level) * away)
        error = math.sqrt(float((scores**2).sum())) / spread
    else:
        spare = float(units.free.sum()) - 1.0
        error = math.sqrt(float(weight @ rest**2) / spare / spread)
    return float(2 * stdtr(spare, -abs(slope) / error)) if spare > 0 and error > 0 else 1.0


def _sloped(start: Growth, units: _Units) -> Growth:
    """The slope of the log variance, with its standard error: Fisher scoring of a gamma regression."""
    v = np.array(start.along) @ units.u
    weight = units.free / units.free.sum()
    away = v - weight @ v
    spread = float(weight @ away**2)
    most = 2 * math.log(_MOST) / (start.window[1] - start.window[0])
    slope = start.slope
    for _ in range(_STEPS):
        ratio = units.size**2 * np.exp(-slope * away)
        step = float(weight @ ((ratio / (weight @ ratio) - 1.0) * away)) / spread
        slope, before = min(max(slope + step, -most), most), slope
        if abs(slope - before) < _SETTLED * most:
            break
    return replace(start, slope=slope, error=math.sqrt(2.0 / (float(units.free.sum()) * spread)))
