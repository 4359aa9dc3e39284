"""Draws around an estimate, and the intervals they give of any function of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.special import ndtri, stdtrit

from raysweep.laws.definition import Array

__all__ = ["Draws", "Sample"]


@runtime_checkable
class Sample(Protocol):
    """Parameter values with draws around them: a `Bootstrap` of a law, or `Draws`."""

    @property
    def values(self) -> Array: ...

    @property
    def draws(self) -> Array: ...

    def interval_of(self, function: Callable[[Array], Array], level: float = ..., log: bool = ...) -> Array: ...


@dataclass(frozen=True)
class Draws:
    """Draws whose deviations are widened by Student's t over the normal quantile, and by `scale`.

    Attributes:
        values: The estimate, [parameters].
        draws: [draws, parameters].
        freedom: Degrees of freedom of the spread of the draws.
        scale: What the draws do not contain, as a factor on their spread.
    """

    values: Array
    draws: Array = field(repr=False)
    freedom: float
    scale: float = 1.0

    def interval_of(self, function: Callable[[Array], Array], level: float = 0.95, log: bool = False) -> Array:
        """Low and high, [..., 2], of what `function` makes of values, [..., parameters] to [...]; see `Bootstrap`."""
        centre, draws = np.asarray(function(self.values)), np.asarray(function(self.draws))
        if log:
            centre, draws = np.log(centre), np.log(draws)
        tails = np.array([(1 - level) / 2, (1 + level) / 2])
        factor = self.scale * stdtrit(self.freedom, tails[1]) / ndtri(tails[1])
        low, high = factor * np.quantile(draws - centre, tails, axis=0)
        ends = np.stack([centre + np.minimum(low, 0.0), centre + np.maximum(high, 0.0)], axis=-1)
        return np.exp(ends) if log else ends
