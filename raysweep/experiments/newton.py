"""Logistic regression with a ridge on random features, for lanes side by side: Newton's method with halved steps.

A lane is one labelling and one ridge on the features of a seed. Lanes of any seeds advance together as stacks of
matrices, each with steps of its own, and one that has settled leaves the stack. As many lanes are stacked as keep the
work small: beyond, matrices fill the processor on their own, and lanes are solved one by one, without copies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from raysweep.experiments.random_features import Array, Features, Fit

__all__ = ["logistic", "together"]

_HELD = {"cpu": 2**17, "cuda": 2**25}  # numbers in the matrices of a stack: a core's cache; 256 MiB
_MOST = 100  # steps
_SETTLED = 1e-11  # of the gradient, relative to that at 0
_SHORTEST = 1e-6  # share of a step
_ENOUGH, _ROUNDING = 1e-4, 1e-12  # of the decrease that the slope promises; of the objective


def together(width: int, items: int, device: str) -> int:
    """How many lanes are solved at a time."""
    n = min(width, items)
    return max(1, _HELD[torch.device(device).type] // (2 * n * (items + n)))


def logistic(features: Sequence[Features], labels: Sequence[Array], ridges: Sequence[float]) -> list[Fit]:
    """Weights for the logistic loss; a fit per lane.

    Args:
        features: Of each lane, of one shape; lanes of one seed share theirs.
        labels: -1 or 1, [P] of each lane.
        ridges: Positive, of each lane.
    """
    size = together(features[0].width, len(labels[0]), features[0].device)
    basis = {id(one): one.basis for one in features}
    fits = []
    for first in range(0, len(features), size):
        lanes = range(first, min(first + size, len(features)))
        own = [basis[id(features[i])] for i in lanes]
        stack = own[0][None] if len(own) == 1 else torch.stack(own)
        y = torch.as_tensor(np.stack([labels[i] for i in lanes]), device=stack.device)
        ridge = torch.as_tensor([ridges[i] for i in lanes], dtype=torch.float64, device=stack.device)
        weights, settled = _solved(stack, y, ridge)
        for i, w, ok in zip(lanes, weights, settled.tolist(), strict=True):
            condition = features[i].values[-1].item() / 4 / ridges[i] + 1
            outputs = (basis[id(features[i])] @ w)[:, None]
            fits.append(Fit(features[i].from_basis(w)[:, None], outputs, np.array([condition]), np.array([ok])))
    return fits


def _solved(basis: Tensor, labels: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor]:
    """Minimise sum log(1 + exp(-y f)) + (ridge / 2) |v|^2 with f = basis v, in each lane.

    Args:
        basis: [lanes, P, n].
        labels: y, [lanes, P].
        ridge: [lanes].

    Returns:
        v [lanes, n], and whether its gradient vanishes [lanes].
    """
    found = basis.new_zeros(len(basis), basis.shape[2])
    settled = torch.zeros(len(basis), dtype=torch.bool, device=basis.device)
    left = torch.arange(len(basis), device=basis.device)
    v, f = torch.zeros_like(found), torch.zeros_like(labels)
    value, start = _objective(labels, ridge, v, f), None
    for _ in range(_MOST):
        force = torch.sigmoid(-labels * f)
        gradient = ridge[:, None] * v - _times(basis.mT, labels * force)
        size = gradient.norm(dim=1)
        start = size if start is None else start
        done = size <= _SETTLED * start
        if done.any():
            found[left[done]], settled[left[done]] = v[done], True
            kept = ~done
            if not kept.any():
                return found, settled
            everything = (left, basis, labels, ridge, start, v, f, value, force, gradient)
            left, basis, labels, ridge, start, v, f, value, force, gradient = (one[kept] for one in everything)
        step = _step(basis, force * (1 - force), ridge, gradient)
        v, f, value = _moved(labels, ridge, (v, f, value), (step, _times(basis, step)), (gradient * step).sum(1))
    found[left] = v
    return found, settled


def _step(basis: Tensor, curvature: Tensor, ridge: Tensor, gradient: Tensor) -> Tensor:
    """The Hessian's inverse times the gradient, [lanes, n]. A factor that fails gives a step that does not settle."""
    hessian = basis.mT @ (curvature[:, :, None] * basis)
    hessian.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
    factor, _ = torch.linalg.cholesky_ex(hessian)
    return torch.cholesky_solve(gradient[:, :, None], factor)[:, :, 0]


def _moved(
    labels: Tensor, ridge: Tensor, start: tuple[Tensor, Tensor, Tensor], step: tuple[Tensor, Tensor], slope: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates, outputs and objective after each lane's step, halved until it falls as its slope promises."""
    v, f, value = start
    share = torch.ones_like(ridge)
    while True:
        new, out = (one - share[:, None] * move for one, move in zip((v, f), step, strict=True))
        after = _objective(labels, ridge, new, out)
        good = (after <= value - _ENOUGH * share * slope + _ROUNDING * value.abs()) | (share < _SHORTEST)
        if good.all():
            return new, out, after
        share = torch.where(good, share, share / 2)


def _objective(labels: Tensor, ridge: Tensor, v: Tensor, f: Tensor) -> Tensor:
    return softplus(-labels * f).sum(1) + ridge / 2 * (v**2).sum(1)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[:, :, None])[:, :, 0]
