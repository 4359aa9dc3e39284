"""Many points as few, whose optimum is a start near that of all: merged, or a share of them under Huber's loss."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raysweep.laws.definition import Array

__all__ = ["merged", "spread"]

_CELLS = 4096  # of the range of one log scale: a law's bend inside one moves log y by about 1e-7
_ROWS = 16  # weightings that can be distinguished
_WORTH = 0.5  # share of the points that must be saved
_LEFT = 0.1  # share of evenly spaced points that each weighting must keep


def merged(u: Array, t: Array, w: Array) -> tuple[Array, Array, Array] | None:
    """Weighted means of neighbouring points, with their total weights; None where that saves too little.

    Points at equal scales have the same least-squares optimum as their mean. Of one scale, neighbours closer than
    1 / 4096 of its range are merged, too. Points of different weightings (some held out) stay apart.

    Args:
        u: Log scales, [axes, points].
        t: Log measurements, [points].
        w: Weights, [problems, points]: the same in each problem, except where they are 0.

    Returns:
        The same of fewer points.
    """
    there = (w > 0).any(axis=0)
    u, t, w = u[:, there], t[there], w[:, there]
    base = w.max(axis=0)
    if len(w) > _ROWS or not ((w == base) | (w == 0)).all():
        return None
    held = (1 << np.arange(len(w))) @ (w > 0)
    _, key = np.unique((_cells(u) << len(w)) + held, return_inverse=True)
    total = np.bincount(key, base)
    if total.size > _WORTH * t.size:
        return None
    first = np.zeros(total.size, dtype=np.int64)
    first[key] = held
    rows = np.where((first >> np.arange(len(w))[:, None]) & 1, total, 0.0)
    scales = np.stack([np.bincount(key, base * scale) / total for scale in u])
    return scales, np.bincount(key, base * t) / total, rows


def spread(u: Array, t: Array, w: Array, most: int) -> tuple[Array, Array, Array] | None:
    """About `most` of the points, evenly spaced in the order of their scales; None where a problem would lose most.

    Under Huber's loss a mean does not stand for its points, but a share of them has nearly the optimum of all.

    Args:
        u: Log scales, [axes, points].
        t: Log measurements, [points].
        w: Weights, [problems, points].

    Returns:
        The same of fewer points.
    """
    some = np.linspace(0, t.size - 1, most).astype(np.int64)
    sorted_already = len(u) == 1 and bool((np.diff(u[0]) >= 0).all())
    order = some if sorted_already else np.lexsort((t, *u[::-1]))[some]
    kept = (w[:, order] > 0).sum(axis=1)
    return (u[:, order], t[order], w[:, order]) if kept.min() > _LEFT * most else None


def _cells(u: Array) -> npt.NDArray[np.int64]:
    """A number for each point: its cell on one scale, or its point of several."""
    if len(u) == 1:
        away = u[0] - u[0].min()
        return np.asarray(away * (_CELLS / max(float(away.max()), 1e-300))).astype(np.int64)
    place = np.zeros(u.shape[1], dtype=np.int64)
    for scale in u:
        values, at = np.unique(scale, return_inverse=True)
        place = np.unique(place * values.size + at, return_inverse=True)[1]
    return place
