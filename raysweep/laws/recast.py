"""A law on other axes: the same law of scales whose logs are linear in its own, such as C = 6 N D and M = D / N."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raysweep.laws.definition import Array, Implicit, Law
from raysweep.laws.terms import Restored, Terms

__all__ = ["Axes", "recast"]


@dataclass(frozen=True)
class Axes:
    """Other axes of a law.

    Attributes:
        names: What they are called.
        logs: Log of each axis of the law from the logs of these: rows of factors, [the law's axes][these axes].
        offset: What is added to each, [the law's axes].
        levels, centred: As of the law that results, see `Law`. An axis may be centred where the law's own scales can
            be divided by what follows.
    """

    names: tuple[str, ...]
    logs: tuple[tuple[float, ...], ...]
    offset: tuple[float, ...]
    levels: tuple[int, ...]
    centred: tuple[bool, ...]

    def own(self, u: Array) -> Array:
        """Log scales of the law, [..., axes, points], from those of these axes."""
        return np.asarray(np.array(self.logs) @ u + np.array(self.offset)[:, None])

    def moved(self, u0: Array) -> Array:
        """By how much the law's log scales, [..., axes], move where those of these axes move by u0."""
        return np.asarray(u0 @ np.array(self.logs).T)


def recast(law: Law, name: str, axes: Axes, rivals: Sequence[str | Law] = (), **changed: Any) -> Law:
    """`law` with these axes in place of its own; its parameters and their meaning stay.

    Args:
        rivals: Laws of the same axes to compare it with.
        changed: Further fields of the new law.
    """
    named = replace(law, name=name, axes=axes.names, levels=axes.levels, centred=axes.centred, rivals=tuple(rivals))
    without = f"{name}, E = 0"
    if law.floorless:
        named = replace(named, contains=(without,), floorless=without, rivals=(without, *rivals))
    terms, restore = law.terms, law.restore_terms
    if terms is not None and restore is not None:

        def viewed(u: Array, q: Array) -> Terms:
            return terms(axes.own(u), q)

        def restored(q: Array, u0: Array) -> Restored:
            return restore(q, axes.moved(u0))

        named = replace(named, terms=viewed, restore_terms=restored)
    if law.implicit is not None:
        named = replace(named, implicit=_implicit(law.implicit, axes))
    return replace(named, **changed)


def _implicit(law: Implicit, axes: Axes) -> Implicit:
    def evaluate(u: Array, values: Array) -> tuple[Array, list[Array]]:
        return law.evaluate(axes.own(u), values)

    def restore(values: Array, u0: Array, t0: Array) -> Array:
        return law.restore(values, axes.moved(u0), t0)

    def starts(u: Array, t: Array, w: Array) -> tuple[Array, Array]:
        return law.starts(axes.own(u), t, w)

    return replace(law, evaluate=evaluate, restore=restore, starts=starts)
