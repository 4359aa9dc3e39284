"""Huber's loss as a likelihood and in a test: how laws that were fitted by it are compared (Huber 1964)."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import erf

from raysweep.laws.definition import Array

__all__ = ["deviance", "loss", "noise"]

_RANGE = (1e-4, 1e2)  # scales of the density that are tried, over the root mean square of residuals
_SIGMA = 1.4826  # standard deviation of normal errors over their median absolute value


def loss(residual: Array, weights: Array, delta: float) -> float:
    """Twice the sum of Huber's loss: the sum of squares where no residual exceeds `delta`."""
    clipped = np.clip(residual, -delta, delta)
    return float((weights * clipped * (2 * residual - clipped)).sum())


def noise(residual: Array, weights: Array, delta: float) -> float:
    """What stands for the residual sum of squares in an F test of two losses: the sum of the squared influences.

    The difference of two losses has the distribution of chi-squared times the mean squared slope of the loss over its
    mean curvature (Schrader & Hettmansperger 1980). The curvature is the share of residuals within `delta`; where that
    is less than the spread, it is judged from those within the spread, since few lie within `delta`.
    """
    clipped = np.clip(residual, -delta, delta)
    within = max(delta, _SIGMA * float(np.median(np.abs(residual))))
    curvature = float(np.average(np.abs(residual) <= within, weights=weights)) * delta / within
    return float((weights * clipped**2).sum()) / curvature


def deviance(residual: Array, weights: Array, delta: float) -> float:
    """-2 log likelihood, but for a constant, under Huber's density at the scale that makes it least.

    The density is normal within `delta` and falls exponentially beyond; `delta` is fixed, in log units.
    """
    twice, n = loss(residual, weights, delta), residual.size
    size = math.sqrt(max(float(np.average(residual**2, weights=weights)), 1e-300))

    def at(log_scale: float) -> float:
        scale = math.exp(log_scale)
        k = delta / scale
        area = math.sqrt(2 * math.pi) * float(erf(k / math.sqrt(2))) + 2 / k * math.exp(-0.5 * k * k)
        return 2 * n * math.log(scale * area) + twice / scale**2

    # Where residuals are far beyond delta, the best scale is that of Laplace's density: between the two sizes.
    low, high = (math.log(f * s) for f, s in zip(_RANGE, sorted((size, math.sqrt(size * delta))), strict=True))
    return float(minimize_scalar(at, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).fun)
