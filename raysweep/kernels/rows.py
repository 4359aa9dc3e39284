"""LayerNorm, and bias with activation, over rows [lanes, m, width]: one pass forward, one backward."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from raysweep.kernels.bias_activation import KINDS, OF_INPUT, activated, slope

__all__ = ["layer_norm", "row_bias_activation"]

_PROGRAMS = 64  # programs per lane in the backward pass: each sums its rows' share of the parameters' gradients


@triton.jit
def _norm(
    x, gain, bias, out, centre, scale, m, eps, width: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    lane = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, WIDTH)
    place = (lane * m + row[:, None]) * width + k[None, :]
    inside = (row < m)[:, None] & (k < width)[None, :]
    v = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(v, 1) / width
    d = tl.where(inside, v - mean[:, None], 0.0)
    rstd = 1 / tl.sqrt(tl.sum(d * d, 1) / width + eps)
    tl.store(centre + lane * m + row, mean, mask=row < m)
    tl.store(scale + lane * m + row, rstd, mask=row < m)
    g = tl.load(gain + lane * width + k, mask=k < width, other=0.0).to(tl.float32)
    b = tl.load(bias + lane * width + k, mask=k < width, other=0.0).to(tl.float32)
    tl.store(out + place, (d * rstd[:, None] * g[None, :] + b[None, :]).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _norm_backward(
    gradient, x, gain, centre, scale, dx, dgain, dbias, m, share: tl.constexpr,
    width: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, WIDTH)
    g = tl.load(gain + lane * width + k, mask=k < width, other=0.0).to(tl.float32)
    for_gain, for_bias = tl.zeros((WIDTH,), dtype=tl.float32), tl.zeros((WIDTH,), dtype=tl.float32)
    for first in range(0, share, ROWS):
        row = tl.program_id(1) * share + first + tl.arange(0, ROWS)
        valid = (row < m) & (first + tl.arange(0, ROWS) < share)
        place = (lane * m + row[:, None]) * width + k[None, :]
        inside = valid[:, None] & (k < width)[None, :]
        d = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
        mean = tl.load(centre + lane * m + row, mask=valid, other=0.0)[:, None]
        rstd = tl.load(scale + lane * m + row, mask=valid, other=0.0)[:, None]
        normal = tl.where(inside, (tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - mean) * rstd, 0.0)
        for_gain += tl.sum(d * normal, 0)
        for_bias += tl.sum(d, 0)
        d = d * g[None, :]
        d = rstd * (d - tl.sum(d, 1)[:, None] / width - normal * (tl.sum(d * normal, 1)[:, None] / width))
        tl.store(dx + place, d.to(dx.dtype.element_ty), mask=inside)
    at = (lane * tl.num_programs(1) + tl.program_id(1)) * width + k
    tl.store(dgain + at, for_gain, mask=k < width)
    tl.store(dbias + at, for_bias, mask=k < width)


@triton.jit
def _bias(z, bias, out, m, width: tl.constexpr, KIND: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    lane = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    k = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    place = (lane * m + row[:, None]) * width + k[None, :]
    inside = (row < m)[:, None] & (k < width)[None, :]
    b = tl.load(bias + lane * width + k, mask=k < width, other=0.0).to(tl.float32)
    v = tl.load(z + place, mask=inside, other=0.0).to(tl.float32) + b[None, :]
    tl.store(out + place, activated(v, KIND).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _bias_backward(
    gradient, z, bias, out, dz, dbias, m, share: tl.constexpr, width: tl.constexpr,
    KIND: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0).to(tl.int64)
    k = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    b = tl.load(bias + lane * width + k, mask=k < width, other=0.0).to(tl.float32)[None, :]
    total = tl.zeros((WIDTH,), dtype=tl.float32)
    for first in range(0, share, ROWS):
        row = tl.program_id(1) * share + first + tl.arange(0, ROWS)
        valid = (row < m) & (first + tl.arange(0, ROWS) < share)
        place = (lane * m + row[:, None]) * width + k[None, :]
        inside = valid[:, None] & (k < width)[None, :]
        g = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
        if KIND == 2 or KIND == 4 or KIND == 5:
            g = g * slope(tl.load(z + place, mask=inside, other=0.0).to(tl.float32) + b, KIND)
        elif KIND != 0:
            g = g * slope(tl.load(out + place, mask=inside, other=0.0).to(tl.float32), KIND)
        if KIND != 0:
            tl.store(dz + place, g.to(dz.dtype.element_ty), mask=inside)
        total += tl.sum(g, 0)
    tl.store(dbias + (lane * tl.num_programs(1) + tl.program_id(1)) * width + k, total, mask=k < width)


def _columns(width: int) -> int:
    return 1 << (width - 1).bit_length()


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        lanes, m, width = x.shape
        out = torch.empty_like(x)
        centre, scale = torch.empty((2, lanes, m), dtype=torch.float32, device=x.device)
        columns = _columns(width)
        rows = max(1, 2048 // columns)
        _norm[(lanes, triton.cdiv(m, rows))](
            x, gain, bias, out, centre, scale, m, eps, width=width, ROWS=rows, WIDTH=columns
        )
        ctx.save_for_backward(x, gain, centre, scale)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, centre, scale = ctx.saved_tensors
        lanes, m, width = x.shape
        columns = _columns(width)
        rows = max(1, 2048 // columns)
        programs = max(1, min(_PROGRAMS, m // rows))
        dx = torch.empty_like(x)
        dgain, dbias = torch.empty((2, lanes, programs, width), dtype=torch.float32, device=x.device)
        _norm_backward[(lanes, programs)](
            gradient.contiguous(), x, gain, centre, scale, dx, dgain, dbias, m, share=triton.cdiv(m, programs),
            width=width, ROWS=rows, WIDTH=columns,
        )  # fmt: skip
        return dx, dgain.sum(1), dbias.sum(1), None


class _RowBias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, bias: Tensor, kind: int) -> Tensor:
        lanes, m, width = z.shape
        out = torch.empty_like(z) if kind in OF_INPUT else z
        columns = min(256, _columns(width))
        rows = max(1, 2048 // columns)
        _bias[(lanes, triton.cdiv(m, rows), triton.cdiv(width, columns))](
            z, bias, out, m, width=width, KIND=kind, ROWS=rows, WIDTH=columns
        )
        ctx.save_for_backward(z, bias, out)
        ctx.kind = kind
        if out is z:
            ctx.mark_dirty(z)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        z, bias, out = ctx.saved_tensors
        lanes, m, width = z.shape
        gradient = gradient.contiguous()
        columns = min(256, _columns(width))
        rows = max(1, 2048 // columns)
        programs = max(1, min(_PROGRAMS, m // rows))
        dz = gradient if ctx.kind == 0 else torch.empty_like(gradient)
        dbias = torch.empty((lanes, programs, width), dtype=torch.float32, device=z.device)
        _bias_backward[(lanes, programs, triton.cdiv(width, columns))](
            gradient, z, bias, out, dz, dbias, m, share=triton.cdiv(m, programs), width=width,
            KIND=ctx.kind, ROWS=rows, WIDTH=columns,
        )  # fmt: skip
        return dz, dbias.sum(1), None


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm over the last axis of x [lanes, m, width]; gain, bias [lanes, width] float32; sums in float32."""
    out: Tensor = _LayerNorm.apply(x, gain, bias, eps)
    return out


def row_bias_activation(z: Tensor, bias: Tensor, kind: str) -> Tensor:
    """activation(z + bias); z [lanes, m, width] is contiguous and overwritten, bias [lanes, width] float32.

    Args:
        kind: `relu`, `gelu`, `tanh`, `relu2`, `tilted`, or `` for none.
    """
    out: Tensor = _RowBias.apply(z, bias, KINDS[kind])
    return out
