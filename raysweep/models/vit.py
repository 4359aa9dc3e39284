"""A vision transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from raysweep.models.ops import add, layer_norm_of, linear, linear_of

__all__ = ["ViT"]


@dataclass(frozen=True)
class ViT:
    """Patches, learned positions, pre-norm blocks, mean of the tokens (Dosovitskiy et al. 2021, without class token).

    Attributes:
        image: (channels, height, width) of an item.
        depth: Blocks.
        patch: Side of a patch in pixels.
        heads: Attention heads.
        activation: Activation of the blocks' hidden layer.
        attention_scale: Multiplies queries times keys; None is 1/sqrt(head size). mu-P wants 1/(head size).
        output_scale: Multiplies the output weights (mu-P), by way of their input.
    """

    image: tuple[int, int, int]
    depth: int
    patch: int
    heads: int
    activation: str = "gelu"
    attention_scale: float | None = None
    output_scale: float = 1.0

    def __call__(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Outputs [lanes, n, outputs] of x [lanes, n, inputs]; p: {name: [lanes, ...]}."""
        lanes, n, _ = x.shape
        channels, side, _ = self.image
        across = side // self.patch
        patches = x.view(lanes, n, channels, across, self.patch, across, self.patch).permute(0, 1, 3, 5, 2, 4, 6)
        h = linear(patches.reshape(lanes, n * across**2, -1), p["embed.weight"], p["embed.bias"])
        h = add(h.unflatten(1, (n, -1)), p["position"]).flatten(1, 2)
        for i in range(self.depth):
            name = f"blocks.{i}"
            h = h + self._attention(p, name, layer_norm_of(p, f"{name}.norm1", h), n)
            up = linear_of(p, f"{name}.up", layer_norm_of(p, f"{name}.norm2", h), self.activation)
            h = h + linear_of(p, f"{name}.down", up)
        h = layer_norm_of(p, "norm", h).unflatten(1, (n, -1)).mean(2)
        return linear_of(p, "head", h * self.output_scale)

    def _attention(self, p: Mapping[str, Tensor], name: str, x: Tensor, n: int) -> Tensor:
        lanes, _, width = x.shape
        qkv = linear_of(p, f"{name}.qkv", x).view(lanes * n, -1, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, scale=self.attention_scale)
        return linear_of(p, f"{name}.proj", out.transpose(1, 2).reshape(lanes, -1, width))
