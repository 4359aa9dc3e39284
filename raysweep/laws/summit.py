"""The highest point of a curve by a parabola through points around it: which ones, and what the parabola misses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from raysweep.laws.definition import Array
from raysweep.laws.draws import Draws

__all__ = ["Curves", "coarse", "half_width", "least_prominence", "second", "slack", "vertices"]

_REJECTED = 0.2  # chance at which a parabola that holds is rejected: a window that is too wide biases the location
_MOVED = 0.5  # standard deviations of its draws by which the vertex may differ between windows
_CUSP = 0.1  # see `slack`
_COARSE = 0.5  # of the distance between two scales, as `_CUSP`
_JUMP = 1.5  # see `slack`
_STEEPER = 2.0  # times, at most
_VALLEY = 0.001  # chance that noise makes a valley as deep, by Student's t: there are many scales to find one at
_EXACT = 1e-9  # residuals below this share of the curve's range are rounding


@dataclass(frozen=True)
class Curves:
    """Mean curves: the estimate and its draws.

    Attributes:
        x: Distinct scales, ascending, [scales].
        mean: [scales].
        drawn: [draws, scales].
        units: Units behind each draw.
        redrawn: How many draws lost a scale and were drawn again.
    """

    x: Array
    mean: Array
    drawn: Array
    units: int
    redrawn: int


def half_width(curves: Curves, top: int) -> int:
    """How many points on either side of the highest one belong to the window.

    A window is rejected where the parabola's residuals are larger than in most draws, whose residuals are taken around
    those of the mean curve: errors that scales share count only as far as they bend the curve. It is also rejected
    where its vertex moves from a narrower window's by more than draws do: a lopsided curve moves the vertex long before
    its residuals show (Lepski's rule).
    """
    u = np.log(curves.x)
    range_of = np.ptp(curves.mean)
    half, before = 1, [_located(u, curves, 1)]
    for wider in range(2, min(top, len(u) - 1 - top) + 1):
        window = slice(top - wider, top + wider + 1)
        basis, _ = np.linalg.qr(_powers(u[window] - u[top]))
        left = curves.mean[window] - basis @ (basis.T @ curves.mean[window])
        drawn = curves.drawn[:, window] - (curves.drawn[:, window] @ basis) @ basis.T - left
        spread = np.maximum(drawn.std(axis=0), _EXACT * range_of)
        misfit, usual = ((left / spread) ** 2).sum(), ((drawn / spread) ** 2).sum(axis=1)
        if misfit > np.quantile(usual, 1 - _REJECTED) + 1e-6:
            return half
        here = _located(u, curves, wider)
        for there in before:
            if abs(here[0] - there[0]) > _MOVED * (here[1] - there[1]).std() + _EXACT:
                return half
        half, before = wider, [*before, here]
    return half


def slack(curves: Curves, top: int, half: int, values: Array, drawn: Array) -> Array:
    """What widens the intervals of log location, height and prominence besides their draws: low and high, [3, 2].

    A parabola is not the curve. Where the curvature jumps at the peak, its vertex is off in proportion to the window,
    so that the move to the next wider window says how much and where to. Between two scales it differs from a cusp by
    up to a tenth of their distance, by half where the scales hardly resolve the peak, and the cusp is as high as its
    sides lead. And the highest of several noisy means is too high, by about as much again as the draws' is.
    """
    u = np.log(curves.x)
    drift = np.zeros(3)
    if half < min(top, len(u) - 1 - top):
        drift = max(_JUMP, half) * (values - vertices(u, curves.mean[None], half + 1)[0])
    elif half > 1:
        drift = half * (vertices(u, curves.mean[None], half - 1)[0] - values)
    chosen = values - drawn.mean(axis=0)
    chosen[0] = 0.0
    share = _COARSE if coarse(curves.mean, top) else _CUSP
    cusp = np.array([share * (u[top + 1] - u[top - 1]) / 2, 0.0, 0.0])
    low = np.minimum(drift, 0.0) + np.minimum(chosen, 0.0) - cusp
    high = np.maximum(drift, 0.0) + np.maximum(chosen, 0.0) + cusp
    if half == 1:
        high[1:] += max(0.0, _cusp(u, curves.mean, top) - values[1])
    return np.stack([low, high], axis=1)


def _cusp(u: Array, mean: Array, top: int) -> float:
    """How high a cusp beside the highest scale is: where its two sides meet; -inf where they show none.

    Each side goes on from two scales in a straight line, or as much steeper as it has become from the one before.
    """
    left = top if mean[top + 1] >= mean[top - 1] else top - 1  # the cusp lies between this scale and the next
    sides = []
    for end, away in ((left, -1), (left + 1, 1)):
        at = end + away * np.arange(3)
        at = at[(at >= 0) & (at < len(u))]
        slopes = np.diff(mean[at]) / np.diff(u[at])
        if not len(slopes) or slopes[0] * away >= 0:
            return -np.inf
        steeper = slopes[0] / slopes[1] if len(slopes) > 1 and slopes[1] * away < 0 else 1.0
        sides.append((u[end], mean[end], slopes[0] * np.clip(steeper, 1.0, _STEEPER)))
    (u1, y1, up), (u2, y2, down) = sides
    return float(y1 + up * (y2 - y1 - down * (u2 - u1)) / (up - down))


def coarse(mean: Array, top: int) -> bool:
    """Whether fewer than three scales in a row are above half of the peak's height, over the end of its side each."""
    left, right = (np.flatnonzero(one <= (mean[top] + one[-1]) / 2)[0] for one in (mean[top::-1], mean[top:]))
    return bool(left + right - 1 < 3)


def second(curves: Curves, top: int, half: int) -> int | None:
    """The highest scale beyond a valley on either side of the peak's window; None if no valley is deeper than noise."""
    found, most = [], float(stdtrit(curves.units - 1, 1 - _VALLEY))
    for side in (range(top - half - 1, -1, -1), range(top + half + 1, len(curves.x))):
        low = top
        for i in side:  # away from the peak
            if curves.mean[i] < curves.mean[low]:
                low = i
            depth = curves.mean[i] - curves.mean[low]
            error = max((curves.drawn[:, i] - curves.drawn[:, low]).std(), _EXACT * np.ptp(curves.mean))
            if depth > most * error:
                found.append(i)
    return max(found, key=lambda i: curves.mean[i], default=None)


def least_prominence(curves: Curves, top: int, sample: Draws, level: float) -> float:
    """The lower end of the prominence's interval.

    The highest of many noisy means is above those at the ends even on a flat curve. So it is the height above each end
    less the largest error over all scales, and then over those only whose means come that close to the highest.
    """
    errors, bounds = curves.drawn - curves.mean, []
    for end in (0, -1):
        bound, close = 0.0, np.ones(len(curves.x), dtype=bool)
        for _ in range(2):
            largest = (errors[:, close] - errors[:, [end]]).max(axis=1)
            drawn = Draws(np.zeros(1), -largest[:, None], sample.freedom, sample.scale)
            bound = float(drawn.interval_of(lambda v: v[..., 0], level)[0])
            close = curves.mean >= curves.mean[top] + bound
        bounds.append(curves.mean[top] - curves.mean[end] + bound)
    return float(min(bounds))


def _located(u: Array, curves: Curves, half: int) -> tuple[float, Array]:
    """The log location, and its draws [draws]."""
    return float(vertices(u, curves.mean[None], half)[0, 0]), vertices(u, curves.drawn, half)[:, 0]


def vertices(u: Array, curves: Array, half: int) -> Array:
    """(log location, height, prominence) of curves [draws, scales] at log scales u: [draws, 3]."""
    top = curves.argmax(axis=1)
    out = np.empty((len(curves), 3))
    for i in np.unique(top).tolist():
        mine = np.flatnonzero(top == i)
        at, height = np.full(mine.size, u[i]), curves[mine, i]
        window = slice(max(0, i - half), i + half + 1)
        t = u[window] - u[i]
        if 0 < i < len(u) - 1:
            c, b, a = np.linalg.lstsq(_powers(t), curves[mine, window].T, rcond=None)[0]
            with np.errstate(divide="ignore", invalid="ignore"):
                vertex = -b / (2 * a)
            good = (a < 0) & (vertex >= t[0]) & (vertex <= t[-1])  # else the highest point itself
            at = np.where(good, u[i] + vertex, at)
            height = np.where(good, c + b * vertex / 2, height)
        out[mine] = np.stack([at, height, height - curves[mine][:, [0, -1]].max(axis=1)], axis=1)
    return out


def _powers(t: Array) -> Array:
    return np.stack([np.ones_like(t), t, t**2], axis=1)
