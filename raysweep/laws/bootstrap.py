"""The bootstrap of a law: draws of whole runs, and the intervals and bands they give.

The unit is the independently trained run: all points of one run move together, so checkpoints of a run are one cluster
(Cameron, Gelbach & Miller 2008).

* More than 30 runs: whole runs are drawn with replacement. Percentiles of draws are too narrow, so deviations from the
  estimate are widened by sqrt(n / (n - p)), the degrees of freedom the fit used up, and by Student's t over the normal
  quantile (Hesterberg 2015, section 5).
* Fewer: a wild cluster bootstrap (Wu 1986; Cameron, Gelbach & Miller 2008). A draw's log y is the fit plus each run's
  residuals, enlarged by the run's leverage, times a multiplier: Webb's six points times sqrt(nu / chi2_nu), nu = n - p,
  so that draws of a linear law follow Student's t. Runs at one scale each borrow residuals from each other, see
  `resampling.Residuals.drawn`. Percentiles are the interval as they stand: it bends as the law does, keeps to the
  bounds, and is the same for a quantity and for a monotone function of it.
* A spread that changes with scale (`growth.Growth`): weights make residuals alike where a test found the change, and
  draws then vary its slope by its error; where there is only a hint of it, borrowed residuals are scaled. A new run's
  measurement always carries the error of the slope.
* A parameter on its bound: a bootstrap is not consistent there (Andrews 2000). As long as a share of the draws beyond
  the tail lies on a bound, the data do not exclude the law without that parameter, and the interval of every quantity
  also holds the percentiles of those draws alone.

tests/benchmarks/laws_coverage.py simulates how often the intervals cover the true value;
tests/benchmarks/laws-coverage.json has the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

from raysweep.laws.definition import Array, Law
from raysweep.laws.estimate import estimate, scales_of, solve
from raysweep.laws.growth import Growth
from raysweep.laws.resampling import canonical, measured, multiplicities, residuals, spent_by, tangent

__all__ = ["MANY_RUNS", "Bootstrap", "Resample", "bootstrap", "ends_of", "resample"]

MANY_RUNS = 30  # runs beyond which whole runs are drawn, not multipliers of their residuals
_FAR = 50.0  # in log y, beyond any interval: with one degree of freedom some draws of y would overflow
_RELATIVE = 1e-6  # how far a draw is polished: far below the spread of draws
Kind = Literal["case", "wild"]


@dataclass(frozen=True)
class Resample:
    """The problems whose solutions are the draws of a bootstrap; points in the caller's order.

    Attributes:
        kind: "case" draws runs, "wild" draws their residuals' signs and sizes.
        weights: Weights of each draw's points, [draws, points]; None where they are those of the estimate.
        y: Measurements of each draw, [draws, points]; None where they are those of the estimate.
        runs: Independent runs, n.
        spent: Degrees of freedom the law takes from them, p.
        redrawn: How many draws lost too many scales to fit the law and were drawn again.
        discarded: How many of them still had too few after many attempts and were left out.
        spread: Standard deviation of log y about the law, from the residuals.
        labels: Sorted labels of the runs, [runs]; None if none were given.
        seed: Seed of the draws.
        growth: How the spread changes with scale, `spread` being that at its centre; None where it does not.
    """

    kind: Kind
    weights: Array | None = field(repr=False)
    y: Array | None = field(repr=False)
    runs: int
    spent: int
    redrawn: int
    discarded: int
    spread: float = 0.0
    labels: npt.NDArray[Any] | None = field(default=None, repr=False)
    seed: int = 0
    growth: Growth | None = None

    def solved(self, law: Law, values: Array, draws: Array) -> Bootstrap:
        """The bootstrap these draws make: `draws` [draws, parameters] solve `weights` and `y`."""
        return Bootstrap(
            law,
            values,
            draws,
            self.redrawn,
            self.discarded,
            self.runs,
            self.spent,
            self.kind,
            self.spread,
            self.labels,
            self.seed,
            self.growth,
        )


@dataclass(frozen=True)
class Bootstrap:
    """Draws of a fitted law.

    Attributes:
        values: The estimate the draws surround, [parameters].
        draws: Parameter values of each draw, in the estimate's units, [draws, parameters].
        redrawn, discarded, runs, spent, kind, spread, labels, seed, growth: See `Resample`.
    """

    law: Law
    values: Array
    draws: Array = field(repr=False)
    redrawn: int
    discarded: int
    runs: int
    spent: int
    kind: Kind = "case"
    spread: float = 0.0
    labels: npt.NDArray[Any] | None = field(default=None, repr=False)
    seed: int = 0
    growth: Growth | None = None

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the spread between runs, n - p."""
        return self.runs - self.spent

    def interval(self, level: float = 0.95) -> Array:
        """Low and high of each parameter, [parameters, 2], within the parameter's bounds."""
        parameters = self.law.parameters
        log = np.array([p.log for p in parameters])

        def scale(values: Array) -> Array:
            return np.where(log, np.log(np.where(log, values, 1.0)), values)

        with np.errstate(divide="ignore", invalid="ignore"):  # an amplitude of a draw may vanish
            ends = self._interval(scale(self.values), scale(self.draws), level)
        ends = np.where(log[:, None], np.exp(np.where(log[:, None], ends, 0.0)), ends)
        return np.clip(ends, [[p.low] for p in parameters], [[p.high] for p in parameters])

    def interval_of(self, function: Callable[[Array], Array], level: float = 0.95, log: bool = False) -> Array:
        """Low and high, [..., 2], of what `function` makes of parameter values, [..., parameters] to [...].

        Args:
            function: Such as `Derived.of`, or a law's prediction at one point.
            level: Nominal coverage.
            log: The quantity is positive and its error multiplicative.
        """
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # it may be undefined in a draw
            centre, draws = np.asarray(function(self.values)), np.asarray(function(self.draws))
            if log:
                centre, draws = np.log(centre), np.log(draws)
            ends = self._interval(centre, draws, level)
            return np.asarray(np.exp(ends)) if log else ends

    def band(self, x: npt.ArrayLike, level: float = 0.95) -> Array:
        """Low and high of the mean law at new scales x > 0, [points] or [axes, points]: [points, 2], pointwise."""
        x = np.asarray(x, dtype=np.float64)
        return self.interval_of(lambda values: self.law.predict(x, values), level, log=True)

    def prediction(self, x: npt.ArrayLike, level: float = 0.95, noise: npt.ArrayLike | None = None) -> Array:
        """Low and high of a new run's measurement at scales x > 0, [points] or [axes, points]: [points, 2].

        Args:
            x: Where.
            level: Nominal coverage.
            noise: Standard deviation of log y about the law, a number or [points]: between runs and, added in
                quadrature, of a finite evaluation. What the residuals show (`spread`, `growth`) if not given.
        """
        centre, away = self._new(x, level, noise, joint=False)
        with np.errstate(over="ignore"):  # far outside its window a law may leave the range of numbers
            return np.asarray(np.exp(ends_of(centre, away, level, self.at_bounds())))

    def missed(
        self, x: npt.ArrayLike, y: npt.ArrayLike, level: float = 0.95, noise: npt.ArrayLike | None = None
    ) -> tuple[float, float]:
        """The share of new measurements y, [points], outside their interval at scales x, and how likely as many are.

        The draws say how many points would be missed if the law holds: those of one draw share its error.
        Arguments as in `prediction`.

        Returns:
            The share, and the p-value.
        """
        centre, away = self._new(x, level, noise, joint=True)
        low, high = ends_of(centre, away, level, self.at_bounds()).T
        t, draws = np.log(np.asarray(y, dtype=np.float64)), centre + away
        outside = (t < low) | (t > high)
        as_many = ((draws < low) | (draws > high)).sum(axis=1) >= outside.sum()
        return float(outside.mean()), float((1 + as_many.sum()) / (1 + len(draws)))

    def _new(self, x: npt.ArrayLike, level: float, noise: npt.ArrayLike | None, joint: bool) -> tuple[Array, Array]:
        """Log y of the law at scales x, [points], and deviations of new measurements from it, [draws, points].

        Errors of points are independent if they are `joint`; else the same, so that none depends on the other points.
        """
        x = np.asarray(x, dtype=np.float64)
        known = self.spread if self.growth is None else self.spread * self.growth.at(np.atleast_2d(x))
        sd = np.asarray(known if noise is None else noise, dtype=np.float64)
        with np.errstate(over="ignore", divide="ignore"):
            centre, draws = (np.log(self.law.predict(x, values)) for values in (self.values, self.draws))
        # Every quantile of Student's t once, in an order independent of the draws'.
        count = len(draws)
        errors = stdtrit(self.freedom, (np.arange(count) + 0.5) / count)
        rng = np.random.default_rng(self.seed)
        errors = rng.permuted(np.broadcast_to(errors[:, None], draws.shape if joint else (count, 1)), axis=0)
        if noise is None and self.growth is not None:
            errors = errors * self.growth.varied(np.atleast_2d(x), count, rng)
        with np.errstate(invalid="ignore"):  # infinite less infinite
            return centre, self.away(centre, draws, level) + sd * errors

    def at_bounds(self) -> list[npt.NDArray[np.bool_]]:
        """For each bound that some draw lies on, a mask of the draws on it, [draws]."""
        sides = [
            side
            for j, p in enumerate(self.law.parameters)
            for side in (self.draws[:, j] <= p.low, self.draws[:, j] >= p.high)
        ]
        return [side for side in sides if side.any()]

    def _interval(self, centre: Array, draws: Array, level: float) -> Array:
        return ends_of(centre, self.away(centre, draws, level), level, self.at_bounds())

    def away(self, centre: Array, draws: Array, level: float) -> Array:
        """Deviations of the draws, [draws, ...], whose percentiles are those of the estimate's error."""
        if self.kind == "wild":  # widened before they were solved
            return draws - centre
        tail = (1 + level) / 2
        factor = np.sqrt(self.runs / self.freedom) * stdtrit(self.freedom, tail) / ndtri(tail)
        return np.asarray(factor * (draws - centre))


def ends_of(centre: Array, away: Array, level: float, at_bounds: Sequence[npt.NDArray[np.bool_]]) -> Array:
    """Ends of the interval of a quantity, [..., 2], from its deviations, [draws, ...]."""
    low, high = _percentiles(away, level)
    for side in at_bounds:
        if side.mean() >= (1 - level) / 2:  # see the module's last rule
            ends = _percentiles(away[side], level)
            low, high = np.minimum(low, ends[0]), np.maximum(high, ends[1])
    # An estimate on its bound may have every draw on one side; its interval still holds the estimate.
    return np.stack([centre + np.minimum(low, 0.0), centre + np.maximum(high, 0.0)], axis=-1)


def _percentiles(away: Array, level: float) -> tuple[Array, Array]:
    """The percentiles of deviations, [draws, ...], between which `level` of them lie, [...] each."""
    undefined = np.isnan(away)  # where the quantity is undefined (0 / 0) a draw may lie anywhere: beyond either end
    with np.errstate(invalid="ignore"):
        low, high = (
            # Order statistics at share * (draws + 1): without bias however few the draws (Davison & Hinkley 1997, 2.4).
            np.quantile(np.where(undefined, far, away), share, axis=0, method="weibull")
            for far, share in ((-np.inf, (1 - level) / 2), (np.inf, (1 + level) / 2))
        )
    return low, high


def bootstrap(
    law: Law,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    run: npt.ArrayLike | None = None,
    weights: npt.ArrayLike | None = None,
    draws: int = 1000,
    seed: int = 0,
    huber: float | None = None,
) -> Bootstrap:
    """Refit `law` to `draws` resamples of its runs; the order of points does not matter.

    Args:
        x: Scales, positive, [points] or [axes, points].
        y: Measurements, positive, [points].
        run: The run each point comes from, [points]; every point is a run of its own if not given.
        weights: Non-negative, [points]; all 1 if not given.
        draws: Number of draws.
        seed: The same seed gives the same draws, and data sets with the same runs share their multiplicities or
            multipliers, which keeps comparisons between them paired.
        huber: See `estimate`.

    Raises:
        FitError: `law` does not fit these points at all (see `estimate.check`), or there are too few independent
            runs to judge an error by.
    """
    scales, y = scales_of(law, x), np.asarray(y, dtype=np.float64)
    w = np.ones(y.size) if weights is None else np.asarray(weights, dtype=np.float64)
    labels = None if run is None else np.asarray(run)
    order = canonical(scales, y, labels)
    scales, y, w, labels = scales[:, order], y[order], w[order], None if labels is None else labels[order]
    values = estimate(law, scales, y, w, huber=huber).values[0]
    sample = resample(law, scales, y, values, labels, w, draws, seed)
    count = draws - sample.discarded
    drawn = solve(
        law,
        np.log(scales)[None],
        np.log(np.atleast_2d(y if sample.y is None else sample.y)),
        np.broadcast_to(w, (count, w.size)) if sample.weights is None else sample.weights,
        huber,
        np.broadcast_to(values, (count, values.size)),
        _RELATIVE,
    )
    return sample.solved(law, values, drawn.values)


def resample(
    law: Law,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    fitted: Array,
    run: npt.ArrayLike | None = None,
    weights: npt.ArrayLike | None = None,
    draws: int = 1000,
    seed: int = 0,
    growth: Growth | None = None,
    kind: Kind | None = None,
    precision: Array | None = None,
) -> Resample:
    """The problems to solve for the draws of a bootstrap around the estimate `fitted`, [parameters]; see `bootstrap`.

    Args:
        growth: How the spread changes with scale; None where it does not.
        kind: By the number of runs if not given; a law of groups is always drawn by its residuals.
        precision: See `resampling.residuals`; the draws of the priors themselves are left to the caller.

    Raises:
        FitError: There are too few independent runs to judge an error by.
    """
    x, y = scales_of(law, x), np.asarray(y, dtype=np.float64)
    w = np.ones(y.size) if weights is None else np.asarray(weights, dtype=np.float64)
    given = None if run is None else np.asarray(run)
    order = canonical(x, y, given)
    order = order[w[order] > 0]
    labels, cluster = (None, np.arange(order.size)) if given is None else np.unique(given[order], return_inverse=True)
    has = measured(x[:, order], cluster)
    u, t = np.log(x[:, order]), np.log(y[order])
    known = None  # how many parameters the data determine beside priors
    if precision is not None:
        known = max(1, round(float((tangent(law, u, t, w[order], fitted, precision)[2] ** 2).sum())))
    runs, spent = len(has), spent_by(law, x[:, order], cluster, has, known)
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    left = residuals(law, u, t, w[order], fitted, cluster, precision)
    scale = np.ones(order.size) if growth is None else growth.at(x[:, order])
    spread = left.spread / math.sqrt(float(np.average(scale**2, weights=w[order])))
    if kind == "case" or (kind is None and runs > MANY_RUNS and not law.pooled):
        counts, redrawn = multiplicities(has, len(law.parameters), draws, rng)
        drawn = np.zeros((len(counts), y.size))
        drawn[:, order] = counts[:, cluster] * w[order]
        return Resample("case", drawn, None, runs, spent, redrawn, draws - len(counts), spread, labels, seed, growth)
    drawn = np.tile(y, (draws, 1))
    # Weights that follow the spread already make residuals alike.
    away = left.drawn(runs - spent, draws, rng, scale if growth is not None and not growth.found else None)
    if growth is not None and growth.found and left.single:
        away *= growth.varied(x[:, order], draws, rng)
    drawn[:, order] = np.exp(left.centre + np.clip(away, -_FAR, _FAR))
    return Resample("wild", None, drawn, runs, spent, 0, 0, spread, labels, seed, growth)
