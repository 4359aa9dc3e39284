"""Copies: rows that stand twice in a table, and seeds that change nothing, count once: no interval shrinks by them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.special import erf, gammainc

from raysweep.laws.definition import Array
from raysweep.laws.group import Data

__all__ = ["counted_once", "without_effect"]

_SAME = 1e-12  # relative difference of numbers that are equal
_FEWEST = 2  # scales with several rows: at a single one, numbers of few digits may agree by chance
_SHOWN = 3  # columns that a note names
_DIGITS = 16  # of a float
_TINY = 300  # decimals of the smallest floats
_UNLIKELY = 1e-3  # probability below which so many rows are not equal by chance
_COARSE = 0.1  # probability of two runs' agreement above which digits are too few to tell copies
_KNOWN = 3  # degrees of freedom from which runs at one scale tell their spread


def counted_once(data: Data) -> tuple[npt.NDArray[np.bool_], str]:
    """Which of the sorted rows count, [points], and what a reader must know of rows that equal another.

    Rows that are equal in every number are copies where all are there equally often, and where as many as these would
    hardly agree by chance; numbers of a few digits may.
    """
    same = (np.diff(data.x, axis=1) == 0).all(axis=0) & (np.diff(data.y) == 0)
    for column in (data.run, data.se, *data.others.values()):
        same &= True if column is None else column[1:] == column[:-1]
    again = np.concatenate([[False], same])
    rows, some = data.y.size, int(again.sum())
    if not some or not (data.y > 0).all() or not (data.x > 0).all():
        return np.ones(rows, dtype=bool), ""
    each = np.diff(np.append(np.flatnonzero(~again), rows))
    if (each == each[0]).all() or _by_chance(data, again) < _UNLIKELY:
        return ~again, f"{some} of {rows} rows equal another in every number and were counted once."
    return np.ones(rows, dtype=bool), "" if data.run is not None else (
        f"{some} of {rows} rows equal another in every number and were taken for runs of their own, as numbers of so "
        "few digits agree by chance: if they are copies, remove them."
    )


def _by_chance(data: Data, again: npt.NDArray[np.bool_]) -> float:
    """How likely as many rows of independent runs are equal; 1 where digits are too few to tell.

    Two runs agree where their normal errors differ by less than half of the last digit. The spread is that of the
    values at a scale that are not equal or, where these are few, that about a parabola in logs.

    Args:
        data: Sorted by scale, then by y; positive.
        again: Rows that equal the one before, [points].
    """
    new = np.concatenate([[True], (np.diff(data.x, axis=1) != 0).any(axis=0)])
    scale, t = np.cumsum(new) - 1, np.log(data.y)
    other = new | np.concatenate([[True], np.diff(data.y) != 0])  # each value once
    spread, spare = _within(scale[other], t[other])
    if spare < _KNOWN:
        u = np.log(data.x[:, new])
        spread = _about_a_parabola(u, np.bincount(scale[other], t[other]) / np.bincount(scale[other]))
    if spread <= 0:
        return 1.0
    agree = erf(_unit(data.y[new]) / data.y[new] / (4 * spread))
    if float(np.median(agree)) > _COARSE:
        return 1.0
    count = np.bincount(scale).astype(np.float64)
    return float(gammainc(again.sum(), agree @ (count * (count - 1) / 2)))


def _within(scale: npt.NDArray[np.int64], t: Array) -> tuple[float, int]:
    """The spread of t about the mean of its scale, and its degrees of freedom."""
    count = np.bincount(scale)
    rest = t - (np.bincount(scale, t) / count)[scale]
    spare = t.size - count.size
    return (math.sqrt(float(rest @ rest) / spare), spare) if spare else (0.0, 0)


def _about_a_parabola(u: Array, t: Array) -> float:
    """The spread of t, [points], about a parabola in each of the scales u, [axes, points]; 0 where it is unknown."""
    u = u - u.mean(axis=1, keepdims=True)
    columns = np.vstack([np.ones(t.size), u, u**2]).T
    values, _, rank, _ = np.linalg.lstsq(columns, t, rcond=None)
    rest = t - columns @ values
    return math.sqrt(float(rest @ rest) / (t.size - int(rank))) if t.size > int(rank) else 0.0


def _unit(y: Array) -> Array:
    """One in the last digit of each y > 0, [points], with decimals, or digits, as many as any of them has."""
    top = np.floor(np.log10(y))
    most = _DIGITS - int(top.max())
    decimals = next((d for d in range(min(most, _TINY)) if _ends(y, 10.0**-d)), most)
    digits = next((d for d in range(1, _DIGITS) if _ends(y, 10.0 ** (top + 1 - d))), _DIGITS)
    return np.maximum(10.0**-decimals, 10.0 ** (top + 1 - digits))


def _ends(y: Array, unit: Array | float) -> bool:
    """Whether every y is a whole number of units."""
    return bool((np.abs(np.round(y / unit) * unit - y) <= _SAME * y).all())


def without_effect(data: Data, y: str) -> tuple[Data, str]:
    """The data with one row of each scale, and what a reader must know, where y is the same in all rows of each scale.

    Such rows differ in a seed or another column that changes nothing. As runs they would make an interval of n of them
    sqrt(n) too narrow; as clusters they would leave it no width at all.

    Args:
        data: Sorted by scale.
        y: The measurement's name.
    """
    new = np.concatenate([[True], (np.diff(data.x, axis=1) != 0).any(axis=0)])
    scale, count = np.cumsum(new) - 1, np.diff(np.append(np.flatnonzero(new), new.size))
    first = data.y[new][scale]
    if data.x_se is not None or (count > 1).sum() < _FEWEST or (np.abs(data.y - first) > _SAME * np.abs(first)).any():
        return data, ""
    names = [name for name, code in data.others.items() if (code != code[new][scale]).any()][:_SHOWN]
    if data.run is not None and (data.run != data.run[new][scale]).any() and data.cluster not in names:
        names.insert(0, data.cluster)
    if not names:
        return data, ""
    return replace(data.take(new), run=None, cluster="run"), (
        f"{y} is the same in every digit in all rows of each scale ({data.y.size} rows, {count.size} scales), though "
        f"they differ in {', '.join(names)}: each scale was counted once. If a seed should have an effect, see whether "
        "the code uses it, or sets another, as by torch.manual_seed(0)."
    )
