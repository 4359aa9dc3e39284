"""Affine maps of tokens whose scale and shift come from a causal transformer over earlier tokens.

Source: Zhai et al. 2024, arXiv 2412.06329. What differs: the net's input is shifted by one place, so that the first
token too has a scale and a shift, those of its class; and scales are bounded, so that fresh base samples invert.
Log-determinants are sums over all dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from nflows.transforms import CompositeTransform, Transform
from torch import Tensor

from raysweep.errors import OracleError
from raysweep.oracle.flows.block import Block
from raysweep.oracle.flows.tokens import Patches, Reversed
from raysweep.oracle.flows.transformer import Cache, Causal

__all__ = ["Autoregressive", "Jacobi", "transformer_flow"]

_BOUND = 5.0  # of a block's log-scales


@dataclass
class Jacobi:
    """How a block is inverted by fixed-point iteration: all tokens at once, until none moves by more than `tolerance`.

    After as many rounds as there are tokens the result is exact; usually a tolerance near rounding takes far fewer.

    Attributes:
        tolerance: On the largest change of a number between two rounds.
        rounds: Rounds used so far, over all blocks.
    """

    tolerance: float = 1e-5
    rounds: int = 0


class Autoregressive(Block):
    """z_t = (x_t - b_t) exp(-a_t) of tokens x [n, tokens, channels], with a, b from tokens before t and the class.

    Args:
        net: The transformer, with 2 * channels outputs.
    """

    def __init__(self, net: Causal) -> None:
        super().__init__()
        self.net = net
        self.jacobi: Jacobi | None = None  # None: token by token

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z, and log|det dz/dx| [n] = minus the sum of all a. `context` [n]: classes."""
        a, b = _scale_and_shift(self.net(inputs, _classes(context)), inputs.dtype)
        return (inputs - b) * (-a).exp(), -a.flatten(1).sum(1)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x, and log|det dx/dz|. Token by token with a cache, or by Jacobi iteration."""
        y = _classes(context)
        return self._one_by_one(inputs, y) if self.jacobi is None else self._all_at_once(inputs, y, self.jacobi)

    def _one_by_one(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        cache, x, log_det = Cache(self.net, len(z), z), torch.empty_like(z), z.new_zeros(len(z))
        for t in range(z.shape[1]):
            out = self.net.step(x[:, t - 1] if t else None, t, y, cache)
            a, b = _scale_and_shift(out[:, 0], z.dtype)
            x[:, t] = z[:, t] * a.exp() + b
            log_det += a.sum(1)
        return x, log_det

    def _all_at_once(self, z: Tensor, y: Tensor, how: Jacobi) -> tuple[Tensor, Tensor]:
        x = z
        a = torch.zeros_like(z)
        for _ in range(z.shape[1]):
            a, b = _scale_and_shift(self.net(x, y), z.dtype)
            new = z * a.exp() + b
            moved, x = float((new - x).abs().max()), new
            how.rounds += 1
            if moved <= how.tolerance:
                break
        return x, a.flatten(1).sum(1)


def _scale_and_shift(out: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Log-scale and shift [..., channels], in the items' type even where the net computes in bfloat16."""
    a, b = out.to(dtype).chunk(2, -1)
    return _BOUND * torch.tanh(a / _BOUND), b


def _classes(context: Tensor | None) -> Tensor:
    if context is None:
        raise OracleError("context: an autoregressive flow needs the classes of its items, but got (context=None)")
    return context


def transformer_flow(
    channels: int, side: int, patch: int, width: int, blocks: int, layers: int, classes: int, seed: int
) -> CompositeTransform:
    """Blocks of autoregressive transforms over patches, every other one from the last patch to the first.

    Maps flat images [n, channels * side^2] to z [n, patches, channels * patch^2]; `context` [n]: classes.

    Args:
        width, layers: Of each block's transformer.
        seed: Of the initial weights; the global generator is not changed.
    """
    tokens, size = (side // patch) ** 2, channels * patch**2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: list[Transform] = [Patches(channels, side, patch)]
        for block in range(blocks):
            one = Autoregressive(Causal(tokens, size, 2 * size, width, layers, classes))
            parts.append(Reversed(one) if block % 2 else one)
    return CompositeTransform(parts)
