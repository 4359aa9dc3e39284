"""The audit of a flow: evidence that its posterior is that of its own samples. A failed audit stops a sweep.

Source: arXiv 2602.00315, equations 1 to 4.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from raysweep.errors import OracleError
from raysweep.experiment import Sample
from raysweep.oracle.audits import ITEMS, Audit, Check
from raysweep.oracle.flow_world import FlowWorld

__all__ = ["audit", "calibration"]

SIGMAS = 4.0  # a sound world fails one calibration check in 16,000
_JACOBIANS = 4
_ROWS = 64  # of a Jacobian at a time
_NUMBERS = 1 << 22  # of items that are inverted at a time, so that memory is bounded
_BINS = 15


def audit(world: FlowWorld, temperature: float = 1.0, items: int = ITEMS) -> Audit:
    """Check the inverse, the log-determinant and the self-calibration of a world.

    Self-calibration: over generated pairs (x, y), mean -log r_y equals the mean entropy of r, and the error rate of
    argmax r equals 1 - E max r, each within 4 standard errors. This holds only for the posterior of this very world.
    """
    if not 0 < temperature < math.inf:
        raise OracleError(f"audit: temperature must be a positive number, but got {temperature}")
    sample = world.sample(items, "audit", temperature)
    x, y = torch.from_numpy(sample.x).to(world.device).double(), torch.from_numpy(sample.y).to(world.device)
    checks = [*_bijection(world, x, y), *calibration(sample)]
    r = np.exp(sample.log_posterior)
    return Audit(
        sha=world.sha,
        at={"temperature": temperature},
        items=items,
        checks=tuple(checks),
        aleatoric=float(-(r * sample.log_posterior).sum(-1).mean()),
        bayes_error=float(1 - r.max(-1).mean()),
        reliability=_reliability(r, sample.y),
    )


def _bijection(world: FlowWorld, x: torch.Tensor, y: torch.Tensor) -> list[Check]:
    flow, scale = world.flow, float(x.abs().max().clamp_min(1.0))
    size = max(1, _NUMBERS // world.dim)
    with torch.no_grad():
        gaps = [
            (flow.inverse(flow.latent(a, b)[0], b) - a).abs().max()
            for a, b in zip(x.split(size), y.split(size), strict=True)
        ]
    back = float(torch.stack(gaps).max()) / scale
    few = x[:_JACOBIANS].clone().requires_grad_()
    z, log_det = flow.latent(few, y[:_JACOBIANS])
    # Batched backward passes; torch.func.jacrev would import torch's compiler first.
    rows = torch.eye(world.dim, dtype=z.dtype, device=z.device)[:, None, :].expand(world.dim, *z.shape)
    parts = [
        torch.autograd.grad(z, few, part, is_grads_batched=True, retain_graph=True)[0] for part in rows.split(_ROWS)
    ]
    jacobian = torch.cat(parts).transpose(0, 1)
    # numpy: torch 2.13 on CPUs gets batches of LU wrong from 192 dimensions on after set_num_threads (oneMKL, DLASWP).
    exact = np.linalg.slogdet(jacobian.cpu().numpy())[1]
    gap = float(np.abs(exact - log_det.detach().cpu().numpy()).max())
    return [
        Check("inverse", back, 1e-9, "max |T^-1(T(x)) - x| / max |x|, float64"),
        Check("log_det", gap, 1e-8 * world.dim, f"max |log det - log|det autograd Jacobian||, {_JACOBIANS} items"),
    ]


def calibration(sample: Sample) -> list[Check]:
    """The label-based checks of a sample against its claimed posterior."""
    log_r, r = sample.log_posterior, np.exp(sample.log_posterior)
    nll = -log_r[np.arange(len(r)), sample.y]
    surprise = nll + (r * log_r).sum(-1)
    errors = (r.argmax(-1) != sample.y) - (1 - r.max(-1))
    rows = float(np.abs(r.sum(-1) - 1).max())
    return [
        Check("normalised", rows, 1e-9, "max |sum_k r_k - 1|"),
        Check("self_calibration", _mean_in_se(surprise), SIGMAS, "mean(-log r_y) - mean entropy, in standard errors"),
        Check("bayes_error", _mean_in_se(errors), SIGMAS, "error of argmax r - (1 - E max r), in standard errors"),
    ]


def _mean_in_se(values: np.ndarray) -> float:
    """The mean in standard errors. Rare events need a floor: one of n items may always be surprising."""
    error = max(float(values.std(ddof=1)) / len(values) ** 0.5, 1.0 / len(values))
    return float(values.mean() / error)


def _reliability(r: np.ndarray, y: np.ndarray) -> tuple[tuple[float, float, int], ...]:
    hit = np.zeros_like(r)
    hit[np.arange(len(y)), y] = 1.0
    index = np.minimum((r.ravel() * _BINS).astype(int), _BINS - 1)
    count = np.bincount(index, minlength=_BINS)
    stated = np.bincount(index, weights=r.ravel(), minlength=_BINS)
    seen = np.bincount(index, weights=hit.ravel(), minlength=_BINS)
    return tuple(
        (float(stated[i] / count[i]), float(seen[i] / count[i]), int(count[i])) for i in range(_BINS) if count[i]
    )
