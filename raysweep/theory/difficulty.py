"""The chance that all k attempts fail when instances differ in a latent difficulty, for every k at once.

An instance has precision tau; a trial misses the prediction by more than a tolerance with probability 1 - s, where

    s(tau, b) = Phi(sqrt(tau) (D - b)) - Phi(sqrt(tau) (-D - b)),   D = delta / sigma,   b = B / sigma ~ N(0, r),

and L(k) = E_tau E_b (1 - s)^k (arXiv 2601.03764; this is the exact form behind its small-delta one). Only beta (the
tail of tau), D and r = L_gen / sigma^2 matter. Plain Monte Carlo sees nothing beyond k ~ n^(1/beta); here (tau, b) is
integrated on a mesh, and the mesh becomes a measure over the rate lambda = -log(1 - s) on a few nodes, so that
L(k) = sum_j w_j exp(-k lambda_j) costs next to nothing at any k.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy  # its parts are imported when they are first used

__all__ = ["PRIORS", "Rates", "log_precision_density", "rates", "success"]

Array: TypeAlias = npt.NDArray[np.float64]

PRIORS = ("gamma", "bounded")
# Steps in log tau, for small k and for larger ones: (1 - s)^k oscillates beyond |Im log tau| = pi / (4 log k), which
# limits the accuracy of the trapezoid rule.
_STEPS = (0.2, 0.05)
_FEW = 10.0
_SMALLEST = -700.0  # least log tau in double precision
_UNDERFLOW = 1e-290
_NEGLIGIBLE = 37.0  # -log of a share too small to affect a double
_PANEL = 16  # Gauss-Legendre nodes per panel of length 1, in units of the integrand's scale
_SPACING = 0.04  # step in log lambda
_POINTS = 8  # points of the interpolation in log lambda
_LEAST_K_LAMBDA = 1e-12
_LIGHT = 1e-15  # share of the smallest failure: points below it add at most 1e-10 of that failure
_MOST_LAMBDA = 50.0  # exp(-50) at k = 1
_FEWEST, _DENSITY = 64, 10.5  # Chebyshev nodes in log k: the least number, and the number per unit


@dataclass(frozen=True)
class Rates:
    """The distribution of lambda = -log(1 - s) over instances, on nodes at equal steps of log lambda and at 0.

    Attributes:
        least: log of the smallest positive node.
        weight: The mass at 0 and at each node, [1 + nodes]; interpolation makes some of them negative.
    """

    least: float
    weight: Array

    @property
    def rate(self) -> Array:
        """lambda_j, [1 + nodes]."""
        return _nodes(self.least, len(self.weight))

    def failure(self, k: npt.ArrayLike) -> Array:
        """[budgets] chance that all of k >= 1 attempts fail, of k [budgets]."""
        return self.curve(k)[0]

    def exponent(self, k: npt.ArrayLike) -> Array:
        """[budgets] local exponent -d log L / d log k at k."""
        return self.curve(k)[1]

    def curve(self, k: npt.ArrayLike) -> tuple[Array, Array]:
        """`failure` and `exponent`. Many k are read off Chebyshev nodes in log k, exact to 1e-8.

        A failure below 1e-290 has no exponent: NaN.
        """
        asked = np.asarray(k, dtype=np.float64)
        decay, at, read = _budgets(asked.tobytes(), self.least, len(self.weight))
        failure, slope = decay @ self.weight, decay @ (self.weight * self.rate)
        if read is not None and not failure.min() > _UNDERFLOW:  # no logarithm to interpolate
            at, read = asked, None
            decay = np.exp(-np.multiply.outer(asked, self.rate))
            failure, slope = decay @ self.weight, decay @ (self.weight * self.rate)
        exponent = np.where(failure > _UNDERFLOW, at * slope / np.maximum(failure, _UNDERFLOW), np.nan)
        return (failure, exponent) if read is None else (np.exp(read @ np.log(failure)), read @ exponent)


@lru_cache(maxsize=8)
def _nodes(least: float, count: int) -> Array:
    return np.append(0.0, np.exp(least + _SPACING * np.arange(count - 1)))


@lru_cache(maxsize=4)
def _budgets(asked: bytes, least: float, count: int) -> tuple[Array, Array, Array | None]:
    """exp(-k lambda), [k, nodes], the k of its rows, and the interpolation to the k asked for; None if not needed.

    Runs of a sweep ask for the same k on the same nodes, so this is computed once.
    """
    k = np.frombuffer(asked)
    low, high = np.log(k.min()), np.log(k.max())
    order = max(_FEWEST, int(np.ceil(_DENSITY * (high - low))))  # the nodes needed grow with the range of log k
    at, read = k, None
    if order < len(k):
        x = np.cos(np.pi * (np.arange(order) + 0.5) / order)
        at = np.exp(low + (high - low) * (x + 1) / 2)
        read = scipy.interpolate.BarycentricInterpolator(x, np.eye(order))(2 * (np.log(k) - low) / (high - low) - 1)
    return np.exp(-np.multiply.outer(at, _nodes(least, count))), at, read


def success(tau: Array, b: Array, tolerance: float) -> Array:
    """s(tau, b), broadcast: the chance that one trial hits. Without cancellation at small sqrt(tau) D."""
    root = np.sqrt(tau)
    v, a = root * b, root * tolerance
    exact = scipy.special.ndtr(a - v) - scipy.special.ndtr(-a - v)
    small = 2 * a / np.sqrt(2 * np.pi) * np.exp(-(v**2) / 2) * (1 + a**2 * (v**2 - 1) / 6)
    return np.asarray(np.where(a * np.maximum(v, 1.0) < 1e-3, small, exact))


def log_precision_density(u: Array, beta: float, prior: str) -> Array:
    """Log density of u = log tau.

    Args:
        u: Log precision.
        beta: Tail exponent: P(tau <= t) ~ t^(beta / 2).
        prior: `gamma` (shape beta / 2, rate 1) or `bounded` (tau = U^(2 / beta), in (0, 1]).
    """
    if prior == "gamma":
        return np.asarray(beta / 2 * u - np.exp(u) - scipy.special.gammaln(beta / 2))
    return np.asarray(np.where(u <= 0, np.log(beta / 2) + beta / 2 * u, -np.inf))


def rates(beta: float, tolerance: float, risk: float, prior: str = "gamma", most: float = 1e8) -> Rates:
    """The distribution of rates for a predictor with this excess risk.

    Args:
        beta: Tail exponent of the difficulty, > 0.
        tolerance: D = delta / sigma, > 0.
        risk: r = L_gen / sigma^2, >= 0; 0 is a perfect predictor.
        prior: Prior of the precision; see `log_precision_density`.
        most: The largest k that will be asked for.

    Returns:
        Rates whose `failure` is exact to 1e-7 of itself, mostly to 1e-9, for 1 <= k <= most.
    """
    scale = np.sqrt(2 / np.pi) * tolerance
    step = _STEPS[0] if most <= _FEW else _STEPS[1]
    lowest = max(_SMALLEST, -2 * np.log(max(most * scale, 1.0)) - 2 * _NEGLIGIBLE / beta)
    if prior == "gamma":
        highest = np.log(beta / 2 + 2 * _NEGLIGIBLE)
        u = np.arange(lowest, highest, step)
        mass = step * np.exp(log_precision_density(u, beta, prior))
    else:  # by logit tau, which reaches the end at tau = 1 smoothly
        v = np.arange(lowest, _NEGLIGIBLE, step)
        u = -np.logaddexp(0.0, -v)
        mass = step * np.exp(log_precision_density(u, beta, prior) + _log_logistic(-v))
    rarest = beta * np.log(max(most * scale, 1.0)) + _NEGLIGIBLE  # -log of what is far below L(most)
    rate, weight, never = _mesh(np.exp(u), mass, tolerance, risk, most, np.sqrt(2 * rarest))
    if lowest == _SMALLEST:  # instances so hard that they never hit
        never += float(np.exp(beta / 2 * lowest - (scipy.special.gammaln(beta / 2 + 1) if prior == "gamma" else 0.0)))
    return _gathered(rate, weight, never, most)


def _log_logistic(v: Array) -> Array:
    """log(1 / (1 + exp(-v))), the log of the logistic function."""
    return np.asarray(-np.logaddexp(0.0, -v))


def _mesh(
    tau: Array, mass: Array, tolerance: float, risk: float, most: float, deviations: float
) -> tuple[Array, Array, float]:
    """Rates and weights of points (tau, b), and the mass that never hits.

    Args:
        tau, mass: Precisions and their weights, [precisions].
        tolerance, risk, most: As `rates`.
        deviations: Standard deviations of b that are covered.
    """
    if risk == 0:
        return _rate(tau, np.zeros(1), tolerance), mass, 0.0
    spread = np.sqrt(tau * risk)  # standard deviation of sqrt(tau) b
    edge = np.sqrt(tau) * tolerance
    reach = np.sqrt(2 * np.log(most / _LEAST_K_LAMBDA))
    # Where b spreads over at most 1 in those units, (1 - s)^k is smooth in units of b's own spread.
    low = np.where(spread > 1, np.maximum(edge - reach, 0.0), 0.0)
    high = np.minimum(np.where(spread > 1, edge + reach, np.inf), deviations * spread)
    low = np.minimum(low, high)
    length = (high - low) / np.minimum(spread, 1.0)
    panels = np.maximum(np.ceil(length), 1).astype(int)
    nodes, weights = _legendre()
    rate, weight = [], []
    for count in np.unique(panels):
        rows = panels == count
        t = ((np.arange(count)[:, None] + (nodes + 1) / 2) / count).ravel()  # in [0, 1]
        w = np.tile(weights / 2 / count, count)
        width = (high - low)[rows]
        v = low[rows, None] + width[:, None] * t
        z = v / spread[rows, None]
        density = 2 / np.sqrt(2 * np.pi) * np.exp(-(z**2) / 2) / spread[rows, None]
        rate.append(_rate(tau[rows, None], v / np.sqrt(tau[rows, None]), tolerance).ravel())
        weight.append((mass[rows, None] * density * width[:, None] * w).ravel())
    beyond = 2 * scipy.special.ndtr(-high / spread)
    return np.concatenate(rate), np.concatenate(weight), float(mass @ beyond)


def _rate(tau: Array, b: Array, tolerance: float) -> Array:
    with np.errstate(divide="ignore"):  # a sure hit has an infinite rate
        return np.asarray(-np.log1p(-success(tau, b, tolerance)))


@cache
def _legendre() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(_PANEL)
    return nodes, weights


def _gathered(rate: Array, weight: Array, never: float, most: float) -> Rates:
    """Points moved to the nodes of a grid in log lambda, by Lagrange interpolation of exp(-k lambda)."""
    least = _LEAST_K_LAMBDA / most
    rarest = never + float(np.exp(-most * rate) @ weight)  # the failure at the largest k
    counts = weight > _LIGHT * rarest
    rate, weight = rate[counts], weight[counts]
    never += float(weight[rate < least].sum())
    inside = (rate >= least) & (rate < _MOST_LAMBDA)
    x, weight = np.log(rate[inside]), weight[inside]
    first = np.log(least) - _POINTS * _SPACING
    count = int(np.ceil((np.log(_MOST_LAMBDA) - first) / _SPACING)) + _POINTS
    place = (x - first) / _SPACING
    corner = np.floor(place).astype(int) - _POINTS // 2 + 1
    away = (place - corner) - np.arange(_POINTS)[:, None]  # [nodes, points]
    below = np.ones_like(away)  # products of the distances to all nodes before, and after
    above = np.ones_like(away)
    for j in range(1, _POINTS):
        np.multiply(below[j - 1], away[j - 1], out=below[j])
        np.multiply(above[-j], away[-j], out=above[-j - 1])
    below *= above
    below *= weight
    gathered = np.zeros(count)
    offsets = np.arange(_POINTS)
    for j in range(_POINTS):
        gathered += np.bincount(corner + j, below[j], count) / np.prod(j - offsets[offsets != j])
    return Rates(float(first), np.append(never, gathered))
