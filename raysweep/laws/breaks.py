"""Laws of several breaks: broken neural scaling laws (Caballero et al. 2023, arXiv 2210.14891, eq. 1).

y = E + A x^-c_0 prod_i (1 + (x / d_i)^(1 / f_i))^(-c_i f_i), written in the slopes alpha_i = c_0 + ... + c_i that its
segments have in logs: c_i is the change at the break d_i, f_i its width. Slopes may have either sign, so that a curve
may rise and fall; `broken` is the case of one break and falling slopes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, product

import numpy as np

from raysweep.laws.definition import Array, Derived, Law, Parameter, Profile
from raysweep.laws.terms import Restored, broken, broken_restore, softplus

__all__ = ["BREAKS"]

_MOST = 3  # breaks: 11 parameters
_STEEPEST = 10.0
_FLOORS = (0.0, 0.6, 0.9, 0.99)  # E over the least y, in the search of starts
_WIDTHS = (0.15, 0.7)  # f of all breaks
_PLACES = {1: 12, 2: 9, 3: 8}  # positions in a search, evenly spaced in log x
_CHUNK = 2**20  # numbers of the normal equations held at a time
_RIDGE = 1e-10


def breaks(count: int) -> Law:
    """The law of `count` breaks."""
    names = range(1, count + 1)
    factors = " ".join(f"(1 + (x / d{i})^(1 / f{i}))^((alpha{i - 1} - alpha{i}) f{i})" for i in names)
    exponents = [_slope(0)]
    for i in names:
        exponents += [
            _slope(i),
            Parameter(f"d{i}", "x", 0.0, math.inf, log=True),
            Parameter(f"f{i}", "1", 0.03, 3.0, log=True),
        ]
    fewest = 3 * count + 5
    return Law(
        name=f"bnsl{count}",
        formula=f"y = E + A x^-alpha0 {factors}",
        axes=("x",),
        amplitudes=(
            Parameter("E", "y", 0.0, math.inf),
            Parameter("A", "y x^alpha0", 0.0, math.inf, log=True),
        ),
        exponents=tuple(exponents),
        fewest_scales=fewest,
        source=f"Caballero et al. 2023, arXiv 2210.14891, eq. 1, {count} break{'s' * (count > 1)}",
        when=f"A curve whose slope in logs changes {('once', 'twice', 'three times')[count - 1]}, also from falling to "
        f"rising. Needs {fewest} scales.",
        terms=broken,
        restore_terms=_ordered,
        levels=(fewest,),
        starts=3,
        profile=Profile(_search(count), len(_FLOORS) * len(_WIDTHS)),
        derived=tuple(Derived(f"c{i}", f"change of slope at d{i}", _change(i)) for i in names),
        rivals=(*(f"bnsl{n}" for n in (count - 1, count + 1) if 0 < n <= _MOST), "power+floor", "shifted"),
        surrounded=tuple(f"d{i}" for i in names),
    )


def _slope(i: int) -> Parameter:
    return Parameter(f"alpha{i}", "1", -_STEEPEST, _STEEPEST)


def _change(i: int) -> Callable[[Array], Array]:
    """alpha_i - alpha_(i-1), from E, A, alpha_0, then alpha_i, d_i, f_i of each break."""
    return lambda values: values[..., 3 * i] - values[..., max(3 * (i - 1), 2)]


def _ordered(q: Array, u0: Array) -> Restored:
    """Breaks in the order of their positions: the law is the same in any."""
    out, grown = broken_restore(q, u0)
    if out.shape[-1] > 4:
        order = np.argsort(out[..., 2::3], axis=-1)
        slopes = np.concatenate([out[..., :1], out[..., 1::3]], axis=-1)
        turns = np.take_along_axis(np.diff(slopes, axis=-1), order, axis=-1)
        out[..., 1::3] = out[..., :1] + np.cumsum(turns, axis=-1)
        for at in (2, 3):
            out[..., at::3] = np.take_along_axis(out[..., at::3], order, axis=-1)
    return out, grown


def _search(count: int) -> Callable[[Array, Array, Array], tuple[Array, Array]]:
    """The search of starts: for every choice of positions, a width and a floor, log(y - E) is linear in the rest."""
    places = (np.arange(_PLACES[count]) + 0.5) / _PLACES[count]
    chosen = np.array(list(combinations(places, count)))  # [choices, breaks]
    mesh = [(i, width) for i, width in product(range(len(chosen)), _WIDTHS)]
    share = chosen[[i for i, _ in mesh]]
    widths = np.array([width for _, width in mesh])

    def search(u: Array, t: Array, w: Array) -> tuple[Array, Array]:
        k = count + 2
        rows = max(1, _CHUNK // (len(mesh) * len(_FLOORS) * k * k + len(mesh) * k * u.shape[-1]))
        parts = []
        for first in range(0, len(w), rows):
            part = slice(first, first + rows)
            one_u, one_t = (shared if len(shared) == 1 else shared[part] for shared in (u, t))
            parts.append(_solved(share, widths, one_u[:, 0], one_t, w[part]))
        values, objective = (np.concatenate(each) for each in zip(*parts, strict=True))
        return values, objective

    return search


def _solved(share: Array, widths: Array, u: Array, t: Array, w: Array) -> tuple[Array, Array]:
    """Parameters, [problems, mesh * floors, parameters], and their objective.

    Args:
        share: Positions of the breaks as shares of the range of log x, [mesh, breaks].
        widths: f of all breaks, [mesh].
        u: Log scales, [problems or 1, points].
        t: Log measurements, [problems or 1, points].
        w: Weights, [problems, points].
    """
    problems, points = w.shape
    low, high = u.min(axis=1), u.max(axis=1)
    at = low[:, None, None] + (high - low)[:, None, None] * share  # [problems or 1, mesh, breaks]
    v = (u[:, None, None] - at[..., None]) / widths[:, None, None]
    line = np.broadcast_to(np.stack([np.ones_like(u), -u], axis=1)[:, None], (len(u), len(share), 2, points))
    columns = np.concatenate([line, -widths[:, None, None] * softplus(v)], axis=2)  # [problems or 1, mesh, k, points]
    y = np.broadcast_to(np.exp(t), w.shape)
    floor = np.multiply.outer(np.where(w > 0, y, np.inf).min(axis=1), _FLOORS)  # [problems, floors]
    above = np.maximum(y[:, None] - floor[..., None], 1e-300)
    weight = w[:, None] * (above / y[:, None]) ** 2  # a residual of log(y - E), as one of log y
    target = np.where(w[:, None] > 0, np.log(above), 0.0)
    k = columns.shape[2]
    pairs = np.moveaxis((columns[:, :, :, None] * columns[:, :, None]).reshape(len(u), -1, points), 1, 2)
    flat = np.moveaxis(columns.reshape(len(u), -1, points), 1, 2)
    gram = (weight @ pairs).reshape(problems, len(_FLOORS), len(share), k, k)
    moment = ((weight * target) @ flat).reshape(problems, len(_FLOORS), len(share), k)
    scale = np.sqrt(np.maximum(np.diagonal(gram, axis1=-2, axis2=-1), 1e-300))
    gram = gram / (scale[..., :, None] * scale[..., None, :]) + _RIDGE * np.eye(k)
    found = np.linalg.solve(gram, (moment / scale)[..., None])[..., 0] / scale
    total = (weight * target**2).sum(axis=2)
    objective = total[..., None] - (found * moment).sum(axis=-1)
    slopes = np.clip(np.cumsum(found[..., 1:], axis=-1), -_STEEPEST, _STEEPEST)
    shape = objective.shape
    parts = [floor[..., None], np.exp(np.clip(found[..., 0], -300, 300)), slopes[..., 0]]
    for i in range(share.shape[1]):
        parts += [slopes[..., i + 1], np.exp(at[:, None, :, i]), widths]
    values = np.stack([np.broadcast_to(part, shape) for part in parts], axis=-1)
    # The mesh's fastest index is floor and width, for each choice of positions.
    values = np.moveaxis(values.reshape(problems, len(_FLOORS), -1, len(_WIDTHS), len(parts)), 1, 3)
    objective = np.moveaxis(objective.reshape(problems, len(_FLOORS), -1, len(_WIDTHS)), 1, 3)
    return values.reshape(problems, -1, len(parts)), objective.reshape(problems, -1)


BREAKS = tuple(breaks(count) for count in range(1, _MOST + 1))
