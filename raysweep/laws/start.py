"""Starts of a fit, near the global optimum: amplitudes eliminated inside a mesh over the exponents.

Variable projection (Golub & Pereyra 1973) with non-negative least squares. Log residuals are linearised about a
parabola through the logs, not about y, whose noise would bend the choice.
"""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import numpy.typing as npt

from raysweep.laws.definition import Array, Law

__all__ = ["NEGLIGIBLE", "nnls", "pilot", "starts"]

NEGLIGIBLE = 1e-6  # an amplitude whose share of y is below this at every point lies on its bound, 0
_CHUNK = 2**22  # numbers held at a time
_POINTS = 1000  # points that the mesh is evaluated at


def starts(law: Law, u: Array, t: Array, w: Array) -> Array:
    """The best meshes' values, amplitudes solved, [problems, starts, parameters].

    Args:
        u: Centred log scales, [problems or 1, axes, points].
        t: Centred log measurements, [problems or 1, points].
        w: Weights, [problems, points]; 0 for padding.
    """
    if w.shape[1] > _POINTS:  # enough to find the basin
        some = np.linspace(0, w.shape[1] - 1, _POINTS).astype(int)
        if (w[:, some].sum(axis=1) > 0).all():
            u, t, w = u[..., some], t[:, some], w[:, some]
    own = law.implicit or law.profile
    if own is not None:
        mesh, objective = own.starts(u, t, w)
        return _best(law, mesh, -objective, own.blocks)
    meshes = np.array(list(product(*(p.search for p in law.exponents))))
    k, m = len(law.amplitudes), len(meshes)
    if len(u) == len(t) == 1 < len(w):
        return _shared(law, u, t, w, meshes)
    rows = max(1, _CHUNK // (m * k * w.shape[1]))
    out = []
    for first in range(0, len(w), rows):
        part = slice(first, first + rows)
        one_u, one_t = (shared if len(shared) == 1 else shared[part] for shared in (u, t))
        out.append(_projected(law, one_u, one_t, w[part], meshes))
    return np.concatenate(out)


def _projected(law: Law, u: Array, t: Array, w: Array, mesh: Array) -> Array:
    """The best starts of problems with points of their own."""
    base = pilot(u, t, w)
    columns = _columns(law, u, base, mesh)
    weighted = columns * w[:, None, None, :]
    gram = weighted @ np.swapaxes(columns, 2, 3)
    moment = (weighted @ np.broadcast_to(1 + t - base, w.shape)[:, None, :, None])[..., 0]
    return _solved(law, columns.max(axis=3), gram, moment, mesh)


def _shared(law: Law, u: Array, t: Array, w: Array, mesh: Array) -> Array:
    """The best starts of problems that differ in their weights alone: terms are evaluated, and multiplied, once."""
    base = pilot(u, t, w)
    columns = _columns(law, u, base, mesh)[0]
    m, k, points = columns.shape
    products = (columns[:, :, None] * columns[:, None]).reshape(-1, points).T
    target = (columns * (1 + t - base)).reshape(-1, points).T
    largest = columns.max(axis=2)[None]
    rows = max(1, _CHUNK // (m * k * (k + len(law.parameters))))
    out = []
    for first in range(0, len(w), rows):
        part = w[first : first + rows]
        gram, moment = (part @ products).reshape(-1, m, k, k), (part @ target).reshape(-1, m, k)
        out.append(_solved(law, largest, gram, moment, mesh))
    return np.concatenate(out)


def _columns(law: Law, u: Array, pilot: Array, mesh: Array) -> Array:
    """The law's terms over the pilot, [problems or 1, mesh, terms, points]."""
    assert law.terms is not None
    logs, _ = law.terms(u[:, None], np.broadcast_to(mesh, (1, *mesh.shape)))
    shape = (len(pilot), len(mesh), pilot.shape[1])
    # Beyond e^300 a term is far from any fit; clipped, it stays finite.
    columns = np.stack([np.exp(np.clip(np.broadcast_to(g, shape) - pilot[:, None], -300, 300)) for g in logs], axis=2)
    columns *= np.array([a.high > 0 for a in law.amplitudes])[:, None]  # an amplitude that must be 0 has no column
    return np.asarray(columns)


def _solved(law: Law, largest: Array, gram: Array, moment: Array, mesh: Array) -> Array:
    """The best starts, from normal equations [problems, mesh, terms(, terms)] and each term's largest value."""
    amplitudes, gain = nnls(gram, moment)
    # A positive amplitude starts just above 0, where its logarithm still has a gradient.
    least = np.where([p.log for p in law.amplitudes], NEGLIGIBLE / np.maximum(largest, 1e-300), 0.0)
    amplitudes = np.maximum(amplitudes, least)
    tried = np.concatenate([amplitudes, np.broadcast_to(mesh, (len(gram), *mesh.shape))], axis=2)
    return _best(law, tried, gain, len(law.exponents[-1].search))


def _best(law: Law, tried: Array, gain: Array, blocks: int) -> Array:
    """The best mesh of each value of the last exponent, and of those the best `law.starts`: starts that differ."""
    each = gain.reshape(len(gain), -1, blocks)
    at = each.argmax(axis=1) * blocks + np.arange(blocks)
    order = np.argsort(-np.take_along_axis(gain, at, axis=1), axis=1)[:, : law.starts]
    return np.take_along_axis(tried, np.take_along_axis(at, order, axis=1)[..., None], axis=1)


def pilot(u: Array, t: Array, w: Array) -> Array:
    """A parabola in each log scale, through the points that count in any of the problems that share them."""
    count = w.mean(axis=0, keepdims=True) if len(u) == len(t) == 1 else w
    rows = np.concatenate([np.ones_like(u[:, :1]), u, u**2], axis=1)
    weighted = rows * count[:, None]
    gram = weighted @ np.swapaxes(rows, 1, 2)
    ridge = 1e-9 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(gram.shape[1])
    moment = weighted @ np.broadcast_to(t, count.shape)[..., None]
    return np.asarray((np.linalg.solve(gram + ridge, moment) * rows).sum(axis=1))


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
    k = moment.shape[-1]
    # Columns may be tiny, or collinear (an exponent near 0): scaled, with a last-digit ridge, the batch is solvable.
    scale = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    scale = np.where(scale > 0, scale, 1.0)
    gram = gram / (scale[..., :, None] * scale[..., None, :]) + 1e-13 * np.eye(k)
    moment = moment / scale
    flat_gram, flat_moment = gram.reshape(-1, k, k), moment.reshape(-1, k)
    solution = np.asarray(np.linalg.solve(flat_gram, flat_moment[..., None])[..., 0], dtype=np.float64)
    gain = (solution * flat_moment).sum(axis=-1)
    open_ = np.flatnonzero(~(solution >= 0).all(axis=-1))  # the others are done: all columns support them
    if open_.size:
        some, its_gain, optimal = _without_negative(flat_gram[open_], flat_moment[open_], solution[open_])
        solution[open_], gain[open_] = some, its_gain
        open_ = open_[~optimal]
    if open_.size:
        solution[open_], gain[open_] = _by_supports(flat_gram[open_], flat_moment[open_])
    return solution.reshape(moment.shape) / scale, gain.reshape(moment.shape[:-1])


def _without_negative(gram: Array, moment: Array, solution: Array) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """The solution on the columns that were not negative, its gain, and whether it is the optimum (Kuhn & Tucker)."""
    free = np.asarray(solution >= 0)
    masked = np.where(free[:, :, None] & free[:, None, :], gram, 0.0) + np.eye(moment.shape[-1]) * ~free[:, :, None]
    found = np.linalg.solve(masked, np.where(free, moment, 0.0)[..., None])[..., 0]
    slope = (gram @ found[..., None])[..., 0] - moment
    optimal = np.asarray(((found >= 0) & (free | (slope >= 0))).all(axis=-1))
    return np.asarray(found), np.asarray((found * moment).sum(axis=-1)), optimal


def _by_supports(gram: Array, moment: Array) -> tuple[Array, Array]:
    """The best feasible solution on any proper subset of the columns."""
    best, gain = np.zeros_like(moment), np.zeros(moment.shape[:-1])
    for size in range(1, moment.shape[-1]):
        for support in map(list, combinations(range(moment.shape[-1]), size)):
            solution = np.linalg.solve(gram[:, support][:, :, support], moment[:, support, None])[..., 0]
            lowered = (solution * moment[:, support]).sum(axis=-1)
            better = (solution >= 0).all(axis=-1) & (lowered > gain)
            candidate = np.zeros_like(moment)
            candidate[:, support] = solution
            best = np.where(better[:, None], candidate, best)
            gain = np.where(better, lowered, gain)
    return best, gain
