"""Gradients of convolution and group norm for every lane: one kernel each for the norm, the input and the weights."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from raysweep.kernels.conv_forward import Tile, by_group, windows

__all__ = ["input_gradient", "norm_backward", "weight_gradient"]


@triton.jit
def _norm_kernel(
    dz, y, z, moments, gain, bias, dy, dresidual, partial, n,
    AREA: tl.constexpr, N: tl.constexpr, G: tl.constexpr, RELU: tl.constexpr, RESIDUAL: tl.constexpr,
    IMAGES: tl.constexpr,
):  # fmt: skip
    """One program: some images of one lane, held in registers."""
    lane = tl.program_id(1).to(tl.int64)
    start = tl.program_id(0) * IMAGES
    first = lane * n + start
    dz += first * (AREA * N)
    y += first * (AREA * N)
    z += first * (AREA * N)
    dy += first * (AREA * N)
    dresidual += first * (AREA * N)
    channel = tl.arange(0, N)[None, :]
    image = tl.arange(0, IMAGES)[:, None]
    pixel = tl.arange(0, IMAGES * AREA)
    at = pixel[:, None] * N + channel
    inside = (pixel // AREA < n - start)[:, None]
    known = image < n - start
    gains = tl.load(gain + lane * N + channel)
    centre = tl.load(moments + (first + image) * (2 * N) + channel, mask=known, other=0.0)
    scale = tl.load(moments + (first + image) * (2 * N) + N + channel, mask=known, other=0.0)
    value = tl.reshape(tl.load(y + at, mask=inside, other=0.0).to(tl.float32), (IMAGES, AREA, N))
    g = tl.load(dz + at, mask=inside, other=0.0)
    if RELU:
        if RESIDUAL:
            g = tl.where(tl.load(z + at, mask=inside, other=0.0).to(tl.float32) > 0, g, 0.0)
            tl.store(dresidual + at, g, mask=inside)
        else:
            # z's sign from y, by the forward pass's own arithmetic: it saves a read.
            slope = scale * gains
            offset = tl.load(bias + lane * N + channel) - centre * slope
            positive = tl.reshape(value * slope[:, None, :] + offset[:, None, :], (IMAGES * AREA, N)) > 0
            g = tl.where(positive, g, 0.0)
    g = tl.reshape(g.to(tl.float32), (IMAGES, AREA, N))
    dbias = tl.sum(g, 1)
    dgain = (tl.sum(g * value, 1) - centre * dbias) * scale
    at_partial = partial + (first + image) * (2 * N) + channel
    tl.store(at_partial, dgain, mask=known)
    tl.store(at_partial + N, dbias, mask=known)
    # dy = scale (gain g - mean(gain g) - xhat mean(gain g xhat)), means over pixels and the group's channels.
    straight = by_group(gains * dbias, IMAGES, G, N) / AREA
    tilt = by_group(gains * dgain, IMAGES, G, N) / AREA * scale
    out = (scale * gains)[:, None, :] * g
    out += (-scale * tilt)[:, None, :] * value + (scale * (tilt * centre - straight))[:, None, :]
    tl.store(dy + at, tl.reshape(out, (IMAGES * AREA, N)).to(dy.dtype.element_ty), mask=inside)


def norm_backward(
    dz: Tensor,
    y: Tensor,
    z: Tensor | None,
    moments: Tensor,
    gain: Tensor,
    bias: Tensor,
    *,
    groups: int,
    relu: bool,
    tile: Tile,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of y, the residual, gain and bias.

    Args:
        dz, y: [lanes, n, H', W', Cout].
        z: The layer's output where it has a residual, else None.
        moments: [lanes, n, 2, Cout] from `forward`.
        gain, bias: [lanes, Cout].

    Returns:
        dy and dresidual of y's shape and dtype (dresidual is dz itself without a ReLU, and means nothing without a
        residual); dgain and dbias [lanes, Cout] float32.
    """
    lanes, n, ho, wo, cout = y.shape
    dy = torch.empty_like(y)
    dresidual = torch.empty_like(y) if relu and z is not None else dz
    partial = torch.empty_like(moments)
    images = max(tile.pixels // (ho * wo), 1)
    with torch.cuda.device_of(y):
        _norm_kernel[(triton.cdiv(n, images), lanes)](
            dz, y, y if z is None else z, moments, gain, bias, dy, dresidual, partial, n,
            AREA=ho * wo, N=cout, G=groups, RELU=relu, RESIDUAL=z is not None, IMAGES=images, num_warps=tile.warps,
        )  # fmt: skip
    dgain, dbias = partial.sum(1).unbind(1)
    return dy, dresidual, dgain, dbias


@triton.jit
def _input_kernel(
    dy, weight, dx, n,
    H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, HO: tl.constexpr, WO: tl.constexpr, N: tl.constexpr,
    SIDE: tl.constexpr, STRIDE: tl.constexpr, PIXELS: tl.constexpr, DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: PIXELS x STRIDE^2 pixels of one lane's dx, by their places in the stride: each has its own taps."""
    lane = tl.program_id(1).to(tl.int64)
    dy += lane * n * (HO * WO * N)
    dx += lane * n * (H * W * C)
    weight += lane * (SIDE * SIDE * C * N)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < n * (HO * WO)
    row = pixel % (HO * WO) // WO
    column = pixel % WO
    image = pixel // (HO * WO)
    base = pixel * N
    for place in tl.static_range(STRIDE * STRIDE):
        at_row = row * STRIDE + place // STRIDE
        at_column = column * STRIDE + place % STRIDE
        at = (image * (H * W) + at_row * W + at_column)[:, None] * C + tl.arange(0, C)[None, :]
        acc = tl.zeros((PIXELS, C), tl.float32)
        if STRIDE == 1:
            acc = windows(
                dy, weight, row, column, base, inside, acc,
                HO, WO, N, C, SIDE, SIDE, SIDE // 2, SIDE // 2, -1, SIDE, 0, 0, 1, DEPTH, PRECISION,
            )  # fmt: skip
        elif SIDE == 3:
            # Stride 2: an even row (column) meets the middle tap only, an odd one the outer two.
            acc = windows(
                dy, weight, row, column, base, inside, acc,
                HO, WO, N, C, 1 + place // 2, 1 + place % 2, place // 2, place % 2, -1,
                SIDE, 1 - place // 2, 1 - place % 2, 2, DEPTH, PRECISION,
            )  # fmt: skip
        elif place == 0:
            acc = windows(
                dy, weight, row, column, base, inside, acc,
                HO, WO, N, C, 1, 1, 0, 0, -1, 1, 0, 0, 1, DEPTH, PRECISION,
            )  # fmt: skip
        tl.store(dx + at, acc.to(dx.dtype.element_ty), mask=inside[:, None])


def input_gradient(
    dy: Tensor, weight: Tensor, size: tuple[int, int], *, stride: int, precision: str, tile: Tile
) -> Tensor:
    """[lanes, n, H, W, C] gradient of the convolution's input.

    Args:
        dy: [lanes, n, H', W', Cout].
        weight: [lanes, k, k, Cout, C] of dy's dtype: the forward weights with the channels exchanged.
        size: H, W.
    """
    lanes, n, ho, wo, cout = dy.shape
    side, c = weight.shape[1], weight.shape[-1]
    dx = dy.new_empty(lanes, n, *size, c)
    with torch.cuda.device_of(dy):
        _input_kernel[(triton.cdiv(n * ho * wo, tile.pixels), lanes)](
            dy, weight, dx, n,
            H=size[0], W=size[1], C=c, HO=ho, WO=wo, N=cout, SIDE=side, STRIDE=stride,
            PIXELS=tile.pixels, DEPTH=tile.depth, PRECISION=precision, num_warps=tile.warps,
        )  # fmt: skip
    return dx


@triton.jit
def _weight_kernel(
    x, dy, partial, n,
    H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, HO: tl.constexpr, WO: tl.constexpr, N: tl.constexpr,
    SIDE: tl.constexpr, STRIDE: tl.constexpr, PACK: tl.constexpr, PIXELS: tl.constexpr, DEPTH: tl.constexpr,
    IMAGES: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: DEPTH entries of the window, over a share of one lane's images.

    With PACK > 1 the entries are those of one row of the window, and its rows lie side by side with the output
    channels: pixels of dy are shifted against those of x instead.
    """
    area: tl.constexpr = HO * WO
    size: tl.constexpr = SIDE * C if PACK > 1 else SIDE * SIDE * C
    split = tl.program_id(0)
    lane = tl.program_id(2).to(tl.int64)
    x += lane * n * (H * W * C)
    dy += lane * n * (area * N)
    k = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    tap = k // C
    down = tap // SIDE - (0 if PACK > 1 else SIDE // 2)
    right = tap % SIDE - SIDE // 2
    m = tl.arange(0, PACK * N)
    up = SIDE // 2 - m // N if PACK > 1 else m // N
    x_offset = (down * W + right) * C + k % C
    dy_offset = up * (WO * N) + m % N
    end = tl.minimum((split + 1) * IMAGES, n) * area
    acc = tl.zeros((DEPTH, PACK * N), tl.float32)
    for start in tl.range(0, IMAGES * area, PIXELS, num_stages=STAGES):
        pixel = split * (IMAGES * area) + start + tl.arange(0, PIXELS)
        inside = (pixel < end)[:, None]
        row = (pixel % area // WO)[:, None]
        column = (pixel % WO)[:, None]
        at_row = row * STRIDE + down[None, :]
        at_column = column * STRIDE + right[None, :]
        seen = inside & (at_row >= 0) & (at_row < H) & (at_column >= 0) & (at_column < W) & (k < size)[None, :]
        base = (pixel // area)[:, None] * (H * W * C) + (row * W + column) * (STRIDE * C)
        patch = tl.load(x + base + x_offset[None, :], mask=seen, other=0.0)
        if PACK > 1:
            inside = inside & (row + up[None, :] >= 0) & (row + up[None, :] < HO) & (m < SIDE * N)[None, :]
        slope = tl.load(dy + pixel[:, None] * N + dy_offset[None, :], mask=inside, other=0.0)
        acc = tl.dot(tl.trans(patch), slope, acc, input_precision=PRECISION)
    partial += (lane * tl.num_programs(0) + split) * (SIDE * SIDE * C * N)
    at = k[:, None] * N + (m // N * (SIDE * C * N) + m % N)[None, :]
    tl.store(partial + at, acc, mask=(k < size)[:, None] & (m < (SIDE * N if PACK > 1 else N))[None, :])


def weight_gradient(x: Tensor, dy: Tensor, side: int, *, stride: int, precision: str, tile: Tile) -> Tensor:
    """[lanes, k, k, C, Cout] float32 gradient of the weights.

    Args:
        x: [lanes, n, H, W, C].
        dy: [lanes, n, H', W', Cout].
        side: k.
    """
    lanes, n, height, width, c = x.shape
    ho, wo, cout = dy.shape[2:]
    images = triton.cdiv(n, tile.splits)
    splits = triton.cdiv(n, images)
    size = side * c if tile.packed else side * side * c
    partial = x.new_empty(lanes, splits, side, side, c, cout, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _weight_kernel[(splits, triton.cdiv(size, tile.depth), lanes)](
            x, dy, partial, n,
            H=height, W=width, C=c, HO=ho, WO=wo, N=cout, SIDE=side, STRIDE=stride,
            PACK=triton.next_power_of_2(side) if tile.packed else 1, PIXELS=tile.pixels, DEPTH=tile.depth,
            IMAGES=images, STAGES=tile.stages, PRECISION=precision, num_warps=tile.warps,
        )  # fmt: skip
    return partial.sum(1) if splits > 1 else partial[:, 0]
