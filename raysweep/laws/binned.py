"""Draws of a fit to very many points: sums over runs and cells of neighbouring points take the points' place.

* A cell's measurement is the fit at its mean scale plus the weighted mean of its residuals. What the law bends inside a
  cell is thus accounted for; only the difference of a draw and the estimate is taken to be constant there.
* Runs beyond 1,000, or rows that are their own, are put at random into 1,000 batches, which stand for independent runs.
* Under Huber's loss, the residuals are the estimate's influences: clipped, over the share of points that are not. The
  draws then have its asymptotic distribution (Huber 1964).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from raysweep.laws.bootstrap import MANY_RUNS, Bootstrap, Resample, resample
from raysweep.laws.definition import Array, Law
from raysweep.laws.estimate import solve
from raysweep.laws.growth import Growth
from raysweep.laws.resampling import measured, multiplicities, spent_by

__all__ = ["UNITS", "binned"]

UNITS = 1000  # runs, or batches of runs, that are drawn
_CELLS = 600  # at most, of all scales together


def binned(
    law: Law,
    x: Array,
    y: Array,
    w: Array,
    fitted: Array,
    run: npt.NDArray[np.int64] | None,
    draws: int,
    seed: int,
    huber: float | None = None,
    growth: Growth | None = None,
    relative: float = 1e-6,
) -> Bootstrap:
    """The bootstrap around the estimate `fitted`, [parameters]; arguments as in `bootstrap` and `resample`.

    Raises:
        FitError: There are too few independent runs to judge an error by.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    labels, unit = (None, np.arange(y.size)) if run is None else np.unique(run, return_inverse=True)
    units = int(unit.max()) + 1
    if units > UNITS:
        labels, unit, units = None, (rng.permutation(units) % UNITS)[unit], UNITS
    u = np.log(x)
    residual = np.log(y) - np.log(law.predict(x, fitted))
    scale = np.ones(y.size) if growth is None else growth.at(x)
    squares = float(np.average(residual**2, weights=w)) / float(np.average(scale**2, weights=w))
    spread = math.sqrt(squares * y.size / (y.size - law.free))
    cell, cells = _cells(u)
    total = np.bincount(cell, w)
    middle = np.stack([np.bincount(cell, w * axis) / total for axis in u])
    base = np.log(law.predict(np.exp(middle), fitted))
    place = cell * units + unit
    weight, moment = (
        np.bincount(place, part, cells * units).reshape(cells, units)
        for part in (w, w * _influence(residual, w, huber))
    )
    at, of = np.nonzero(weight)  # sorted by cell
    seen = np.exp(middle[:, at])
    if units > MANY_RUNS:
        spent = spent_by(law, seen, of, measured(seen, of))
        counts, redrawn = multiplicities((weight > 0).T.astype(np.float64), len(law.parameters), draws, rng)
        weights = counts @ weight.T
        t = base + (counts @ moment.T) / np.where(weights > 0, weights, 1.0)
        lost = draws - len(counts)
        sample = Resample("case", weights, None, units, spent, redrawn, lost, spread, labels, seed, growth)
    else:
        own = weight[at, of]
        there = np.exp(base[at] + moment[at, of] / own)
        sample = replace(resample(law, seen, there, fitted, of, own, draws, seed, growth), spread=spread, labels=labels)
        assert sample.y is not None
        first = np.flatnonzero(np.diff(at, prepend=-1))
        weights = np.broadcast_to(total, (draws, cells))
        t = np.add.reduceat(own * np.log(sample.y), first, axis=1) / total
    start = np.broadcast_to(fitted, (len(t), fitted.size))
    return sample.solved(law, fitted, solve(law, middle[None], t, weights, None, start, relative).values)


def _influence(residual: Array, w: Array, huber: float | None) -> Array:
    """What each point adds to the estimate, as the residual of a least-squares fit of the same influence, [points]."""
    if huber is None:
        return residual
    inside = float(np.average(np.abs(residual) <= huber, weights=w))
    return np.asarray(np.clip(residual, -huber, huber) / max(inside, 1 / residual.size))


def _cells(u: Array) -> tuple[npt.NDArray[np.int64], int]:
    """The cell of each point, from 0, and how many there are: equal parts of each log scale's range."""
    parts = max(2, int(_CELLS ** (1 / len(u)) + 1e-9))
    cell = np.zeros(u.shape[1], dtype=np.int64)
    for axis in u:
        away = axis - axis.min()
        part = np.minimum((away * (parts / max(float(away.max()), 1e-300))).astype(np.int64), parts - 1)
        cell = cell * parts + part
    values, cell = np.unique(cell, return_inverse=True)
    return cell, values.size
