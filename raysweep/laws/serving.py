"""The cheapest way to a loss, training and inference together.

A model that serves T tokens costs `C = c x^p t^q + 2 x T`: inference makes size dearer, so that a smaller model trained
for longer reaches the same loss at less total cost (Sardana et al. 2024, arXiv 2401.00448, eq. 2). The least loss of a
budget falls with the budget, so the cheapest way to a loss is the budget whose least loss it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError
from raysweep.laws.allocate import Allocation, Cost, extrapolation, optimum
from raysweep.laws.definition import Array, Law
from raysweep.laws.draws import Sample

__all__ = ["Beside", "beside", "cheapest"]

_LEAST, _MOST = -50.0, 350.0  # log FLOPs between which a budget is looked for
_STEPS = 48  # halvings of that: to 1e-12


def cheapest(
    law: Law,
    fitted: npt.ArrayLike | Sample,
    loss: npt.ArrayLike,
    cost: Cost | None = None,
    *,
    level: float = 0.95,
    window: tuple[float, float] | None = None,
) -> Allocation:
    """The scales that reach a loss at the least cost of training and, with `cost.tokens`, of inference.

    Args:
        law: A law of two axes, such as `chinchilla`.
        fitted: Parameter values, [parameters], or a bootstrap of the law, which gives intervals.
        loss: What is to be reached, positive, one number or [losses].
        cost: 6 x t if not given.
        level: Nominal coverage of the intervals.
        window: Least and greatest compute of the runs behind the fit; training outside it is noted.

    Raises:
        FitError: The law does not have two axes, a loss is not positive, or no budget reaches it.
    """
    cost = Cost() if cost is None else cost
    losses = np.atleast_1d(np.asarray(loss, dtype=np.float64))
    if not law.derived:
        raise FitError(
            f"An allocation trades two scales against each other, but the law {law.name!r} is over "
            f"{', '.join(law.axes)}. Fit a joint law, such as chinchilla."
        )
    if not ((losses > 0) & np.isfinite(losses)).all():
        raise FitError(f"Losses are positive and finite, but got {losses.tolist()}. Give values of y.")
    sample = fitted if isinstance(fitted, Sample) else None
    values = np.asarray(fitted if sample is None else sample.values, dtype=np.float64)
    far = ~_reached(law, values, losses, cost)
    if far.any():
        least = float(np.exp(_least(law, values, np.full(1, _MOST), cost)[0]))
        raise FitError(
            f"A loss must lie above what the law can reach with any budget, {least:.6g}, but got {losses[far][0]:g}. "
            "Ask for a higher one."
        )

    def best(values: Array) -> Array:
        """log x*, log t* and log FLOPs, [..., 3, losses]."""
        return _solved(law, values, losses, cost)

    details = dict(cost.details)
    x, t, budget = np.exp(best(values))
    if window is not None and (note := extrapolation(budget - cost.served(x), window)):
        details["extrapolated"] = note
    intervals: dict[str, Array] = {}
    if sample is not None:
        astray = int((~_reached(law, sample.draws, losses, cost).all(axis=-1)).sum())
        if astray:
            details["draws_without_optimum"] = (
                f"{astray} of {len(sample.draws)} draws do not reach the loss with any budget: the intervals extend to "
                "the limits of the search. Ask for a higher loss, or add larger runs."
            )
        ends = sample.interval_of(lambda values: np.exp(best(values)), level, log=True)
        intervals = dict(zip(("x", "t", "budget"), ends, strict=True))
    return Allocation(law, cost, budget, x, t, losses, intervals, level, details)


@dataclass(frozen=True)
class Beside:
    """What inference changes: the optimum of training alone that reaches the same losses.

    Attributes:
        x, t: Its scales, [budgets].
        budget: Its FLOPs, inference included, [budgets].
        saved: The share of them that the optimum with inference saves, [budgets].
    """

    x: Array
    t: Array
    budget: Array
    saved: Array

    def to_json(self) -> list[dict[str, Any]]:
        names = ("x", "t", "budget", "saved")
        return [dict(zip(names, row, strict=True)) for row in np.stack([getattr(self, n) for n in names]).T.tolist()]


def beside(made: Allocation, fitted: npt.ArrayLike | Sample) -> Beside:
    """The optimum of training alone that reaches the losses of an allocation with inference."""
    values = np.asarray(fitted.values if isinstance(fitted, Sample) else fitted, dtype=np.float64)
    log_x, log_t, _ = _solved(made.law, values, made.loss, replace(made.cost, tokens=0.0))
    x, t = np.exp(log_x), np.exp(log_t)
    budget = made.cost.flops(x, t)
    return Beside(x, t, budget, 1.0 - made.budget / budget)


def _least(law: Law, values: Array, log_budget: Array, cost: Cost) -> Array:
    """The log of the least loss of budgets, [..., budgets]."""
    budget = np.exp(log_budget)
    log_x = optimum(law, values, budget, cost)[0]
    return law.evaluate(np.stack([log_x, cost.other(log_x, budget)], axis=-2), values)[0]


def _reached(law: Law, values: Array, losses: Array, cost: Cost) -> npt.NDArray[np.bool_]:
    """Whether some budget reaches each loss, [..., losses]."""
    return np.asarray(_least(law, values, np.full(losses.shape, _MOST), cost) < np.log(losses))


def _solved(law: Law, values: Array, losses: Array, cost: Cost) -> Array:
    """log x, log t and log FLOPs of the cheapest way to each loss, [..., 3, losses]."""
    shape = (*values.shape[:-1], losses.size)
    low, high = np.full(shape, _LEAST), np.full(shape, _MOST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        above = _least(law, values, middle, cost) > np.log(losses)
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    budget = np.exp((low + high) / 2)
    log_x = optimum(law, values, budget, cost)[0]
    return np.stack([log_x, cost.other(log_x, budget), (low + high) / 2], axis=-2)
