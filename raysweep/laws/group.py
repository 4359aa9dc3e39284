"""One group's fit: a law, its estimate, its intervals, and everything a reader should know about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import fdtrc

from raysweep.errors import FitError, nearest
from raysweep.laws.bootstrap import Bootstrap, bootstrap
from raysweep.laws.estimate import Status, estimate
from raysweep.laws.forms import Array, Law

__all__ = ["GroupFit", "fit_group"]


_SUSPICIOUS = 0.001  # p-value below which a fit is flagged


@dataclass(frozen=True)
class GroupFit:
    """A law fitted to the points of one group, or the reason why it could not be.

    Attributes:
        law: The law.
        x, y: Names of the fitted columns.
        group: The by-columns' values that single this group out.
        params: Parameter values in the units of x and y; empty if the fit failed.
        intervals: Low and high of each parameter; empty if there are none (a note says why).
        status: `CONVERGED`, `BOUND_HIT`, `MAX_ITER`, or `FAILED` (then `error` says why).
        n_points, n_runs, n_scales: Rows, independent runs and distinct x that were fitted.
        window: Smallest and largest x.
        level: Nominal coverage of the intervals.
        rmse_log: Root mean squared log residual.
        details: A sentence for each note code.
        draws: The bootstrap behind the intervals.
        error: Why there is no estimate.
    """

    law: Law
    x: str
    y: str
    group: Mapping[str, Any]
    params: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    status: str
    n_points: int
    n_runs: int
    n_scales: int
    window: tuple[float, float]
    level: float
    rmse_log: float | None
    details: Mapping[str, str]
    draws: Bootstrap | None = field(default=None, repr=False)
    error: str | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Stable codes of what the reader should know; `details` says each in words."""
        return tuple(self.details)

    def interval(self, name: str) -> tuple[float, float]:
        """Low and high of the parameter `name`.

        Raises:
            FitError: There is no such parameter, or no interval.
        """
        if name not in self.law.names:
            raise FitError(f"The law {self.law.name!r} has no parameter {name!r}. {nearest(name, self.law.names)}")
        if name not in self.intervals:
            reason = self.error or self.details.get("no_interval", "It was fitted with bootstrap=0; ask for draws.")
            raise FitError(f"There is no interval of {name!r} here. {reason}")
        return self.intervals[name]

    def predict(self, x: npt.ArrayLike) -> Array:
        """The mean law at x > 0, [points]; NaN where the fit failed."""
        x = np.asarray(x, dtype=np.float64)
        values = np.array([self.params.get(name, np.nan) for name in self.law.names])
        return self.law.predict(x, values)

    def band(self, x: npt.ArrayLike) -> Array:
        """Low and high of the mean law at x > 0, [points, 2], at `level`; NaN where there are no draws."""
        x = np.asarray(x, dtype=np.float64)
        return np.full((x.size, 2), np.nan) if self.draws is None else self.draws.band(x, self.level)

    def to_json(self) -> dict[str, Any]:
        """Plain Python values only: JSON-safe, None where there is no number."""
        nothing = (None, None)
        record: dict[str, Any] = {
            "group": dict(self.group),
            "law": self.law.name,
            "params": [
                dict(zip(("name", "value", "ci_low", "ci_high"), (n, v, *self.intervals.get(n, nothing)), strict=True))
                for n, v in self.params.items()
            ],
            "notes": list(self.notes),
            "x": self.x,
            "y": self.y,
            "status": self.status,
            "n_points": self.n_points,
            "n_runs": self.n_runs,
            "n_scales": self.n_scales,
            "window": list(self.window),
            "level": self.level,
            "bootstrap": 0 if self.draws is None else len(self.draws.draws),
            "rmse_log": self.rmse_log,
            "details": dict(self.details),
        }
        return record if self.error is None else {**record, "error": self.error}


def lack_of_fit(x: Array, residual: Array, parameters: int, run: npt.NDArray[Any]) -> float | None:
    """The p-value of the F test of lack of fit against the spread of replicates (Draper & Smith 1998, section 2.1).

    Args:
        x: Scales, [points].
        residual: Log residuals of the fit, [points].
        parameters: What the fit estimated.
        run: Run of each point, [points]; None is returned where one run has several points: they are not replicates.
    """
    scales, at, count = np.unique(x, return_inverse=True, return_counts=True)
    free, spare = len(scales) - parameters, len(x) - len(scales)
    if free < 1 or spare < 1 or len(np.unique(run)) < len(run):
        return None
    means = np.bincount(at, residual) / count
    pure = float(((residual - means[at]) ** 2).sum())
    lack = float((count * means**2).sum())
    return float(fdtrc(free, spare, (lack / free) / (pure / spare))) if pure > 0 else None


def fit_group(
    law: Law,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    run: npt.ArrayLike | None = None,
    *,
    names: tuple[str, str] = ("x", "y"),
    group: Mapping[str, Any] | None = None,
    details: Mapping[str, str] | None = None,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> GroupFit:
    """Fit `law` to the points of one group; a refusal becomes a `FAILED` fit, not an exception.

    Args:
        law: What to fit.
        x, y: Scales and measurements, finite, [points], at least one.
        run: The run each point comes from, [points]; every point is a run of its own if not given.
        names: What x and y are called.
        group: The values that single the group out.
        details: Notes already known about these points.
        level: Nominal coverage of the intervals.
        draws: Bootstrap draws; 0 for none.
        seed: See `bootstrap`.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _, runs = np.unique(np.arange(x.size) if run is None else np.asarray(run), return_inverse=True)
    # In a canonical order, so neither the last digit nor a draw depends on the order of rows.
    order = np.lexsort((runs, y, x) if run is not None else (y, x))
    x, y, runs = x[order], y[order], (runs[order] if run is not None else runs)
    scales = np.unique(x)
    failed = GroupFit(
        law,
        *names,
        group=group or {},
        params={},
        intervals={},
        status="FAILED",
        n_points=x.size,
        n_runs=np.unique(runs).size,
        n_scales=scales.size,
        window=(float(scales[0]), float(scales[-1])),
        level=level,
        rmse_log=None,
        details=details or {},
    )
    try:
        fitted = estimate(law, x, y)
    except FitError as error:
        return replace(failed, error=str(error))
    status, notes = Status(fitted.status[0]), dict(failed.details)
    if status is Status.BOUND_HIT:
        notes["parameter_at_bound"] = (
            "An estimate lies on a bound of its parameter, so a law without that parameter fits as well."
        )
    p_value = lack_of_fit(np.log(x), np.log(y) - np.log(law.predict(x, fitted.values[0])), len(law.parameters), runs)
    if p_value is not None and p_value < _SUSPICIOUS:
        notes["lack_of_fit"] = (
            f"Means at each scale stray from the law by more than the spread of runs explains (F test, p = "
            f"{p_value:.1g}): the interval is of the best law of this form, not of one the data follow. "
            "Try another form or window."
        )
    if np.unique(np.stack([x, runs]), axis=1).shape[1] == scales.size:
        notes["one_run_per_scale"] = (
            "There is one run at each scale, so the spread between runs is judged from the residuals of the law alone."
        )
    sample = None
    if draws:
        try:
            sample = bootstrap(law, x, y, runs, draws=draws, seed=seed)
        except FitError as error:
            notes["no_interval"] = str(error)
    if sample is not None and sample.redrawn:
        notes["draws_redrawn"] = (
            f"{sample.redrawn} of {draws} draws lost too many scales to fit the law and were drawn again; "
            f"{sample.discarded} were discarded."
        )
    return replace(
        failed,
        params=dict(zip(law.names, fitted.values[0].tolist(), strict=True)),
        intervals={}
        if sample is None
        else dict(zip(law.names, map(tuple, sample.interval(level).tolist()), strict=True)),
        status=status.name,
        rmse_log=float(np.sqrt(fitted.objective[0] / x.size)),
        details=notes,
        draws=sample,
    )
