"""What a fitted law says about y at scales that were not measured, with its intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raysweep.laws.definition import Array
from raysweep.laws.group import GroupFit
from raysweep.laws.misfit import UNTRUSTED, bent_band, would_notice

__all__ = ["Prediction", "predicted"]


@dataclass(frozen=True)
class Prediction:
    """A law's y at one point of scales.

    Attributes:
        x: The value of each scale by its column.
        value: The mean law.
        interval: Low and high of the mean law at the level of the fit; None without draws, and beyond the data where
            these speak against the law (note `extrapolation_untrusted`).
        new_run: Low and high of a new run's measurement; None as `interval`.
        bent: Low and high of the mean if the law may bend; None without draws.
        beyond: How many times the farthest scale lies outside the range that was fitted; 1 for a point inside.
        noticed: The largest share of such data in which a bend that moves the mean by half the width of its interval
            would be noticed; None inside the data, and where that is unknown, see `misfit.would_notice`.
    """

    x: Mapping[str, float]
    value: float
    interval: tuple[float, float] | None
    new_run: tuple[float, float] | None
    bent: tuple[float, float] | None
    beyond: float
    noticed: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, None where there is no finite number."""
        ends = [end for pair in (self.interval, self.new_run, self.bent) for end in pair or (math.nan,) * 2]
        names = ("value", "ci_low", "ci_high", "new_low", "new_high", "bent_low", "bent_high", "beyond")
        numbers = zip(names, (self.value, *ends, self.beyond), strict=True)
        record = {name: n if math.isfinite(n) else None for name, n in numbers}
        return {"x": dict(self.x), **record, "noticed": self.noticed}


def predicted(group: GroupFit, points: Sequence[Mapping[str, float]]) -> tuple[Prediction, ...]:
    """The predictions of a group's fit at points of scales; none where the fit failed.

    Args:
        points: The value of each scale, positive, by its column.
    """
    if group.error is not None or not points:
        return ()
    x = np.array([[point[name] for point in points] for name in group.x])
    mean, band, new = group.predict(x), group.band(x), group.prediction(x)
    low, high = np.array(group.window).T[..., None]
    with np.errstate(over="ignore"):
        beyond = np.maximum(np.maximum(x / high, low / x), 1.0).max(axis=0)
    wide, power = bent_band(group, x), np.where(beyond > 1, would_notice(group, x), np.nan)
    if UNTRUSTED in group.details:
        band, new = (np.where(beyond[:, None] > 1, np.nan, ends) for ends in (band, new))
        power = np.full_like(power, np.nan)
    bent = np.full_like(band, np.nan) if wide is None else wide
    return tuple(
        Prediction(point, float(mean[i]), _ends(band[i]), _ends(new[i]), _ends(bent[i]), float(beyond[i]), share)
        for i, (point, share) in enumerate(zip(points, _numbers(power), strict=True))
    )


def _ends(ends: Array) -> tuple[float, float] | None:
    return None if np.isnan(ends).any() else (float(ends[0]), float(ends[1]))


def _numbers(values: Array) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]
