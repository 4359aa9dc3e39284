"""Loss = aleatoric + epistemic, exactly, against a known posterior (arXiv 2602.00315, equations 3 and 4)."""

from __future__ import annotations

from torch import Tensor

__all__ = ["decompose"]


def decompose(log_q: Tensor, log_r: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Total, aleatoric and epistemic loss, label-based losses and accuracies, and standard errors, for each lane.

    epistemic is computed as a KL divergence, never as a difference of losses.

    Args:
        log_q: [lanes, n, classes] predicted log-probabilities.
        log_r: [n, classes] exact log-posterior.
        y: [n] generating class.

    Returns:
        {name: [lanes]} in float64.
    """
    log_q, log_r = log_q.double(), log_r.double()
    lanes, n, _ = log_q.shape
    r = log_r.exp()
    total = -(r * log_q).sum(-1)
    kl = (r * (log_r - log_q)).sum(-1)
    aleatoric = -(r * log_r).sum(-1).mean()
    picked = y.expand(lanes, n)[..., None]
    nll = -log_q.gather(-1, picked)[..., 0]
    excess_nll = nll + log_r.gather(-1, y[:, None])[:, 0]
    hit = (log_q.argmax(-1) == y).double()
    bayes_hit = (log_r.argmax(-1) == y).double()
    excess_error = bayes_hit - hit
    return {
        "total": total.mean(-1),
        "aleatoric": aleatoric.expand(lanes),
        "epistemic": kl.mean(-1),
        "epistemic_se": _standard_error(kl),
        "nll": nll.mean(-1),
        "excess_nll": excess_nll.mean(-1),
        "excess_nll_se": _standard_error(excess_nll),
        "accuracy": hit.mean(-1),
        "bayes_accuracy": bayes_hit.mean().expand(lanes),
        "excess_error": excess_error.mean(-1),
        "excess_error_se": _standard_error(excess_error),
    }


def _standard_error(values: Tensor) -> Tensor:
    error: Tensor = values.std(-1) / values.shape[-1] ** 0.5
    return error
