"""Estimates: a law fitted to the same points under many weight vectors at once.

The amplitudes are eliminated by non-negative least squares inside a search over the exponents (variable projection,
Golub & Pereyra 1973), which gives a start near the global optimum; a Levenberg-Marquardt polish on log residuals then
settles all parameters together. All weight vectors, e.g. the multiplicities of a bootstrap, are solved as one array.
The objective is summed, never averaged: an averaged one stops optimisers early (Besiroglu et al. 2024, 2404.10102).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import combinations, product

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError
from raysweep.laws.forms import Array, Law

__all__ = ["Estimate", "Status", "check", "estimate", "nnls"]

_MAX_ITER = 200
_TOLERANCE = 1e-10  # of a step, relative to 1 + |parameter|, in centred log units
_NEGLIGIBLE = 1e-6  # an amplitude whose share of y is below this at every point lies on its bound, 0
_LEAST_LOG = -230.0  # of a positive parameter, centred: about 1e-100, so that no unit makes it underflow to 0
_DAMPING_FLOOR = 1e-12


class Status(IntEnum):
    """How a fit ended. Each of the three leaves a usable estimate."""

    CONVERGED = 0
    BOUND_HIT = 1
    MAX_ITER = 2


@dataclass(frozen=True)
class Estimate:
    """A law fitted under `draws` weight vectors.

    Attributes:
        law: The law.
        values: Parameter values in the caller's units, [draws, parameters].
        objective: Weighted sum of squared log residuals, [draws].
        status: `Status` of each fit, [draws].
    """

    law: Law
    values: Array
    objective: Array
    status: npt.NDArray[np.int64]


def check(law: Law, x: Array, y: Array) -> None:
    """Refuse points to which `law` cannot be fitted on the log scale.

    Raises:
        FitError: A value of x or y is not positive and finite, or there are too few distinct x.
    """
    for name, values in (("x", x), ("y", y)):
        bad = values[~((values > 0) & np.isfinite(values))]
        if bad.size:
            raise FitError(
                f"A fit on the log scale needs positive, finite {name}, but {bad.size} of {values.size} are not "
                f"(the first is {bad[0]:g}). Remove those points, or fit a quantity that stays above 0."
            )
    scales = np.unique(x).size
    if scales < law.fewest_scales:
        raise FitError(
            f"The law {law.name!r} ({law.formula}) needs at least {law.fewest_scales} distinct scales, "
            f"but there are {scales}. Add scales."
        )


def estimate(law: Law, x: npt.ArrayLike, y: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Estimate:
    """Minimise `sum_i w_i (log y_i - log law(x_i))^2` for every row w of `weights`.

    Args:
        law: What to fit.
        x: Scales, positive, [points].
        y: Measurements, positive, [points].
        weights: Non-negative, [draws, points] or [points]; all 1 if not given. Only their ratios matter to the
            estimate; a weight of 2 equals the point given twice. Each draw is taken to keep enough scales.

    Raises:
        FitError: See `check`; or the weights are negative, not finite, or of another shape.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    check(law, x, y)
    w = np.atleast_2d(np.ones(x.size) if weights is None else np.asarray(weights, dtype=np.float64))
    if w.shape[1:] != x.shape or not (np.isfinite(w).all() and (w >= 0).all() and w.any(axis=1).all()):
        raise FitError(
            f"Weights must be finite, >= 0 and not all 0, one a point: there are {x.size} points and "
            f"weights of shape {w.shape}. Pass multiplicities or inverse variances."
        )
    # Centred logs: amplitudes and exponents are then nearly uncorrelated, and units cannot matter.
    u0, t0 = np.log(x).mean(), np.log(y).mean()
    u, t = np.log(x) - u0, np.log(y) - t0
    k = len(law.amplitudes)
    problem = _Problem(law, u, t)
    q, objective, converged = _polish(problem, w, problem.encode(_project(law, u, t, w)))
    values = problem.decode(q)
    at_bound = ((q <= problem.low) | (q >= problem.high)).any(axis=1)
    share = law.basis(u, values[:, k:]) * values[:, None, :k] / np.exp(t)[:, None]
    at_bound |= (share.max(axis=1) < _NEGLIGIBLE).any(axis=1)
    status = np.where(converged, np.where(at_bound, Status.BOUND_HIT, Status.CONVERGED), Status.MAX_ITER)
    values[:, :k] *= np.exp(t0) * law.basis(np.array([-u0]), values[:, k:])[:, 0, :]
    return Estimate(law, values, objective, status)


def nnls(gram: Array, moment: Array) -> tuple[Array, Array]:
    """Non-negative least squares from normal equations, batched: `min |Mc - b|^2` subject to `c >= 0`.

    The optimum is the least-squares solution on its own support, so for the few amplitudes of a law the best feasible
    support is found by listing all of them: exact, and one solve for the whole batch.

    Args:
        gram: `M'M`, [..., k, k].
        moment: `M'b`, [..., k].

    Returns:
        c, [..., k], and how far it lowers the sum of squares below `|b|^2`, [...].
    """
    best, gain = np.zeros_like(moment), np.zeros(moment.shape[:-1])
    for size in range(1, moment.shape[-1] + 1):
        for support in map(list, combinations(range(moment.shape[-1]), size)):
            part = gram[..., support, :][..., support]
            # Columns may be collinear (an exponent near 0): a last-digit ridge keeps the batch solvable.
            part = part * (1 + 1e-13 * np.eye(size))
            solution = np.linalg.solve(part, moment[..., support, None])[..., 0]
            lowered = (solution * moment[..., support]).sum(axis=-1)
            better = (solution >= 0).all(axis=-1) & (lowered > gain)
            candidate = np.zeros_like(moment)
            candidate[..., support] = solution
            best = np.where(better[..., None], candidate, best)
            gain = np.where(better, lowered, gain)
    return best, gain


def _project(law: Law, u: Array, t: Array, w: Array) -> Array:
    """The start of each draw: the best of the exponents' mesh, its amplitudes solved; [draws, parameters].

    Log residuals are linearised about a parabola through the logs, not about y, whose noise would bend the choice.
    """
    mesh = np.array(list(product(*(p.search for p in law.exponents))))
    pilot = np.polyval(np.polyfit(u, t, 2), u)
    columns = law.basis(u, mesh) / np.exp(pilot)[:, None]  # [mesh, points, k]
    products = columns[..., :, None] * columns[..., None, :]
    gram = np.tensordot(w, products, axes=(1, 1))
    amplitudes, gain = nnls(gram, np.tensordot(w * (1 + t - pilot), columns, axes=(1, 1)))
    best = gain.argmax(axis=1)
    # A positive amplitude starts just above 0, where its logarithm still has a gradient.
    least = np.where([p.log for p in law.amplitudes], _NEGLIGIBLE / columns.max(axis=1), 0.0)
    return np.concatenate([np.maximum(amplitudes[np.arange(len(w)), best], least[best]), mesh[best]], axis=1)


@dataclass(frozen=True)
class _Problem:
    """One set of centred points; parameters as the polish moves them, logs where they are positive."""

    law: Law
    u: Array
    t: Array

    @property
    def log(self) -> npt.NDArray[np.bool_]:
        return np.array([p.log for p in self.law.parameters])

    @property
    def low(self) -> Array:
        return np.array([_LEAST_LOG if p.log else p.low for p in self.law.parameters])

    @property
    def high(self) -> Array:
        return np.array([p.high for p in self.law.parameters])

    def encode(self, values: Array) -> Array:
        return np.where(self.log, np.log(np.where(self.log, values, 1.0)), values)

    def decode(self, q: Array) -> Array:
        return np.where(self.log, np.exp(np.where(self.log, q, 0.0)), q)

    def normal(self, q: Array, w: Array) -> tuple[Array, Array, Array]:
        """Objective [draws], half its gradient [draws, p], and the Gauss-Newton matrix [draws, p, p]."""
        values, k = self.decode(q), len(self.law.amplitudes)
        exponents = values[:, k:]
        columns = self.law.basis(self.u, exponents)
        f = columns @ values[:, :k, None]
        bend = (self.law.slope(self.u, exponents) * values[:, None, :k, None]).sum(axis=2)
        jacobian = np.concatenate([columns, bend], axis=2) / f * np.where(self.log, values, 1.0)[:, None, :]
        residual = np.log(f[..., 0]) - self.t
        weighted = np.swapaxes(jacobian * w[..., None], 1, 2)
        return (w * residual**2).sum(axis=1), (weighted @ residual[..., None])[..., 0], weighted @ jacobian


def _polish(problem: _Problem, w: Array, q: Array) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Levenberg-Marquardt within bounds, each draw with its own damping, until every draw has settled."""
    low, high = problem.low, problem.high
    q = np.clip(q, low, high)
    damping = np.full(len(q), _DAMPING_FLOOR)
    active = np.arange(len(q))
    # A trial step may overflow; it is then not finite, not better, and not taken.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        cost, gradient, hessian = problem.normal(q, w)
        for _ in range(_MAX_ITER):
            here, g = q[active], gradient[active]
            held = ((here <= low) & (g > 0)) | ((here >= high) & (g < 0))
            trial = np.clip(here + _step(hessian[active], g, held, damping[active]), low, high)
            step = trial - here
            new_cost, new_gradient, new_hessian = problem.normal(trial, w[active])
            better = new_cost <= cost[active]
            settled = (np.abs(step) <= _TOLERANCE * (1 + np.abs(here))).all(axis=1)
            settled |= better & (np.abs((g * step).sum(axis=1)) <= 1e-13 * new_cost)
            promised = -(step * (2 * g + (hessian[active] @ step[..., None])[..., 0])).sum(axis=1)
            poor = ~better | (cost[active] - new_cost < 0.5 * promised)
            took = active[better]
            q[took], cost[took] = trial[better], new_cost[better]
            gradient[took], hessian[took] = new_gradient[better], new_hessian[better]
            # A step that won less than half of what it promised overshot: without damping it may do so for ever.
            damping[active] = np.where(
                poor, np.maximum(damping[active] * 4, 1e-3), np.maximum(damping[active] / 10, _DAMPING_FLOOR)
            )
            active = active[~settled]
            if not active.size:
                break
    converged = np.ones(len(q), dtype=bool)
    converged[active] = False
    return q, cost, converged


def _step(hessian: Array, gradient: Array, held: npt.NDArray[np.bool_], damping: Array) -> Array:
    """The damped Gauss-Newton step of the parameters that are not held at a bound; 0 for those that are."""
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    free = ~held
    matrix = hessian / (scale[:, :, None] * scale[:, None, :]) * (free[:, :, None] & free[:, None, :])
    identity = np.eye(gradient.shape[1])
    matrix += identity * np.where(held, 1.0, damping[:, None])[:, :, None]
    solution = np.linalg.solve(matrix, (np.where(free, gradient, 0.0) / scale)[..., None])[..., 0]
    return np.asarray(-solution / scale)
