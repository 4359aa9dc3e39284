"""The polish of a fit: Levenberg-Marquardt on log residuals within bounds, every problem with its own damping."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysweep.laws.definition import Array, Law
from raysweep.laws.start import nnls
from raysweep.laws.terms import Slopes

__all__ = ["ITERATIONS", "Optima", "Problems", "polish"]

ITERATIONS = 100
_TOLERANCE = 1e-10  # size of a step, relative to 1 + |parameter|, in centred log units
_EXACT = 1e-9  # at a tolerance below this, the last step is taken too
_LEAST_LOG = -230.0  # least log of a positive parameter, centred: about 1e-100, so that no unit makes it underflow
_LEAST = math.exp(_LEAST_LOG)
_DAMPING_FLOOR = 1e-12
_SPARSE = 0.8  # share of points with weight below which it pays to gather each problem's own
_STEADY = (0.2, 0.95)  # shares of the step before between which it is extrapolated; found by trial
_NEAR = 0.01  # share of a point's cost: a start this close to a known optimum, a tenth of a standard error, ends there
_OUTLIER = 0.35  # how much of its majorising curvature a residual beyond Huber's delta adds; found by trial


@dataclass(frozen=True)
class Problems:
    """Centred points of many fits, or of one that many problems share; parameters as the polish moves them.

    Attributes:
        u: Centred log scales, [problems or 1, axes, points].
        t: Centred log measurements, [problems or 1, points].
        w: Weights, [problems, points].
        huber: Where the loss turns from quadratic to linear, in log units; None for a quadratic one.
    """

    law: Law
    u: Array
    t: Array
    w: Array
    huber: float | None = None

    @property
    def log(self) -> npt.NDArray[np.bool_]:
        return np.array([p.log for p in self.law.parameters])

    @property
    def low(self) -> Array:
        return self.encode(np.array([p.low for p in self.law.parameters]))

    @property
    def high(self) -> Array:
        high = self.encode(np.array([p.high for p in self.law.parameters]))
        return np.where(self.log, np.minimum(high, -_LEAST_LOG), high)

    def take(self, index: npt.NDArray[np.int64]) -> Problems:
        """Some of the problems; those that share their points go on sharing them."""
        u, t = (shared if len(shared) == 1 else shared[index] for shared in (self.u, self.t))
        return Problems(self.law, u, t, self.w[index], self.huber)

    def compact(self) -> Problems:
        """The same problems without the points of no weight: a draw of runs with replacement holds 63 % of them."""
        most = int((self.w > 0).sum(axis=1).max())
        if most > _SPARSE * self.w.shape[1]:
            return self
        there = np.argsort(self.w <= 0, axis=1, kind="stable")[:, :most]
        u = np.broadcast_to(self.u, (len(self.w), *self.u.shape[1:]))
        t = np.broadcast_to(self.t, self.w.shape)
        u, t, w = np.take_along_axis(u, there[:, None], 2), *(np.take_along_axis(a, there, 1) for a in (t, self.w))
        return Problems(self.law, u, t, w, self.huber)

    def thinned(self, most: int) -> Problems:
        """The same problems with about `most` of their points, evenly spaced; all, where a problem would lose all."""
        some = np.linspace(0, self.w.shape[1] - 1, most).astype(int)
        if self.w.shape[1] <= most or not (self.w[:, some] > 0).sum(axis=1).min() > most // 2:
            return self
        return Problems(self.law, self.u[..., some], self.t[:, some], self.w[:, some], self.huber)

    def encode(self, values: Array) -> Array:
        return np.where(self.log, np.log(np.where(self.log, np.maximum(values, _LEAST), 1.0)), values)

    def decode(self, q: Array) -> Array:
        return np.where(self.log, np.exp(np.where(self.log, q, 0.0)), q)

    def _pulls(self, residual: Array) -> tuple[Array, Array]:
        """The objective's slope in each residual (half of it, for the square) and its curvature."""
        if self.huber is None:
            return self.w * residual, self.w
        clipped = np.clip(residual, -self.huber, self.huber)
        pull = self.w * clipped
        # At a residual of 0 the quotient is undefined, and not chosen.
        return pull, np.where(clipped == residual, self.w, _OUTLIER * (pull / residual))

    def _objective(self, residual: Array, pull: Array) -> Array:
        """The objective, [problems]."""
        if self.huber is not None:
            residual = residual - 0.5 * np.clip(residual, -self.huber, self.huber)
        return np.asarray(np.einsum("ij,ij->i", pull, residual))

    def refined(self, q: Array, low: Array, high: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        """The amplitudes solved again for q's exponents, by a step of non-negative least squares; and `normal` there.

        Floor, amplitude and exponent of a law trade along a bent valley. With the amplitudes put back on its floor
        after every step, the search only walks along the exponents, where it is straight.
        """
        law, k = self.law, len(self.law.amplitudes)
        if law.implicit is not None:
            return self._settled(q, np.array(law.implicit.inner, dtype=np.int64), low, high)
        if k < 2 or law.terms is None:
            return q, self.normal(q)
        values = self.decode(q)
        logs, slopes = law.terms(self.u, values[:, k:])
        each = [np.exp(log) for log in logs]
        columns = np.empty((len(q), k, self.w.shape[1]))
        for j, (term, amplitude) in enumerate(zip(each, law.amplitudes, strict=True)):
            columns[:, j] = term if amplitude.high > 0 else 0.0
        f = (values[:, None, :k] @ columns)[:, 0]
        pull, curve = self._pulls(np.log(f) - self.t)
        columns *= (1.0 / f)[:, None]
        gram = (columns * curve[:, None]) @ np.swapaxes(columns, 1, 2)
        moment = (gram @ values[:, :k, None] - columns @ pull[..., None])[..., 0]
        values[:, :k] = nnls(gram, moment)[0]
        q = np.clip(self.encode(values), low, high)
        return q, self.normal(q, (each, slopes))

    def _settled(
        self, q: Array, inner: npt.NDArray[np.int64], low: Array, high: Array
    ) -> tuple[Array, tuple[Array, Array, Array]]:
        """q after a step of the parameters `inner`, the others held, where that step is an improvement."""
        before = self.normal(q)
        if not inner.size:
            return q, before
        moved = np.clip(self._inner(q, inner, before), low, high)
        after = self.normal(moved)
        worse = ~(after[0] <= before[0])
        for new, old in zip((moved, *after), (q, *before), strict=True):
            new[worse] = old[worse]
        return moved, after

    @staticmethod
    def _inner(q: Array, inner: npt.NDArray[np.int64], normal: tuple[Array, Array, Array]) -> Array:
        _, gradient, matrix = normal
        gradient, matrix = gradient[:, inner], matrix[:, inner][:, :, inner]
        bad = ~(np.isfinite(matrix).all(axis=(1, 2)) & np.isfinite(gradient).all(axis=1))
        matrix[bad], gradient[bad] = np.eye(inner.size), 0.0
        scale = np.maximum(np.diagonal(matrix, axis1=1, axis2=2), 1e-300) ** 0.5
        matrix = matrix / (scale[:, :, None] * scale[:, None, :]) + 1e-12 * np.eye(inner.size)
        out = q.copy()
        out[:, inner] -= np.linalg.solve(matrix, (gradient / scale)[..., None])[..., 0] / scale
        return out

    def normal(self, q: Array, terms: tuple[list[Array], Slopes] | None = None) -> tuple[Array, Array, Array]:
        """Objective [problems], half its gradient (the whole of it, for Huber's loss) and the matrix of the step.

        Args:
            q: Encoded parameters, [problems, parameters].
            terms: The law's terms and slopes at q's exponents, where they are known.
        """
        values = self.decode(q)
        logs, rows = self.law.evaluate(self.u, values) if terms is None else self.law.combined(values, *terms)
        residual = logs - self.t
        jacobian = np.empty((len(q), q.shape[1], residual.shape[1]))
        for j, (row, log) in enumerate(zip(rows, self.log, strict=True)):
            jacobian[:, j] = row * values[:, j, None] if log else row
        pull, curve = self._pulls(residual)
        cost = self._objective(residual, pull)
        gradient = (jacobian @ pull[..., None])[..., 0]
        if self.law.pairs:
            curve = curve - pull
        matrix = (jacobian * curve[:, None]) @ np.swapaxes(jacobian, 1, 2)
        for a, m in self.law.pairs:  # the rest of Newton's matrix, see `Law.pairs`
            share, slope = jacobian[:, a], jacobian[:, m]
            matrix[:, a, a] += gradient[:, a]
            matrix[:, a, m] += gradient[:, m]
            matrix[:, m, a] += gradient[:, m]
            matrix[:, m, m] += np.einsum("ij,ij->i", pull, slope * slope / np.maximum(share, 1e-300))
        return cost, gradient, matrix


@dataclass(frozen=True)
class Optima:
    """Optima that are known already, where further starts need not arrive.

    Attributes:
        q: Encoded parameters, [problems, parameters].
        cost: The objective, [problems].
        matrix: That of the step, [problems, parameters, parameters].
        points: Number of points with weight, [problems].
    """

    q: Array
    cost: Array
    matrix: Array
    points: npt.NDArray[np.int64]

    @classmethod
    def of(cls, problems: Problems, values: Array) -> Optima:
        """Those of `problems` at parameter values, centred, [problems, parameters]."""
        q = problems.encode(values)
        with np.errstate(all="ignore"):
            cost, _, matrix = problems.normal(q)
        return cls(q, cost, matrix, (problems.w > 0).sum(axis=1))

    def take(self, index: npt.NDArray[np.int64]) -> Optima:
        return Optima(self.q[index], self.cost[index], self.matrix[index], self.points[index])

    def reached(self, q: Array, cost: Array) -> npt.NDArray[np.bool_]:
        """Whether a search has come so close to the optimum of its problem that it will end there."""
        away = q - self.q
        near = _NEAR * self.cost / self.points
        size = np.abs((away * (self.matrix @ away[..., None])[..., 0]).sum(axis=1))
        return np.asarray((np.abs(cost - self.cost) <= near) & (size <= 2 * near))


def polish(
    problems: Problems,
    q: Array,
    relative: float = 1e-13,
    iterations: int = ITERATIONS,
    known: Optima | None = None,
) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Move every problem's parameters to its nearest optimum.

    Args:
        q: Where to start, encoded, [problems, parameters].
        relative: A step that promises less than this share of the objective is the last.
        iterations: Steps tried at most.
        known: Optima of the problems; a search that comes close to one stops there.

    Returns:
        q, the objective, [problems], and whether each problem settled.
    """
    low, high = problems.low, problems.high
    q = np.clip(q, low, high)
    damping, before = np.full(len(q), _DAMPING_FLOOR), np.zeros_like(q)
    active = np.arange(len(q))
    here = problems
    half = 1.0 if problems.huber is None else 0.5  # Huber's loss has the whole gradient, the square half of it
    # A trial step may overflow; it is then not finite, not better, and not taken.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        cost, gradient, hessian = problems.normal(q)
        for _ in range(iterations):
            at, g, h = q[active], gradient[active], hessian[active]
            held = ((at <= low) & (g > 0)) | ((at >= high) & (g < 0))
            step = _step(h, g, held, damping[active])
            if problems.huber is not None:
                step, before[active] = _extrapolated(step, before[active], h), step
            trial = np.clip(at + step, low, high)
            done = (relative > _EXACT) & (np.abs((g * (trial - at)).sum(axis=1)) <= relative * cost[active])
            if done.any():  # a draw can do without what so small a step gains
                active = active[~done]
                if not active.size:
                    break
                at, g, h, trial, here = at[~done], g[~done], h[~done], trial[~done], problems.take(active)
            trial, (new_cost, new_gradient, new_hessian) = here.refined(trial, low, high)
            step = trial - at
            better = new_cost <= cost[active]
            settled = (np.abs(step) <= _TOLERANCE * (1 + np.abs(at))).all(axis=1)
            settled |= better & (np.abs((g * step).sum(axis=1)) <= relative * new_cost)
            promised = -half * (step * (2 * g + (h @ step[..., None])[..., 0])).sum(axis=1)
            poor = ~better | (cost[active] - new_cost < 0.5 * promised)
            took = active[better]
            q[took], cost[took] = trial[better], new_cost[better]
            gradient[took], hessian[took] = new_gradient[better], new_hessian[better]
            # A step that gained less than half of what it promised overshot: without damping it may do so forever.
            damping[active] = np.where(
                poor, np.maximum(damping[active] * 4, 1e-3), np.maximum(damping[active] / 10, _DAMPING_FLOOR)
            )
            if known is not None:
                settled |= known.take(active).reached(q[active], cost[active])
            if settled.any():
                active = active[~settled]
                if not active.size:
                    break
                here = problems.take(active)
    converged = np.ones(len(q), dtype=bool)
    converged[active] = False
    return q, cost, converged


def _extrapolated(step: Array, before: Array, hessian: Array) -> Array:
    """Aitken's step where steps shrink by a steady share, as they do under Huber's majorised curvature."""
    scale = np.maximum(np.diagonal(hessian, axis1=1, axis2=2), 0.0)
    size = (before * before * scale).sum(axis=1)
    share = (step * before * scale).sum(axis=1) / np.where(size > 0, size, 1.0)
    steady = (share > _STEADY[0]) & (share < _STEADY[1])
    return step * np.where(steady, np.minimum(1 / (1 - np.where(steady, share, 0.0)), 2.0), 1.0)[:, None]


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
