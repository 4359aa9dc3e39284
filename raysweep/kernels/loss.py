"""Cross-entropy to target probabilities and its gradient, one program a lane."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["loss_and_gradient"]


@triton.jit
def _loss(
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


def loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
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
    _loss[(lanes,)](
        logits, targets.contiguous(), loss, gradient, batch, classes, *logits.stride(), ITEMS=items, CLASSES=width
    )
    return loss, gradient
