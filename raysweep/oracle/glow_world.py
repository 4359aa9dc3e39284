"""The world of a multiscale flow of images, made of 1x1 convolutions and affine couplings (Glow, arXiv 1807.03039)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raysweep import data as datasets
from raysweep.errors import SweepError
from raysweep.oracle.image_flow import ImageRecipe
from raysweep.oracle.recipe import Shape, register

if TYPE_CHECKING:  # torch takes seconds to import, and planning needs none of it
    from raysweep.oracle.flows.conditional import ConditionalFlow

__all__ = ["GlowRecipe"]


@register
class GlowRecipe(ImageRecipe):
    """Levels of squeezing and affine couplings; samples take one pass, not one per patch."""

    kind: Literal["glow"] = "glow"
    levels: int = Field(2, ge=1, le=12, description="scales; the images' side is a multiple of 2^levels")
    depth: int = Field(8, ge=1, le=256, description="steps of each level: a 1x1 convolution and a coupling")
    width: int = Field(64, ge=1, le=8192, description="channels of a coupling's convolutions")
    layers: int = Field(2, ge=0, le=64, description="residual blocks of a coupling's net")

    @property
    def shape(self) -> Shape:
        shape = super().shape
        _, side = datasets.channels_and_side(shape.dim)
        if side % 2**self.levels:
            raise SweepError(
                f"world.levels: the side of the images of {self.data} must be a multiple of 2^levels, but got "
                f"(levels={self.levels}, side={side}). Take fewer levels"
            )
        return shape

    @property
    def least_bytes(self) -> int:
        shape = self.shape
        last = datasets.channels_and_side(shape.dim)[0] << (self.levels + 1)  # channels of the last level
        each = self.layers * 10 * self.width**2 + shape.classes * self.width
        ends = 2 * shape.classes * shape.dim + (shape.classes**2 if self.confusion else 0)
        return 4 * (self.levels * self.depth * each + self.depth * last * (2 * last + 13 * self.width) + ends)

    def fresh(self) -> ConditionalFlow:
        import torch

        from raysweep.oracle.flows.conditional import ConditionalFlow, symmetric_channel
        from raysweep.oracle.flows.glow import glow

        shape = self.shape
        channels, side = datasets.channels_and_side(shape.dim)
        flow = glow(channels, side, self.levels, self.depth, self.width, self.layers, shape.classes, self.seed)
        channel = symmetric_channel(shape.classes, self.confusion) if self.confusion else None
        prior = torch.full((shape.classes,), -math.log(shape.classes))
        return ConditionalFlow(flow, (shape.dim,), prior, channel)
