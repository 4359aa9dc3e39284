"""Bias and activation in one pass; backward, with the bias's gradient, in one pass."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["KINDS", "OF_INPUT", "activated", "bias_activation", "slope"]

KINDS = {"": 0, "relu": 1, "gelu": 2, "tanh": 3, "relu2": 4, "tilted": 5}
OF_INPUT = (2, 4, 5)  # kinds whose derivative is read off the input


@triton.jit
def _tanh(x):
    # exp of a negative number cannot overflow
    e = tl.exp(-2 * tl.abs(x))
    t = (1 - e) / (1 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def activated(v, KIND: tl.constexpr):
    """The activation of v."""
    if KIND == 1:
        v = tl.maximum(v, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif KIND == 2:
        v = 0.5 * v * (1 + tl.erf(v * 0.7071067811865476))
    elif KIND == 3:
        v = _tanh(v)
    elif KIND == 4:
        v = tl.maximum(v, 0.0, propagate_nan=tl.PropagateNan.ALL)
        v = v * v
    elif KIND == 5:
        v = tl.where(v > 0, v, -0.5 * v)
    return v


@triton.jit
def slope(v, KIND: tl.constexpr):
    """The activation's derivative: at the input v; of ReLU and tanh at the output v."""
    if KIND == 1:
        v = tl.where(v > 0, 1.0, 0.0)
    elif KIND == 2:
        v = 0.5 * (1 + tl.erf(v * 0.7071067811865476)) + v * 0.3989422804014327 * tl.exp(-0.5 * v * v)
    elif KIND == 3:
        v = 1 - v * v
    elif KIND == 4:
        v = tl.where(v > 0, 2 * v, 0.0)
    elif KIND == 5:
        v = tl.where(v > 0, 1.0, -0.5)
    return v


@triton.jit
def _forward(z, bias, out, rows, n: tl.constexpr, KIND: tl.constexpr, ROWS: tl.constexpr, N: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    b = tl.load(bias + row, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    for first in range(0, n, N):
        i = first + tl.arange(0, N)
        place, inside = row[:, None] * n + i[None, :], (row < rows)[:, None] & (i < n)[None, :]
        v = tl.load(z + place, mask=inside, other=0.0).to(tl.float32) + b
        tl.store(out + place, activated(v, KIND).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    gradient, z, bias, out, dz, db, rows, n: tl.constexpr, KIND: tl.constexpr, ROWS: tl.constexpr, N: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    b = tl.load(bias + row, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    total = tl.zeros((ROWS, N), dtype=tl.float32)
    for first in range(0, n, N):
        i = first + tl.arange(0, N)
        place, inside = row[:, None] * n + i[None, :], (row < rows)[:, None] & (i < n)[None, :]
        g = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
        if KIND == 2 or KIND == 4 or KIND == 5:
            g = g * slope(tl.load(z + place, mask=inside, other=0.0).to(tl.float32) + b, KIND)
        elif KIND != 0:
            g = g * slope(tl.load(out + place, mask=inside, other=0.0).to(tl.float32), KIND)
        if KIND != 0:
            tl.store(dz + place, g.to(dz.dtype.element_ty), mask=inside)
        total += g
    tl.store(db + row, tl.sum(total, 1).to(db.dtype.element_ty), mask=row < rows)


class _BiasActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, bias: Tensor, kind: int) -> Tensor:
        rows, n = z.shape[0] * z.shape[1], z.shape[2]
        out = torch.empty_like(z) if kind in OF_INPUT else z
        tile, width = _tile(n)
        _forward[(triton.cdiv(rows, tile),)](z, bias, out, rows, n, KIND=kind, ROWS=tile, N=width)
        ctx.save_for_backward(z, bias, out)
        ctx.kind = kind
        if out is z:
            ctx.mark_dirty(z)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        z, bias, out = ctx.saved_tensors
        gradient = gradient.contiguous()
        n = z.shape[2]
        dz = gradient if ctx.kind == 0 else torch.empty_like(gradient)
        db = torch.empty_like(bias)
        rows = z.shape[0] * z.shape[1]
        tile, width = _tile(n)
        _backward[(triton.cdiv(rows, tile),)](
            gradient, z, bias, out, dz, db, rows, n, KIND=ctx.kind, ROWS=tile, N=width
        )
        return dz, db, None


def _tile(n: int) -> tuple[int, int]:
    """Rows and columns of a program's tile: 2,048 numbers, 16 per thread."""
    width = min(1024, 1 << (n - 1).bit_length())
    return max(1, 2048 // width), width


def bias_activation(z: Tensor, bias: Tensor, kind: str) -> Tensor:
    """activation(z + bias); z [lanes, features, n] is contiguous and overwritten, bias [lanes, features].

    Args:
        kind: `relu`, `gelu`, `tanh`, `relu2`, `tilted`, or `` for none.
    """
    out: Tensor = _BiasActivation.apply(z, bias, KINDS[kind])
    return out
