"""Shapes of the distribution of success rates, fitted to counts, and what each says of pass@k beyond the trials.

A Beta distribution, whose 1 - pass@k falls as k^-a (Kazdan et al. 2025, arXiv 2510.05197); a logit-normal, which has
fewer very hard problems than any Beta; and each beside a mass of impossible problems at a rate of 0, where
1 - pass@k has a floor. All are evaluated on the cells of a `Mesh`, many parameters at once: a grid of parameters is
narrowed until it frames the region of a likelihood within a drop of its maximum, so that the ends of 1 - pass@k in that
region are its profile likelihood interval, also where the maximum lies on a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.special import betaln, chdtrc, log_ndtr

from raysweep.laws.definition import Array
from raysweep.laws.mesh import Mesh

__all__ = ["SHAPES", "Shape", "Shaped"]

_SIDE = 25  # points of the grid along each parameter
_DROPS = (1000.0, 200.0, 50.0, 15.0, 6.0)  # of log likelihood, framed by the grids one after another
_NEAR = 0.1  # the same, around the estimate
_TINY = 1e-300
_EXPECTED = 5.0  # problems in a class of the chi-squared test
_CLASSES = 12  # at most


@dataclass(frozen=True)
class Shape:
    """A family of distributions of success rates.

    Attributes:
        name: As it is shown.
        cells: Log of each cell's share, [points, cells], from two parameters, [points], on a mesh.
        low, high: Bounds of the two parameters.
        impossible: Whether a third parameter is the share of impossible problems.
    """

    name: str
    cells: Callable[[Array, Array, Mesh], Array]
    low: tuple[float, float]
    high: tuple[float, float]
    impossible: bool

    @property
    def parameters(self) -> int:
        return 3 if self.impossible else 2


@dataclass(frozen=True)
class Shaped:
    """A shape fitted to counts.

    Attributes:
        shape: The family.
        aicc: Akaike's criterion with the correction for few problems.
        impossible: Share of impossible problems at the maximum.
        failure: 1 - pass@k at the maximum, [budgets], and its interval, [budgets, 2].
        p_value: Of the chi-squared test of counts against the fit.
    """

    shape: Shape
    aicc: float
    impossible: float
    failure: Array
    interval: Array
    p_value: float

    @classmethod
    def fitted(cls, shape: Shape, mesh: Mesh, weights: Array, drop: float) -> Shaped:
        """The fit of a shape to `weights` problems that have each of the mesh's counts, [pairs].

        Args:
            drop: How far the log likelihood may lie below its maximum in the interval.
        """
        sides = (_SIDE, _SIDE, _SIDE if shape.impossible else 1)
        low, high = np.array([*shape.low, 0.0]), np.array([*shape.high, 1.0 if shape.impossible else 0.0])
        for reach in (*(max(each, drop) for each in _DROPS), drop, _NEAR):
            points = _Points.on(shape, mesh, weights, low, high, sides)
            if reach == _NEAR:  # the grid frames the region now
                inside = points.failure(mesh)[points.log >= points.log.max() - drop]
            near = (points.log >= points.log.max() - 1.5 * reach).reshape(sides)
            for i in range(shape.parameters):
                held = np.flatnonzero(near.any(axis=tuple({0, 1, 2} - {i})))
                step = (high[i] - low[i]) / (_SIDE - 1)
                ends = low[i] + step * (held[0] - 1), low[i] + step * (held[-1] + 1)
                low[i], high[i] = max(low[i], ends[0]), min(high[i], ends[1])
        points = _Points.on(shape, mesh, weights, low, high, sides)
        at, missing = np.unravel_index(np.argmax(points.log), points.log.shape)
        most, impossible = float(points.log[at, missing]), float(points.missing[missing])
        share = (1 - impossible) * points.share[at]
        share[0] += impossible
        free, spare = shape.parameters, max(float(weights.sum()) - shape.parameters - 1, 1.0)
        return cls(
            shape=shape,
            aicc=2 * (free - most) + 2 * free * (free + 1) / spare,
            impossible=impossible,
            failure=points.failure(mesh)[at, missing],
            interval=np.stack([inside.min(axis=0), inside.max(axis=0)], axis=1),
            p_value=_p_value(share, free, mesh, weights),
        )


@dataclass(frozen=True)
class _Points:
    """A grid of parameters: shares of cells, [points, cells], shares of impossible problems, [missing], and the log
    likelihood, [points, missing].
    """

    share: Array
    missing: Array
    log: Array

    @classmethod
    def on(cls, shape: Shape, mesh: Mesh, weights: Array, low: Array, high: Array, sides: tuple[int, ...]) -> _Points:
        one, other, missing = (np.linspace(*each) for each in zip(low, high, sides, strict=True))
        first, second = (part.ravel() for part in np.meshgrid(one, other, indexing="ij"))
        share = np.exp(shape.cells(first, second, mesh))
        chance, never = share @ mesh.chance.T, mesh.chance[:, 0] == 1  # counts without a success
        some = np.log(np.maximum(chance[:, ~never], _TINY)) @ weights[~never]
        log = some[:, None] + weights[~never].sum() * np.log(np.maximum(1 - missing, _TINY))
        for zero, weight in zip(chance[:, never].T, weights[never], strict=True):
            log += weight * np.log(np.maximum(missing + (1 - missing) * zero[:, None], _TINY))
        return cls(share, missing, log)

    def failure(self, mesh: Mesh) -> Array:
        """1 - pass@k, [points, missing, budgets]."""
        missing = self.missing[:, None]
        return np.asarray(missing + (1 - missing) * (self.share @ mesh.failure)[:, None])


def _p_value(share: Array, free: int, mesh: Mesh, weights: Array) -> float:
    """Of a chi-squared test of counts against shares of cells that have `free` parameters; NaN for too few classes.

    Classes are intervals of the fit's distribution function that expect 5 problems or more. A problem whose count spans
    several adds to each its part (Czado, Gneiting and Held 2009), so that trials may differ.
    """
    high = np.clip(mesh.upto @ share, 0, 1)
    low = np.clip(high - mesh.chance @ share, 0, high)
    count = float(weights.sum())
    least, edges = max(_EXPECTED / count, 1 / _CLASSES), [0.0]
    for edge in np.unique(high):
        if edges[-1] + least <= edge <= 1 - least:
            edges.append(float(edge))
    bounds = np.array([*edges, 1.0])
    freedom = bounds.size - 2 - free
    if freedom < 1:
        return float("nan")
    part = np.diff(np.clip((bounds - low[:, None]) / np.maximum(high - low, _TINY)[:, None], 0, 1), axis=1)
    expected = count * np.diff(bounds)
    return float(chdtrc(freedom, float(((weights @ part - expected) ** 2 / expected).sum())))


def _beta(first: Array, second: Array, mesh: Mesh) -> Array:
    """Of a Beta with log a and log b: its density in log-odds; what lies below all cells counts as 0."""
    a, b = np.exp(first)[:, None], np.exp(second)[:, None]
    odds = mesh.odds[1:]
    inside = a * odds - (a + b) * np.logaddexp(0.0, odds) - betaln(a, b)
    edge = odds[:1] - mesh.step / 2
    return _whole(a * edge - np.log(a) - betaln(a, b), inside)


def _logit_normal(first: Array, second: Array, mesh: Mesh) -> Array:
    """Of log-odds that are normal with mean `first` and log standard deviation `second`."""
    mean, spread = first[:, None], np.exp(second)[:, None]
    odds = mesh.odds[1:]
    inside = -(((odds - mean) / spread) ** 2) / 2
    return _whole(log_ndtr((odds[:1] - mesh.step / 2 - mean) / spread), inside)


def _whole(below: Array, inside: Array) -> Array:
    """Log shares of the atom and the cells that sum to 1; the cells' are given up to a factor."""
    below = np.minimum(below, -1e-12)
    inside = inside - inside.max(axis=1, keepdims=True)
    inside -= np.log(np.exp(inside).sum(axis=1, keepdims=True))
    return np.concatenate([below, inside + np.log(-np.expm1(below))], axis=1)


SHAPES = tuple(
    Shape(name + (" with impossible problems" if impossible else ""), cells, low, high, impossible)
    for (name, cells, low, high), impossible in product(
        (
            ("Beta", _beta, (-7.0, -3.0), (5.0, 12.0)),
            ("logit-normal", _logit_normal, (-25.0, -2.0), (15.0, 2.5)),
        ),
        (False, True),
    )
)
