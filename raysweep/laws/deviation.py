"""A smooth deviation of the data from a fitted law: whether there is one, and where it may lead beyond the data.

log y = log law(x) + g(x) + noise. g is an integrated random walk in the logarithm of a scale: its slope changes by tau
for each square root of a decade, from 0 at the middle of the data (the prior of a cubic smoothing spline, Wahba 1978; a
discrepancy in the sense of Kennedy & O'Hagan 2001). Of several scales, g is a sum of such walks, one along each scale
and one along their product; either all have the same tau, or one of them has five times that of the others. The law's
parameters stay free along its tangent (universal kriging), so that g is what the law cannot follow.

The restricted likelihood of the residuals says how large tau may be, under a weak prior of its ratio to the law's own
slope (half-Cauchy, Gelman 2006). Clean residuals leave tau small, not 0, so an interval grows beyond the data even
where the law fits. The likelihood ratio against tau = 0 tests the law's form (Crainiceanu & Ruppert 2004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from raysweep.laws.definition import Array, Law
from raysweep.laws.remains import Remains

__all__ = ["Contrasts", "Deviation", "contrasts", "departure", "deviation", "tangent"]

_DECADE = math.log(10.0)
_USUAL = (0.05, 0.2)  # median of tau over the law's slope, for one scale and for several; found by coverage
_LESSER = 0.2  # tau of the other walks where one is larger
_RATIOS = np.geomspace(1e-3, 1e3, 37)  # largest variance of the deviation in the data, over that of the noise
_COARSE = slice(None, None, 3)  # of them, for the test
_DRAWS = 1000  # data sets without a deviation
_RANK = 1e-9
_STEP = 1e-4  # in log x, of a difference quotient
_FAR = 1e3  # standard deviations, beyond any quantile
_HALVINGS = 50


@dataclass(frozen=True)
class Contrasts:
    """What is left of the residuals when the law has followed them as far as it can.

    Attributes:
        root: Square roots of the cells' weights, [cells].
        fit: Pseudo-inverse of the law's weighted tangent, [parameters, cells].
        basis: Orthonormal contrasts of the cells that the law cannot follow, [cells, contrasts].
        residual: The residual in each, [contrasts].
        freedom: Degrees of freedom of the noise: those of the contrasts, and those within cells.
        middle: Where walks begin, [walks, 1].
        away: How far cells are from there, in decades, [walks, cells].
    """

    root: Array
    fit: Array
    basis: Array
    residual: Array
    freedom: int
    middle: Array
    away: Array


@dataclass(frozen=True)
class _Part:
    """The posterior of a deviation whose walks have given rates.

    Attributes:
        rates: Tau of each walk over the largest, [walks].
        basis: Contrasts in which the deviation is uncorrelated, [cells, contrasts].
        size: The deviation's variance in each for tau = 1, [contrasts].
        residual: The residual in each, [contrasts].
        ratio: Squared tau over the noise's variance, [taus].
        variance: The noise's variance, [taus].
        evidence: Log posterior of each tau up to a constant, [taus].
    """

    rates: Array
    basis: Array
    size: Array
    residual: Array
    ratio: Array
    variance: Array
    evidence: Array

    def predicted(self, data: Contrasts, away: Array, by: Array) -> tuple[Array, Array]:
        """Mean and variance, over the noise's, of what adds to the law's prediction, [taus, points] each.

        Args:
            away: The points' distances from where walks begin, [walks, points].
            by: The weights of the cells in each point's prediction by the law, [cells, points].
        """
        cross = _walks(data.away, away, self.rates) * data.root[:, None]
        among = _walks(data.away, data.away, self.rates) * data.root[:, None] * data.root
        known = self.basis.T @ (cross - among @ by)
        alone = self.rates**2 @ np.abs(away) ** 3 / 3 - 2 * (by * cross).sum(axis=0) + (by * (among @ by)).sum(axis=0)
        shrunk = self.ratio[:, None] / (1 + self.ratio[:, None] * self.size)
        extra = self.ratio[:, None] * alone - self.ratio[:, None] * (shrunk @ known**2)
        return (shrunk * self.residual) @ known, np.maximum(extra, 0.0)


@dataclass(frozen=True)
class Deviation:
    """The posterior of a law times exp(g)."""

    law: Law
    values: Array
    _data: Contrasts
    _parts: tuple[_Part, ...]

    def interval(self, x: Array, level: float, noise: bool = False) -> Array:
        """Low and high of y at scales x > 0, [axes, points]: [points, 2].

        Args:
            noise: Of a new run's measurement, in place of the mean.
        """
        u = np.log(x)
        with np.errstate(all="ignore"):  # far outside its window a law may vanish or overflow
            centre, slopes = tangent(self.law, u, self.values)
        by = self._data.fit.T @ slopes.T
        own = (by**2).sum(axis=0) + float(noise)
        moved, scale = [], []
        for part in self._parts:
            mean, extra = part.predicted(self._data, _along(u) - self._data.middle, by)
            moved.append(mean)
            scale.append(np.sqrt((own + extra) * part.variance[:, None]))
        evidence = np.concatenate([part.evidence for part in self._parts])
        share = np.exp(evidence - evidence.max())
        mixture = np.concatenate(moved), np.maximum(np.concatenate(scale), 1e-300), share / share.sum()
        ends = [_quantile(*mixture, self._data.freedom, tail) for tail in ((1 - level) / 2, (1 + level) / 2)]
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(centre[:, None] + np.stack(ends, axis=-1)))


def deviation(law: Law, values: Array, left: Remains) -> Deviation | None:
    """The posterior of how far a law may be wrong; None where too few residuals are left to tell.

    Args:
        values: The estimate, [parameters].
        left: What it left of the data.
    """
    data = contrasts(law, values, left)
    if data is None:
        return None
    usual = _USUAL[min(len(left.u), 2) - 1] * max(_steepness(law, left.u, values), _RANK)
    parts = []
    for rates, size, turn in _turned(data):
        residual = turn.T @ data.residual
        ratio = _RATIOS / size[-1]
        gain, variance = _restricted(residual[None] ** 2, np.array([left.within]), ratio[:, None] * size, data.freedom)
        over = np.sqrt(ratio * variance[0]) / usual
        evidence = gain[0] + np.log(over) - np.log1p(over**2)
        parts.append(_Part(rates, data.basis @ turn, size, residual, ratio, variance[0], evidence))
    return Deviation(law, values, data, tuple(parts)) if parts else None


def departure(law: Law, values: Array, left: Remains, seed: int = 0) -> float | None:
    """The p-value of the law's form: the share of data sets of the law and independent noise that deviate as clearly.

    The statistic is the restricted likelihood ratio of a smooth deviation, its distribution that of simulated noise.
    None where too few residuals are left to tell. Arguments as in `deviation`.

    Args:
        seed: Of the simulated noise.
    """
    data = contrasts(law, values, left)
    if data is None:
        return None
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((_DRAWS, data.residual.size))
    within = rng.chisquare(left.spare, _DRAWS) if left.spare else np.zeros(_DRAWS)
    seen, drawn = 0.0, np.zeros(_DRAWS)
    for _, size, turn in _turned(data):
        extra = (_RATIOS[_COARSE] / size[-1])[:, None] * size
        mine = (turn.T @ data.residual)[None] ** 2
        seen = max(seen, float(_restricted(mine, np.array([left.within]), extra, data.freedom)[0].max()))
        drawn = np.maximum(drawn, _restricted((noise @ turn) ** 2, within, extra, data.freedom)[0].max(axis=1))
    return (1 + int((drawn >= seen).sum())) / (1 + _DRAWS)


def contrasts(law: Law, values: Array, left: Remains) -> Contrasts | None:
    """What the law cannot follow of the residuals; None where too few are left to tell. Arguments as in `deviation`."""
    root = np.sqrt(left.weight)
    slopes = tangent(law, left.u, values)[1] * root[:, None]
    length = np.linalg.norm(slopes, axis=0)
    length = np.where(length > 0, length, 1.0)
    q, size, v = np.linalg.svd(slopes / length, full_matrices=True)
    rank = int((size > _RANK * size[0]).sum())
    fit = (v[:rank].T / size[:rank]) @ q[:, :rank].T / length[:, None]
    basis = q[:, rank:]
    residual = basis.T @ (root * left.residual)
    freedom = residual.size + left.spare
    if residual.size < 1 or freedom < 2 or float(residual @ residual) + left.within <= 0:
        return None
    along = _along(left.u)
    middle = (along.min(axis=1, keepdims=True) + along.max(axis=1, keepdims=True)) / 2
    return Contrasts(root, fit, basis, residual, freedom, middle, along - middle)


def _turned(data: Contrasts) -> list[tuple[Array, Array, Array]]:
    """For each choice of rates, [walks]: the deviation's variances, [contrasts], and the contrasts that have them."""
    count = len(data.away)
    choices = np.eye(1) if count == 1 else np.vstack([np.ones(count), np.where(np.eye(count) > 0, 1.0, _LESSER)])
    out = []
    for rates in choices:
        among = _walks(data.away, data.away, rates) * data.root[:, None] * data.root
        size, turn = np.linalg.eigh(data.basis.T @ among @ data.basis)
        if size[-1] > _RANK:
            out.append((rates, np.maximum(size, 0.0), turn))
    return out


def _along(u: Array) -> Array:
    """What walks run along, in decades, [walks, points]: each scale, and of several their product."""
    decades = u / _DECADE
    return decades if len(u) == 1 else np.vstack([decades, decades.sum(axis=0)])


def _walks(a: Array, b: Array, rates: Array) -> Array:
    """The covariance of a sum of integrated random walks that begin at 0, [a, b], for places [walks, a or b]."""
    a, b = a[:, :, None], b[:, None, :]
    near, far = np.minimum(np.abs(a), np.abs(b)), np.maximum(np.abs(a), np.abs(b))
    each = np.where(a * b > 0, near**2 * (3 * far - near) / 6, 0.0)
    return np.asarray(np.tensordot(rates**2, each, axes=1))


def tangent(law: Law, u: Array, values: Array) -> tuple[Array, Array]:
    """Log y, [points], and its slope in each parameter, 0 for one on its bound, [points, parameters]."""
    centre, rows = law.evaluate(u, values)
    columns = [
        np.broadcast_to(row * value if p.log else row, centre.shape) * (p.low < value < p.high)
        for row, value, p in zip(rows, values, law.parameters, strict=True)
    ]
    return centre, np.stack(columns, axis=1)


def _steepness(law: Law, u: Array, values: Array) -> float:
    """Root mean square of the law's slope where all scales grow together, in log y per decade of each."""
    moved = law.evaluate(u + _STEP, values)[0] - law.evaluate(u, values)[0]
    return float(np.sqrt((moved**2).mean())) / _STEP * _DECADE


def _restricted(squares: Array, within: Array, extra: Array, freedom: int) -> tuple[Array, Array]:
    """The log restricted likelihood less that without a deviation, and the noise's variance, [data sets, taus] each.

    Args:
        squares: Squared residuals in each contrast, [data sets, contrasts].
        within: Sum of squares that no deviation adds to, [data sets].
        extra: The deviation's variance over the noise's, [taus, contrasts].
    """
    rest = squares @ (1 / (1 + extra)).T + within[:, None]
    none = squares.sum(axis=1, keepdims=True) + within[:, None]
    return -0.5 * np.log1p(extra).sum(axis=1) - 0.5 * freedom * np.log(rest / none), rest / freedom


def _quantile(mean: Array, scale: Array, share: Array, freedom: int, tail: float) -> Array:
    """A quantile of mixtures of Student's t, [points], from the parts' means and scales, [parts, points]."""
    low, high = (mean - _FAR * scale).min(axis=0), (mean + _FAR * scale).max(axis=0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = share @ stdtr(freedom, (middle - mean) / scale) < tail
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray((low + high) / 2)
