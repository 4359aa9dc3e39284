"""Convolution and group norm of every lane in one pass over the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["Tile", "by_group", "forward", "out_size", "windows"]


@dataclass(frozen=True)
class Tile:
    """How a kernel divides its work. It changes the time and, only for `splits`, the order of sums.

    Attributes:
        pixels: Output pixels at a time: a multiple of the image's, or a divisor of it. A power of two.
        depth: Entries of a window (taps x channels) at a time. A power of two, at least 16.
        warps: Warps of a program.
        stages: Loads in flight in the weight gradient's loop over pixels.
        splits: Programs that share a lane's images in the weight gradient.
        packed: The weight gradient takes the rows of a window side by side (stride 1).
    """

    pixels: int
    depth: int = 16
    warps: int = 4
    stages: int = 1
    splits: int = 1
    packed: bool = False


def out_size(size: int, kernel: int, stride: int) -> int:
    """Side of the output image, with padding kernel // 2."""
    return (size + 2 * (kernel // 2) - kernel) // stride + 1


@triton.jit
def _slab(
    source, weight, row, column, base, inside, acc, start,
    H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ROW: tl.constexpr, COLUMN: tl.constexpr, STEP: tl.constexpr, SIDE: tl.constexpr, WEIGHT_ROW: tl.constexpr,
    WEIGHT_COLUMN: tl.constexpr, WEIGHT_STEP: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The part of `windows` of the window's entries start to start + DEPTH."""
    size: tl.constexpr = ROWS * COLUMNS * C
    n = tl.arange(0, N)
    k = start + tl.arange(0, DEPTH)
    i = k // C // COLUMNS
    j = k // C % COLUMNS
    at_row = row[:, None] + (ROW + i * STEP)[None, :]
    at_column = column[:, None] + (COLUMN + j * STEP)[None, :]
    offset = ((ROW + i * STEP) * W + COLUMN + j * STEP) * C + k % C
    seen = inside[:, None] & (at_row >= 0) & (at_row < H) & (at_column >= 0) & (at_column < W)
    entry = ((WEIGHT_ROW + i * WEIGHT_STEP) * SIDE + WEIGHT_COLUMN + j * WEIGHT_STEP) * C + k % C
    if size % DEPTH == 0:
        kernel = tl.load(weight + entry[:, None] * N + n[None, :])
    else:
        seen &= (k < size)[None, :]
        kernel = tl.load(weight + entry[:, None] * N + n[None, :], mask=(k < size)[:, None], other=0.0)
    patch = tl.load(source + base[:, None] + offset[None, :], mask=seen, other=0.0)
    return tl.dot(patch, kernel, acc, input_precision=PRECISION)


@triton.jit
def windows(
    source, weight, row, column, base, inside, acc,
    H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ROW: tl.constexpr, COLUMN: tl.constexpr, STEP: tl.constexpr, SIDE: tl.constexpr, WEIGHT_ROW: tl.constexpr,
    WEIGHT_COLUMN: tl.constexpr, WEIGHT_STEP: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """acc [pixels, N] plus the products of each pixel's window of source with the weights [SIDE, SIDE, C, N].

    Tap (i, j) of ROWS x COLUMNS reads the pixel (row + ROW + i STEP, column + COLUMN + j STEP), zero outside the
    image, and the weight (WEIGHT_ROW + i WEIGHT_STEP, WEIGHT_COLUMN + j WEIGHT_STEP); `base` is the place of (row,
    column) in source.
    """
    if source.dtype.element_ty == tl.float32:
        # Exact products unroll into code that takes minutes to compile; a loop keeps it short.
        for start in tl.range(0, ROWS * COLUMNS * C, DEPTH, num_stages=1):
            acc = _slab(
                source, weight, row, column, base, inside, acc, start, H, W, C, N, ROWS, COLUMNS,
                ROW, COLUMN, STEP, SIDE, WEIGHT_ROW, WEIGHT_COLUMN, WEIGHT_STEP, DEPTH, PRECISION,
            )  # fmt: skip
    else:
        for start in tl.static_range(0, ROWS * COLUMNS * C, DEPTH):
            acc = _slab(
                source, weight, row, column, base, inside, acc, start, H, W, C, N, ROWS, COLUMNS,
                ROW, COLUMN, STEP, SIDE, WEIGHT_ROW, WEIGHT_COLUMN, WEIGHT_STEP, DEPTH, PRECISION,
            )  # fmt: skip
    return acc


@triton.jit
def by_group(value, IMAGES: tl.constexpr, G: tl.constexpr, N: tl.constexpr):
    """[IMAGES, N] means over each group's channels, in the place of every channel."""
    width: tl.constexpr = N // G
    mean = tl.sum(tl.reshape(value, (IMAGES, G, width)), 2, keep_dims=True) / width
    return tl.reshape(tl.broadcast_to(mean, (IMAGES, G, width)), (IMAGES, N))


@triton.jit
def _affine(
    mean, square, gain, bias, moments, first, images,
    IMAGES: tl.constexpr, G: tl.constexpr, N: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """[IMAGES, N] slope and offset of the norm from each channel's mean and mean square deviation; keeps moments."""
    channel = tl.arange(0, N)[None, :]
    image = tl.arange(0, IMAGES)[:, None]
    centre = by_group(mean, IMAGES, G, N)
    away = mean - centre
    scale = 1.0 / tl.sqrt(by_group(square + away * away, IMAGES, G, N) + EPS)
    at = moments + (first + image) * (2 * N) + channel
    tl.store(at, centre, mask=image < images)
    tl.store(at + N, scale, mask=image < images)
    slope = scale * tl.load(gain + channel)
    return slope, tl.load(bias + channel) - centre * slope


@triton.jit
def _forward_kernel(
    x, weight, gain, bias, residual, y, z, moments, n,
    H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, HO: tl.constexpr, WO: tl.constexpr, N: tl.constexpr,
    SIDE: tl.constexpr, STRIDE: tl.constexpr, G: tl.constexpr, EPS: tl.constexpr, RELU: tl.constexpr,
    RESIDUAL: tl.constexpr, PIXELS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: some images of one lane, or one image in chunks whose norm is a second pass over y."""
    area: tl.constexpr = HO * WO
    IMAGES: tl.constexpr = max(PIXELS // area, 1)
    CHUNKS: tl.constexpr = max(area // PIXELS, 1)
    lane = tl.program_id(1).to(tl.int64)
    start = tl.program_id(0) * IMAGES
    images = n - start
    first = lane * n + start
    x += first * (H * W * C)
    y += first * (area * N)
    z += first * (area * N)
    residual += first * (area * N)
    weight += lane * (SIDE * SIDE * C * N)
    gain += lane * N
    bias += lane * N
    channel = tl.arange(0, N)[None, :]
    mean = tl.zeros((IMAGES, N), tl.float32)
    square = tl.zeros((IMAGES, N), tl.float32)
    for chunk in tl.range(0, CHUNKS, num_stages=1):
        pixel = chunk * PIXELS + tl.arange(0, PIXELS)
        inside = pixel // area < images
        row = pixel % area // WO * STRIDE
        column = pixel % WO * STRIDE
        base = pixel // area * (H * W * C) + (row * W + column) * C
        product = windows(
            x, weight, row, column, base, inside, tl.zeros((PIXELS, N), tl.float32),
            H, W, C, N, SIDE, SIDE, -(SIDE // 2), -(SIDE // 2), 1, SIDE, 0, 0, 1, DEPTH, PRECISION,
        )  # fmt: skip
        # The norm is that of the rounded y, so that the backward pass, which reads y, differentiates this very map.
        rounded = product.to(y.dtype.element_ty)
        at = pixel[:, None] * N + channel
        tl.store(y + at, rounded, mask=inside[:, None])
        value = tl.reshape(rounded.to(tl.float32), (IMAGES, PIXELS // IMAGES, N))
        part = tl.sum(value, 1) / (PIXELS // IMAGES)
        away = value - part[:, None, :]
        spread = tl.sum(away * away, 1) / (PIXELS // IMAGES)
        if CHUNKS == 1:
            slope, offset = _affine(part, spread, gain, bias, moments, first, images, IMAGES, G, N, EPS)
            out = tl.reshape(value * slope[:, None, :] + offset[:, None, :], (PIXELS, N))
            if RESIDUAL:
                out += tl.load(residual + at, mask=inside[:, None], other=0.0).to(tl.float32)
            if RELU:
                out = tl.maximum(out, 0.0)
            tl.store(z + at, out.to(z.dtype.element_ty), mask=inside[:, None])
        else:
            # Chan, Golub & LeVeque: mean and mean square deviation of the chunks so far.
            share = 1.0 / (chunk + 1.0)
            delta = part - mean
            mean += delta * share
            square += (spread - square + delta * delta * (1.0 - share)) * share
    if CHUNKS > 1:
        slope, offset = _affine(mean, square, gain, bias, moments, first, images, IMAGES, G, N, EPS)
        tl.debug_barrier()  # y is read below by other threads than those that wrote it
        for chunk in tl.range(0, CHUNKS, num_stages=1):
            at = (chunk * PIXELS + tl.arange(0, PIXELS))[:, None] * N + channel
            out = tl.load(y + at).to(tl.float32) * slope + offset
            if RESIDUAL:
                out += tl.load(residual + at).to(tl.float32)
            if RELU:
                out = tl.maximum(out, 0.0)
            tl.store(z + at, out.to(z.dtype.element_ty))


def forward(
    x: Tensor,
    weight: Tensor,
    gain: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    *,
    stride: int,
    groups: int,
    relu: bool,
    eps: float,
    precision: str,
    tile: Tile,
) -> tuple[Tensor, Tensor, Tensor]:
    """z (the layer's output), y (the convolution's) and the norm's moments.

    Args:
        x: [lanes, n, H, W, C].
        weight: [lanes, k, k, C, Cout] of x's dtype.
        gain, bias: [lanes, Cout] float32.
        residual: Shape and dtype of z, or None.
        precision: Precision of float32 products: "ieee" or "tf32".

    Returns:
        z and y [lanes, n, H', W', Cout] of x's dtype; moments [lanes, n, 2, Cout] float32: mean and reciprocal
        standard deviation of each channel's group.
    """
    lanes, n, height, width, c = x.shape
    side, cout = weight.shape[1], weight.shape[-1]
    ho, wo = out_size(height, side, stride), out_size(width, side, stride)
    y = x.new_empty(lanes, n, ho, wo, cout)
    z = torch.empty_like(y)
    moments = x.new_empty(lanes, n, 2, cout, dtype=torch.float32)
    grid = (triton.cdiv(n, max(tile.pixels // (ho * wo), 1)), lanes)
    with torch.cuda.device_of(x):
        _forward_kernel[grid](
            x, weight, gain, bias, z if residual is None else residual, y, z, moments, n,
            H=height, W=width, C=c, HO=ho, WO=wo, N=cout, SIDE=side, STRIDE=stride, G=groups, EPS=eps, RELU=relu,
            RESIDUAL=residual is not None, PIXELS=tile.pixels, DEPTH=tile.depth, PRECISION=precision,
            num_warps=tile.warps,
        )  # fmt: skip
    return z, y, moments
