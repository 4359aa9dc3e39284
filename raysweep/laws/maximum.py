"""The peak of a curve: where it lies and how high it is, with intervals over independent runs, and no form assumed.

The curve is the mean over runs at each scale. Around its highest point a parabola in log x is fitted by least squares,
over the widest symmetric window in which the scatter between runs does not reject it: three points for a cusp, more
where a broad top is lost in noise. Its vertex is the location and its value there the height. Intervals allow for what
a parabola may miss: see `summit.slack`.

The unit of every interval is the run, or the seed that runs at several scales share: whole units are drawn with
replacement, so that all points of one move together, and each draw looks for its own highest point. Runs at one scale
each are drawn within their scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError
from raysweep.laws.draws import Draws
from raysweep.laws.resampling import multiplicities
from raysweep.laws.summit import Curves, coarse, half_width, least_prominence, second, slack, vertices

__all__ = ["Peak", "Shift", "find_peak", "shift"]

_FEWEST = 100  # draws
_ROUNDING = 1e-12  # share of a mean below which its differences are rounding


@dataclass(frozen=True)
class Peak:
    """The peak of a curve.

    Attributes:
        location: x of the peak, and its interval.
        height: y there, and its interval.
        prominence: Height above the higher of the curve's two ends, and its interval, whose lower end allows for the
            choice of the highest among all scales.
        window: Smallest and largest x that the parabola was fitted to; `points` of the `scales` lie in it.
        units: Independent units, which the intervals are over; of one scale, where runs share none.
        level: Nominal coverage of intervals.
        notes: A sentence for each code.
        sample: (log location, height, prominence) with draws around it.
        slack: What the parabola may miss of log location, below and above: at most 0, and at least 0.
        labels: Sorted labels of the units; None if none were given.
        seed: Seed of the draws.
    """

    location: float
    location_interval: tuple[float, float]
    height: float
    height_interval: tuple[float, float]
    prominence: float
    prominence_interval: tuple[float, float]
    window: tuple[float, float]
    points: int
    scales: int
    units: int
    level: float
    notes: Mapping[str, str]
    sample: Draws = field(repr=False)
    slack: tuple[float, float] = field(repr=False)
    labels: npt.NDArray[Any] | None = field(repr=False)
    seed: int = field(repr=False)


@dataclass(frozen=True)
class Shift:
    """How far apart two peaks are.

    Attributes:
        ratio: Location of the first over that of the second, and its interval.
        paired: Whether both curves are of the same units, so that what a unit does to both cancels; otherwise they are
            taken to be independent.
    """

    ratio: float
    interval: tuple[float, float]
    paired: bool


def find_peak(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    run: npt.ArrayLike | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    names: tuple[str, str] = ("x", "y"),
) -> Peak:
    """The peak of y(x).

    Args:
        x: Scales, positive, [points].
        y: Measurements, [points].
        run: The unit that each point comes from, [points]; every point is one if not given.
        draws: Bootstrap draws.
        level: Nominal coverage.
        seed: Seed of the draws: curves of the same units share their draws, which keeps comparisons paired.
        names: Of x and y, in messages.

    Raises:
        FitError: x is not positive or y not finite; the mean of y is constant; there are fewer than three
            scales; there are too few units for an interval; or the highest mean lies at an end of the range of x.
    """
    if draws < _FEWEST or not 0 < level < 1:
        raise FitError(
            f"A peak's intervals take at least {_FEWEST} draws and a level in (0, 1), but got `bootstrap={draws}` "
            f"and `level={level:g}`. Give `bootstrap=1000` and `level=0.95`, say."
        )
    curves, labels = _curves(x, y, run, draws, seed, names)
    top, last = int(curves.mean.argmax()), len(curves.x) - 1
    if top in (0, last):
        end, beyond = ("smallest", "below") if top == 0 else ("largest", "above")
        raise FitError(
            f"The highest mean must lie inside the range of x, but lies at the {end} of {last + 1} values, "
            f"{curves.x[top]:g}: there is no peak to locate. Add values {beyond} it, or choose the range with `where=`."
        )
    half = half_width(curves, top)
    u = np.log(curves.x)
    values, drawn = (vertices(u, c, half) for c in (curves.mean[None], curves.drawn))
    sample = Draws(values[0], drawn, curves.units - 1, np.sqrt(curves.units / (curves.units - 1)))
    missed = slack(curves, top, half, values[0], drawn)
    ends = sample.interval_of(lambda v: v, level) + missed
    ends[0] = np.exp(np.clip(ends[0], u[0], u[last]))
    ends[2, 0] = min(ends[2, 0], least_prominence(curves, top, sample, level))
    located, around, above = ((low, high) for low, high in ends.tolist())
    lost = float((drawn[:, 0] <= u[0]).mean()), float((drawn[:, 0] >= u[last]).mean())
    return Peak(
        location=float(np.exp(values[0, 0])),
        location_interval=located,
        height=float(values[0, 1]),
        height_interval=around,
        prominence=float(values[0, 2]),
        prominence_interval=above,
        window=(float(curves.x[top - half]), float(curves.x[top + half])),
        points=2 * half + 1,
        scales=last + 1,
        units=curves.units,
        level=level,
        notes=_notes(above[0], lost, (1 - level) / 2, curves, top, half, located),
        sample=sample,
        slack=(float(missed[0, 0]), float(missed[0, 1])),
        labels=labels,
        seed=seed,
    )


def shift(first: Peak, second: Peak, level: float | None = None) -> Shift:
    """The ratio of two peaks' locations, e.g. of two measurements of the same runs.

    Args:
        level: Nominal coverage; that of the first if not given.
    """
    a, b = first.sample, second.sample
    paired = (
        first.labels is not None
        and second.labels is not None
        and np.array_equal(first.labels, second.labels)
        and (first.seed, first.scales, len(a.draws)) == (second.seed, second.scales, len(b.draws))
    )
    count = min(len(a.draws), len(b.draws))
    order = np.arange(count) if paired else np.random.default_rng(second.seed).permutation(len(b.draws))[:count]
    apart = (a.draws[:count, 0] - b.draws[order, 0])[:, None]
    weaker = a if a.freedom <= b.freedom else b
    sample = Draws(a.values[:1] - b.values[:1], apart, weaker.freedom, weaker.scale)
    slack = first.slack[0] - second.slack[1], first.slack[1] - second.slack[0]
    low, high = np.exp(sample.interval_of(lambda v: v[..., 0], first.level if level is None else level) + slack)
    return Shift(first.location / second.location, (float(low), float(high)), paired)


def _curves(
    x: npt.ArrayLike, y: npt.ArrayLike, run: npt.ArrayLike | None, draws: int, seed: int, names: tuple[str, str]
) -> tuple[Curves, npt.NDArray[Any] | None]:
    """The mean curve with its draws, and the labels of the units.

    Raises:
        FitError: As `find_peak`.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise FitError(
            f"A peak takes one positive {names[0]} and one finite {names[1]} per point, but got arrays of shapes "
            f"{x.shape} and {y.shape}. Give two of the same length."
        )
    for name, values, bad in zip(names, (x, y), (~((x > 0) & np.isfinite(x)), ~np.isfinite(y)), strict=True):
        if bad.any():
            raise FitError(
                f"A peak takes one positive {names[0]} and one finite {names[1]} per point, but got {name} = "
                f"{values[bad][0]:g} at {bad.sum()} of {x.size} points. Remove those points."
            )
    scales, at = np.unique(x, return_inverse=True)
    if len(scales) < 3:
        raise FitError(f"A peak takes at least 3 values of x, but there are {len(scales)}. Add values.")
    labels, unit = (None, np.arange(y.size)) if run is None else np.unique(np.asarray(run), return_inverse=True)
    shape = (unit.max() + 1, len(scales))
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (unit, at), y)
    np.add.at(count, (unit, at), 1.0)
    mean = total.sum(axis=0) / count.sum(axis=0)
    if np.ptp(mean) <= _ROUNDING * np.abs(mean).max():
        raise FitError(
            f"The mean of {names[1]} must vary, but is {mean[0]:g} at all {len(scales)} values of {names[0]}. There "
            "is no peak to locate. Choose another column or other rows."
        )
    has = (count > 0).astype(np.float64)
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    redrawn = 0
    if (has.sum(axis=1) > 1).any():
        units = len(has)
        weights = np.ones((0, units))
        if units > 1:
            weights, redrawn = multiplicities(has, len(scales), draws, rng)
    else:
        units, weights = int(has.sum(axis=0).min()), np.zeros((draws, len(has)))
        for column in has.T:
            mine = np.flatnonzero(column)
            weights[:, mine] = rng.multinomial(mine.size, np.full(mine.size, 1 / mine.size), size=draws)
    if units < 2 or len(weights) < _FEWEST:
        raise FitError(
            "A peak's interval needs 2 runs (seeds) that reach all scales, or 2 runs at each scale, but there "
            f"{'is' if units == 1 else 'are'} {units} over {len(scales)} scales. Add seeds."
        )
    with np.errstate(invalid="ignore"):
        drawn = (weights @ total) / (weights @ count)
    return Curves(scales, mean, drawn, units, redrawn), labels


def _notes(
    prominence: float,
    lost: tuple[float, float],
    tail: float,
    curves: Curves,
    top: int,
    half: int,
    located: tuple[float, float],
) -> dict[str, str]:
    notes = {}
    other = second(curves, top, half)
    if other is not None and located[0] <= curves.x[other] <= located[1]:
        notes["second"] = (
            f"another maximum, {curves.mean[other]:.4g} at {curves.x[other]:.4g}, lies within the interval of the "
            "location, beyond a valley: either may be the higher one. Choose the range of one with `where=`, or add "
            "runs."
        )
    if prominence <= 0:
        notes["no_prominence"] = (
            "the interval of the height above the ends of the curve holds 0: it may rise or fall throughout."
        )
    if coarse(curves.mean, top):
        notes["coarse"] = (
            "fewer than three values of x lie in the upper half of the peak: its height between them is not seen, and "
            "it is located to about their distance. Add values around it."
        )
    for share, end in zip(lost, ("smallest", "largest"), strict=True):
        if share >= tail:
            notes[f"edge_{end}"] = (
                f"in {share:.0%} of draws the highest mean is at the {end} x: the interval of the location is open."
            )
    if curves.redrawn:
        notes["redrawn"] = (
            f"{curves.redrawn} draws lost a scale and were drawn again: not every unit reaches every scale."
        )
    return notes
