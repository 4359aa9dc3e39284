"""Logistic regression with a ridge on random features, for lanes side by side: Newton's method with halved steps.

A lane is one labelling and one ridge on the features of a seed. Lanes of any seeds advance together, each with steps of
its own, and one that has settled leaves. Products with features are made lane by lane, without copies, and matrices are
factored for as many lanes as the cache holds; all else is one operation for all lanes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from raysweep.experiments.random_features import Array, Features, Fit

__all__ = ["logistic"]

_HELD = 2**16  # numbers in the matrices that are factored at a time: they stay in the cache
_MOST = 100  # steps
_SETTLED = 1e-11  # of the gradient, relative to that at 0
_SHORTEST = 1e-6  # share of a step
_ENOUGH, _ROUNDING = 1e-4, 1e-12  # of the decrease that the slope promises; of the objective


def logistic(features: Sequence[Features], labels: Sequence[Array], ridges: Sequence[float]) -> list[Fit]:
    """Weights for the logistic loss; a fit per lane.

    Args:
        features: One per lane, all of one shape; lanes of one seed share theirs.
        labels: -1 or 1, [P] for each lane.
        ridges: One per lane, positive.
    """
    different = {id(one): one.basis for one in features}
    basis = [different[id(one)] for one in features]
    y = torch.as_tensor(np.stack(labels), device=basis[0].device)
    found, settled = _solved(basis, y, torch.as_tensor(ridges, dtype=torch.float64, device=y.device))
    fits = []
    for one, own, v, ridge, ok in zip(features, basis, found, ridges, settled.tolist(), strict=True):
        condition = one.values[-1].item() / 4 / ridge + 1
        fits.append(Fit(one.from_basis(v)[:, None], (own @ v)[:, None], np.array([condition]), np.array([ok])))
    return fits


def _solved(basis: Sequence[Tensor], labels: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor]:
    """Minimise sum log(1 + exp(-y f)) + (ridge / 2) |v|^2 with f = basis v, in each lane.

    Args:
        basis: [P, n] of each lane.
        labels: y, [lanes, P].
        ridge: [lanes].

    Returns:
        v [lanes, n], and whether its gradient vanishes [lanes].
    """
    found = labels.new_zeros(len(basis), basis[0].shape[1])
    settled = torch.zeros(len(basis), dtype=torch.bool, device=labels.device)
    left = torch.arange(len(basis), device=labels.device)
    v, f = torch.zeros_like(found), torch.zeros_like(labels)
    value, start = _objective(labels, ridge, v, f), None
    for _ in range(_MOST):
        force = torch.sigmoid(-labels * f)
        gradient = ridge[:, None] * v - _each(basis, labels * force, transposed=True)
        size = gradient.norm(dim=1)
        start = size if start is None else start
        kept = size > _SETTLED * start
        if not kept.all():
            found[left[~kept]], settled[left[~kept]] = v[~kept], True
            everything = (left, labels, ridge, start, v, f, value, force, gradient)
            left, labels, ridge, start, v, f, value, force, gradient = (one[kept] for one in everything)
            basis = [one for one, stays in zip(basis, kept.tolist(), strict=True) if stays]
            if not basis:
                return found, settled
        step = _step(basis, force * (1 - force), ridge, gradient)
        v, f, value = _moved(labels, ridge, (v, f, value), (step, _each(basis, step)), (gradient * step).sum(1))
    found[left] = v
    return found, settled


def _step(basis: Sequence[Tensor], curvature: Tensor, ridge: Tensor, gradient: Tensor) -> Tensor:
    """The Hessian's inverse times the gradient, [lanes, n]. A factor that fails gives a step that does not settle."""
    n = gradient.shape[1]
    hessian = gradient.new_empty(min(len(basis), max(1, _HELD // n**2)), n, n)
    out = torch.empty_like(gradient)
    for first in range(0, len(basis), len(hessian)):
        part = slice(first, first + len(hessian))
        own = hessian[: len(basis[part])]
        for one, weight, product in zip(basis[part], curvature[part], own, strict=True):
            torch.mm(one.T, weight[:, None] * one, out=product)
        own.diagonal(dim1=1, dim2=2).add_(ridge[part, None])
        factor, _ = torch.linalg.cholesky_ex(own)
        out[part] = torch.cholesky_solve(gradient[part, :, None], factor)[:, :, 0]
    return out


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


def _each(basis: Sequence[Tensor], vectors: Tensor, transposed: bool = False) -> Tensor:
    """Each lane's matrix, or its transpose, times its vector."""
    pairs = zip(basis, vectors, strict=True)
    return torch.stack([(one.T if transposed else one) @ vector for one, vector in pairs])
