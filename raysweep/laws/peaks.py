"""Tables in, peaks out: the peak of every y in every group, and how far the first one's lies from the others'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from raysweep.errors import FitError
from raysweep.laws.maximum import Peak, Shift, find_peak, shift
from raysweep.laws.points import Part, Points, points
from raysweep.laws.request import FitRequest, Options
from raysweep.laws.source import Source, numbers

__all__ = ["GroupPeaks", "peak"]


@dataclass(frozen=True)
class GroupPeaks:
    """The peaks of one group's curves.

    Attributes:
        group: The by-columns' values that single the group out.
        x: Column of the scale.
        peaks: The peak of each measurement by its column, or why there is none.
        shifts: For each measurement but the first, the first one's location over its own, where both have a peak.
        details: What was dropped, reduced or split, in one sentence per note code.
    """

    group: Mapping[str, Any]
    x: str
    peaks: Mapping[str, Peak | str]
    shifts: Mapping[str, Shift]
    details: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain data, as `raysweep peak --json` prints it."""
        return {
            "group": dict(self.group),
            "x": self.x,
            "peaks": [_record(name, one) for name, one in self.peaks.items()],
            "shifts": [
                {
                    "of": next(iter(self.peaks)),
                    "over": name,
                    "ratio": one.ratio,
                    "interval": list(one.interval),
                    "paired": one.paired,
                }
                for name, one in self.shifts.items()
            ],
            "details": dict(self.details),
        }


def _record(name: str, one: Peak | str) -> dict[str, Any]:
    if isinstance(one, str):
        return {"y": name, "error": one}
    return {
        "y": name,
        "location": {"value": one.location, "interval": list(one.location_interval)},
        "height": {"value": one.height, "interval": list(one.height_interval)},
        "prominence": {"value": one.prominence, "interval": list(one.prominence_interval)},
        "window": list(one.window),
        "n_points": one.points,
        "n_scales": one.scales,
        "n_units": one.units,
        "level": one.level,
        "notes": dict(one.notes),
    }


def peak(
    data: Source,
    *,
    x: str,
    y: str | Sequence[str],
    by: str | Sequence[str] = (),
    where: str | None = None,
    at: str | float = "best",
    run: str | None = None,
    level: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
) -> tuple[GroupPeaks, ...]:
    """The peak of y(x) in every group of a table, with intervals over independent runs; see `laws.maximum`.

    Args:
        data, by, where, at, run: As in `laws.fit`: rows, groups, snapshots and clusters are chosen alike.
        x: Column of the scale, positive.
        y: Column of the measurement; or several, whose peaks are compared with that of the first.
        level: Nominal coverage of the intervals.
        bootstrap: Draws, at least 100.
        seed: Seed of the draws.

    Raises:
        FitError: As `laws.fit`; or no curve has a peak: then the reason of the first.
    """
    Options(level=level, draws=bootstrap)  # refuses what is out of range
    names, groups = ((columns,) if isinstance(columns, str) else tuple(columns) for columns in (y, by))
    if not names or len(set(names)) < len(names):
        raise FitError(
            f"peak: y must be one or more different columns, but got {', '.join(names) or 'none'}. Name each once."
        )
    found: dict[tuple[tuple[str, Any], ...], tuple[Part, dict[str, Peak | str]]] = {}
    for name in names:
        taken = points(data, FitRequest(x=(x,), y=name, by=groups, where=where, at=at, run=run))
        for part in taken.parts:
            key = tuple(part.group.items())
            found.setdefault(key, (part, {}))[1][name] = _peak(taken, part, bootstrap, level, seed)
    reasons = [one for _, peaks in found.values() for one in peaks.values() if isinstance(one, str)]
    if len(reasons) == sum(len(peaks) for _, peaks in found.values()):
        raise FitError(reasons[0])
    return tuple(
        GroupPeaks(part.group, x, peaks, _shifts(peaks, names[0], level), part.details)
        for part, peaks in found.values()
    )


def _peak(taken: Points, part: Part, draws: int, level: float, seed: int) -> Peak | str:
    rows = taken.of(part.group)
    unit = None if part.run is None else rows[part.run].cast(pl.String).fill_null("").to_numpy()
    try:
        return find_peak(
            numbers(rows, taken.x[0]), numbers(rows, taken.y), unit, draws, level, seed, (taken.x[0], taken.y)
        )
    except FitError as error:
        return str(error)


def _shifts(peaks: Mapping[str, Peak | str], first: str, level: float) -> dict[str, Shift]:
    one = peaks.get(first)
    if not isinstance(one, Peak):
        return {}
    return {
        name: shift(one, other, level) for name, other in peaks.items() if name != first and isinstance(other, Peak)
    }
