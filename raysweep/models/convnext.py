"""A small ConvNeXt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from raysweep.models.cnn import as_images
from raysweep.models.layout import STAGES, merging
from raysweep.models.ops import Conv, add, depthwise, layer_norm_of, linear_of, merge, multiply

__all__ = ["ConvNeXt"]


@dataclass(frozen=True)
class ConvNeXt:
    """Patches; three stages of blocks, 2x2 pixels merged between; global mean; norm; head (Liu et al. 2022).

    A block is a depthwise convolution, LayerNorm, a hidden layer of 4 widths, and a scale per channel, which starts at
    .1 as deep networks of up to 18 blocks want it (Touvron et al. 2021, CaiT; the source starts at 1e-6, with which SGD
    would hardly move the blocks). An odd grid keeps its side between stages.

    Attributes:
        image: (channels, height, width) of an item.
        depth: Blocks per stage.
        patch: Side of a patch in pixels.
        activation: Activation of the blocks' hidden layer; GELU in the source.
        output_scale: Multiplies the output weights (mu-P), by way of their input.
        conv: How lanes are convolved.
    """

    image: tuple[int, int, int]
    depth: int
    patch: int
    activation: str = "gelu"
    output_scale: float = 1.0
    conv: Conv = "loop"

    def __call__(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Outputs [lanes, n, outputs] of x [lanes, n, inputs]; p: {name: [lanes, ...]}."""
        h = linear_of(p, "stem", merge(as_images(x, self.image), self.patch))
        h = layer_norm_of(p, "stem.norm", h)
        for stage in range(STAGES):
            if stage:
                h = layer_norm_of(p, f"merges.{stage}.norm", h)
                h = linear_of(p, f"merges.{stage}", merge(h, merging(h.shape[2])))
            for block in range(self.depth):
                h = h + self._block(p, f"stages.{stage}.{block}", h)
        return linear_of(p, "head", layer_norm_of(p, "norm", h.mean((2, 3))) * self.output_scale)

    def _block(self, p: Mapping[str, Tensor], name: str, h: Tensor) -> Tensor:
        h = add(depthwise(h, p[f"{name}.mix.weight"], 1, self.conv), p[f"{name}.mix.bias"])
        up = linear_of(p, f"{name}.up", layer_norm_of(p, f"{name}.norm", h), self.activation)
        return multiply(linear_of(p, f"{name}.down", up), p[f"{name}.scale"])
