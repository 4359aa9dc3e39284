"""Layers over a stack of lanes: every tensor has a leading lane axis, and each lane its own weights.

Images are channels last, [lanes, n, height, width, channels]. Weights are kept in float32 or float64 and cast to the
activations' type where they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raysweep.kernels import fused
from raysweep.models.taps import Tap, record, recording

__all__ = [
    "CONVS", "Conv", "activate", "add", "conv2d", "depthwise", "group_norm", "layer_norm", "layer_norm_of", "linear",
    "linear_across", "linear_of", "merge", "multiply",
]  # fmt: skip

Conv = Literal["grouped", "loop", "fused"]
CONVS: tuple[Conv, ...] = ("grouped", "loop", "fused")


def activate(x: Tensor, kind: str) -> Tensor:
    """ReLU, its square, the tilted absolute value max(h, -h / 2), GELU or tanh, element by element."""
    if kind == "relu":
        return x.relu()
    if kind == "relu2":
        return x.relu().square()
    if kind == "tilted":
        return F.leaky_relu(x, -0.5)
    return F.gelu(x) if kind == "gelu" else x.tanh()


def _beside(parameter: Tensor, x: Tensor) -> Tensor:
    """A parameter [lanes, *shape], which all items share, as it multiplies or is added to x [lanes, n, ..., *shape]."""
    lanes, *shape = parameter.shape
    beside: Tensor = parameter.to(x.dtype).view(lanes, *[1] * (x.dim() - 1 - len(shape)), *shape)
    return beside


def add(x: Tensor, parameter: Tensor) -> Tensor:
    """x [lanes, n, ..., *shape] and a parameter [lanes, *shape], which all items share."""
    out = x + _beside(parameter, x)
    record(Tap(parameter, out))
    return out


def multiply(x: Tensor, parameter: Tensor) -> Tensor:
    """x [lanes, n, ..., *shape] times a parameter [lanes, *shape], which all items share."""
    out = x * _beside(parameter, x)
    record(Tap(parameter, out, x))
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "") -> Tensor:
    """Linear layer and activation of rows.

    Args:
        x: [lanes, m, inputs].
        weight, bias: [lanes, outputs, inputs], [lanes, outputs] or nothing.

    Returns:
        [lanes, m, outputs].
    """
    w = weight.to(x.dtype).transpose(1, 2)
    if bias is not None and fused(x) and not recording():
        from raysweep.kernels.rows import row_bias_activation

        return row_bias_activation(torch.bmm(x, w), bias, activation)
    out = torch.bmm(x, w) if bias is None else torch.baddbmm(bias.to(x.dtype)[:, None], x, w)
    record(Tap(weight, out, x, matrix=True))
    if bias is not None:
        record(Tap(bias, out))
    return activate(out, activation) if activation else out


def linear_of(p: Mapping[str, Tensor], name: str, x: Tensor, activation: str = "") -> Tensor:
    """The layer of that name, whose bias may be missing, on x [lanes, ..., inputs]."""
    out = linear(x.flatten(1, -2), p[f"{name}.weight"], p.get(f"{name}.bias"), activation)
    each: Tensor = out.unflatten(1, x.shape[1:-1])
    return each


def linear_across(x: Tensor, weight: Tensor, bias: Tensor, activation: str = "") -> Tensor:
    """The same on transposed items, and an activation: x [lanes, inputs, n] -> [lanes, outputs, n].

    Items along the last axis keep products of few features vectorised: on CPUs about twice as fast.
    """
    if recording():
        return linear(x.transpose(1, 2), weight, bias, activation).transpose(1, 2)
    w = weight.to(x.dtype)
    if fused(x):
        from raysweep.kernels.bias_activation import bias_activation

        return bias_activation(torch.bmm(w, x), bias, activation)
    out = torch.baddbmm(bias.to(x.dtype)[:, :, None], w, x)
    return activate(out, activation) if activation else out


def conv2d(x: Tensor, weight: Tensor, stride: int, how: Conv) -> Tensor:
    """Convolution with padding k // 2.

    Args:
        x: [lanes, n, H, W, C].
        weight: [lanes, k, k, C, outputs].
        how: `grouped` is one convolution with one group per lane; `loop` is one convolution per lane (the fastest on
            CPUs, where a lane fills the cores).

    Returns:
        [lanes, n, H', W', outputs].
    """
    out = _conv2d(x, weight.to(x.dtype), stride, how)
    record(Tap(weight, out, x, matrix=True, kernel=weight.shape[1], stride=stride))
    return out


def _conv2d(x: Tensor, w: Tensor, stride: int, how: Conv) -> Tensor:
    lanes, kernel, _, _, outputs = w.shape
    if how == "loop" or lanes == 1:
        each = [
            F.conv2d(item.permute(0, 3, 1, 2), kernels.permute(3, 2, 0, 1), stride=stride, padding=kernel // 2)
            for item, kernels in zip(x.unbind(0), w.unbind(0), strict=True)
        ]
        return torch.stack(each).permute(0, 1, 3, 4, 2)
    merged = x.permute(1, 0, 4, 2, 3).flatten(1, 2)  # no copy where lanes already lie inside pixels
    kernels = w.permute(0, 4, 3, 1, 2).flatten(0, 1)
    out = F.conv2d(merged, kernels, stride=stride, padding=kernel // 2, groups=lanes)
    each_lane: Tensor = out.unflatten(1, (lanes, outputs))
    return each_lane.permute(1, 0, 3, 4, 2)


def depthwise(x: Tensor, weight: Tensor, stride: int, how: Conv) -> Tensor:
    """Convolution of each channel with a filter of its own, with padding k // 2.

    Measured beside these on a CPU, in float32: a matrix per channel (the filter as a Toeplitz matrix) is twice as fast
    at 4 x 4 pixels and 12 times slower at 14 x 14; a sum over the k * k shifted images is 7 to 11 times slower.

    Args:
        x: [lanes, n, H, W, C].
        weight: [lanes, k, k, C].
        how: `loop` is one convolution per lane, with a group per channel (the fastest on CPUs: 7 ms forward and
            backward for 16 lanes of 16 images of 7 x 7 x 32 under 7 x 7 filters, where one convolution takes 13);
            otherwise one convolution with a group per lane and channel.

    Returns:
        [lanes, n, H', W', C].
    """
    w = weight.to(x.dtype).permute(0, 3, 1, 2)
    lanes, channels, kernel, _ = w.shape
    if how == "loop" or lanes == 1:
        each = [
            F.conv2d(item.permute(0, 3, 1, 2), filters[:, None], stride=stride, padding=kernel // 2, groups=channels)
            for item, filters in zip(x.unbind(0), w.unbind(0), strict=True)
        ]
        return torch.stack([out.permute(0, 2, 3, 1) for out in each])
    merged = x.permute(1, 0, 4, 2, 3).flatten(1, 2)
    filters = w.flatten(0, 1)[:, None]
    together = F.conv2d(merged, filters, stride=stride, padding=kernel // 2, groups=lanes * channels)
    each_lane: Tensor = together.unflatten(1, (lanes, channels))
    return each_lane.permute(1, 0, 3, 4, 2)


def merge(x: Tensor, side: int) -> Tensor:
    """Squares of side * side pixels as one, row by row: [lanes, n, H, W, C] -> [lanes, n, H', W', side * side * C]."""
    squares: Tensor = x.unflatten(3, (-1, side)).unflatten(2, (-1, side)).transpose(3, 4).flatten(4)
    return squares


def group_norm(x: Tensor, gain: Tensor, bias: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """GroupNorm (Wu & He 2018) of x [lanes, n, H, W, C]; gain, bias [lanes, C]. Statistics in float32 at least."""
    wide = x if x.dtype == torch.float64 else x.float()
    images = torch.group_norm(wide.flatten(0, 1).permute(0, 3, 1, 2), groups, eps=eps)
    normal: Tensor = images.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])
    out = torch.addcmul(bias[:, None, None, None], normal, gain[:, None, None, None])
    record(Tap(gain, out, normal))
    record(Tap(bias, out))
    return out.to(x.dtype)


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm over the last axis of x [lanes, m, width]; gain, bias [lanes, width]."""
    if fused(x) and not recording():
        from raysweep.kernels import rows

        return rows.layer_norm(x, gain, bias)
    normal = F.layer_norm(x if x.dtype == torch.float64 else x.float(), x.shape[-1:])
    out = normal * gain[:, None] + bias[:, None]
    record(Tap(gain, out, normal))
    record(Tap(bias, out))
    return out.to(x.dtype)


def layer_norm_of(p: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """The LayerNorm of that name on x [lanes, ..., width]."""
    out = layer_norm(x.flatten(1, -2), p[f"{name}.gain"], p[f"{name}.bias"])
    each: Tensor = out.unflatten(1, x.shape[1:-1])
    return each
