"""How much the silence of a test of a law's form is worth: the power with which it would notice a bend that matters.

The bend is a parabola in the logarithms of the scales, along the line from the middle of the data to a prediction: a
slope that changes by the same amount in every decade, within the data and beyond. Part of it the law follows; the rest
moves the prediction, and is left in the residuals. A test that knew its shape would be an F test of one degree of
freedom, whose power is that of a noncentral F distribution. One that does not know it notices less.
"""

from __future__ import annotations

import numpy as np
from scipy.special import fdtri, ncfdtr

from raysweep.laws.definition import Array, Law
from raysweep.laws.deviation import contrasts, tangent
from raysweep.laws.remains import Remains

__all__ = ["noticed"]


def noticed(law: Law, values: Array, left: Remains, x: Array, move: Array, size: float) -> Array:
    """The largest share of data sets in which a bend that moves predictions would be noticed, [points]; NaN if unknown.

    Args:
        values: The estimate, [parameters].
        left: What it left of the data; the noise is taken to be as large as this.
        x: Scales of the predictions, > 0, [axes, points].
        move: By how much the bend moves log y of the mean there, [points].
        size: The p-value below which a bend is noticed.
    """
    data = contrasts(law, values, left)
    if data is None:
        return np.full(move.shape, np.nan)
    u = np.log(x)
    middle = (left.u.min(axis=1, keepdims=True) + left.u.max(axis=1, keepdims=True)) / 2
    ahead = u - middle
    with np.errstate(all="ignore"):  # at the middle of the data no bend moves anything
        along = ahead.T @ (left.u - middle) / np.linalg.norm(ahead, axis=0)[:, None]
        bend = data.root * along**2
        moves = (ahead**2).sum(axis=0) - (tangent(law, u, values)[1] @ data.fit * bend).sum(axis=1)
        remaining = ((bend @ data.basis) ** 2).sum(axis=1)
        variance = (data.residual @ data.residual + left.within) / data.freedom
        distance = (move / moves) ** 2 * remaining / variance
        spare = data.freedom - 1
        return np.asarray(1.0 - ncfdtr(1, spare, distance, fdtri(1, spare, 1 - size)))
