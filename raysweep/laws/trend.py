"""Trends: whether y changes with the scales at all, and in which direction, by a straight line through the logs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import fdtrc, stdtr

from raysweep.laws.definition import Array

__all__ = ["Trend", "trend"]


@dataclass(frozen=True)
class Trend:
    """A plane through the logs.

    Attributes:
        slopes: How fast log y grows with each log scale, [axes].
        rising: The p-value of each slope's t test of not rising, [axes].
        flat: The p-value of the F test that y depends on no scale.
    """

    slopes: Array
    rising: Array
    flat: float


def trend(x: npt.ArrayLike, y: npt.ArrayLike, weights: npt.ArrayLike) -> Trend | None:
    """The trend of points with independent errors of log y; None where points are too few or scales lie on a line.

    Args:
        x: Scales, positive, [axes, points].
        y: Measurements, positive, [points].
        weights: Relative weights, >= 0, [points].
    """
    u, t = np.log(np.asarray(x, dtype=np.float64)), np.log(np.asarray(y, dtype=np.float64))
    w = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    root = np.sqrt(w)
    columns, t = (root * (u - (u @ w)[:, None])).T, root * (t - t @ w)
    axes, spare = len(u), t.size - len(u) - 1
    if spare < 2 or np.linalg.matrix_rank(columns) < axes:
        return None
    inverse = np.linalg.inv(columns.T @ columns)
    slopes = inverse @ (columns.T @ t)
    rest = float(((t - columns @ slopes) ** 2).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.float64(rest / spare)
        score = slopes / np.sqrt(variance * np.diagonal(inverse))
        ratio = float((t @ t - rest) / axes / variance)
    return Trend(slopes, np.asarray(stdtr(spare, -score)), float(fdtrc(axes, spare, max(ratio, 0.0))))
