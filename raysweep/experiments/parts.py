"""The distributions of items that a pack needs: each difficulty and shift once, and which of them each run uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from raysweep.experiment import Sample, World
from raysweep.grid.runs import Runs
from raysweep.oracle.shift import Shifted, shifted

__all__ = ["Part", "parts_of"]


@dataclass(frozen=True)
class Part:
    """One distribution of items.

    Attributes:
        world: The world, or a shift of it.
        temperature: Its latent temperature.
        base: The world that it is a shift of; None where it is none.
    """

    world: World
    temperature: float
    base: World | None = None

    @property
    def exact(self) -> bool:
        """Whether the posterior of a sample is that of its own distribution."""
        return not isinstance(self.world, Shifted) or self.world.exact

    def sample(self, n: int, stream: str) -> Sample:
        """n items of a stream."""
        return self.world.sample(n, stream, self.temperature)


def parts_of(pack: Runs, world: World, when: Literal["train", "test"]) -> tuple[list[Part], npt.NDArray[np.int64]]:
    """The distributions of a pack's training or test items, and [runs] which of them each run uses.

    Raises:
        OracleError: the world cannot be shifted so.
    """

    def column(name: str, default: object) -> Sequence[Any]:
        return pack.column(name) if name in pack.values else [default] * len(pack)

    asked = [
        (float(t), str(kind) if kl else "none", float(kl) if kind != "none" else 0.0, float(noise))
        for t, kind, kl, noise in zip(
            pack.column("temperature"),
            column(f"{when}_shift", "none"),
            column(f"{when}_kl", 0.0),
            column(f"{when}_noise", 0.0),
            strict=True,
        )
    ]
    distinct = sorted(set(asked))
    found = []
    for temperature, kind, kl, noise in distinct:
        own = shifted(world, kind, kl, noise)
        found.append(Part(own, temperature, None if own is world else world))
    return found, np.array([distinct.index(one) for one in asked], dtype=np.int64)
