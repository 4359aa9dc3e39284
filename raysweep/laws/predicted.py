"""What a fitted law says about y at scales that were not measured, with its intervals.

Beyond the data the answer is the interval of a law that may bend: a bend that matters there hardly shows in the data,
so that no test can say that the law's own interval is to be believed (`laws.power`). That one is given beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raysweep.laws.definition import Array
from raysweep.laws.group import GroupFit
from raysweep.laws.misfit import UNTRUSTED, bent_band, would_notice
from raysweep.laws.reach import check_reach

__all__ = ["IF", "Prediction", "believed", "predicted"]

IF = {"bent": "if the law may bend", "own": "if the law holds"}  # what each interval takes for granted


@dataclass(frozen=True)
class Prediction:
    """A law's y at one point of scales.

    Attributes:
        x: The value of each scale by its column.
        value: The mean law.
        interval: Low and high of the mean, see `believed`; None without draws.
        new_run: The same of a new run's measurement.
        own: Low and high of the mean if the law holds; None without draws, and beyond the data where these speak
            against the law (note `extrapolation_untrusted`).
        own_new: The same of a new run's measurement.
        bent: Low and high of the mean if the law may bend; None where that is unknown.
        beyond: How many times the farthest scale lies outside the range that was fitted; 1 for a point inside.
        noticed: The largest share of such data in which a bend that moves the mean by half the width of the law's own
            interval would be noticed; None inside the data, and where that is unknown, see `misfit.would_notice`.
    """

    x: Mapping[str, float]
    value: float
    interval: tuple[float, float] | None
    new_run: tuple[float, float] | None
    own: tuple[float, float] | None
    own_new: tuple[float, float] | None
    bent: tuple[float, float] | None
    beyond: float
    noticed: float | None = None

    @property
    def first(self) -> str | None:
        """Which one `interval` and `new_run` are, a key of `IF`; None where there is none."""
        if self.interval is None:
            return None
        return "bent" if self.beyond > 1 and self.bent is not None else "own"

    def to_json(self) -> dict[str, Any]:
        """Plain data, None where there is no finite number."""
        pairs = {"ci": self.interval, "new": self.new_run, "own": self.own, "own_new": self.own_new, "bent": self.bent}
        numbers = {"value": self.value}
        for name, pair in pairs.items():
            numbers[f"{name}_low"], numbers[f"{name}_high"] = pair or (math.nan, math.nan)
        numbers["beyond"] = self.beyond
        record = {name: n if math.isfinite(n) else None for name, n in numbers.items()}
        return {"x": dict(self.x), **record, "ci_is": self.first, "noticed": self.noticed}


def believed(group: GroupFit, x: Array, new_run: bool = False) -> Array:
    """Low and high of the mean at scales x > 0, [axes, points]: [points, 2], NaN without draws.

    Inside the data those of the law; beyond them of a law that may bend, where that is known.

    Args:
        new_run: Of a new run's measurement, in place of the mean.
    """
    own, outside = group.prediction(x) if new_run else group.band(x), _beyond(group, x) > 1
    wide = bent_band(group, x, new_run) if outside.any() else None
    return own if wide is None else np.where(outside[:, None], wide, own)


def _beyond(group: GroupFit, x: Array) -> Array:
    """How many times the farthest scale of each point lies outside the data, [points]; 1 inside."""
    low, high = np.array(group.window).T[..., None]
    with np.errstate(over="ignore"):
        return np.asarray(np.maximum(np.maximum(x / high, low / x), 1.0).max(axis=0))


def predicted(group: GroupFit, points: Sequence[Mapping[str, float]]) -> tuple[Prediction, ...]:
    """The predictions of a group's fit at points of scales; none where the fit failed.

    Args:
        points: The value of each scale, positive, by its column.

    Raises:
        FitError: A scale lies so far outside those that were fitted that its unit must be another.
    """
    if group.error is not None or not points:
        return ()
    for name, window in zip(group.x, group.window, strict=True):
        check_reach(f"A prediction's {name}", [point[name] for point in points], "scales that were", window)
    x = np.array([[point[name] for point in points] for name in group.x])
    mean, beyond, wide = group.predict(x), _beyond(group, x), bent_band(group, x)
    own, own_new, power = group.band(x), group.prediction(x), np.where(beyond > 1, would_notice(group, x), np.nan)
    answers = believed(group, x), believed(group, x, new_run=True)
    if UNTRUSTED in group.details:
        own, own_new = (np.where(beyond[:, None] > 1, np.nan, ends) for ends in (own, own_new))
        answers = answers if wide is not None else (own, own_new)
        power = np.full_like(power, np.nan)
    bent = np.full_like(own, np.nan) if wide is None else wide
    return tuple(
        Prediction(
            x=point,
            value=float(mean[i]),
            interval=_ends(answers[0][i]),
            new_run=_ends(answers[1][i]),
            own=_ends(own[i]),
            own_new=_ends(own_new[i]),
            bent=_ends(bent[i]),
            beyond=float(beyond[i]),
            noticed=share,
        )
        for i, (point, share) in enumerate(zip(points, _numbers(power), strict=True))
    )


def _ends(ends: Array) -> tuple[float, float] | None:
    return None if np.isnan(ends).any() else (float(ends[0]), float(ends[1]))


def _numbers(values: Array) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]
