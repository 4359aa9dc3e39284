"""Which model: its layout, its forward function, and how both scale with width. Needs no torch to plan with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from raysweep.models.layout import (
    STAGES,
    Layout,
    cnn_layout,
    convnext_layout,
    mlp_layout,
    mobilenet_layout,
    resnet_layout,
    stage_sides,
    swin_layout,
    vit_layout,
    window_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from raysweep.models.ops import Conv

    Model = Callable[[Mapping[str, Tensor], Tensor], Tensor]
    """({name: [lanes, ...]}, x [lanes, n, inputs]) -> outputs [lanes, n, outputs]; for a classifier, logits.

    It closes over nothing that differs between lanes: all such values are among the parameters."""

__all__ = ["ACTIVATIONS", "KINDS", "Architecture", "image_of"]

KINDS = ("mlp", "cnn", "resnet", "vit", "convnext", "swin", "mobilenet")
ACTIVATIONS = ("relu", "gelu", "tanh", "relu2", "tilted")


def image_of(inputs: int) -> tuple[int, int, int] | None:
    """(channels, height, width) of a square grey or colour image with this many numbers, or None."""
    for channels in (1, 3):
        side = math.isqrt(inputs // channels)
        if channels * side * side == inputs:
            return (channels, side, side)
    return None


@dataclass(frozen=True)
class Architecture:
    """A model's shape.

    Attributes:
        kind: One of `KINDS`.
        inputs, outputs: Numbers per item, and numbers that the model returns for it.
        width: Units of a hidden layer; channels of a convolutional network's first layers; a transformer's width.
        depth: Hidden layers; convolutions; blocks; blocks per stage, where there are three stages.
        activation: One of `ACTIVATIONS` (residual networks: ReLU; mobilenets: ReLU, clipped at 6).
        patch: Patch side of transformers and ConvNeXts.
        heads: Attention heads of a transformer; of its first stage, where there are three.
        base_width: mu-P scales relative to this width (Yang et al. 2022, arXiv 2203.03466, table 8); 0: standard.
    """

    kind: str
    inputs: int
    outputs: int
    width: int
    depth: int
    activation: str = "relu"
    patch: int = 4
    heads: int = 4
    base_width: int = 0

    def problem(self) -> str:
        """The axis at fault, the rule it breaks, the values and a remedy; or nothing."""
        if self.kind == "mlp":
            return ""
        image = image_of(self.inputs)
        if image is None:
            return (
                f"model: {self.kind} needs square images of 1 or 3 channels, but items have {self.inputs} numbers. "
                "Use model: mlp, or another world"
            )
        side = image[1]
        if self.depth < 1:
            return f"depth: `depth >= 1` must hold for a {self.kind}, but got (depth={self.depth}). Use depth: 1"
        if self.kind in ("resnet", "mobilenet") and self.activation != "relu":
            return f"activation: a {self.kind} has relu, but got {self.activation}. Leave the axis out"
        if self.kind == "resnet" and side % 2 ** (STAGES - 1):
            return (
                f"model: a resnet halves images {STAGES - 1} times, but they are {side} pixels wide. Use model: cnn, "
                f"or images whose width is a multiple of {2 ** (STAGES - 1)}"
            )
        if self.kind in ("vit", "convnext", "swin") and side % self.patch:
            fits = ", ".join(str(p) for p in range(1, side + 1) if side % p == 0)
            return f"patch: must divide the image, but got (patch={self.patch}, pixels={side}). Choose one of {fits}"
        if self.kind == "swin" and any(window_of(s) == 1 < s for s in stage_sides(side // self.patch)):
            return (
                "patch: windows of 2 to 7 patches must divide the grids of a swin, but got "
                f"(patch={self.patch}, pixels={side}). Choose another patch"
            )
        if self.kind in ("vit", "swin") and self.width % self.heads:
            return f"heads: must divide the width, but got (heads={self.heads}, width={self.width})"
        if self.kind in ("vit", "swin") and self.base_width % self.heads:
            return f"base_width: `heads` must divide it, but got (heads={self.heads}, base_width={self.base_width})"
        return ""

    @property
    def image(self) -> tuple[int, int, int]:
        """(channels, height, width) of one item.

        Raises:
            ValueError: items are no images; `problem` reports that first.
        """
        image = image_of(self.inputs)
        if image is None:
            raise ValueError(self.problem())
        return image

    @cached_property
    def layout(self) -> Layout:
        """Parameters and cost of one lane."""
        if self.kind == "mlp":
            return mlp_layout(self.inputs, self.width, self.depth, self.outputs)
        shape = (self.image, self.width, self.depth, self.outputs)
        if self.kind in ("vit", "swin"):
            return (vit_layout if self.kind == "vit" else swin_layout)(*shape, self.patch, self.heads)
        if self.kind == "convnext":
            return convnext_layout(*shape, self.patch)
        build = {"cnn": cnn_layout, "resnet": resnet_layout, "mobilenet": mobilenet_layout}[self.kind]
        return build(*shape)

    @cached_property
    def base(self) -> Layout:
        """The layout at the base width; the same without mu-P."""
        return replace(self, width=self.base_width).layout if self.base_width else self.layout

    @property
    def _output_scale(self) -> float:
        return self.base.parameters[-1].fan_in / self.layout.parameters[-1].fan_in

    def rates(self, adaptive: bool) -> dict[str, float]:
        """{name: factor on the learning rate}.

        With r_in and r_out the ratios of fan-in and fan-out to the base's: SGD wants r_out on what only fans out
        (input weights, biases, gains), r_in on the output weights, 1 on hidden weights; Adam 1 / r_in on hidden
        weights and 1 elsewhere. The output weights' own multiplier is in the forward pass.

        Args:
            adaptive: Whether updates are Adam's.
        """
        factors = {}
        for p, base in zip(self.layout.parameters, self.base.parameters, strict=True):
            r_out = p.fan_out / base.fan_out
            r_in = p.fan_in / base.fan_in if p.name.endswith(".weight") else 1.0
            hidden = r_in != 1.0 and r_out != 1.0
            if adaptive:
                factors[p.name] = 1.0 / r_in if hidden else 1.0
            else:
                factors[p.name] = r_out / r_in if hidden else r_out * r_in
        return factors

    def bounds(self) -> dict[str, float]:
        """{name: half-width of the uniform start}: 1/sqrt(fan_in), where mu-P wants it at the base width."""
        found = {}
        for p, base in zip(self.layout.parameters, self.base.parameters, strict=True):
            hidden = p.name.endswith(".weight") and p.fan_out != base.fan_out
            found[p.name] = (p if hidden else base).fan_in ** -0.5
        return found

    def model(self, conv: Conv = "loop", tf32: bool = False) -> Model:
        """The forward function of a stack.

        Args:
            conv: How convolutions run.
            tf32: Round float32 products to TF32 in kernels of our own.
        """
        scale = self._output_scale
        if self.kind == "mlp":
            from raysweep.models.mlp import MLP

            return MLP(self.depth, self.activation, scale)
        if self.kind == "cnn":
            from raysweep.models.cnn import CNN

            return CNN(self.image, self.depth, self.activation, scale, conv)
        if self.kind == "resnet":
            from raysweep.models.resnet import ResNet

            return ResNet(self.image, self.depth, scale, conv, tf32)
        if self.kind == "convnext":
            from raysweep.models.convnext import ConvNeXt

            return ConvNeXt(self.image, self.depth, self.patch, self.activation, scale, conv)
        if self.kind == "mobilenet":
            from raysweep.models.mobilenet import MobileNet

            return MobileNet(self.image, self.depth, scale, conv)
        head = self.width // self.heads
        attention = (self.base_width // self.heads) ** 0.5 / head if self.base_width else None
        transformer = (self.image, self.depth, self.patch, self.heads, self.activation, attention, scale)
        if self.kind == "swin":
            from raysweep.models.swin import Swin

            return Swin(*transformer)
        from raysweep.models.vit import ViT

        return ViT(*transformer)
