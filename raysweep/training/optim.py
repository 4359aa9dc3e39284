"""Optimisers over stacked parameters, with a hyper-parameter per lane."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SGD"]

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with heavy-ball momentum: v <- mu v + g, p <- p - lr v (torch's convention).

    Attributes:
        lr, momentum: [lanes].
    """

    lr: Tensor
    momentum: Tensor

    def state(self, parameters: Parameters) -> Parameters:
        """Zero velocities."""
        return {name: torch.zeros_like(p) for name, p in parameters.items()}

    @torch.no_grad()
    def step(self, parameters: Parameters, gradients: Parameters, state: Parameters, alive: Tensor) -> None:
        """Update in place; lanes that are not alive keep their parameters."""
        for name, p in parameters.items():
            shape = (-1, *[1] * (p.dim() - 1))
            velocity = state[name].mul_(self.momentum.view(shape)).add_(gradients[name])
            p.sub_(torch.where(alive.view(shape), self.lr.view(shape) * velocity, 0.0))
