"""Rises: whether y climbs with a scale in any shape, by isotonic regression, so that a saturating curve counts, too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression
from scipy.special import betainc

__all__ = ["Rise", "rise"]

_TIED = 1e-6  # of log scale, below which scales are one: products of scales differ by rounding
_MOST = 200  # cells, beyond which neighbouring scales are merged
_LEVELS = 60  # of a monotone fit: more are beyond chance


@dataclass(frozen=True)
class Rise:
    """How much of log y a rising curve explains.

    Attributes:
        p_value: That of the test that y does not change with the scale, against a rise (E-bar squared).
        up: Weighted sum of squares that the best rising curve explains.
        down: That of the best falling curve.
    """

    p_value: float
    up: float
    down: float


def rise(u: npt.ArrayLike, t: npt.ArrayLike, weights: npt.ArrayLike) -> Rise | None:
    """The rise of points with independent normal errors; None for fewer than 3 scales.

    The test of order-restricted means (Barlow, Bartholomew, Bremner & Brunk 1972, chapter 3): without a change, the
    share of the sum of squares that the rising curve explains is a mixture of beta variables, by how many levels the
    curve has, whose chances are those of cycles in a random permutation. That is exact for equal weights of the scales
    and close otherwise (Robertson, Wright & Dykstra 1988, section 3.4).

    Args:
        u: Log scales, [points].
        t: Log measurements, [points].
        weights: Relative weights, >= 0, [points].
    """
    u, t, w = (np.asarray(one, dtype=np.float64) for one in (u, t, weights))
    there = w > 0
    u, t, w = u[there], t[there], w[there]
    order = np.argsort(u, kind="stable")
    u, t, w = u[order], t[order], w[order] / w.mean()
    cell = np.cumsum(np.concatenate([[False], np.diff(u) > _TIED]))
    if cell[-1] >= _MOST:
        cell = cell * _MOST // (int(cell[-1]) + 1)
    total = np.bincount(cell, w)
    if total.size < 3:
        return None
    mean = np.bincount(cell, w * t) / total
    centre = float(t @ w / w.sum())
    up, down = (
        float(total @ (isotonic_regression(mean, weights=total, increasing=side).x - centre) ** 2)
        for side in (True, False)
    )
    whole = float(w @ (t - centre) ** 2)
    return Rise(_p_value(up / whole, total.size, t.size) if whole > 0 else 1.0, up, down)


def _p_value(share: float, scales: int, points: int) -> float:
    """How likely a rising curve explains as large a share of the sum of squares by chance."""
    chance = np.zeros(min(scales, _LEVELS) + 1)  # of that many levels
    chance[1] = 1.0
    for count in range(2, scales + 1):
        chance = (chance * (count - 1) + np.concatenate([[0.0], chance[:-1]])) / count
    levels = np.arange(2, chance.size)
    rest = np.maximum(points - levels, 0) / 2
    exceeds = np.where(rest > 0, betainc(np.maximum(rest, 0.5), (levels - 1) / 2, 1 - min(share, 1.0)), 1.0)
    return float(chance[2:] @ exceeds)
