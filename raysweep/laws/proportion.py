"""The interval of a mean of numbers between 0 and 1, e.g. of pass@k over problems, when few of them are informative."""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv, stdtrit

from raysweep.laws.definition import Array

__all__ = ["mean_interval"]

_ROUNDING = 1e-12  # values whose relative difference is smaller are equal


def mean_interval(values: Array, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of independent values in [0, 1], [n >= 2] (Korn and Graubard 1998).

    Clopper and Pearson's binomial interval for as many yes-or-no answers as would have this mean and this standard
    error, n_e = m (1 - m) / se^2 with Student's correction. It covers the true mean more often
    than a bootstrap where a few of many values differ from the rest: a resample without those has no spread at all
    (tests/benchmarks/passk.py). Neither method accounts for values so rare that no sample has them.
    """
    n, mean = len(values), float(np.mean(values))
    if mean <= 0 or mean >= 1:  # all values agree: at most this share may differ
        unseen = 1 - ((1 - level) / 2) ** (1 / n)
        return (0.0, unseen) if mean <= 0 else (1 - unseen, 1.0)
    if float(np.ptp(values)) <= _ROUNDING * min(mean, 1 - mean):
        return mean, mean
    tail = (1 - level) / 2
    effective = mean * (1 - mean) * n / float(np.var(values, ddof=1))
    if effective > n:  # otherwise Student's correction would count more answers than there are values
        effective *= (stdtrit(effective - 1, tail) / stdtrit(n - 1, tail)) ** 2
    yes, no = effective * mean, effective * (1 - mean)
    return float(betaincinv(yes, no + 1, tail)), float(betaincinv(yes + 1, no, 1 - tail))
