"""Compute-optimal allocation: how to spend a budget of FLOPs on the two scales of a joint law.

Along a budget `C = c x^p t^q` the law is a function of log x alone. The separable laws have its minimum in closed form
(Hoffmann et al. 2022, arXiv 2203.15556, eq. 4, there for p = q = 1); any other two-axis law is searched, all draws and
budgets at once. So is a budget that also pays for inference, `C = c x^p t^q + 2 x T` (Sardana et al. 2024, arXiv
2401.00448, eq. 2); see `serving` for the least such budget that reaches a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError
from raysweep.laws import terms
from raysweep.laws.definition import Array, Law
from raysweep.laws.draws import Sample
from raysweep.laws.reach import check_reach

__all__ = ["Allocation", "Cost", "allocate", "extrapolation", "fit_cost", "minimum", "optimal_line", "optimum"]

_REACH = 50.0  # log units that the search goes to either side of x = t
_SERVED = 2.0  # FLOPs of inference per parameter and token
_POOR = 0.2  # relative misfit from which a cost model is flagged
_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True)
class Cost:
    """The cost of training: `C = c x^p t^q`, by default the 6 FLOPs per parameter and token of Kaplan and Hoffmann; and
    of inference, 2 FLOPs per parameter (the first scale) and token.

    Attributes:
        c: FLOPs at x = t = 1.
        p, q: Exponents of the first and of the second scale, positive.
        r2: Share of the variance of log FLOPs it explains; None if it was not fitted.
        misfit: Largest |fitted / measured - 1|; None if it was not fitted.
        details: A sentence for each note code (`cost_model_poor`).
        tokens: Tokens of inference over the model's life; 0 for training alone.
    """

    c: float = 6.0
    p: float = 1.0
    q: float = 1.0
    r2: float | None = None
    misfit: float | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    tokens: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.tokens < np.inf:
            raise FitError(f"Tokens of inference are finite and >= 0, but got {self.tokens:g}. Give 0 for none.")
        if not (self.c > 0 and self.p > 0 and self.q > 0):
            raise FitError(
                f"A cost C = c x^p t^q needs c, p, q > 0, but got c={self.c:g}, p={self.p:g}, q={self.q:g}. "
                "A scale that costs nothing has no optimum: give both a price."
            )

    def flops(self, x: npt.ArrayLike, t: npt.ArrayLike) -> Array:
        """FLOPs of training and inference at scales x and t, which broadcast."""
        x, t = np.asarray(x, dtype=np.float64), np.asarray(t, dtype=np.float64)
        with np.errstate(over="ignore"):
            return np.asarray(self.c * x**self.p * t**self.q + self.served(x))

    def served(self, x: npt.ArrayLike) -> Array:
        """FLOPs of inference at the first scale x."""
        return _SERVED * self.tokens * np.asarray(x, dtype=np.float64)

    def other(self, log_x: Array, budget: Array) -> Array:
        """log t that spends the budget beside log x; -inf where inference takes all of it."""
        if self.tokens:
            budget = np.maximum(budget - self.served(np.exp(log_x)), 0.0)
        with np.errstate(divide="ignore", over="ignore"):
            return np.asarray((np.log(budget / self.c) - self.p * log_x) / self.q)

    def most(self, budget: Array) -> Array:
        """log x whose inference alone takes the budget; inf without inference."""
        with np.errstate(divide="ignore", over="ignore"):
            return np.asarray(np.log(budget / (_SERVED * self.tokens))) if self.tokens else np.full_like(budget, np.inf)


def fit_cost(x: npt.ArrayLike, t: npt.ArrayLike, flops: npt.ArrayLike) -> Cost:
    """`log C = log c + p log x + q log t` by least squares on measured FLOPs, such as a ledger's column `flops`.

    Args:
        x, t: Scales of each run, positive, [runs].
        flops: Measured, positive, [runs].

    Raises:
        FitError: A value is not positive, the scales do not vary independently, or more of one costs less.
    """
    columns = np.stack([np.asarray(v, dtype=np.float64) for v in (x, t, flops)])
    if not ((columns > 0) & np.isfinite(columns)).all():
        raise FitError("A cost model is fitted in logs: scales and FLOPs must be positive and finite. Drop other runs.")
    u, v, y = np.log(columns)
    design = np.stack([np.ones_like(u), u, v], axis=1)
    values, _, rank, _ = np.linalg.lstsq(design, y)
    if rank < 3:
        raise FitError(
            f"A cost model needs scales that vary independently, but {u.size} runs at "
            f"{np.unique(u).size} and {np.unique(v).size} values cannot separate them. Add runs off the diagonal, "
            "or state the cost: Cost(c=6)."
        )
    residual = y - design @ values
    misfit = float(np.abs(np.expm1(-residual)).max())
    spread = float(((y - y.mean()) ** 2).sum())
    details = {}
    if misfit > _POOR:
        details["cost_model_poor"] = (
            f"The cost model deviates from the measured FLOPs by up to {misfit:.0%}: budgets and optima are off by as "
            "much. Fit it to runs near the budget in question, or state the cost."
        )
    c, p, q = float(np.exp(values[0])), float(values[1]), float(values[2])
    return Cost(c, p, q, 1.0 - float((residual**2).sum()) / spread, misfit, details)


@dataclass(frozen=True)
class Allocation:
    """The best use of each budget under a law and a cost.

    Attributes:
        law: The joint law; `law.axes` names the two scales.
        cost: The cost of training.
        budget: FLOPs, [budgets].
        x, t: The compute-optimal scales, in the units of the fit, [budgets].
        loss: The law's y there, [budgets].
        intervals: Low and high of each at `level`, keys `x`, `t`, `loss`, each [budgets, 2]; empty without draws. Where
            losses were given, `budget` in place of `loss`.
        level: Nominal coverage.
        details: A sentence for each note code.
    """

    law: Law
    cost: Cost
    budget: Array
    x: Array
    t: Array
    loss: Array
    intervals: Mapping[str, Array]
    level: float
    details: Mapping[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.details)

    def to_json(self) -> list[dict[str, Any]]:
        """One record per budget: plain Python values, None where there is no interval."""
        named = {"x": f"{self.law.axes[0]}*", "t": f"{self.law.axes[1]}*", "loss": "loss"}
        if "budget" in self.intervals:
            named["budget"] = "FLOPs"
        price = {"c": self.cost.c, "p": self.cost.p, "q": self.cost.q}
        return [
            {
                "budget": float(budget),
                "law": self.law.name,
                "cost": {**price, "tokens": self.cost.tokens} if self.cost.tokens else price,
                "params": [
                    dict(
                        zip(
                            ("name", "value", "ci_low", "ci_high"),
                            (name, float(getattr(self, key)[i]), *self._ends(key, i)),
                            strict=True,
                        )
                    )
                    for key, name in named.items()
                ],
                "level": self.level,
                "notes": list(self.notes),
                "details": dict(self.details),
            }
            for i, budget in enumerate(self.budget)
        ]

    def _ends(self, key: str, i: int) -> tuple[float | None, float | None]:
        if key not in self.intervals:
            return None, None
        low, high = self.intervals[key][i].tolist()
        return low, high


def allocate(
    law: Law,
    fitted: npt.ArrayLike | Sample,
    budget: npt.ArrayLike,
    cost: Cost | None = None,
    *,
    level: float = 0.95,
    window: tuple[float, float] | None = None,
) -> Allocation:
    """The scales that make a two-axis law least at a cost of `budget`.

    Args:
        law: A law of two axes, such as `chinchilla`, `kaplan` or `time`.
        fitted: Parameter values, [parameters], or a bootstrap of the law, which gives intervals.
        budget: FLOPs of training and, with `cost.tokens`, of inference, positive, one number or [budgets].
        cost: 6 x t if not given.
        level: Nominal coverage of the intervals.
        window: Least and greatest compute of the runs behind the fit; training outside it is noted.

    Raises:
        FitError: The law does not have two axes, a budget is not positive, or the law has no interior optimum, as when
            an exponent is 0 (`no_interior_optimum`).
    """
    cost = Cost() if cost is None else cost
    budgets = np.atleast_1d(np.asarray(budget, dtype=np.float64))
    if not law.costs:
        raise FitError(
            f"An allocation trades two scales against each other, but the law {law.name!r} is over "
            f"{', '.join(law.axes)}. Fit a joint law, such as chinchilla; `split` trades attempts against training."
        )
    if not ((budgets > 0) & np.isfinite(budgets)).all():
        raise FitError(f"Budgets are positive and finite, but got {budgets.tolist()}. Give FLOPs.")
    sample = fitted if isinstance(fitted, Sample) else None
    values = np.asarray(fitted if sample is None else sample.values, dtype=np.float64)
    if window is not None:  # before anything overflows
        extrapolation(budgets, window)
    interior = optimum(law, values, budgets, cost)[1]
    if not interior.all():
        named = ", ".join(f"{n}={v:g}" for n, v in zip(law.names, values, strict=True))
        raise FitError(
            f"An optimum needs a loss that falls along both {law.axes[0]} and {law.axes[1]}, but at {named} all of "
            f"{budgets[~interior][0]:g} FLOPs would go to one of them (no_interior_optimum). Add runs that vary the "
            "scale whose exponent is near 0, or allocate by hand."
        )

    def best(values: Array) -> Array:
        """log x*, log t* and log loss, [..., 3, budgets]."""
        log_x = optimum(law, values, budgets, cost)[0]
        scales = np.stack([log_x, cost.other(log_x, budgets)], axis=-2)
        return np.concatenate([scales, law.evaluate(scales, values)[0][..., None, :]], axis=-2)

    details = dict(cost.details)
    trained = budgets - cost.served(np.exp(best(values)[0]))
    if window is not None and (note := extrapolation(trained, window)):
        details["extrapolated"] = note
    intervals: dict[str, Array] = {}
    if sample is not None:
        astray = int((~optimum(law, sample.draws, budgets, cost)[1].all(axis=-1)).sum())
        if astray:
            details["draws_without_optimum"] = (
                f"{astray} of {len(sample.draws)} draws have no interior optimum (an exponent near 0): the intervals "
                "extend to the limits of the search. Add runs that vary both scales."
            )
        ends = sample.interval_of(lambda values: np.exp(best(values)), level, log=True)
        intervals = dict(zip(("x", "t", "loss"), ends, strict=True))
    x, t, loss = np.exp(best(values))
    return Allocation(law, cost, budgets, x, t, loss, intervals, level, details)


def optimal_line(law: Law, values: Array, cost: Cost) -> Array:
    """(log G, a) of `x* = G (C / c)^a` for a law E + A x^-alpha + B t^-beta; values [..., 5] to [..., 2].

    With p = q = 1: a = beta / (alpha + beta) and G = (alpha A / (beta B))^(1 / (alpha + beta)).

    Raises:
        FitError: The law is not of that form.
    """
    if law.terms is not terms.separable:
        raise FitError(
            f"A closed form needs a law E + A x^-alpha + B t^-beta, but {law.name!r} is {law.formula}. Use allocate()."
        )
    _, a, b, alpha, beta = np.moveaxis(np.asarray(values, dtype=np.float64), -1, 0)
    # An exponent or amplitude of 0 gives an infinite optimum, which the caller sees.
    with np.errstate(divide="ignore", invalid="ignore"):
        total = alpha * cost.q + beta * cost.p
        log_g = cost.q * (np.log(alpha * a * cost.q) - np.log(beta * b * cost.p)) / total
        return np.stack([log_g, beta / total], axis=-1)


def extrapolation(budget: Array, window: tuple[float, float]) -> str:
    """The factors by which budgets lie outside the window of compute that was fitted; empty if none does.

    Raises:
        FitError: A budget lies so far outside that its unit must be another.
    """
    low, high = window
    check_reach(
        "A budget of training",
        budget.ravel().tolist(),
        "compute that was",
        window,
        "Check the units of budgets and scales, and what training costs.",
    )
    parts = []
    if budget.max() > high * (1 + 1e-9):
        parts.append(
            f"a training budget of {budget.max():.3g} is {budget.max() / high:.3g} times the largest ({high:.3g})"
        )
    if budget.min() < low * (1 - 1e-9):
        parts.append(
            f"a training budget of {budget.min():.3g} is {low / budget.min():.3g} times below the least ({low:.3g})"
        )
    if not parts:
        return ""
    return (
        f"Outside the compute that was fitted: {' and '.join(parts)}. No measurement there supports the law, and "
        "intervals take it to hold: `raysweep fit --predict` at an optimum has those of y if the law may bend."
    )


def minimum(
    function: Callable[[Array], Array], low: Array, high: Array, mesh: int, tolerance: float = 1e-9
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """The minimum of a function between two ends: the best point of a mesh, then golden-section search about it.

    Args:
        function: Maps [..., points] to [..., points], the leading axes those of `low`.
        low, high: Ends, [...].
        mesh: Number of points of the first scan; with several valleys, its steps must be narrower than a valley.
        tolerance: Tolerance on the argument.

    Returns:
        The argument of the minimum, [...], and whether it lies inside, [...].
    """
    grid = low[..., None] + (high - low)[..., None] * np.linspace(0.0, 1.0, mesh)
    # A value that overflows or is undefined is not a minimum.
    with np.errstate(all="ignore"):
        seen = function(grid)
        best = np.where(np.isnan(seen), np.inf, seen).argmin(axis=-1)
        inside = (best > 0) & (best < mesh - 1)
        left = np.take_along_axis(grid, np.maximum(best - 1, 0)[..., None], axis=-1)
        right = np.take_along_axis(grid, np.minimum(best + 1, mesh - 1)[..., None], axis=-1)
        while (right - left).max() > tolerance:
            step = _GOLDEN * (right - left)
            inner = np.concatenate([right - step, left + step], axis=-1)
            first, second = np.moveaxis(function(inner), -1, 0)
            lower = (first < second)[..., None]
            left, right = np.where(lower, left, inner[..., :1]), np.where(lower, inner[..., 1:], right)
    return ((left + right) / 2)[..., 0], inside


def optimum(law: Law, values: Array, budgets: Array, cost: Cost) -> tuple[Array, npt.NDArray[np.bool_]]:
    """log x* at each budget, [..., budgets], held within reach, and whether it is an interior optimum.

    Args:
        values: Parameter values, [..., parameters].
        budgets: FLOPs, [budgets], or [..., budgets] where each of `values` has its own.
    """
    k = np.log(budgets / cost.c)
    middle = np.broadcast_to(k / (cost.p + cost.q), (*values.shape[:-1], budgets.shape[-1]))
    low, high = middle - _REACH / cost.p, middle + _REACH / cost.p
    if law.terms is terms.separable and not cost.tokens:
        line = optimal_line(law, values, cost)
        with np.errstate(invalid="ignore"):
            found = line[..., :1] + line[..., 1:] * k
        inside = (found > low) & (found < high)
        return np.clip(np.where(np.isnan(found), low, found), low, high), inside
    high = np.minimum(high, cost.most(budgets))
    low = np.minimum(low, high - _REACH / cost.p)

    def along(log_x: Array) -> Array:
        scales = np.stack([log_x, cost.other(log_x, budgets[..., None])], axis=-2)
        return law.evaluate(scales, values[..., None, :])[0]

    return minimum(along, low, high, mesh=129)
