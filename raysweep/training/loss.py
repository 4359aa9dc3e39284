"""Cross-entropy to target probabilities, lane by lane, with its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from raysweep.kernels import fused

__all__ = ["loss_and_gradient"]


def loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over items of -sum_k t_k log q_k, in float32 at least, and d loss / d logits = (q - t) / batch.

    Args:
        logits: [lanes, batch, classes].
        targets: [lanes, batch, classes]; each item's sum to 1.

    Returns:
        [lanes], [lanes, batch, classes].
    """
    if fused(logits):
        from raysweep.kernels import loss

        return loss.loss_and_gradient(logits, targets)
    wide = (logits if logits.dtype == torch.float64 else logits.float()).transpose(1, 2)
    across = targets.transpose(1, 2)  # items last: few classes would not fill a vector
    log_q = torch.log_softmax(wide, 1)
    batch = targets.shape[1]
    value = -(log_q * across).sum((1, 2)) / batch
    gradient = log_q.exp_().sub_(across).div_(batch)
    return value, gradient.transpose(1, 2).to(logits.dtype)
