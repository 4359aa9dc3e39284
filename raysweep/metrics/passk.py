"""pass@k: the inference budget as an axis that costs nothing to observe."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pass_at_k"]


def pass_at_k(log_q: Tensor, log_r: Tensor, k: Tensor) -> Tensor:
    """[lanes, budgets] chance that at least one of k draws from the exact posterior equals the prediction.

    Exact over the draws: E_x[1 - (1 - r_prediction(x))^k]; no sampling at any k.

    Args:
        log_q: [lanes, n, classes].
        log_r: [n, classes].
        k: [budgets] positive.
    """
    prediction = log_q.argmax(-1)
    log_hit = log_r.double().expand(len(log_q), -1, -1).gather(-1, prediction[..., None])[..., 0]
    # log(1 - r) without cancellation at r near 0 and near 1
    log_miss = torch.where(log_hit > -0.693, (-torch.expm1(log_hit)).log(), torch.log1p(-log_hit.exp()))
    return torch.stack([-torch.expm1(float(each) * log_miss).mean(-1) for each in k.tolist()], dim=-1)
