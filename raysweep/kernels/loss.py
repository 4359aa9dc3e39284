"""The losses of `training.loss` and their gradients, one program per lane."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["cross_entropy", "logistic", "square"]

_BLOCK = 1024  # numbers of a lane processed at a time


@triton.jit
def _cross_entropy(
    logits, targets, loss, gradient, batch: tl.constexpr, classes, of_lane, of_item, of_class,
    ITEMS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, CLASSES)
    total = tl.zeros((ITEMS,), dtype=tl.float32)
    for first in range(0, batch, ITEMS):
        item = first + tl.arange(0, ITEMS)
        both = (item < batch)[:, None] & (k < classes)[None, :]
        place = lane * of_lane + item[:, None] * of_item + k[None, :] * of_class
        z = tl.load(logits + place, mask=both, other=-1e30).to(tl.float32)
        t = tl.load(targets + (lane * batch + item[:, None]) * classes + k[None, :], mask=both, other=0.0)
        t = t.to(tl.float32)
        z = z - tl.where(item < batch, tl.max(z, 1), 0.0)[:, None]
        e = tl.exp(z)
        whole = tl.where(item < batch, tl.sum(e, 1), 1.0)
        total += tl.sum(tl.where(both, t * (tl.log(whole)[:, None] - z), 0.0), 1)
        g = (e / whole[:, None] * tl.sum(t, 1)[:, None] - t) / batch
        tl.store(gradient + place, g.to(gradient.dtype.element_ty), mask=both)
    tl.store(loss + lane, tl.sum(total, 0) / batch)


@triton.jit
def _apart(
    outputs, targets, loss, gradient, batch: tl.constexpr, each: tl.constexpr, of_lane, of_item, of_output,
    SQUARE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Losses that are sums over outputs."""
    lane = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for first in range(0, batch * each, BLOCK):
        i = first + tl.arange(0, BLOCK)
        inside = i < batch * each
        place = lane * of_lane + (i // each) * of_item + (i % each) * of_output
        f = tl.load(outputs + place, mask=inside, other=0.0).to(tl.float32)
        t = tl.load(targets + lane * batch * each + i, mask=inside, other=0.0).to(tl.float32)
        if SQUARE:
            g = f - t
            value = g * g / 2
        else:
            m = f * t
            e = tl.exp(-tl.abs(m))  # never overflows
            far = tl.where(m > 0, e, 1.0) / (1 + e)  # 1 / (1 + exp(m))
            g = -t * far
            value = tl.maximum(-m, 0.0) + tl.where(e > 1e-4, tl.log(1 + e), e - e * e / 2)
        total += tl.where(inside, value, 0.0)
        tl.store(gradient + place, (g / batch).to(gradient.dtype.element_ty), mask=inside)
    tl.store(loss + lane, tl.sum(total, 0) / batch)


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """[lanes] mean loss in float32, and its gradient with the logits' layout.

    Args:
        logits: [lanes, batch, classes] of any strides without gaps.
        targets: [lanes, batch, classes] contiguous.
    """
    lanes, batch, classes = logits.shape
    loss = torch.empty(lanes, dtype=torch.float32, device=logits.device)
    gradient = torch.empty_like(logits)
    width = triton.next_power_of_2(classes)
    items = max(1, min(triton.next_power_of_2(batch), 4096 // width))
    _cross_entropy[(lanes,)](
        logits, targets.contiguous(), loss, gradient, batch, classes, *logits.stride(), ITEMS=items, CLASSES=width
    )
    return loss, gradient


def square(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The same for half the squared distance; any number of outputs."""
    return _launched(outputs, targets, square=True)


def logistic(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The same for log(1 + exp(-target output)), targets +-1."""
    return _launched(outputs, targets, square=False)


def _launched(outputs: Tensor, targets: Tensor, square: bool) -> tuple[Tensor, Tensor]:
    lanes, batch, each = outputs.shape
    loss = torch.empty(lanes, dtype=torch.float32, device=outputs.device)
    gradient = torch.empty_like(outputs)
    _apart[(lanes,)](
        outputs, targets.contiguous(), loss, gradient, batch, each, *outputs.stride(), SQUARE=square, BLOCK=_BLOCK
    )
    return loss, gradient
