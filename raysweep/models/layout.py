"""What a model is made of, before anything is allocated: parameters, multiply-adds, activations. Needs no torch.

One layout serves the initial values, the counted cost and the width scaling, so that they cannot disagree.

Conventions. A multiply-add is 2 FLOPs; forward and backward are counted layer by layer (a layer that sees the data has
no input gradient); activations, normalisation, optimiser arithmetic and data indexing are not counted. N counts every
trainable scalar, biases included.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Layout",
    "Parameter",
    "cnn_layout",
    "convnext_layout",
    "groups_of",
    "merging",
    "mlp_layout",
    "mlp_sizes",
    "mobilenet_layout",
    "resnet_layout",
    "stage_sides",
    "stage_widths",
    "swin_layout",
    "vit_layout",
    "window_of",
]

STAGES = 3  # stages of a residual network, a ConvNeXt, a Swin transformer and a MobileNet, with widths w, 2w, 4w
_STARTS = {"zeros": 0.0, "tenths": 0.1, "ones": 1.0}
_KERNEL = 7  # side of a ConvNeXt's depthwise filters
_WINDOW = 7  # largest side of a Swin transformer's windows
_EXPANSION = 6  # hidden channels of a MobileNet's block, per channel


@dataclass(frozen=True)
class Parameter:
    """One tensor of a model.

    Attributes:
        name: Unique in its model.
        shape: Shape in one lane.
        fan_in, fan_out: Those of its layer; for gains and biases fan_in is that of the layer's weight.
        start: `uniform` in +-1/sqrt(fan_in) (torch's default for linear layers and convolutions), or the same number
            everywhere: `ones`, `tenths`, `zeros`.
        macs: Multiply-adds per item, forward.
        first: Whether its layer sees the data, which needs no gradient.
    """

    name: str
    shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    start: Literal["uniform", "ones", "tenths", "zeros"] = "uniform"
    macs: int = 0
    first: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def is_bias(self) -> bool:
        """Whether it is a layer's bias; norms have biases too, which start at 0."""
        return self.start == "uniform" and self.name.endswith(".bias")

    @property
    def constant(self) -> float | None:
        """The number that it starts at, or None where it is drawn."""
        return _STARTS.get(self.start)


@dataclass(frozen=True)
class Layout:
    """A model's parameters in order, and the cost of one item.

    Attributes:
        parameters: The parameters that train.
        activations: Numbers per item kept for the backward pass, inputs included.
        inner: Multiply-adds between activations (attention), forward.
    """

    parameters: tuple[Parameter, ...]
    activations: int
    inner: int = 0

    @property
    def size(self) -> int:
        """N: every trainable scalar."""
        return sum(p.size for p in self.parameters)

    @property
    def forward_flops(self) -> int:
        """FLOPs per item; 2 per multiply-add."""
        return 2 * (sum(p.macs for p in self.parameters) + self.inner)

    @property
    def backward_flops(self) -> int:
        """FLOPs per item: a gradient for every weight, and for every input but the data."""
        return 2 * sum(p.macs * (1 if p.first else 2) for p in self.parameters) + 4 * self.inner


def _matrix(name: str, inputs: int, outputs: int, times: int = 1, first: bool = False) -> Parameter:
    macs = times * inputs * outputs
    return Parameter(f"{name}.weight", (outputs, inputs), inputs, outputs, macs=macs, first=first)


def _dense(name: str, inputs: int, outputs: int, times: int = 1, first: bool = False) -> list[Parameter]:
    weight = _matrix(name, inputs, outputs, times, first)
    return [weight, Parameter(f"{name}.bias", (outputs,), inputs, outputs)]


def _conv(name: str, inputs: int, outputs: int, kernel: int, pixels: int, first: bool = False) -> Parameter:
    """Height, width, input channel, output channel: channels last, as activations are."""
    fan_in = kernel * kernel * inputs
    shape = (kernel, kernel, inputs, outputs)
    return Parameter(f"{name}.weight", shape, fan_in, outputs, macs=pixels * fan_in * outputs, first=first)


def _depthwise(name: str, channels: int, kernel: int, pixels: int) -> Parameter:
    """Height, width, channel: one filter per channel, so that the fan-in does not grow with the width."""
    shape, fan_in = (kernel, kernel, channels), kernel * kernel
    return Parameter(f"{name}.weight", shape, fan_in, channels, macs=pixels * fan_in * channels)


def _norm(name: str, channels: int) -> list[Parameter]:
    return [
        Parameter(f"{name}.gain", (channels,), 1, channels, start="ones"),
        Parameter(f"{name}.bias", (channels,), 1, channels, start="zeros"),
    ]


def mlp_sizes(inputs: int, width: int, depth: int, outputs: int) -> list[int]:
    """Layer widths, input first: `depth` hidden layers of `width`."""
    return [inputs, *[width] * depth, outputs]


def mlp_layout(inputs: int, width: int, depth: int, outputs: int) -> Layout:
    """Multi-layer perceptron: `layers.0` sees the data, the last gives the outputs."""
    sizes = mlp_sizes(inputs, width, depth, outputs)
    layers = [_dense(f"layers.{i}", a, b, first=i == 0) for i, (a, b) in enumerate(itertools.pairwise(sizes))]
    return Layout(tuple(itertools.chain(*layers)), sum(sizes))


def cnn_layout(image: Sequence[int], width: int, depth: int, outputs: int) -> Layout:
    """`depth` 3x3 convolutions of width w, 2w, 4w, ..., each followed by 2x2 mean pooling; then a linear head."""
    inputs, side, _ = image
    parameters: list[Parameter] = []
    activations = inputs * side * side
    for i in range(depth):
        channels = width * 2**i
        parameters.append(_conv(f"convs.{i}", inputs, channels, 3, side * side, first=i == 0))
        parameters.append(Parameter(f"convs.{i}.bias", (channels,), 9 * inputs, channels))
        activations += 2 * channels * side * side
        inputs, side = channels, max(1, side // 2)
    return Layout((*parameters, *_dense("head", inputs, outputs)), activations)


def stage_widths(width: int) -> list[int]:
    """Channels of the stages."""
    return [width * 2**i for i in range(STAGES)]


def merging(side: int) -> int:
    """Side of the squares of pixels that become one between two stages: 2, or 1 where the side is odd."""
    return 1 + (side % 2 == 0)


def stage_sides(side: int) -> list[int]:
    """Sides of the stages' grids: half the side where it is even, and the same where it is odd."""
    return list(itertools.accumulate(range(STAGES - 1), lambda s, _: s // merging(s), initial=side))


def window_of(side: int) -> int:
    """Side of a Swin transformer's windows: the largest divisor of the grid's side that is at most 7."""
    return max(w for w in range(1, _WINDOW + 1) if side % w == 0)


def groups_of(channels: int) -> int:
    """Groups of a GroupNorm: 8 where they divide."""
    return math.gcd(8, channels)


def resnet_layout(image: Sequence[int], width: int, depth: int, outputs: int) -> Layout:
    """Three stages of `depth` basic blocks (He et al. 2016), GroupNorm after each convolution, stride 2 between."""
    inputs, side, _ = image
    activations = inputs * side * side
    parameters = [_conv("stem", inputs, width, 3, side * side, first=True), *_norm("stem.norm", width)]
    activations += 2 * width * side * side
    channels = width
    for stage, out in enumerate(stage_widths(width)):
        for block in range(depth):
            name = f"stages.{stage}.{block}"
            stride = 2 if stage and not block else 1
            side //= stride
            pixels = side * side
            parameters += [_conv(f"{name}.conv1", channels, out, 3, pixels), *_norm(f"{name}.norm1", out)]
            parameters += [_conv(f"{name}.conv2", out, out, 3, pixels), *_norm(f"{name}.norm2", out)]
            activations += 4 * out * pixels
            if channels != out:
                parameters += [_conv(f"{name}.shortcut", channels, out, 1, pixels), *_norm(f"{name}.norm3", out)]
                activations += 2 * out * pixels
            channels = out
    return Layout((*parameters, *_dense("head", channels, outputs)), activations)


def vit_layout(image: Sequence[int], width: int, depth: int, outputs: int, patch: int, heads: int) -> Layout:
    """Vision transformer (Dosovitskiy et al. 2021), pre-norm, mean of tokens, no dropout; hidden layers of 4 widths."""
    channels, side, _ = image
    tokens = (side // patch) ** 2
    inputs = channels * patch * patch
    parameters = _dense("embed", inputs, width, tokens, first=True)
    parameters.append(Parameter("position", (tokens, width), tokens, width))
    activations = channels * side * side + tokens * width
    for i in range(depth):
        name = f"blocks.{i}"
        parameters += [*_norm(f"{name}.norm1", width), *_dense(f"{name}.qkv", width, 3 * width, tokens)]
        parameters += [*_dense(f"{name}.proj", width, width, tokens), *_norm(f"{name}.norm2", width)]
        parameters += [
            *_dense(f"{name}.up", width, 4 * width, tokens),
            *_dense(f"{name}.down", 4 * width, width, tokens),
        ]
        activations += tokens * width * 18 + heads * tokens * tokens
    parameters += [*_norm("norm", width), *_dense("head", width, outputs)]
    return Layout(tuple(parameters), activations, inner=2 * depth * tokens * tokens * width)


def convnext_layout(image: Sequence[int], width: int, depth: int, outputs: int, patch: int) -> Layout:
    """ConvNeXt (Liu et al. 2022): three stages of `depth` blocks on patches; hidden layers of 4 widths.

    The depthwise filters are 7 x 7, clipped to 2 * side - 1: what lies beyond never meets a pixel.
    """
    inputs, side, _ = image
    pixels, channels = (side // patch) ** 2, width
    parameters = [*_dense("stem", inputs * patch * patch, width, pixels, first=True), *_norm("stem.norm", width)]
    activations = inputs * side * side + pixels * width
    for stage, (out, across) in enumerate(zip(stage_widths(width), stage_sides(side // patch), strict=True)):
        if stage:
            activations += 2 * pixels * channels
            squares, pixels = pixels // across**2, across**2
            parameters += _norm(f"merges.{stage}.norm", channels)
            parameters += _dense(f"merges.{stage}", squares * channels, out, pixels)
        kernel = min(_KERNEL, 2 * across - 1)
        for block in range(depth):
            name = f"stages.{stage}.{block}"
            parameters += [_depthwise(f"{name}.mix", out, kernel, pixels)]
            parameters += [Parameter(f"{name}.mix.bias", (out,), kernel * kernel, out), *_norm(f"{name}.norm", out)]
            parameters += [*_dense(f"{name}.up", out, 4 * out, pixels), *_dense(f"{name}.down", 4 * out, out, pixels)]
            parameters.append(Parameter(f"{name}.scale", (out,), 1, out, start="tenths"))
            activations += pixels * out * 12
        channels = out
    parameters += [*_norm("norm", channels), *_dense("head", channels, outputs)]
    return Layout(tuple(parameters), activations)


def swin_layout(image: Sequence[int], width: int, depth: int, outputs: int, patch: int, heads: int) -> Layout:
    """Swin transformer (Liu et al. 2021): three stages of `depth` blocks on patches; heads double with the width.

    Windows of one token have no relative positions. Products of masked pairs are computed, and counted.
    """
    inputs, side, _ = image
    tokens, channels = (side // patch) ** 2, width
    parameters = [*_dense("stem", inputs * patch * patch, width, tokens, first=True), *_norm("stem.norm", width)]
    activations, inner = inputs * side * side + tokens * width, 0
    for stage, (out, across) in enumerate(zip(stage_widths(width), stage_sides(side // patch), strict=True)):
        if stage:
            activations += 2 * tokens * channels
            squares, tokens = tokens // across**2, across**2
            parameters += _norm(f"merges.{stage}.norm", squares * channels)
            parameters.append(_matrix(f"merges.{stage}", squares * channels, out, tokens))
        window, own_heads = window_of(across), heads * 2**stage
        for block in range(depth):
            name = f"stages.{stage}.{block}"
            parameters += [*_norm(f"{name}.norm1", out), *_dense(f"{name}.qkv", out, 3 * out, tokens)]
            if window > 1:
                shape = (own_heads, 2 * window - 1, 2 * window - 1)
                parameters.append(Parameter(f"{name}.relative", shape, 1, own_heads, start="zeros"))
            parameters += [*_dense(f"{name}.proj", out, out, tokens), *_norm(f"{name}.norm2", out)]
            parameters += [*_dense(f"{name}.up", out, 4 * out, tokens), *_dense(f"{name}.down", 4 * out, out, tokens)]
            activations += tokens * (out * 20 + own_heads * window * window)
            inner += 2 * tokens * window * window * out
        channels = out
    parameters += [*_norm("norm", channels), *_dense("head", channels, outputs)]
    return Layout(tuple(parameters), activations, inner)


def mobilenet_layout(image: Sequence[int], width: int, depth: int, outputs: int) -> Layout:
    """MobileNetV2 (Sandler et al. 2018): a stem, three stages of `depth` inverted residuals, stride 2 between, and a
    last layer of 4 times the channels; GroupNorm after each convolution."""
    inputs, side, _ = image
    pixels, channels = side * side, width
    parameters = [_conv("stem", inputs, width, 3, pixels, first=True), *_norm("stem.norm", width)]
    activations = pixels * (inputs + 3 * width)
    for stage, out in enumerate(stage_widths(width)):
        for block in range(depth):
            name, hidden, before = f"stages.{stage}.{block}", _EXPANSION * channels, pixels
            side = (side + 1) // 2 if stage and not block else side  # stride 2
            pixels = side * side
            parameters += [_matrix(f"{name}.expand", channels, hidden, before), *_norm(f"{name}.norm1", hidden)]
            parameters += [_depthwise(f"{name}.mix", hidden, 3, pixels), *_norm(f"{name}.norm2", hidden)]
            parameters += [_matrix(f"{name}.project", hidden, out, pixels), *_norm(f"{name}.norm3", out)]
            activations += 3 * hidden * (before + pixels) + 2 * out * pixels
            channels = out
    parameters += [_matrix("last", channels, 4 * channels, pixels), *_norm("last.norm", 4 * channels)]
    activations += 3 * 4 * channels * pixels
    return Layout((*parameters, *_dense("head", 4 * channels, outputs)), activations)
