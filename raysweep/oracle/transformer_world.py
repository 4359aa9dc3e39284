"""The world of a transformer autoregressive flow trained on images (arXiv 2602.00315; 2412.06329 for the flow)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from raysweep import data as datasets
from raysweep.errors import SweepError
from raysweep.oracle.image_flow import ImageRecipe
from raysweep.oracle.recipe import Shape, register

if TYPE_CHECKING:  # torch takes seconds to import, and planning needs none of it
    from raysweep.oracle.flows.conditional import ConditionalFlow

__all__ = ["TransformerRecipe"]


@register
class TransformerRecipe(ImageRecipe):
    """Blocks of causal transformers over patches; each gives every patch a scale and a shift from those before it."""

    kind: Literal["transformer"] = "transformer"
    patch: int = Field(2, ge=1, le=64, description="side of a patch; it divides the images' side")
    width: int = Field(64, ge=8, le=8192, description="of the transformers; heads are 64 wide")
    blocks: int = Field(4, ge=1, le=64, description="autoregressive blocks, in alternating order")
    layers: int = Field(2, ge=1, le=64, description="layers of each block's transformer")

    @field_validator("width")
    @classmethod
    def _heads_fit(cls, width: int) -> int:
        if width % (8 if width < 64 else 64):
            raise ValueError(f"must be a multiple of 64, or 8, 16, 24, ... or 56, but got {width}")
        return width

    @property
    def shape(self) -> Shape:
        shape = super().shape
        _, side = datasets.channels_and_side(shape.dim)
        if side % self.patch:
            raise SweepError(
                f"world.patch: must divide the side of the images of {self.data}, but got (patch={self.patch}, "
                f"side={side}). Take a divisor of {side}"
            )
        return shape

    @property
    def least_bytes(self) -> int:
        shape = self.shape
        channels, side = datasets.channels_and_side(shape.dim)
        tokens, size = (side // self.patch) ** 2, channels * self.patch**2
        confused = shape.classes**2 if self.confusion else 0
        each = self.layers * 12 * self.width + tokens + shape.classes + 3 * size
        return 4 * (self.blocks * self.width * each + confused)

    def fresh(self) -> ConditionalFlow:
        import torch

        from raysweep.oracle.flows.autoregressive import transformer_flow
        from raysweep.oracle.flows.conditional import ConditionalFlow, symmetric_channel

        shape = self.shape
        channels, side = datasets.channels_and_side(shape.dim)
        flow = transformer_flow(
            channels, side, self.patch, self.width, self.blocks, self.layers, shape.classes, self.seed
        )
        channel = symmetric_channel(shape.classes, self.confusion) if self.confusion else None
        prior = torch.full((shape.classes,), -math.log(shape.classes))
        return ConditionalFlow(flow, ((side // self.patch) ** 2, channels * self.patch**2), prior, channel)
