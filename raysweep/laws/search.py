"""The search of starts where y is linear in some parameters of any sign: those are solved at every point of a mesh.

As in `start`, log residuals are linearised about a parabola through the logs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from raysweep.laws.definition import Array, Evaluate, Parameter
from raysweep.laws.start import NEGLIGIBLE, nnls, pilot

__all__ = ["Search", "best", "solved"]

Search: TypeAlias = Callable[[Array, Array, Array], tuple[Array, Array]]  # see `Implicit.starts`

_CHUNK = 2**21  # numbers of the mesh held at a time


def solved(
    value: Evaluate, parameters: Sequence[Parameter], linear: Sequence[int], mesh: Array, u: Array, t: Array, w: Array
) -> tuple[Array, Array]:
    """The mesh, [problems, mesh, parameters], with its linear parameters solved, and its objective; inf where y is not
    positive at every point.

    Args:
        value: y and its derivative in each parameter; see `Implicit.value`.
        linear: Parameters that y is linear in.
        mesh: Parameter values, [problems or 1, mesh, parameters]; those of linear parameters do not matter.
        u: Log scales, [problems or 1, axes, points].
        t: Log measurements, [problems or 1, points].
        w: Weights, [problems, points]; points of weight 0 do not count.
    """
    rows = max(1, _CHUNK // (mesh.shape[1] * (len(parameters) + 1) * w.shape[1]))
    parts = []
    for first in range(0, len(w), rows):
        part = slice(first, first + rows)
        one_u, one_t, one_mesh = (shared if len(shared) == 1 else shared[part] for shared in (u, t, mesh))
        with np.errstate(all="ignore"):  # a mesh may overflow; what is not finite is not taken
            parts.append(_solved(value, parameters, list(linear), one_mesh, one_u, one_t, w[part]))
    values, objective = (np.concatenate(each) for each in zip(*parts, strict=True))
    return values, objective


def best(values: Array, objective: Array, group: Sequence[int]) -> tuple[Array, Array]:
    """The best point of each group of a mesh, [problems, groups, parameters], and its objective; the best of all where
    a group has none that is finite.

    Args:
        group: The group, from 0, of each point of the mesh.
    """
    member, row = np.asarray(group), np.arange(len(objective))
    at = np.stack(
        [np.where(member == g, objective, np.inf).argmin(axis=1) for g in range(int(member.max()) + 1)], axis=1
    )
    chosen = objective[row[:, None], at]
    at = np.where(np.isfinite(chosen), at, objective.argmin(axis=1)[:, None])
    return values[row[:, None], at], objective[row[:, None], at]


def _solved(
    value: Evaluate, parameters: Sequence[Parameter], linear: list[int], mesh: Array, u: Array, t: Array, w: Array
) -> tuple[Array, Array]:
    values = np.array(np.broadcast_to(mesh, (len(w), *mesh.shape[1:])))
    if linear:
        unit = mesh.copy()
        unit[..., linear] = 1.0
        y, slopes = value(u[:, None], unit)
        columns = np.stack([np.broadcast_to(slopes[j], y.shape) for j in linear], axis=2)
        base = np.exp(pilot(u, t, w))[:, None]
        rest = (y - columns.sum(axis=2)) / base  # what the other parameters make of y
        columns = columns / base[:, :, None]
        usable = np.isfinite(columns).all(axis=(2, 3)) & np.isfinite(rest).all(axis=2)
        columns, rest = np.where(usable[..., None, None], columns, 0.0), np.where(usable[..., None], rest, 0.0)
        target = 1 + t[:, None] - np.log(base) - rest
        weighted = columns * w[:, None, None]
        gram, moment = weighted @ np.swapaxes(columns, 2, 3), (weighted @ target[..., None])[..., 0]
        found = _within_signs(gram, moment, [parameters[j].low >= 0 for j in linear])
        least = np.where([parameters[j].log for j in linear], NEGLIGIBLE / np.abs(columns).max(axis=3), -np.inf)
        found = np.maximum(found, np.where(np.isfinite(least), least, -np.inf))
        low, high = ([getattr(parameters[j], end) for j in linear] for end in ("low", "high"))
        values[..., linear] = np.where(usable[..., None], np.clip(found, low, high), np.nan)
    y, _ = value(u[:, None], values)
    squares = (w[:, None] * np.where(w[:, None] > 0, np.log(y) - t[:, None], 0.0) ** 2).sum(axis=2)
    return values, np.where(np.isfinite(squares), squares, np.inf)


def _within_signs(gram: Array, moment: Array, bounded: list[bool]) -> Array:
    """Least squares from normal equations, [..., k, k] and [..., k], where `bounded` parameters are at least 0: the
    others are eliminated first."""
    scale = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    scale = np.where(scale > 0, scale, 1.0)
    gram = gram / (scale[..., :, None] * scale[..., None, :]) + 1e-13 * np.eye(moment.shape[-1])
    moment = moment / scale
    held, free = (np.flatnonzero(np.array(bounded) == side) for side in (True, False))
    out = np.zeros_like(moment)
    cross = gram[..., held[:, None], free]
    if free.size:
        inverse = np.linalg.inv(gram[..., free[:, None], free])
    else:
        inverse = np.zeros((*gram.shape[:-2], 0, 0))
    if held.size:
        through = cross @ inverse
        reduced = gram[..., held[:, None], held] - through @ np.swapaxes(cross, -1, -2)
        out[..., held], _ = nnls(reduced, moment[..., held] - (through @ moment[..., free, None])[..., 0])
    left = moment[..., free] - (np.swapaxes(cross, -1, -2) @ out[..., held, None])[..., 0]
    out[..., free] = (inverse @ left[..., None])[..., 0]
    return np.asarray(out / scale)
