"""Convolution, group norm, residual sum and ReLU as one differentiable operation, for lanes with their own weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raysweep.kernels.conv_backward import input_gradient, norm_backward, weight_gradient
from raysweep.kernels.conv_forward import Tile, forward, out_size

__all__ = ["conv_norm", "forward_tile", "input_tile", "norm_tile", "supported", "weight_tile"]

_LARGEST = 16384  # largest number of values of one image that a program keeps in registers


def _power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def supported(x_shape: Sequence[int], weight_shape: Sequence[int], stride: int, groups: int) -> bool:
    """Whether `conv_norm` takes these shapes ([lanes, n, H, W, C] and [lanes, k, k, C, Cout])."""
    lanes, _, height, width, c = x_shape
    side, cout = weight_shape[1], weight_shape[-1]
    if tuple(weight_shape) != (lanes, side, side, c, cout) or side not in (1, 3) or stride not in (1, 2):
        return False
    if not all(map(_power_of_two, (height, width, cout, groups))) or not (c in (1, 3) or (_power_of_two(c) and c >= 8)):
        return False
    area = out_size(height, side, stride) * out_size(width, side, stride)
    fits = area >= 16 and area * cout <= _LARGEST and height % stride == 0 and width % stride == 0
    return fits and c <= 128 and 8 <= cout <= 128 and cout % groups == 0


def forward_tile(area: int, c: int, cout: int, dtype: torch.dtype) -> Tile:
    """For output images of `area` pixels."""
    if dtype == torch.float32:
        return Tile(max(4096 // cout, 32), 32 if c < 8 else 16, warps=4)
    if c < 8:
        return Tile(256 if area >= 256 else max(area, 4096 // cout), 32, warps=4)
    pixels = max(area, 8192 // cout)
    return Tile(pixels, _depth(c), warps=4 if pixels * cout <= 8192 else 8)


def norm_tile(area: int, cout: int) -> Tile:
    """For output images of `area` pixels."""
    pixels = max(area, 4096 // cout)
    return Tile(pixels, warps=min(max(pixels * cout // 1024, 4), 8))


def input_tile(c: int, cout: int, dtype: torch.dtype) -> Tile:
    """For the gradient of inputs of c channels."""
    if dtype == torch.float32:
        return Tile(max(2048 // max(c, 16), 32), 16, warps=4)
    return Tile(max(4096 // max(c, 16), 128), _depth(cout), warps=4)


def weight_tile(lanes: int, n: int, side: int, stride: int, c: int, cout: int, dtype: torch.dtype) -> Tile:
    """For n images in each lane."""
    packed = side == 3 and stride == 1 and 8 <= c <= 32 and dtype != torch.float32
    size = side * c if packed else side * side * c
    depth = min(max(16, 1 << (size - 1).bit_length()), 64 if dtype == torch.float32 else 128)
    splits = max(1, min(n, 2048 // (lanes * -(-size // depth))))
    warps = 8 if depth * cout * (4 if packed else 1) > 8192 else 4
    if dtype == torch.float32:
        return Tile(16, depth, warps, splits=splits, packed=packed)
    # Loads in flight, as far as shared memory goes: the packed form with 8 warps holds three windows at a time.
    return Tile(128 if c < 8 else 64, depth, warps, stages=2 if warps == 8 else 3, splits=splits, packed=packed)


def _depth(c: int) -> int:
    return 32 if c < 8 else min(max(c, 16), 64)


class _ConvNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        gain: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        stride: int,
        groups: int,
        relu: bool,
        eps: float,
        precision: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        side, c, cout = weight.shape[2:]
        area = out_size(x.shape[2], side, stride) * out_size(x.shape[3], side, stride)
        return forward(
            x, weight.to(x.dtype), gain, bias, residual, stride=stride, groups=groups, relu=relu, eps=eps,
            precision=precision, tile=forward_tile(area, c, cout, x.dtype),
        )  # fmt: skip

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, weight, gain, bias, residual, ctx.stride, ctx.groups, ctx.relu, _, ctx.precision = inputs
        z, y, moments = output
        ctx.residual = residual is not None
        ctx.mark_non_differentiable(y, moments)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, gain, bias, y, moments, z if ctx.residual and ctx.relu else None)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradients[0] is None:
            return (None,) * 10
        x, weight, gain, bias, y, moments, z = ctx.saved_tensors
        lanes, n, ho, wo, cout = y.shape
        side, c = weight.shape[2:4]
        dy, dresidual, dgain, dbias = norm_backward(
            gradients[0].contiguous(), y, z, moments, gain, bias,
            groups=ctx.groups, relu=ctx.relu, tile=norm_tile(ho * wo, cout),
        )  # fmt: skip
        dx = None
        if ctx.needs_input_grad[0]:
            exchanged = x.new_empty(lanes, side, side, cout, c).copy_(weight.transpose(-1, -2))
            dx = input_gradient(
                dy, exchanged, (x.shape[2], x.shape[3]), stride=ctx.stride, precision=ctx.precision,
                tile=input_tile(c, cout, x.dtype),
            )  # fmt: skip
        dweight = None
        if ctx.needs_input_grad[1]:  # not where the weight is frozen
            dweight = weight_gradient(
                x, dy, side, stride=ctx.stride, precision=ctx.precision,
                tile=weight_tile(lanes, n, side, ctx.stride, c, cout, x.dtype),
            )  # fmt: skip
        return dx, dweight, dgain, dbias, dresidual if ctx.residual else None, None, None, None, None, None


def conv_norm(
    x: Tensor,
    weight: Tensor,
    gain: Tensor,
    bias: Tensor,
    *,
    stride: int = 1,
    groups: int,
    relu: bool = True,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    tf32: bool = False,
) -> Tensor:
    """[lanes, n, H', W', Cout] relu(norm(convolution of x) + residual) of x's dtype; sums in float32.

    Safe in a captured graph and deterministic: no atomics, and no choice depends on a measurement.

    Args:
        x: [lanes, n, H, W, C], bfloat16 or float32.
        weight: [lanes, k, k, C, Cout] float32, k of 1 or 3; zero padding k // 2, no bias.
        gain, bias: [lanes, Cout] float32, of the group norm.
        stride: 1 or 2.
        groups: Groups of channels; divides Cout.
        relu: Whether the ReLU is taken.
        residual: Added after the norm, before the ReLU: shape of the output, dtype of x; or None.
        eps: Added to the variance.
        tf32: Whether products of float32 may be rounded to TF32.

    Raises:
        ValueError: If the shapes are not `supported`, or images of fewer than 8 channels need a gradient.
    """
    if not supported(x.shape, weight.shape, stride, groups):
        raise ValueError(
            f"no kernel for images {tuple(x.shape)}, weights {tuple(weight.shape)}, stride {stride}, {groups} groups"
        )
    if x.requires_grad and x.shape[-1] < 8:
        raise ValueError(f"no kernel for the gradient of images of {x.shape[-1]} channels")
    z: Tensor = _ConvNorm.apply(
        x.contiguous(), weight.contiguous(), gain.contiguous(), bias.contiguous(),
        None if residual is None else residual.contiguous(), stride, groups, relu, eps, "tf32" if tf32 else "ieee",
    )[0]  # fmt: skip
    return z
