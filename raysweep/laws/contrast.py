"""Two curves compared over x: their ratio or difference with bands, and where they cross.

The pointwise band holds at each x by itself. The simultaneous one holds the whole true curve at the nominal level: the
largest deviation of a draw over all x, in units of the pointwise half-widths (a max-t band; Montiel Olea &
Plagborg-Moller 2019), decides how far those are stretched. Half-widths above and below the estimate may differ.
With few clusters, each of which spans several x, the spread at each x is judged from the same few curves but differs
from x to x, which draws do not show: as Hotelling's T^2 exceeds a chi-squared, so is the stretch enlarged (found by
coverage, tests/benchmarks/laws_compare.py).

The confidence set of crossings inverts a band: it holds every x at which the band does not exclude equality. It may be
empty, an interval, several, or reach beyond the range of x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtri, stdtrit

from raysweep.laws.definition import Array
from raysweep.laws.differences import Deviations

__all__ = ["Contrast", "Crossings", "contrast", "crossings"]

_LEAST = 1e-9  # share of a band's width that each of its sides has at least
_DIRECTIONS = 50.0  # more than two laws of a dozen parameters have
_REST = 0.5  # degrees of freedom at least: with two or three clusters the band is all but unbounded


@dataclass(frozen=True)
class Crossings:
    """Where two curves may cross, by a band of their difference over x.

    Attributes:
        estimates: Where the estimated curves cross, increasing.
        sets: The intervals of x at which the band holds 0; a low of 0 or a high of inf is one that nothing bounds.
        before, after: The sign of the difference at the lowest and the highest x; 0 where the band holds 0 there.
        between: Its sign between the intervals.
        x: The lowest and the highest x.
    """

    estimates: tuple[float, ...]
    sets: tuple[tuple[float, float], ...]
    before: int
    after: int
    between: tuple[int, ...]
    x: tuple[float, float]

    def words(self, x: str, one: str, other: str, least: float = 0.0) -> str:
        """What the set says, in a sentence without its full stop.

        Args:
            x: What x is called.
            one, other: The arms: where the difference is negative, `one` is below `other`.
            least: The least x that there can be.
        """

        def order(sign: int) -> str:
            return f"{one} is below {other}" if sign < 0 else f"{one} is above {other}"

        ends = f"{x} from {self.x[0]:.4g} to {self.x[1]:.4g}"
        if not self.sets:
            return f"they do not cross: {order(self.before)} at every {ends}"
        if self.sets == ((0.0, math.inf),):
            return f"equality is excluded at no {ends}: they may cross anywhere, or nowhere (an unbounded set)"
        return "; ".join(self._part(i, x, order, least) for i in range(len(self.sets)))

    def _part(self, i: int, x: str, order: Callable[[int], str], least: float) -> str:
        low, high = self.sets[i]
        signs = (self.before, *self.between, self.after)
        left, right = signs[i], signs[i + 1]
        if low == 0.0:
            end = f"; above, {order(right)}"
            if self.x[0] <= least:
                return f"they may cross between {x} = {least:.4g} and {high:.4g}{end}"
            return f"they may cross at or below {x} = {high:.4g} (a set that is unbounded below){end}"
        if high == math.inf:
            return f"they may cross at or above {x} = {low:.4g} (a set that is unbounded above); below, {order(left)}"
        between = f"between {x} = {low:.4g} and {high:.4g}"
        if left != right:
            return f"they cross {between}: below, {order(left)}, and above, {order(right)}"
        return f"they may touch or cross twice {between}: {order(left)} on both sides"


@dataclass(frozen=True)
class Contrast:
    """A difference of two curves over x.

    Attributes:
        x: Increasing, [grid].
        value: The first's less the second's, of logs where the ratio is compared, [grid].
        pointwise, simultaneous: Low and high of each, [grid, 2].
        stretch: How many times as wide the simultaneous band is.
    """

    x: Array
    value: Array
    pointwise: Array
    simultaneous: Array
    stretch: float

    def crossings(self, simultaneous: bool = True) -> Crossings:
        """Where the curves may cross: every crossing at once, or, by the pointwise band, a single one."""
        return crossings(self.x, self.value, self.simultaneous if simultaneous else self.pointwise)


def contrast(x: Array, found: Deviations, level: float, freedom: float = math.inf) -> Contrast:
    """The bands of a difference of two curves.

    Args:
        x: Increasing, [grid].
        found: The difference at each x, [grid], with its draws.
        level: Nominal coverage.
        freedom: Degrees of freedom of the spread between clusters that span several x; infinite where each point has an
            error of its own, whose spread is one number.
    """
    ends = found.interval(level)
    size = np.stack([found.centre - ends[:, 0], ends[:, 1] - found.centre])
    size = np.maximum(size, np.maximum(_LEAST * size.sum(axis=0), 1e-300))
    with np.errstate(invalid="ignore"):
        share = np.maximum(-found.away / size[0], found.away / size[1])
        farthest = np.where(np.isnan(share), np.inf, share).max(axis=1)
    stretch = _of_few(max(1.0, float(np.quantile(farthest, level, method="weibull"))), level, freedom)
    wide = np.stack([found.centre - stretch * size[0], found.centre + stretch * size[1]], axis=1)
    return Contrast(x, found.centre, ends, wide, stretch)


def _of_few(stretch: float, level: float, freedom: float) -> float:
    """The stretch of a band whose draws say `stretch`, with this many degrees of freedom between clusters.

    A curve that moves in k independent directions has the stretch sqrt(k F(k, freedom)) / t where one number judges the
    spread; that k is looked for. Where each direction judges its own, Hotelling's T^2 takes the place of k F.
    """
    if not math.isfinite(freedom) or not math.isfinite(stretch):
        return stretch
    t = float(stdtrit(freedom, (1 + level) / 2))

    def together(k: float) -> float:
        return math.sqrt(k * fdtri(k, freedom, level)) / t

    low, high = 1.0, _DIRECTIONS
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if together(middle) < stretch else (low, middle)
    rest = max(freedom - low + 1, _REST)
    return max(stretch, math.sqrt(low * freedom / rest * fdtri(low, rest, level)) / t)


def crossings(x: Array, value: Array, band: Array) -> Crossings:
    """The x at which a band holds 0, with ends interpolated in log x.

    Args:
        x: Increasing, positive, [grid].
        value: The difference, [grid].
        band: Its low and high, [grid, 2].
    """
    sign = np.where(band[:, 0] > 0, 1, np.where(band[:, 1] < 0, -1, 0))
    u = np.log(x)
    pieces = np.flatnonzero(np.diff(sign, prepend=sign[0] - 1))  # where a stretch of equal signs begins
    sets, between = [], []
    for first, last in zip(pieces.tolist(), [*(pieces[1:] - 1).tolist(), x.size - 1], strict=True):
        if sign[first]:
            if first > 0 and last < x.size - 1:
                between.append(int(sign[first]))
            if first and sign[first - 1] == -sign[first]:  # from one side to the other between two points of the grid
                sets.append((float(x[first - 1]), float(x[first])))
            continue
        low = 0.0 if first == 0 else math.exp(_zero(u, band, first - 1, first, int(sign[first - 1])))
        high = math.inf if last == x.size - 1 else math.exp(_zero(u, band, last, last + 1, int(sign[last + 1])))
        sets.append((low, high))
    change = np.flatnonzero(np.sign(value[1:]) * np.sign(value[:-1]) < 0)
    share = value[change] / (value[change] - value[change + 1])
    estimates = np.exp(u[change] + share * (u[change + 1] - u[change]))
    estimates = np.sort(np.concatenate([estimates, x[value == 0]]))
    ends = (float(x[0]), float(x[-1]))
    return Crossings(tuple(estimates.tolist()), tuple(sets), int(sign[0]), int(sign[-1]), tuple(between), ends)


def _zero(u: Array, band: Array, i: int, j: int, sign: int) -> float:
    """Where the edge of the band that excludes 0 at one of two neighbours reaches it."""
    edge = band[:, 0] if sign > 0 else band[:, 1]
    return float(u[i] + (u[j] - u[i]) * edge[i] / (edge[i] - edge[j]))
