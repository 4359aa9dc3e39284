"""One group's fit: a law, its estimate, its intervals, and everything a reader should know about them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import fdtrc

from raysweep.errors import FitError, nearest
from raysweep.laws.bootstrap import Bootstrap
from raysweep.laws.choice import Evidence
from raysweep.laws.covariance import covariance, draws_record
from raysweep.laws.definition import Array, Law
from raysweep.laws.prior import Prior
from raysweep.laws.remains import Remains
from raysweep.laws.window import Bounds

__all__ = ["Data", "GroupFit", "Holdout", "lack_of_fit"]


@dataclass(frozen=True)
class Data:
    """The points of one group.

    Attributes:
        x: Scales, finite, [axes, points].
        y: Measurements, finite, [points].
        run: The run each point comes from, [points]; every point is a run of its own if None.
        se: Standard error of each y from finite evaluation, [points]; None where unknown.
        group: The by-columns' values that single the group out.
        details: Notes already known about these points.
        cluster: What `run` holds, for the reader.
        bounds: The window that kept these points; None without one.
        others: The values, numbered from 0, of columns that the fit does not use, [points] each.
        x_se: Standard error of each x from its measurement, [axes, points]; None where x is exact.
        x_seen: x as measured, [axes, points], where the fit moved the points (`inexact`); None where it did not.
    """

    x: Array
    y: Array
    run: npt.NDArray[Any] | None = None
    se: Array | None = None
    group: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    cluster: str = "run"
    bounds: Bounds | None = None
    others: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    x_se: Array | None = None
    x_seen: Array | None = None

    def take(self, rows: npt.NDArray[Any]) -> Data:
        """Some of the points, by a mask or by their numbers."""
        return replace(
            self,
            x=self.x[:, rows],
            y=self.y[rows],
            run=None if self.run is None else self.run[rows],
            se=None if self.se is None else self.se[rows],
            others={name: codes[rows] for name, codes in self.others.items()},
            x_se=None if self.x_se is None else self.x_se[:, rows],
            x_seen=None if self.x_seen is None else self.x_seen[:, rows],
        )


@dataclass(frozen=True)
class Holdout:
    """The fit without the largest scales, and how well it predicted them.

    Attributes:
        share: Share of distinct scales that was left out.
        cut: The largest scale it was fitted to (for several scales, the largest product).
        params: Its parameter values.
        n_points: Points left out.
        rmse_log: Root mean squared error of log y on them.
        coverage: Share of them inside the interval of a new measurement, at the fit's level; None without draws, and
            where y rises and the law cannot.
        p_value: How likely as few of them are inside, if the law holds.
    """

    share: float
    cut: float
    params: Mapping[str, float]
    n_points: int
    rmse_log: float
    coverage: float | None
    p_value: float | None = None


@dataclass(frozen=True)
class GroupFit:
    """A law fitted to the points of one group, or the reason why it could not be.

    Attributes:
        x: Names of the scales' columns, in the order of the law's axes.
        y: Name of the measurement's column.
        group: The by-columns' values that single this group out.
        params: Parameter values in the units of x and y; empty if the fit failed.
        derived: Quantities that follow from them, such as a compute-optimal exponent.
        intervals: Low and high of each parameter and derived quantity; empty if there are none (a note says why).
        status: `CONVERGED`, `BOUND_HIT`, `MAX_ITER`, or `FAILED` (then `error` says why).
        n_points, n_clusters, n_scales: Rows, clusters (whose rows may have correlated errors) and distinct scales.
        cluster: What identifies clusters: `run`, a ledger's seed, or the column that was named.
        window: Smallest and largest value of each scale; NaN without a point.
        level: Nominal coverage of the intervals.
        rmse_log: Root mean squared log residual.
        details: A sentence for each note code.
        holdout: The fit without the largest scales; None if there are too few, or none was asked for.
        rivals: Comparison of the law with others on the same points, best first.
        huber: Where the loss turned linear, in log units; None for least squares.
        envelope: Weight of squared residuals above the law against those below; None for a law of the mean.
        shared: Parameters that are the same in all groups of the fit.
        priors: What was known of parameters beforehand.
        draws: The bootstrap behind the intervals.
        error: Why there is no estimate.
        bounds: The rule by which rows were kept, and its values here; None where none was asked for.
        left: What the fit leaves of the data, for intervals of a law that may bend; None without draws or of an
            envelope.
    """

    law: Law
    x: tuple[str, ...]
    y: str
    group: Mapping[str, Any]
    params: Mapping[str, float]
    derived: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    status: str
    n_points: int
    n_clusters: int
    cluster: str
    n_scales: int
    window: tuple[tuple[float, float], ...]
    level: float
    rmse_log: float | None
    details: Mapping[str, str]
    holdout: Holdout | None = None
    rivals: tuple[Evidence, ...] = ()
    huber: float | None = None
    envelope: float | None = None
    shared: tuple[str, ...] = ()
    priors: tuple[Prior, ...] = ()
    draws: Bootstrap | None = field(default=None, repr=False)
    error: str | None = None
    bounds: Bounds | None = None
    left: Remains | None = field(default=None, repr=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """Stable codes of what the reader should know; `details` says each in words."""
        return tuple(self.details)

    @property
    def least(self) -> dict[str, float]:
        """The smallest value of each scale by its column."""
        return {name: low for name, (low, _) in zip(self.x, self.window, strict=True)}

    def interval(self, name: str) -> tuple[float, float]:
        """Low and high of the parameter or derived quantity `name`.

        Raises:
            FitError: There is no such quantity, or no interval.
        """
        names = (*self.law.names, *(d.name for d in self.law.derived))
        if name not in names:
            raise FitError(f"The law {self.law.name!r} has no parameter {name!r}. {nearest(name, names)}")
        if name not in self.intervals:
            reason = self.error or self.details.get("no_interval", "It was fitted with `bootstrap=0`; ask for draws.")
            raise FitError(f"There is no interval of {name!r} here. {reason}")
        return self.intervals[name]

    def predict(self, x: npt.ArrayLike) -> Array:
        """The mean law at scales x > 0, [points] or [axes, points]; NaN where the fit failed."""
        values = np.array([self.params.get(name, np.nan) for name in self.law.names])
        x = np.atleast_2d(np.asarray(x, dtype=np.float64))
        return np.full(x.shape[1], np.nan) if np.isnan(values).any() else self.law.predict(x, values)

    def band(self, x: npt.ArrayLike) -> Array:
        """Low and high of the mean law at scales x > 0, [points, 2], at `level`; NaN where there are no draws."""
        x = np.atleast_2d(np.asarray(x, dtype=np.float64))
        return np.full((x.shape[1], 2), np.nan) if self.draws is None else self.draws.band(x, self.level)

    def prediction(self, x: npt.ArrayLike) -> Array:
        """Low and high of a new run's measurement at scales x > 0, [points, 2]; NaN without draws or of an envelope."""
        x = np.atleast_2d(np.asarray(x, dtype=np.float64))
        if self.draws is None or self.envelope is not None:
            return np.full((x.shape[1], 2), np.nan)
        return self.draws.prediction(x, self.level)

    def to_json(self, draws: bool = False) -> dict[str, Any]:
        """Plain Python values only: JSON-safe, None where there is no number.

        Args:
            draws: Also the draws of the parameters and their covariance, see `laws.covariance`.
        """
        nothing = (None, None)

        def named(values: Mapping[str, float]) -> list[dict[str, Any]]:
            keys = ("name", "value", "ci_low", "ci_high")
            return [dict(zip(keys, (n, v, *self.intervals.get(n, nothing)), strict=True)) for n, v in values.items()]

        window = [[None if math.isnan(end) else end for end in ends] for ends in self.window]
        record: dict[str, Any] = {
            "group": dict(self.group),
            "law": self.law.name,
            "formula": self.law.formula,
            "params": named(self.params),
            "notes": list(self.notes),
            "derived": named(self.derived),
            "x": self.x[0] if len(self.x) == 1 else list(self.x),
            "y": self.y,
            "status": self.status,
            "n_points": self.n_points,
            "n_clusters": self.n_clusters,
            "cluster": self.cluster,
            "n_scales": self.n_scales,
            "window": window[0] if len(self.x) == 1 else window,
            "level": self.level,
            "bootstrap": 0 if self.draws is None else len(self.draws.draws),
            "rmse_log": self.rmse_log,
            "huber": self.huber,
            "envelope": self.envelope,
            "shared": list(self.shared),
            "priors": [vars(prior) for prior in self.priors],
            "holdout": None if self.holdout is None else {**vars(self.holdout), "params": dict(self.holdout.params)},
            "rivals": [rival.to_json() for rival in self.rivals],
            "details": dict(self.details),
        }
        if self.bounds is not None:
            record["bounds"] = self.bounds.to_json()
        if draws:
            record["draws"] = None if self.draws is None else draws_record(self.draws)
            record["covariance"] = None if self.draws is None else covariance(self.draws)
        return record if self.error is None else {**record, "error": self.error}


def lack_of_fit(x: Array, residual: Array, parameters: int, run: npt.NDArray[Any]) -> float | None:
    """The p-value of the F test of lack of fit against the spread of replicates (Draper & Smith 1998, section 2.1).

    Args:
        x: Scales, [points] or [axes, points].
        residual: Log residuals of the fit, [points].
        parameters: What the fit estimated.
        run: Unit of each point, [points]. Errors of one unit at several scales may be correlated: the law absorbs what
            they share, so the test then rejects less often than it says. Points of one unit at one scale are no
            replicates: None is returned.
    """
    x = np.atleast_2d(x)
    scales, axis = (x[0], None) if len(x) == 1 else (x, 1)
    _, at, count = np.unique(scales, axis=axis, return_inverse=True, return_counts=True)
    units = np.unique(run, return_inverse=True)[1]
    free, spare = len(count) - parameters, len(at) - len(count)
    if free < 1 or spare < 1 or len(np.unique(at * (units.max() + 1) + units)) < len(at):
        return None
    means = np.bincount(at, residual) / count
    pure = float(((residual - means[at]) ** 2).sum())
    lack = float((count * means**2).sum())
    return float(fdtrc(free, spare, (lack / free) / (pure / spare))) if pure > 0 else None
