"""The tail of pass@k: success rates drawn from a Beta(a, b), fitted by maximum likelihood to counts (beta-binomial).

Kazdan et al. 2025, arXiv 2510.05197: 1 - pass@k = B(a, b + k) / B(a, b) ~ k^-a.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import digamma, gammaln, polygamma

from raysweep.laws.definition import Array

__all__ = ["Tail"]

_NEWTON = 60
_LOW, _HIGH = np.log(1e-6), np.log(1e15)  # bounds of log a and log b
_SETTLED = 1e-9  # size of the last step in log a and log b


@dataclass(frozen=True)
class Tail:
    """Beta distributions of success rates.

    Attributes:
        a: Tail exponents: 1 - pass@k ~ k^-a, [draws].
        b: [draws].
        settled: Whether the maximum of the likelihood was found inside the range, [draws].
    """

    a: Array
    b: Array
    settled: npt.NDArray[np.bool_]

    @classmethod
    def fitted(cls, c: Array, n: Array, weights: Array | None = None) -> Tail:
        """Maximum likelihood for each row of weights, [draws, problems], of problems' counts, [problems].

        Newton's method in (log a, log b), damped until the likelihood rises.
        """
        pairs, place = np.unique(np.stack([c, n]), axis=1, return_inverse=True)
        counted = np.zeros((1 if weights is None else len(weights), pairs.shape[1]))
        for j, column in enumerate(place.ravel()):
            counted[:, column] += 1.0 if weights is None else weights[:, j]
        mean = (counted @ (pairs[0] / pairs[1])) / counted.sum(axis=1)
        start = np.clip(mean, 1e-9, 1 - 1e-9)
        q = np.log(np.stack([np.full_like(start, 0.5), 0.5 * (1 - start) / start], axis=1))
        damping, settled = np.full(len(q), 1e-3), np.zeros(len(q), dtype=bool)
        value, slope, bend = _likelihood(q, pairs, counted)
        for _ in range(_NEWTON):
            left = np.flatnonzero(~settled)
            if not left.size:
                break
            trial = np.clip(q[left] + _uphill(slope[left], bend[left], damping[left]), _LOW, _HIGH)
            new_value, new_slope, new_bend = _likelihood(trial, pairs, counted[left])
            better = new_value >= value[left] - 1e-12 * np.abs(value[left])
            moved = np.abs(trial - q[left]).max(axis=1)
            took = left[better]
            q[took], value[took], slope[took], bend[took] = (
                part[better] for part in (trial, new_value, new_slope, new_bend)
            )
            damping[left] = np.where(better, damping[left] / 10, np.minimum(damping[left] * 10, 1e12))
            settled[left] = moved < _SETTLED
        inside = ((q > _LOW + 1e-6) & (q < _HIGH - 1e-6)).all(axis=1)
        return cls(np.exp(q[:, 0]), np.exp(q[:, 1]), settled & inside)


def _likelihood(q: Array, pairs: Array, counted: Array) -> tuple[Array, Array, Array]:
    """Log likelihood [draws], its gradient [draws, 2] and Hessian [draws, 2, 2] in (log a, log b)."""
    (c, n), (a, b) = pairs, (np.exp(q[:, 0])[:, None], np.exp(q[:, 1])[:, None])

    def rise(f: Callable[[Array], Array], x: Array, by: Array) -> Array:
        return np.asarray(f(x + by) - f(x))

    def second(x: Array) -> Array:
        return np.asarray(polygamma(1, x))

    value = rise(gammaln, a, c) + rise(gammaln, b, n - c) - rise(gammaln, a + b, n)
    joint, bent = rise(digamma, a + b, n), rise(second, a + b, n)
    slope = [(counted * (rise(digamma, x, by) - joint)).sum(axis=1) for x, by in ((a, c), (b, n - c))]
    own = [(counted * (rise(second, x, by) - bent)).sum(axis=1) for x, by in ((a, c), (b, n - c))]
    both = -(counted * bent).sum(axis=1)
    a, b = a[:, 0], b[:, 0]
    gradient = np.stack([a * slope[0], b * slope[1]], axis=1)
    matrix = np.array([[a * a * own[0] + a * slope[0], a * b * both], [a * b * both, b * b * own[1] + b * slope[1]]])
    return (counted * value).sum(axis=1), gradient, np.moveaxis(matrix, 2, 0)


def _uphill(slope: Array, bend: Array, damping: Array) -> Array:
    """Newton's step to a maximum; where the Hessian is not negative, along what is."""
    values, vectors = np.linalg.eigh(-bend)
    size = np.maximum(np.abs(values), 1e-300) * (1 + damping[:, None]) + damping[:, None] * 1e-3
    turned = (np.swapaxes(vectors, 1, 2) @ slope[..., None])[..., 0] / size
    step = (vectors @ turned[..., None])[..., 0]
    return np.asarray(np.clip(step, -3.0, 3.0))
