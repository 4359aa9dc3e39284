"""Affine couplings with bounded scales, from nflows' parts."""

from __future__ import annotations

import torch
from nflows.nn.nets import ResidualNet
from nflows.transforms import AffineCouplingTransform, CompositeTransform, RandomPermutation, Transform
from torch import Tensor

__all__ = ["coupling_net"]


class _BoundedNet(ResidualNet):  # type: ignore[misc]
    """Scale parameters and shifts in (-1, 1), whatever the weights: no tails that a float32 item could not hold."""

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.tanh(super().forward(inputs, context))


def coupling_net(dim: int, layers: int, hidden: int, blocks: int, seed: int, bounded: bool = False) -> Transform:
    """Random permutations and affine couplings whose scale is bounded, so that fresh base samples invert.

    Args:
        dim: Dimensions, at least 2.
        layers: Couplings; each transforms every other feature.
        hidden, blocks: Width and residual blocks of a coupling's net.
        seed: Seed of the permutations and initial weights; the global generator is not changed.
        bounded: Whether to bound the shifts too, for weights that are drawn, not trained.
    """
    mask = torch.arange(dim) % 2
    kind = _BoundedNet if bounded else ResidualNet

    def net(inputs: int, outputs: int) -> ResidualNet:
        return kind(inputs, outputs, hidden_features=hidden, num_blocks=blocks)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: list[Transform] = []
        for _ in range(layers):
            parts += [RandomPermutation(dim), AffineCouplingTransform(mask, net)]
    return CompositeTransform(parts)
