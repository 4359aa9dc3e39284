"""Stated errors: whether the standard errors that come with the data are larger than its residuals allow."""

from __future__ import annotations

import numpy as np
from scipy.special import chdtr

from raysweep.laws.definition import Array

__all__ = ["of_x", "of_y"]

_SUSPICIOUS = 0.001  # p-value of residuals that are smaller than the stated errors


def of_y(squares: Array, se: Array, spare: int) -> dict[str, str]:
    """What is to be said of standard errors of y.

    Args:
        squares: Squared residuals of log y, [points].
        se: Standard errors of log y, [points].
        spare: Degrees of freedom of the residuals.
    """
    known = se > 0
    times = _times(squares[known], se[known] ** 2, spare - int((~known).sum()))
    if times is None:
        return {}
    text = (
        f"The stated errors alone would scatter y {times:.3g} times as much as it does about the law: they are smaller "
        "than stated, in another unit, or shared by all points, as those of one test set are. Check se, or leave it "
        "out."
    )
    return {"y_errors_too_large": text}


def of_x(squares: Array, size: Array, spare: int) -> dict[str, str]:
    """What is to be said of standard errors of x; arguments as in `_times`."""
    times = _times(squares, size, spare)
    if times is None:
        return {}
    text = (
        f"The stated errors alone would scatter y {times:.3g} times as much as it does: they are smaller than stated, "
        "or x is nominal and the truth scatters about it, which needs no correction. Check x_se, or leave it out."
    )
    return {"x_errors_too_large": text}


def _times(squares: Array, size: Array, spare: int) -> float | None:
    """How many times the stated errors exceed the residuals; None where these are as large as chance allows.

    Args:
        squares: Squared residuals of log y, [points].
        size: Variances of log y by the stated errors, [points].
        spare: Degrees of freedom.
    """
    total = float((squares / np.maximum(size, 1e-300)).sum())
    if spare < 1 or chdtr(spare, total) >= _SUSPICIOUS:
        return None
    return float(np.sqrt(spare / max(total, 1e-300)))
