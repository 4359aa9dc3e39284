"""Training against inference: one budget, spent on training data and on attempts.

The total loss `R a N^-g + P k^-b(N)` under `C = N c_N + k c_k` (arXiv 2601.03764, the LID model): the first term is the
generalisation error, the second the chance that all k attempts fail. Its exponent may grow with training and saturate,
which makes an extra training item worth more than a fixed exponent says. The optimum believes this power at every
k. Problems that no attempt solves would leave a floor, and beyond the attempts that were made `laws.beyond` says what
the counts leave open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError
from raysweep.laws.allocate import minimum
from raysweep.laws.definition import Array

__all__ = ["Split", "Tradeoff", "split"]

Numbers: TypeAlias = float | Array

_REACH = 40.0  # logits of the training share that the search goes down to
_MESH = 513


@dataclass(frozen=True)
class Tradeoff:
    """`L(N, k) = train N^-g + attempts k^-b(N)` with `b(N) = beta - delta / (1 + (N / n0)^gamma)`.

    Every field is a number or an array of draws, [draws]; delta = 0 is a fixed exponent. The paper's fit
    2.5 - 2.4 / (1 + 1e-3 N^1.62) is beta=2.5, delta=2.4, n0=1000**(1/1.62), gamma=1.62.

    Attributes:
        train: R a, the amplitude of the generalisation error.
        g: Its exponent in N.
        attempts: P, the failure law's amplitude at k = 1.
        beta: Exponent in k once training has saturated it.
        delta: How far below beta it starts.
        n0: Training size halfway up.
        gamma: How sharply it rises.
        cost_n: c_N, the cost of a training item, in the budget's unit.
        cost_k: c_k, the cost of an attempt.
    """

    train: Numbers
    attempts: Numbers
    beta: Numbers
    g: Numbers = 1.0
    delta: Numbers = 0.0
    n0: Numbers = 1.0
    gamma: Numbers = 1.0
    cost_n: Numbers = 1.0
    cost_k: Numbers = 1.0

    def exponent(self, n: Array) -> Array:
        """b(N)."""
        return np.asarray(self.beta - self.delta / (1 + (n / self.n0) ** self.gamma))

    def loss(self, n: Array, k: Array) -> Array:
        """L(N, k)."""
        return np.asarray(self.train * n ** -np.asarray(self.g) + self.attempts * k ** -self.exponent(n))


@dataclass(frozen=True)
class Split:
    """The best use of each budget; [budgets], or [draws, budgets] for a trade-off of draws.

    Attributes:
        budget: C, [budgets].
        n, k: Training items and attempts.
        share: N c_N / C, the part of the budget that goes to training.
        exponent: b(N) at the optimum.
        loss: L(N, k) at the optimum.
        details: A sentence for each note code (`one_attempt`).
    """

    budget: Array
    n: Array
    k: Array
    share: Array
    exponent: Array
    loss: Array
    details: Mapping[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.details)


def split(tradeoff: Tradeoff, budget: npt.ArrayLike) -> Split:
    """Training items and attempts, k >= 1, that make the total loss least at each budget.

    At an interior optimum (derived from the budget by Lagrange):
    `train g N^-(g+1) = attempts k^-b (b c_N / (c_k k) - b'(N) log k)`.

    For an interval from a bootstrap of a law, pass it the split of that law's values, e.g.
    `bootstrap.interval_of(lambda v: split(Tradeoff(train=1.0, attempts=v[..., 0], beta=v[..., 1]), 1e3).n, log=True)`.

    Args:
        tradeoff: The law and the costs; fields may be arrays of draws.
        budget: C, one number or [budgets]; each buys more than one attempt.

    Raises:
        FitError: A budget buys no attempt, or nothing is worth training for (`no_interior_optimum`).
    """
    budgets = np.atleast_1d(np.asarray(budget, dtype=np.float64))
    draws = np.broadcast_shapes(*(np.shape(getattr(tradeoff, f.name)) for f in fields(tradeoff)))
    # Axes: draws, budgets, points of the search.
    spread = Tradeoff(**{f.name: _lift(getattr(tradeoff, f.name), 2) for f in fields(tradeoff)})
    most = np.broadcast_to(1 - np.asarray(_lift(tradeoff.cost_k, 1)) / budgets, (*draws, budgets.size))
    if not (most > 0).all():
        raise FitError(
            f"A budget must exceed the cost of one attempt, {np.max(tradeoff.cost_k):g}, but the least is "
            f"{budgets.min():g}. Raise the budget."
        )
    # In the logit of the training share both ends of the budget are seen equally well.
    high = np.log(most) - np.log1p(-most)

    def use(logit: Array) -> tuple[Array, Array]:
        rest = 1 / (1 + np.exp(logit))
        total = budgets[:, None]
        return np.exp(logit) * rest * total / spread.cost_n, rest * total / spread.cost_k

    logit, inside = minimum(lambda z: spread.loss(*use(z)), np.full(high.shape, -_REACH), high, _MESH)
    at_end = ~inside & (logit > 0.5 * (high - _REACH))
    if not (inside | at_end).all():
        raise FitError(
            "A split needs training to be worth something, but all of the budget would go to attempts "
            f"(no_interior_optimum): train={np.min(tradeoff.train):g}, delta={np.min(tradeoff.delta):g}. "
            "Give the generalisation error a weight, or fit an exponent that grows with training."
        )
    details = {}
    if at_end.any():
        details["one_attempt"] = (
            f"{at_end.sum()} of {at_end.size} optima buy one attempt, the least allowed: the budget is better spent on "
            "training alone."
        )
    n, k = (v[..., 0] for v in use(logit[..., None]))
    flat = Tradeoff(**{f.name: _lift(getattr(tradeoff, f.name), 1) for f in fields(tradeoff)})
    return Split(budgets, n, k, n * flat.cost_n / budgets, flat.exponent(n), flat.loss(n, k), details)


def _lift(value: Numbers, axes: int) -> Numbers:
    """Draws first: an array of them gets `axes` more axes to broadcast over."""
    value = np.asarray(value, dtype=np.float64)
    return value.reshape(*value.shape, *(1,) * axes) if value.ndim else float(value)
