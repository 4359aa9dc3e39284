"""Floors: whether the data need a law's floor, or one that it has not, in groups too many for all rivals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raysweep.laws.batch import Group, solve_all
from raysweep.laws.choice import Evidence, floor_evidence
from raysweep.laws.estimate import distinct
from raysweep.laws.forms import compared

__all__ = ["floors"]


def floors(groups: Sequence[Group], huber: float | None) -> dict[int, tuple[Evidence, ...]]:
    """Each group's law beside the same with or without a floor, all fitted together."""
    others = {}
    for i, group in enumerate(groups):
        law = group.law
        for one in map(compared, law.rivals) if group.error is None else ():
            pair = one.name == law.floorless or one.floorless == law.name
            if pair and distinct(group.data.x) >= one.fewest_scales:
                others[i] = one
    solved = solve_all(
        [replace(groups[i], law=one) for i, one in others.items()], [groups[i].weights for i in others], huber
    )
    out = {}
    for (i, one), (values, _) in zip(others.items(), solved, strict=True):
        group, data = groups[i], groups[i].data
        both = group.values, values
        out[i] = tuple(floor_evidence(group.law, one, both, data.x, data.y, group.weights, huber))
    return out
