"""Growth: a spread of log y that is a power of scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysweep.laws.definition import Array

__all__ = ["Growth"]


@dataclass(frozen=True)
class Growth:
    """The variance of log y, over what it is at `centre`: exp(slope * (v - centre)), with v the sum of some log scales.

    Attributes:
        along: 1 for each scale in that sum, 0 for the others, [axes].
        slope: The exponent of the variance in the product of these scales.
        error: Its standard error.
        centre: The mean v of the data.
        window: Smallest and largest v of the data.
        p_value: That of the test that the slope is 0.
        found: Whether the test found it: weights follow it then. Otherwise only draws and bands do.
    """

    along: tuple[float, ...]
    slope: float
    error: float
    centre: float
    window: tuple[float, float]
    p_value: float
    found: bool

    @property
    def factor(self) -> float:
        """The spread at the largest v of the data over that at the smallest."""
        low, high = self.window
        return float(np.exp(0.5 * self.slope * (high - low)))

    def at(self, x: npt.ArrayLike) -> Array:
        """The spread at scales x > 0, [axes, points], over that at `centre`. Beyond the data it may grow, not fall."""
        least = min(self.slope * (end - self.centre) for end in self.window)
        v = np.array(self.along) @ np.log(np.asarray(x, dtype=np.float64))
        return np.asarray(np.exp(0.5 * np.maximum(self.slope * (v - self.centre), least)))

    def varied(self, x: Array, draws: int, rng: np.random.Generator) -> Array:
        """What the slope's own error makes of the spread at scales x, in each draw: factors, [draws, points]."""
        v = np.array(self.along) @ np.log(x)
        return np.asarray(np.exp(0.5 * self.error * rng.standard_normal((draws, 1)) * (v - self.centre)))
