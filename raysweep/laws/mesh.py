"""A mesh of success rates: cells of log-odds and an atom at 0, with what each cell says of counts and of larger k."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import betainc, expit

from raysweep.laws.definition import Array

__all__ = ["Mesh", "merged"]

_BELOW = 7.0  # log units below 1 / k at which a rate counts as 0: (1 - p)^k is then .999
_ABOVE = 4.0  # log units of the odds above the most trials at which a rate counts as 1
_MOST = 400  # distinct counts that are kept apart
_EXACT = 30  # counts up to here are never rounded
_FINE = 0.03  # relative rounding beyond
_INSIDE = 5  # points of a cell that a distribution function is averaged over


@dataclass(frozen=True)
class Mesh:
    """Cells of success rates, and what they say of counts c of n, [pairs].

    Attributes:
        c, n: The counts.
        odds: Log-odds of the middle of each cell, [cells]; -inf for the first, an atom of rates that count as 0.
        step: Width of the cells, in log-odds.
        chance: Mean chance of c successes over a cell, [pairs, cells].
        failure: Mean of (1 - p)^k over a cell, [cells, budgets].
    """

    c: Array
    n: Array
    odds: Array
    step: float
    chance: Array
    failure: Array

    @classmethod
    def over(cls, c: Array, n: Array, k: Array, step: float) -> Mesh:
        """The mesh for counts c of n, [pairs], and budgets k, [budgets]; beyond n = 10^9 digits are lost."""
        most = max([float(n.max()), *k.tolist()])
        edges = np.arange(-np.log(most) - _BELOW, np.log(float(n.max())) + _ABOVE, step)
        odds = np.concatenate([[-np.inf], edges[:-1] + step / 2])
        return cls(c, n, odds, step, _chance(c, n, edges, step), _mean_power(k, edges).T)

    @cached_property
    def upto(self) -> Array:
        """Mean chance of c successes or fewer over a cell, [pairs, cells]."""
        inside = (np.arange(_INSIDE) + 0.5) / _INSIDE - 0.5
        rates = expit(self.odds[:, None] + inside * self.step)
        c, more = self.c[:, None, None], (self.n - self.c)[:, None, None]
        return np.asarray(1 - np.where(more > 0, betainc(c + 1, np.maximum(more, 1), rates), 0.0).mean(axis=2))


def merged(c: Array, n: Array, most: int = _MOST) -> tuple[Array, Array, Array]:
    """Distinct counts and how many problems have them: c, n, weights, [pairs].

    Of more than `most` pairs, successes and failures above 30 are rounded to 3 %, which is less than what they say of
    a rate.
    """
    pairs, weights = np.unique(np.stack([c, n - c]), axis=1, return_counts=True)
    if pairs.shape[1] > most:
        rounded = np.round(np.exp(np.round(np.log(np.maximum(pairs, 1.0)) / _FINE) * _FINE))
        near = np.where(pairs > _EXACT, rounded, pairs)
        pairs, place = np.unique(near, axis=1, return_inverse=True)
        weights = np.bincount(place.ravel(), weights)
    return pairs[0], pairs[0] + pairs[1], np.asarray(weights, dtype=np.float64)


def _mean_power(k: Array, edges: Array) -> Array:
    """[budgets, 1 + cells] mean of (1 - p)^k over the atom at 0 and each cell, by Simpson's rule in log-odds."""

    def power(odds: Array) -> Array:
        return np.asarray(np.exp(-k[:, None] * np.logaddexp(0.0, odds)))

    middle = (edges[1:] + edges[:-1]) / 2
    inside = (power(edges[:-1]) + 4 * power(middle) + power(edges[1:])) / 6
    return np.concatenate([np.ones((k.size, 1)), inside], axis=1)


def _chance(c: Array, n: Array, edges: Array, step: float) -> Array:
    """[pairs, 1 + cells] mean binomial chance of c of n.

    With 0 < c < n it is exact for counts of any size: the chance integrated over log-odds is n / (c (n - c)) times a
    Beta(c, n - c).
    """
    found = np.zeros((c.size, edges.size))
    none, all_ = c == 0, c == n
    found[none] = _mean_power(n[none], edges)
    found[all_, 1:] = _mean_power(n[all_], -edges[::-1])[:, :0:-1]
    some = ~(none | all_)
    a, b = c[some][:, None], (n - c)[some][:, None]
    rates = expit(edges)
    found[some, 1:] = np.diff(betainc(a, b, rates), axis=1) * (a + b) / (a * b) / step
    return found
