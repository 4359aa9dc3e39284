"""Copies: rows that stand twice in a table count once, so that an interval does not shrink."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raysweep.laws.group import Data

__all__ = ["counted_once"]

_SAME = 1e-12  # relative difference of numbers that are equal
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
