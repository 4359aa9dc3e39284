"""Which runs next: optimal design on a linearised law, intervals that allow for stopping, and a test for a bent law.

A law y = f(x; parameters) with errors in log y is linearised at its estimate. What matters is then a weighted sum of
parameter errors: an exponent's, or that of log y at some scale. `choose` adds the runs that shrink its variance most
per unit of cost (a greedy c-optimal design with costs, Pukelsheim 2006), `next_round` holds part of the cost on the
whole grid, because an optimal design sees next to nothing between and above its own few scales.

All functions work on many problems at once: arrays have any leading dimensions, written `...`. A point is a distinct
scale (or setting) of the grid. Everything is plain NumPy, a function of its arguments alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import fdtrc, stdtr, stdtrit

__all__ = [
    "BENT",
    "CONFIRMATIONS",
    "GRID_SHARE",
    "LEAST_FREEDOM",
    "LEAST_ROUNDS",
    "STOPPING",
    "Bend",
    "Look",
    "Seen",
    "Slopes",
    "bend",
    "choose",
    "half_width",
    "look",
    "next_round",
    "noise",
    "variance",
]

Array = npt.NDArray[np.float64]

GRID_SHARE = 0.3  # of the cost: the least that goes to passes over the whole grid
LEAST_ROUNDS = 3  # before a sweep may stop, the coarse pass included
LEAST_FREEDOM = 10  # degrees of freedom of the noise before a sweep may stop
CONFIRMATIONS = 4  # further looks at a law that is in doubt, at most, before a sweep stops
BENT, _BENT_EARLY = 0.0125, 0.001  # p-values at which a law counts as bent: where a sweep may stop, and before
_DOUBT = (0.17, 0.25)  # p-values below which a law is in doubt, least and most; half of them after a first test
_CHEAP = 0.04  # share of what was spent that a first test of a law in doubt may cost in expectation
_SMOOTH = 0.9  # share of the error rate of the test that goes to the quadratic term; the rest is for lack of fit
_CONFIRMING = 1 / 3  # of the cost so far: what runs that confirm a law may cost, unless a single one costs more
STOPPING = 1.04  # by how much an interval is widened, as it is read repeatedly and the first narrow one ends the sweep
_AIM = 0.99  # share of the wanted width that a round aims at: a further small round is cheaper than a wider aim
_PILOT = 1.3  # how much wider the second round aims: the coarse pass alone hardly knows the noise
_FINE = 8  # a step adds one run, or this part of those that a point has
_PASSES = 64  # over the whole grid in one round, at most
_STEPS = 400  # steps of one choice, at most
_NEWTON = 6  # steps of the variance's regression on scale
_EXACT = 1e-9  # of log y: a spread below it is rounding
_STEEPEST = 1.5  # how steeply the noise's variance may change: its logarithm per logarithm of scale


@dataclass(frozen=True)
class Seen:
    """What was measured.

    Attributes:
        count: Runs at each point, [..., points].
        mean: Mean log y at each point; anything where there is no run.
        within: Sum of squared deviations of log y from that mean, [..., points].
    """

    count: Array
    mean: Array
    within: Array

    def residual(self, log_law: Array) -> Array:
        """Mean log residual at each point, 0 where there is no run."""
        return np.where(self.count > 0, self.mean - log_law, 0.0)


@dataclass(frozen=True)
class Slopes:
    """A law linearised at its estimate.

    Attributes:
        law: Derivative of log y in each parameter, [..., points, parameters].
        target: Derivative of the wanted quantity in each parameter, [..., parameters].
    """

    law: Array
    target: Array

    @property
    def outer(self) -> Array:
        """[..., points, parameters, parameters]."""
        return self.law[..., :, None] * self.law[..., None, :]


def noise(u: Array, seen: Seen, residual: Array, parameters: int) -> Array:
    """Variance of one run's log y at each point, [..., points].

    It is exp(a + b u), from all residuals, by maximum likelihood for normal errors; b is shrunk towards 0 by what its
    own error explains, so that equal noise is mostly found to be equal. Lack of fit counts as noise: intervals of a law
    that does not hold are wider.

    Args:
        u: Log scale of each point, [..., points].
        residual: Mean log residuals, as `Seen.residual`.
        parameters: Number of parameters that were fitted.
    """
    n = seen.count
    total = n.sum(-1, keepdims=True)
    square = (seen.within + n * residual**2) / np.maximum(n, 1.0)
    square = square * total / np.maximum(total - parameters, 1.0)
    level = np.maximum((n * square).sum(-1, keepdims=True) / total, 1e-300)
    centred = u - (n * u).sum(-1, keepdims=True) / total
    spread = np.maximum((n * centred**2).sum(-1, keepdims=True), 1e-300)
    slope = np.zeros_like(level)
    for _ in range(_NEWTON):
        shape = np.exp(slope * centred)
        level = np.maximum((n * square / shape).sum(-1, keepdims=True) / total, 1e-300)
        slope = slope + (n * (square / (level * shape) - 1.0) * centred).sum(-1, keepdims=True) / spread
        slope = np.clip(slope, -_STEEPEST, _STEEPEST)
    unsure = 2.0 / spread
    slope = slope * np.maximum(0.0, 1.0 - 2.0 * unsure / np.maximum(slope**2, 1e-300))
    shape = np.exp(slope * centred)
    level = np.maximum((n * square / shape).sum(-1, keepdims=True) / total, 1e-300)
    return np.asarray(level * shape)


def variance(slopes: Slopes, count: Array, per_run: Array) -> Array:
    """Variance of the wanted quantity under least squares in log y, [...]; infinite where it is not determined.

    Args:
        count: Runs at each point, [..., points].
        per_run: Variance of one run's log y at each point, [..., points].
    """
    outer = slopes.outer
    bread = (count[..., None, None] * outer).sum(-3)
    meat = ((count * per_run)[..., None, None] * outer).sum(-3)
    return _sandwich(bread, meat, slopes.target)


def _sandwich(bread: Array, meat: Array, target: Array) -> Array:
    scale = np.sqrt(np.maximum(np.diagonal(bread, axis1=-2, axis2=-1), 1e-300))
    scaled = bread / (scale[..., :, None] * scale[..., None, :])
    lost = np.linalg.eigvalsh(scaled)[..., 0] < 1e-10
    scaled = np.where(lost[..., None, None], np.eye(bread.shape[-1]), scaled)
    weights = np.linalg.solve(scaled, (target / scale)[..., None])[..., 0] / scale
    found = np.einsum("...i,...ij,...j->...", weights, meat, weights)
    return np.where(lost, np.inf, found)


def half_width(slopes: Slopes, seen: Seen, per_run: Array, level: float = 0.95) -> Array:
    """Half the width of the wanted quantity's interval, [...].

    By Student's t with the degrees of freedom that the fit leaves, widened for being looked at in every round. Whoever
    stops at the first interval that is narrow enough stops a little too often where the noise came out too small;
    `tests/benchmarks/adaptive.py` measures the coverage at the end.
    """
    free = np.maximum(seen.count.sum(-1) - slopes.target.shape[-1], 1.0)
    t = stdtrit(free, 0.5 + level / 2)
    return np.asarray(STOPPING * t * np.sqrt(variance(slopes, seen.count, per_run)))


@dataclass(frozen=True)
class Bend:
    """How far the points go with a law that is bent: one with a quadratic term in log scale.

    Attributes:
        p: P-value of the law against a bent one, [...]; 1 where the points cannot show it.
        unseen: How far the wanted quantity may be from what equally many runs at every point would give, [...]: the
            95 % limit over all bends that the points do not exclude. 0 where the term is not determined.
    """

    p: Array
    unseen: Array


def bend(u: Array, slopes: Slopes, seen: Seen, residual: Array, per_run: Array) -> Bend:
    """Look for a bend.

    The p-value is the smaller of two, weighted (Bonferroni, 9 to 1): of a quadratic term beside the law's own slopes,
    and of the F test of lack of fit against the noise between runs at one point (Draper & Smith 1998, section 2.1). In
    the designs that rounds choose, the quadratic term is nearly as powerful as the best test by who knows the bend.

    Args:
        u: Log scale of each point, [..., points].
        residual: Mean log residuals, as `Seen.residual`.
        per_run: Variance of one run's log y at each point, [..., points].
    """
    n, parameters = seen.count, slopes.target.shape[-1]
    there = n > 0
    free = np.maximum(n.sum(-1) - parameters - 1, 1.0)
    term = (u - (n * u).sum(-1, keepdims=True) / n.sum(-1, keepdims=True)) ** 2
    weight = n / per_run
    rest = term - _explained(slopes, weight, term)
    size, whole = (weight * rest**2).sum(-1), (weight * term**2).sum(-1)
    determined = (there.sum(-1) > parameters) & (size > 1e-9 * np.maximum(whole, 1e-300))
    size = np.where(determined, size, 1.0)
    estimate, error = (weight * rest * residual).sum(-1) / size, 1 / np.sqrt(size)
    smooth = np.where(determined, 2 * stdtr(free, -np.abs(estimate) / error), 1.0)
    moved = _moved(slopes, np.ones_like(n), term) - _moved(slopes, n, term)
    unseen = np.where(determined, np.abs(moved) * (np.abs(estimate) + stdtrit(free, 0.975) * error), 0.0)
    lack_free, pure_free = there.sum(-1) - parameters, np.maximum(n - 1, 0.0).sum(-1)
    lack, pure = (weight * residual**2).sum(-1), (seen.within / per_run).sum(-1)
    can = (lack_free > 0) & (pure_free > 0) & (pure > 0)
    ratio = (lack / np.maximum(lack_free, 1)) / np.where(can, pure / np.maximum(pure_free, 1), 1.0)
    rough = np.where(can, fdtrc(np.maximum(lack_free, 1), np.maximum(pure_free, 1), ratio), 1.0)
    noisy = (per_run > _EXACT**2).any(-1)  # else what is left are rounding errors
    p = np.minimum(1.0, np.minimum(smooth / _SMOOTH, rough / (1 - _SMOOTH)))
    return Bend(np.where(noisy, p, 1.0), np.where(noisy, unseen, 0.0))


def _effects(slopes: Slopes, weight: Array, term: Array) -> Array:
    """What a weighted fit of the law's slopes to `term` gives for each parameter, [..., parameters]."""
    inverse = np.linalg.pinv((weight[..., None, None] * slopes.outer).sum(-3), rcond=1e-12, hermitian=True)
    moment = np.einsum("...p,...pj->...j", weight * term, slopes.law)
    return np.asarray(np.einsum("...ij,...j->...i", inverse, moment))


def _explained(slopes: Slopes, weight: Array, term: Array) -> Array:
    return np.asarray(np.einsum("...pi,...i->...p", slopes.law, _effects(slopes, weight, term)))


def _moved(slopes: Slopes, weight: Array, term: Array) -> Array:
    """How far a term of unit size that the law lacks moves the wanted quantity, [...]."""
    return np.asarray(np.einsum("...i,...i->...", slopes.target, _effects(slopes, weight, term)))


def choose(slopes: Slopes, per_run: Array, count: Array, left: Array, cost: Array, goal: Array, spend: Array) -> Array:
    """Runs to add at each point, [..., points]: always those that shrink the variance most per unit of cost.

    Args:
        per_run: Variance of one run's log y at each point, [..., points].
        count, left: Runs so far, and runs that the grid still has, [..., points].
        cost: Of one run at each point, [..., points].
        goal: Variance at which nothing more is added, [...].
        spend: Cost that is not exceeded, [...].
    """
    outer = slopes.outer
    shape = np.broadcast_shapes(count.shape, per_run.shape, slopes.law.shape[:-1])
    count = np.array(np.broadcast_to(count, shape), dtype=np.float64)
    add, rows = np.zeros_like(count), np.arange(count.shape[-1])
    bread = (count[..., None, None] * outer).sum(-3)
    meat = ((count * per_run)[..., None, None] * outer).sum(-3)
    now, spent = _sandwich(bread, meat, slopes.target), np.zeros(count.shape[:-1])
    for _ in range(_STEPS):
        size = np.minimum(np.maximum(1.0, np.floor((count + add) / _FINE)), left - add)
        size = np.minimum(size, np.maximum(1.0, np.floor((spend - spent)[..., None] / cost)))
        allowed = (size >= 1) & (spent[..., None] + size * cost <= spend[..., None])
        active = (now > goal) & allowed.any(-1)
        if not active.any():
            break
        more = _sandwich(
            bread[..., None, :, :] + size[..., None, None] * outer,
            meat[..., None, :, :] + (size * per_run)[..., None, None] * outer,
            slopes.target[..., None, :],
        )
        with np.errstate(all="ignore"):
            gain = np.where(np.isinf(now)[..., None], -np.log(np.minimum(more, 1e300)), np.log(now[..., None] / more))
            gain = np.where(allowed, gain / (size * cost), -np.inf)
        best = gain.argmax(-1)
        take = (rows == best[..., None]) & (active & (gain.max(-1) > 0))[..., None]
        if not take.any():
            break
        step = np.where(take, size, 0.0)
        after = np.where(take, more, 0.0).sum(-1)
        with np.errstate(all="ignore"):
            part = (1 / goal - 1 / now) / (1 / after - 1 / now)  # of the last step: no more than is needed
        step = np.where((after < goal)[..., None], np.ceil(step * np.clip(part, 0.0, 1.0)[..., None]), step)
        add, spent = add + step, spent + (step * cost).sum(-1)
        bread = bread + (step[..., None, None] * outer).sum(-3)
        meat = meat + ((step * per_run)[..., None, None] * outer).sum(-3)
        now = np.where(take.any(-1), _sandwich(bread, meat, slopes.target), now)
    return add


def next_round(
    slopes: Slopes, per_run: Array, count: Array, left: Array, cost: Array, goal: Array, most: Array | float = np.inf
) -> Array:
    """Runs of the next round at each point, [..., points].

    A round aims at the goal, but spends at most as much as all rounds before it, so that a bad first estimate of law
    and noise costs little. Afterwards every point with runs left has had so many of them that passes over the whole
    grid make up `GRID_SHARE` of the cost.

    Args:
        goal: Wanted half width, [...].
        most: Cost that is left to spend, [...].
    """
    before = (count * cost).sum(-1)
    spend = np.minimum(before, most)
    add = _towards(slopes, per_run, count, left, cost, goal, spend)
    passes, whole = count.min(-1), cost.sum(-1)  # over the whole grid so far
    for more in range(1, _PASSES + 1):
        one = np.clip(passes[..., None] + more - count, 0.0, left)
        price = (one * cost).sum(-1)
        short = (passes + more - 1) * whole < GRID_SHARE * (before + (add * cost).sum(-1)) * (1 - 1e-9)
        short &= (price > 0) & (price <= most) & (add.sum(-1) > 0)
        if not short.any():
            break
        rest = _towards(slopes, per_run, count + one, left - one, cost, goal, np.maximum(spend - price, 0.0))
        add = np.where(short[..., None], one + np.where((price < spend)[..., None], rest, 0.0), add)
    return add


def _towards(
    slopes: Slopes, per_run: Array, count: Array, left: Array, cost: Array, goal: Array, spend: Array
) -> Array:
    """Runs that make an interval as narrow as wanted, by Student's t with the degrees of freedom that they leave."""
    add, free = np.zeros_like(count), np.full(count.shape[:-1], np.inf)
    for _ in range(2):
        wanted = (_AIM * goal / (STOPPING * stdtrit(free, 0.975))) ** 2
        add = choose(slopes, per_run, count, left, cost, wanted, spend)
        free = np.maximum((count + add).sum(-1) - slopes.target.shape[-1], 1.0)
    return add


def _confirming(count: Array, left: Array, cost: Array, most: Array | float) -> Array:
    """Runs that put a law to the test, [..., points]: where there are fewest, the cheapest first.

    They may cost `_CONFIRMING` of what was spent, or are a single one. This is a pass over the whole grid in pieces, as
    most doubts end early; per unit of cost, no design that was tried shows better the bends that begin anywhere.
    """
    most = np.broadcast_to(most, count.shape[:-1])
    spend = np.minimum(_CONFIRMING * (count * cost).sum(-1), most)
    rank = np.argsort(np.argsort(np.where(left > 0, count, np.inf) + cost / (2 * cost.sum(-1, keepdims=True)), axis=-1))
    before = ((rank[..., None, :] <= rank[..., :, None]) * cost[..., None, :]).sum(-1)  # cost up to each, by rank
    first = (rank == 0) & (cost <= most[..., None])
    return np.where((left > 0) & ((before <= spend[..., None]) | first), 1.0, 0.0)


@dataclass(frozen=True)
class Look:
    """The state after a round.

    Attributes:
        half: Half the width of the wanted quantity's interval, [...].
        bend: How far the points go with a bent law.
        per_run: Variance of one run's log y at each point, [..., points].
        reached: Whether the sweep may stop, [...]: the interval is narrow enough, after enough rounds and runs, and the
            law is not in doubt, or was put to the test often enough.
        bent: Whether the law does not hold, [...].
        add: Runs of the next round, [..., points]; none where the law is bent, the goal reached, or no run is left.
    """

    half: Array
    bend: Bend
    per_run: Array
    reached: npt.NDArray[np.bool_]
    bent: npt.NDArray[np.bool_]
    add: Array


def look(
    u: Array,
    slopes: Slopes,
    seen: Seen,
    residual: Array,
    left: Array,
    cost: Array,
    goal: Array,
    rounds: int,
    confirmed: Array,
    most: Array | float = np.inf,
) -> Look:
    """Judge what was measured, and choose the next round. Arguments as of `bend` and `next_round`.

    Args:
        rounds: Rounds so far, the coarse pass included.
        confirmed: Looks so far at an interval that was narrow enough, after enough rounds, [...].
    """
    count = seen.count
    per_run = noise(u, seen, residual, slopes.target.shape[-1])
    half, found = half_width(slopes, seen, per_run), bend(u, slopes, seen, residual, per_run)
    narrow = half <= goal
    sure = (rounds >= LEAST_ROUNDS) & (count.sum(-1) - slopes.target.shape[-1] >= LEAST_FREEDOM)
    test = _confirming(count, left, cost, most)
    share = (test * cost).sum(-1) / (count * cost).sum(-1)
    unsure = np.clip(_CHEAP / np.maximum(share, 1e-9), *_DOUBT) * np.where(confirmed > 0, 0.5, 1.0)
    doubt = (found.p < unsure) & (confirmed < CONFIRMATIONS)
    is_bent = found.p < np.where(narrow & sure, BENT, _BENT_EARLY)
    reached = narrow & sure & ~doubt & ~is_bent
    again = narrow & (doubt | ~sure)
    wanted = goal * (_PILOT if rounds == 1 else 1.0)
    aim = np.where(half <= wanted, half, wanted)  # a round that is only made to be sure is a small one
    add = next_round(slopes, per_run, count, left, cost, aim, most)
    add = np.where((again & sure)[..., None], test, add)
    return Look(half, found, per_run, reached, is_bent, np.where((reached | is_bent)[..., None], 0.0, add))
