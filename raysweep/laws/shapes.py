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
from scipy.special import bdtr, betaln, chdtrc, expit, log_ndtr

from raysweep.laws.definition import Array
from raysweep.laws.mesh import Mesh

__all__ = ["SHAPES", "Shape", "Shaped", "misfit"]

_SIDE = 25  # points of the grid along each parameter
_DROPS = (1000.0, 200.0, 50.0, 15.0, 6.0)  # of log likelihood, framed by the grids one after another
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
        likelihood: Largest log likelihood.
        aicc: Akaike's criterion with the correction for few problems.
        share: Share of each cell at the maximum, [cells].
        impossible: Share of impossible problems at the maximum.
        failure: 1 - pass@k at the maximum, [budgets], and its interval, [budgets, 2].
        p_value: Of the chi-squared test of counts against the fit.
    """

    shape: Shape
    likelihood: float
    aicc: float
    share: Array
    impossible: float
    failure: Array
    interval: Array
    p_value: float

    @classmethod
    def fitted(cls, shape: Shape, mesh: Mesh, weights: Array, drop: float) -> Shaped:
        """The fit of a shape to `weights` problems of each of the mesh's counts, [pairs]; see `Shape`, `extremes`."""
        low, high = np.array([*shape.low, 0.0]), np.array([*shape.high, 1.0])
        sides = (_SIDE, _SIDE, _SIDE if shape.impossible else 1)
        for reach in (*(max(each, drop) for each in _DROPS), drop, None):
            axes = [np.linspace(a, b, side) for a, b, side in zip(low, high, sides, strict=True)]
            if not shape.impossible:
                axes[2] = np.zeros(1)
            first, second = (part.ravel() for part in np.meshgrid(axes[0], axes[1], indexing="ij"))
            share = np.exp(shape.cells(first, second, mesh))
            likely = share @ mesh.chance.T  # [points, pairs]
            log = np.zeros((first.size, axes[2].size))
            for j, missing in enumerate(axes[2]):
                log[:, j] = np.log(np.maximum(missing * mesh.chance[:, 0] + (1 - missing) * likely, _TINY)) @ weights
            best = np.unravel_index(np.argmax(log), log.shape)
            if reach is None:
                break
            near = (log >= log[best] - 1.5 * reach).reshape(_SIDE, _SIDE, -1)
            for i, axis in enumerate(axes[: shape.parameters]):
                held = np.flatnonzero(near.any(axis=tuple({0, 1, 2} - {i})))
                margin = axis[1] - axis[0]
                low[i], high[i] = max(low[i], axis[held[0]] - margin), min(high[i], axis[held[-1]] + margin)
        missing = axes[2]
        failure = (share @ mesh.failure)[:, None] * (1 - missing[:, None]) + missing[:, None]
        inside = failure[log >= log[best] - drop]
        count, most = float(weights.sum()), float(log[best])
        mix = (1 - missing[best[1]]) * share[best[0]]
        mix[0] += missing[best[1]]
        spare = max(count - shape.parameters - 1, 1.0)
        return cls(
            shape=shape,
            likelihood=most,
            aicc=2 * (shape.parameters - most) + 2 * shape.parameters * (shape.parameters + 1) / spare,
            share=mix,
            impossible=float(missing[best[1]]),
            failure=failure[best],
            interval=np.stack([inside.min(axis=0), inside.max(axis=0)], axis=1),
            p_value=float("nan"),
        )


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
    Shape(name + (" and impossible problems" if impossible else ""), cells, low, high, impossible)
    for (name, cells, low, high), impossible in product(
        (
            ("Beta", _beta, (-7.0, -3.0), (5.0, 12.0)),
            ("logit-normal", _logit_normal, (-25.0, -2.0), (15.0, 2.5)),
        ),
        (False, True),
    )
)


def misfit(shaped: Shaped, mesh: Mesh, c: Array, n: Array, weights: Array) -> float:
    """p-value of a chi-squared test of counts c of n, [pairs], against a fit; NaN where classes are too few.

    Classes are intervals of the fit's distribution function, with an expectation of 5 problems or more each. A problem
    whose count spans several adds to each its part (Czado, Gneiting and Held 2009), so that trials may differ.
    """
    rates = expit(mesh.odds)
    upto = bdtr(c[:, None], n[:, None], rates) @ shaped.share
    high = np.clip(upto, 0, 1)
    low = np.clip(high - mesh.chance @ shaped.share, 0, high)
    count = float(weights.sum())
    least, edges = max(_EXPECTED / count, 1 / _CLASSES), [0.0]
    for edge in np.unique(high):
        if edge >= edges[-1] + least and edge <= 1 - least:
            edges.append(float(edge))
    bounds = np.array([*edges, 1.0])
    freedom = bounds.size - 2 - shaped.shape.parameters
    if freedom < 1:
        return float("nan")
    part = np.diff(np.clip((bounds - low[:, None]) / np.maximum(high - low, _TINY)[:, None], 0, 1), axis=1)
    expected = count * np.diff(bounds)
    return float(chdtrc(freedom, float(((weights @ part - expected) ** 2 / expected).sum())))
