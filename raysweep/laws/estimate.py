"""Estimates: a law fitted to many weightings of the same points, or to many sets of points, as one array.

Amplitudes are eliminated inside a mesh over the exponents (`start`), then all parameters settle together (`polish`).
The objective is summed, never averaged: an averaged one stops optimisers early (Besiroglu et al. 2024, 2404.10102).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError
from raysweep.laws.definition import Array, Law
from raysweep.laws.merged import merged, spread
from raysweep.laws.polish import ITERATIONS, Optima, Problems, polish
from raysweep.laws.start import NEGLIGIBLE, starts

__all__ = ["Estimate", "Status", "check", "distinct", "estimate", "scales_of", "solve"]

_ROUGH = 1e-3  # tolerance of a search that only leads to where another begins
_MANY = 20_000  # points beyond which the search is one of merged points, and only its end one of all
_FEW = 150  # points that suffice for it
_OFF_LINE = 0.05  # two scales closer to one line than this share of their spread are one scale
_CHUNK = 2**16  # points of problems that are solved together: what a core's cache holds


class Status(IntEnum):
    """How a fit ended. Each of the three leaves a usable estimate."""

    CONVERGED = 0
    BOUND_HIT = 1
    MAX_ITER = 2


@dataclass(frozen=True)
class Estimate:
    """A law fitted to problems that differ in their weights or in their points.

    Attributes:
        values: Parameter values in the caller's units, [problems, parameters].
        objective: Weighted sum of squared log residuals (or of Huber's loss), [problems].
        status: `Status` of each fit, [problems].
    """

    law: Law
    values: Array
    objective: Array
    status: npt.NDArray[np.int64]


def scales_of(law: Law, x: npt.ArrayLike) -> Array:
    """x as [axes, points].

    Raises:
        FitError: x has another number of axes than the law.
    """
    found = np.atleast_2d(np.asarray(x, dtype=np.float64))
    if found.ndim != 2 or len(found) != len(law.axes):
        raise FitError(
            f"The law {law.name!r} ({law.formula}) has {len(law.axes)} scales, {', '.join(law.axes)}, "
            f"but {len(found)} were given. Name one column for each."
        )
    return found


def distinct(x: Array) -> int:
    """How many distinct points of scales there are in x, [axes, points]."""
    return int(np.unique(x[0]).size if len(x) == 1 else np.unique(x, axis=1).shape[1])


def _straight(x: Array) -> float:
    """How far log scales, [2, points], stray from a line, as a share of their spread: sqrt(1 - r^2)."""
    r = float(np.corrcoef(np.log(x))[0, 1])
    return float(np.sqrt(max(0.0, 1.0 - r * r)))


def check(law: Law, x: Array, y: Array) -> None:
    """Refuse points to which `law` cannot be fitted on the log scale; x is [axes, points].

    Raises:
        FitError: A value of x or y is not positive and finite, or there are too few distinct scales.
    """
    several = len(law.axes) > 1
    for name, values in [*zip(law.axes if several else ("x",), x, strict=True), ("y", y)]:
        bad = values[~((values > 0) & np.isfinite(values))]
        if bad.size:
            raise FitError(
                f"A fit on the log scale needs positive, finite {name}, but {bad.size} of {values.size} are not "
                f"(the first is {bad[0]:g}). Remove those points, or fit a quantity that stays above 0."
            )
    for name, values, need in zip(law.axes, x, law.levels, strict=True) if several else ():
        have = np.unique(values).size
        if have < need:
            raise FitError(
                f"The law {law.name!r} ({law.formula}) needs at least {need} distinct {name}, but there are {have}. "
                f"Add values of {name}."
            )
    if law.costs and _straight(x) < _OFF_LINE:
        raise FitError(
            f"The law {law.name!r} ({law.formula}) needs {' and '.join(law.axes)} that vary independently, but "
            f"here one follows from the other (in logs, to {_straight(x):.1%} of its spread): their terms cannot be "
            "distinguished. Add points off the line, or fit one scale."
        )
    scales = distinct(x)
    if scales < law.fewest_scales:
        raise FitError(
            f"The law {law.name!r} ({law.formula}) needs at least {law.fewest_scales} distinct scales, "
            f"but got {scales}. Add scales."
        )


def estimate(
    law: Law,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    huber: float | None = None,
    start: npt.ArrayLike | None = None,
    relative: float = 1e-13,
) -> Estimate:
    """Minimise `sum_i w_i (log y_i - log law(x_i))^2` for every row w of `weights`.

    Args:
        x: Scales, positive, [points] or [axes, points].
        y: Measurements, positive, [points]; [problems, points] where every problem has its own.
        weights: Non-negative, [problems, points] or [points]; all 1 if not given. Only their ratios matter to the
            estimate; a weight of 2 equals the point given twice. Each problem is taken to keep enough scales.
        huber: Take Huber's loss instead of the square (r^2 / 2 within `huber`, linear beyond; Hoffmann et al. use
            1e-3).
        start: Parameters to start from in place of the search, [parameters]: for draws around an estimate.
        relative: A step that promises less than this share of the objective is the last.

    Raises:
        FitError: See `check`; or the weights are negative, not finite, or of another shape.
    """
    scales, y = scales_of(law, x), np.asarray(y, dtype=np.float64)
    check(law, scales, y)
    w = np.atleast_2d(np.ones(y.shape[-1]) if weights is None else np.asarray(weights, dtype=np.float64))
    if len(np.atleast_2d(y)) > 1 and len(w) == 1:
        w = np.broadcast_to(w, y.shape)
    if w.shape[1:] != y.shape[-1:] or not (np.isfinite(w).all() and (w >= 0).all() and w.any(axis=1).all()):
        raise FitError(
            f"Weights must be finite, >= 0 and not all 0, one per point: there are {y.shape[-1]} points and "
            f"weights of shape {w.shape}. Pass multiplicities or inverse variances."
        )
    values = None if start is None else np.asarray(start, dtype=np.float64)[None]
    return solve(law, np.log(scales)[None], np.log(np.atleast_2d(y)), w, huber, values, relative)


def solve(
    law: Law,
    u: Array,
    t: Array,
    w: Array,
    huber: float | None = None,
    start: Array | None = None,
    relative: float = 1e-13,
    iterations: int = ITERATIONS,
    known: Array | None = None,
) -> Estimate:
    """`estimate` for points that are already checked, each problem with its own if there are as many as weights.

    Args:
        u: Log scales, [problems or 1, axes, points].
        t: Log measurements, [problems or 1, points].
        w: Weights, [problems, points]; 0 pads problems of fewer points (whose u and t are then any finite numbers).
        start: Parameters to start from, [problems or 1, parameters].
        iterations: Steps of the polish at most.
        known: Parameters of an optimum of each problem, [problems, parameters]: searches that come close to it stop,
            and the result is only to be used where its objective is lower.
    """
    if start is None and len(u) == len(t) == 1 and w.shape[1] > _MANY:
        few = merged(u[0], t[0], w) if huber is None else spread(u[0], t[0], w, _MANY)
        if few is not None:
            start = solve(law, few[0][None], few[1][None], few[2], huber, None, relative, iterations).values
    # Centred logs: amplitudes and exponents are then nearly uncorrelated, and units cannot matter.
    there = np.asarray((w > 0).any(axis=0, keepdims=True) if len(u) == len(t) == 1 else w > 0)
    count = there.sum(axis=1)
    u0 = (u * there[:, None]).sum(axis=2) / count[:, None] * np.array(law.centred)
    t0 = (t * there).sum(axis=1) / count * law.levelled
    if len(u) == 1:  # scales that problems share stay shared
        u0 = u0.mean(axis=0, keepdims=True)
    u, t = u - u0[..., None], t - t0[:, None]
    parts = []
    rows = max(1, _CHUNK // w.shape[1])
    for first in range(0, len(w), rows):
        part = slice(first, first + rows)
        one_u, one_t, one_u0, one_t0 = (a if len(a) == 1 else a[part] for a in (u, t, u0, t0))
        begin, problems = None, Problems(law, one_u, one_t, w[part], huber)
        if start is not None:
            begin = law.restore(start if len(start) == 1 else start[part], -one_u0, -one_t0)
            problems = problems.compact() if len(u) == 1 else problems
        optima = None if known is None else law.restore(known[part], -one_u0, -one_t0)
        values, objective, status = _solved(problems, begin, relative, iterations, optima)
        parts.append((law.restore(values, one_u0, one_t0), objective, status))
    values, objective, status = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Estimate(law, values, objective, status)


def _solved(
    problems: Problems, begin: Array | None, relative: float, iterations: int, known: Array | None = None
) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """The best optimum of each problem from its starts, or from `begin`."""
    law, n = problems.law, len(problems.w)
    if begin is None:
        tried = starts(law, problems.u, problems.t, problems.w)
        several = tried.shape[1]
        own = problems.compact() if len(problems.u) == 1 < n else problems
        each = np.repeat(np.arange(n), several)
        many, optima = own.take(each), None if known is None else Optima.of(own, known).take(each)
        q = many.encode(tried.reshape(n * several, -1))
        if problems.huber is not None and (several == 1 or optima is not None):
            # The square's optimum is a better start than the mesh's, and its search the quicker one.
            square = Problems(law, many.u, many.t, many.w)
            q, _, _ = polish(square, q, 1e-6) if several == 1 else polish(square.thinned(_FEW), q, _ROUGH)
        q, objective, converged = polish(many, q, relative, iterations, optima)
        best = objective.reshape(n, several).argmin(axis=1) + several * np.arange(n)
        q, objective, converged = q[best], objective[best], converged[best]
    else:
        q = problems.encode(np.broadcast_to(begin, (n, begin.shape[1])))
        q, objective, converged = polish(problems, q, relative, iterations)
    values = problems.decode(q)
    at_bound = ((q <= problems.low) | (q >= problems.high)).any(axis=1) | _negligible(problems, values)
    status = np.where(converged, np.where(at_bound, Status.BOUND_HIT, Status.CONVERGED), Status.MAX_ITER)
    return values, objective, status


def _negligible(problems: Problems, values: Array) -> npt.NDArray[np.bool_]:
    """Whether some amplitude adds next to nothing at any point: it lies on its bound, 0."""
    law, k = problems.law, len(problems.law.amplitudes)
    with np.errstate(all="ignore"):  # at the padding
        _, rows = law.evaluate(problems.u, values)
        shares = [np.where(problems.w > 0, rows[j] * values[:, j, None], 0.0).max(axis=1) for j in range(k)]
    return np.any([share < NEGLIGIBLE for share in shares], axis=0) if shares else np.zeros(len(values), dtype=bool)
