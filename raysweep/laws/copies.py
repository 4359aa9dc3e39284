"""Copies: rows that stand twice in a table, and seeds that change nothing, count once: no interval shrinks by them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from raysweep.laws.group import Data

__all__ = ["counted_once", "without_effect"]

_SAME = 1e-12  # relative difference of numbers that are equal
_FEWEST = 2  # scales with several rows: at a single one, numbers of few digits may agree by chance
_SHOWN = 3  # columns that a note names
_DIGITS = 6  # of a number that two runs may share by chance


def counted_once(data: Data) -> tuple[npt.NDArray[np.bool_], str]:
    """Which of the sorted rows count, [points], and what a reader must know of rows that equal another.

    Two runs never agree in every digit of a number, so such rows are copies, and so are all where each is there equally
    often; numbers of a few digits may agree by chance.
    """
    same = (np.diff(data.x, axis=1) == 0).all(axis=0) & (np.diff(data.y) == 0)
    for column in (data.run, data.se, *data.others.values()):
        same &= True if column is None else column[1:] == column[:-1]
    again = np.concatenate([[False], same])
    if not again.any():
        return ~again, ""
    each = np.diff(np.append(np.flatnonzero(~again), again.size))
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = 10.0 ** (np.floor(np.log10(np.abs(data.y))) - _DIGITS + 1)
        coarse = np.round(data.y / unit) * unit
    copies = again if (each == each[0]).all() else again & (np.abs(coarse - data.y) > _SAME * np.abs(data.y))
    kept, rows = ~copies, data.y.size
    if copies.any():
        rest = int(again.sum() - copies.sum())
        return kept, f"{int(copies.sum())} of {rows} rows equal another in every number and were counted once." + (
            f" {rest} more, of at most {_DIGITS} digits, were taken for runs of their own." if rest else ""
        )
    return kept, "" if data.run is not None else (
        f"{int(again.sum())} of {rows} rows equal another in every number and were taken for runs of their own, as y "
        f"has at most {_DIGITS} digits: if they are copies, remove them."
    )


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
