"""Growth: a spread of log y that changes with scale, as a power of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysweep.laws.definition import Array

__all__ = ["Growth"]


@dataclass(frozen=True)
class Growth:
    """The variance of log y over what it is at `centre`: exp(slope * (v - centre)), with v the sum of some log scales.

    Attributes:
        along: 1 for each scale in that sum, 0 for the others, [axes].
        slope: The exponent of the variance in that product of scales.
        error: Its standard error.
        centre: Where the variance is that of a point of weight 1.
        window: Smallest and largest v of the data.
        p_value: That of the test that the slope is 0.
    """

    along: tuple[float, ...]
    slope: float
    error: float
    centre: float
    window: tuple[float, float]
    p_value: float

    @property
    def factor(self) -> float:
        """The spread at the largest v of the data over that at the smallest."""
        low, high = self.window
        return float(np.exp(0.5 * self.slope * (high - low)))

    def at(self, x: npt.ArrayLike) -> Array:
        """The spread over that at `centre`, at scales x > 0, [axes, points]: beyond the data it may grow, not fall."""
        least = min(self.slope * (end - self.centre) for end in self.window)
        return np.asarray(np.exp(0.5 * np.maximum(self.slope * (self.sums(np.log(x)) - self.centre), least)))

    def sums(self, u: Array) -> Array:
        """v of log scales u, [axes, points]."""
        return np.asarray(np.array(self.along) @ u)

    def varied(self, u: Array, draws: int, rng: np.random.Generator) -> Array:
        """What the slope's own error makes of the spread at log scales u, in each draw: factors, [draws, points]."""
        away = self.sums(u)
        error = self.error * rng.standard_normal((draws, 1))
        return np.asarray(np.exp(0.5 * error * (away - away.mean())))
