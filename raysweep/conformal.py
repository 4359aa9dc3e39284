"""A conformal interval beyond the data: by how wrong the same law was before.

Conformalised quantiles (Romano et al. 2019) ask how wrong the same law was before: it is fitted to the smallest scales
only, and each run beyond them counts by how far it lies outside the law's own interval there, per d (d + r), where d is
the distance beyond the fitted scales and r their range, both in log scale: this is how the error of a straight line
grows where the truth is curved. Larger scales are not exchangeable with smaller ones, so its level is not guaranteed;
it is the record of this law on these data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysweep.laws.request import FitRequest, Options

__all__ = ["Record", "conformal"]

_LEVEL = 0.95
_DRAWS = 100  # of each fit to the smallest scales
_LEAST = 4  # scales of such a fit, at least
_CUTS = 6  # such fits, at most


@dataclass(frozen=True)
class Record:
    """How wrong a law was beyond the scales that it was fitted to.

    Attributes:
        excess: By how much runs lay outside the law's own interval, in log y per d (d + r): a quantile.
        level: The share that as many errors can stand for; at most 95 %.
        low, high: Ends of the log scales that all of its points have.
    """

    excess: float
    level: float
    low: float
    high: float

    def widened(self, own: Sequence[float], x: Sequence[float]) -> list[float]:
        """The law's own interval of a run at scales `x`, widened by this record."""
        distance = max(float(np.log(x).mean()) - self.high, 0.0)
        factor = math.exp(self.excess * distance * (distance + self.high - self.low))
        return [float(own[0]) / factor, float(own[1]) * factor]


def conformal(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], request: FitRequest) -> Record | None:
    """The record of a law on the points of one group; None where there are too few scales.

    Args:
        x: [scales, points].
        y: [points].
    """
    from raysweep.laws.fitting import fit_groups
    from raysweep.laws.group import Data

    u = np.log(x).mean(axis=0)
    steps = np.unique(u)
    ends = steps[max(_LEAST, len(steps) - _CUTS) - 1 : -1]
    if not len(ends):
        return None
    options = Options(draws=_DRAWS, holdout=0.0, huber=request.options.huber)
    parts = [u <= end for end in ends]
    fits = fit_groups(request.form, [Data(x[:, part], y[part]) for part in parts], request.x, request.y, options)
    errors: list[float] = []
    for end, part, fit in zip(ends, parts, fits, strict=True):
        if fit.error is not None:
            continue
        own, there = np.log(fit.prediction(x[:, ~part])), np.log(y[~part])
        outside = np.maximum(np.maximum(own[:, 0] - there, there - own[:, 1]), 0.0)
        distance = u[~part] - end
        each = outside / (distance * (distance + end - steps[0]))
        errors += each[np.isfinite(each)].tolist()
    if not errors:
        return None
    n = len(errors)
    rank = math.ceil((n + 1) * _LEVEL)
    excess = float(np.sort(errors)[min(rank, n) - 1])
    return Record(excess, min(_LEVEL, n / (n + 1)), float(steps[0]), float(steps[-1]))
