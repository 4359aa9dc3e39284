"""Optimiser updates in one pass over a parameter: everything is read once and written once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

__all__ = ["adamw", "sgd"]

_BLOCK = 1024


@triton.jit
def _sgd(p, g, v, lr, momentum, decay, dead, size, NESTEROV: tl.constexpr, DECAY: tl.constexpr, BLOCK: tl.constexpr):
    lane = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    place = lane * size + i
    if tl.load(dead + lane) == 0:
        old = tl.load(p + place, mask=inside)
        update = tl.load(g + place, mask=inside).to(tl.float32)
        mu = tl.load(momentum + lane)
        if DECAY:
            update += tl.load(decay + lane) * old
        velocity = tl.load(v + place, mask=inside) * mu + update
        tl.store(v + place, velocity, mask=inside)
        step = update + mu * velocity if NESTEROV else velocity
        tl.store(p + place, old - tl.load(lr + lane) * step, mask=inside)


@triton.jit
def _adamw(p, g, m, s, lr, rate, beta1, beta2, eps, decay, dead, step, size, DECAY: tl.constexpr, BLOCK: tl.constexpr):
    lane = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    place = lane * size + i
    if tl.load(dead + lane) == 0:
        old = tl.load(p + place, mask=inside)
        update = tl.load(g + place, mask=inside).to(tl.float32)
        b1, b2 = tl.load(beta1 + lane), tl.load(beta2 + lane)
        t = (tl.load(step) + 1).to(tl.float64)
        c1 = 1 - tl.exp2(t * tl.log2(b1.to(tl.float64)))
        c2 = 1 - tl.exp2(t * tl.log2(b2.to(tl.float64)))
        mean = tl.load(m + place, mask=inside)
        mean += (1 - b1) * (update - mean)
        square = tl.load(s + place, mask=inside) * b2 + (1 - b2) * update * update
        tl.store(m + place, mean, mask=inside)
        tl.store(s + place, square, mask=inside)
        if DECAY:
            old *= 1 - tl.load(lr + lane) * tl.load(decay + lane)
        root = tl.sqrt(square) / tl.sqrt(c2).to(tl.float32) + tl.load(eps + lane)
        tl.store(p + place, old - tl.load(rate + lane) / c1.to(tl.float32) * mean / root, mask=inside)


def sgd(
    p: Tensor, g: Tensor, velocity: Tensor, rate: Tensor, momentum: Tensor, decay: Tensor | None, dead: Tensor,
    nesterov: bool,
) -> None:  # fmt: skip
    """`Optimiser._sgd` in place; p, g, velocity [lanes, ...] contiguous float32, the rest [lanes]."""
    size = p[0].numel()
    _sgd[(len(p), triton.cdiv(size, _BLOCK))](
        p, g.contiguous(), velocity, rate, momentum, rate if decay is None else decay, dead, size,
        NESTEROV=nesterov, DECAY=decay is not None, BLOCK=_BLOCK,
    )  # fmt: skip


def adamw(
    p: Tensor, g: Tensor, mean: Tensor, square: Tensor, lr: Tensor, rate: Tensor, beta1: Tensor, beta2: Tensor,
    eps: Tensor, decay: Tensor | None, dead: Tensor, step: Tensor,
) -> None:  # fmt: skip
    """`Optimiser._adamw` in place; p, g, mean, square [lanes, ...] contiguous float32, the rest [lanes]."""
    size = p[0].numel()
    _adamw[(len(p), triton.cdiv(size, _BLOCK))](
        p, g.contiguous(), mean, square, lr, rate, beta1, beta2, eps, rate if decay is None else decay, dead, step,
        size, DECAY=decay is not None, BLOCK=_BLOCK,
    )  # fmt: skip
