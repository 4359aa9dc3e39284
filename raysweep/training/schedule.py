"""Learning-rate schedules, evaluated on the device from the step, with parameters per lane."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["DROP", "Schedule"]

DROP = (0.7, 0.1)  # under `drop`: share of the horizon after which the rate falls, and the factor it falls to


@dataclass(frozen=True)
class Schedule:
    """The factor on each lane's learning rate.

    Attributes:
        kind: `constant`, `wsd`, `cosine` or `drop`.
        warmup: [lanes] steps of linear warm-up.
        horizon: [lanes] training time under cosine and drop; not read otherwise.
        decay: [2] first and last step of the branch being run, under wsd; written by the loop.
        flat: Whether the factor is 1 throughout.
    """

    kind: str
    warmup: Tensor
    horizon: Tensor
    decay: Tensor
    flat: bool = False

    @staticmethod
    def make(kind: str, warmup: Tensor, horizon: Tensor) -> Schedule:
        """A schedule outside any branch."""
        decay = torch.empty(2, dtype=torch.float64, device=warmup.device)
        flat = kind == "constant" and not bool(warmup.any())
        schedule = Schedule(kind, warmup.double(), horizon.double(), decay, flat)
        schedule.trunk()
        return schedule

    @property
    def ends(self) -> bool:
        """Whether each lane has its own horizon, after which it does not change."""
        return self.kind in ("cosine", "drop")

    def take(self, lanes: Tensor) -> Schedule:
        """The schedule of these lanes."""
        return replace(self, warmup=self.warmup[lanes], horizon=self.horizon[lanes])

    def trunk(self) -> None:
        """End the branch: no decay from here."""
        self.branch(2**52, 2**52 + 1)

    def branch(self, start: int, stop: int) -> None:
        """Decay linearly to 0 between these steps."""
        self.decay.copy_(torch.tensor([start, stop], dtype=torch.float64))

    def scaled(self, lr: Tensor, step: Tensor) -> Tensor:
        """[lanes] learning rates of the update that follows `step` updates."""
        return lr if self.flat else (lr * self.factor(step)).to(lr.dtype)

    def factor(self, step: Tensor) -> Tensor:
        """[lanes] float64 for the update that follows `step` updates."""
        warm = ((step + 1) / self.warmup.clamp(min=1)).clamp(max=1)
        if self.kind == "wsd":
            return warm * ((self.decay[1] - step) / (self.decay[1] - self.decay[0])).clamp(0, 1)
        if self.kind == "cosine":
            through = ((step - self.warmup) / (self.horizon - self.warmup).clamp(min=1)).clamp(0, 1)
            return warm * 0.5 * (1 + torch.cos(math.pi * through)) * (step < self.horizon)
        if self.kind == "drop":
            after, to = DROP
            return torch.where(step < after * self.horizon, warm, to * warm) * (step < self.horizon)
        return warm
