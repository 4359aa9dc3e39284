"""The legs of a schedule: the stretches to train so that the state at several times can be read. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Leg", "legs"]


class Leg(NamedTuple):
    """A stretch of training.

    Attributes:
        stop: The step at which it ends.
        snapshot: Whether the state at its end is wanted.
        decay: Whether it is a branch: the learning rate falls linearly to 0, and the state before it is restored.
    """

    stop: int
    snapshot: bool
    decay: bool = False


def legs(kind: str, times: Sequence[int], decay: float) -> list[Leg]:
    """How a stack is trained so that its state at each of these times can be read.

    Under warmup-stable-decay (Hu et al. 2024, arXiv 2404.06395) the state at T is that of a run that decays over its
    last `decay` T steps: a branch from the stable trunk, which therefore ends before the longest time.

    Args:
        kind: `constant`, `wsd`, `cosine` or `drop`.
        times: Increasing training times.
        decay: Share of the steps in which the rate decays.
    """
    if kind != "wsd":
        return [Leg(time, True) for time in times]
    found: list[Leg] = []
    trunk = 0
    for time in times:
        start = time - math.ceil(round(decay * time, 9))
        if start > trunk:
            found.append(Leg(start, False))
            trunk = start
        found.append(Leg(time, True, decay=True))
    return found
