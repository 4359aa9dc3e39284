"""Calibration: by bins against labels, and without bins against the exact posterior."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["expected_calibration_error", "posterior_gap"]


def expected_calibration_error(log_q: Tensor, y: Tensor, bins: int = 15) -> Tensor:
    """[lanes] ECE over equal-width bins of the top probability (Guo et al. 2017, equation 3).

    Args:
        log_q: [lanes, n, classes].
        y: [n] generating class.
    """
    confidence, prediction = log_q.double().exp().max(-1)
    index = (confidence * bins).long().clamp_(0, bins - 1)
    gap = confidence - (prediction == y).double()
    sums = torch.zeros(len(log_q), bins, dtype=torch.float64, device=log_q.device).scatter_add_(1, index, gap)
    return sums.abs().sum(-1) / log_q.shape[1]


def posterior_gap(log_q: Tensor, log_r: Tensor) -> Tensor:
    """[lanes] mean |max_k q_k - r_argmax(q)|: how far stated confidence is from the true chance of being right."""
    confidence, prediction = log_q.double().exp().max(-1)
    r = log_r.double().exp().expand(len(log_q), -1, -1).gather(-1, prediction[..., None])[..., 0]
    return (confidence - r).abs().mean(-1)
