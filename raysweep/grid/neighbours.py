"""Neighbouring settings of a grid: those one step away along its axes of numbers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from raysweep.grid.axes import Axis

__all__ = ["neighbours"]

_MOST = 4  # neighbours of one setting
_CORNERS = 4  # axes up to which settings that differ in several of them are neighbours, too


def neighbours(rows: Sequence[Mapping[str, Any]], axes: Mapping[str, Axis]) -> list[list[int]]:
    """For each setting, the positions of its neighbours, the nearest first: they differ by at most one step in each
    axis of numbers, and not at all in others. Axes that move together, as in a `zip`, take their steps together.

    Args:
        rows: Distinct settings.
    """
    varying = [n for n in sorted({n for row in rows for n in row}) if len({row.get(n) for row in rows}) > 1]
    numbers = [n for n in varying if axes[n].type in (int, float) and all(n in row for row in rows)]
    words = [n for n in varying if n not in numbers]
    ranks = {n: {v: i for i, v in enumerate(sorted({row[n] for row in rows}))} for n in numbers}
    places = [(tuple(str(row.get(n)) for n in words), tuple(ranks[n][row[n]] for n in numbers)) for row in rows]
    index, steps = {place: i for i, place in enumerate(places)}, _steps(len(numbers))
    found = []
    for kind, rank in places:
        near = [index.get((kind, tuple(a + b for a, b in zip(rank, step, strict=True)))) for step in steps]
        found.append([i for i in near if i is not None][:_MOST])
    return found


def _steps(count: int) -> list[tuple[int, ...]]:
    """The steps to neighbours, the shortest first."""
    if count <= _CORNERS:
        every = itertools.product((-1, 0, 1), repeat=count)
        return sorted((step for step in every if any(step)), key=lambda step: sum(map(abs, step)))
    return [tuple(sign * (i == j) for j in range(count)) for i in range(count) for sign in (-1, 1)]
