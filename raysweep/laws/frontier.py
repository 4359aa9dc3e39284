"""The compute-optimal frontier `N*(C) = G C^a`: what the three approaches of Hoffmann et al. (2022) share.

Each approach leaves an estimate and draws of its line; `joint` takes them from a fitted joint law (Approach 3), the
other two are in `envelope` and `isoflop`. `compare_approaches` says where approaches disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError
from raysweep.laws.allocate import Cost, optimal_line
from raysweep.laws.definition import Array, Law
from raysweep.laws.draws import Sample
from raysweep.laws.reach import check_reach

__all__ = ["FEWEST", "Comparison", "Frontier", "compare_approaches", "itself", "joint", "positive"]

FEWEST = 3  # optima that a line of two parameters needs


@dataclass(frozen=True)
class Frontier:
    """The compute-optimal scale at each budget, `N*(C) = G C^a`, as one approach sees it.

    N is whatever scale the approach was given (parameters, or tokens for D*); the other is `C / (c N*)`.

    Attributes:
        approach: `envelope` (Approach 1), `isoflop` (2) or `joint` (3).
        sample: Values and draws the line follows from.
        line: Values, [..., parameters], to (log G, a), [..., 2].
        c: FLOPs per unit of N D.
        window: Least and greatest compute behind the line.
        details: A sentence for each note code.
    """

    approach: str
    sample: Sample
    line: Callable[[Array], Array] = field(repr=False)
    c: float
    window: tuple[float, float]
    details: Mapping[str, str]

    @property
    def a(self) -> float:
        """Exponent of N*; that of D* is 1 - a."""
        return float(self.line(self.sample.values)[1])

    @property
    def g(self) -> float:
        """G: N* at 1 FLOP."""
        return float(np.exp(self.line(self.sample.values)[0]))

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.details)

    def n(self, compute: npt.ArrayLike) -> Array:
        """N* at each budget, [budgets]."""
        return self._n(np.asarray(compute, dtype=np.float64))(self.sample.values)

    def d(self, compute: npt.ArrayLike) -> Array:
        """D* = C / (c N*) at each budget, [budgets]."""
        compute = np.asarray(compute, dtype=np.float64)
        return np.asarray(compute / (self.c * self.n(compute)))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Low and high of the exponent a."""
        low, high = self.sample.interval_of(lambda values: self.line(values)[..., 1], level)
        return float(low), float(high)

    def n_interval(self, compute: npt.ArrayLike, level: float = 0.95) -> Array:
        """Low and high of N* at each budget, [budgets, 2]."""
        return self.sample.interval_of(self._n(np.asarray(compute, dtype=np.float64)), level, log=True)

    def d_interval(self, compute: npt.ArrayLike, level: float = 0.95) -> Array:
        """Low and high of D* at each budget, [budgets, 2]."""
        compute = np.asarray(compute, dtype=np.float64)
        return np.asarray(compute[..., None] / (self.c * self.n_interval(compute, level)[..., ::-1]))

    def _n(self, compute: Array) -> Callable[[Array], Array]:
        def n(values: Array) -> Array:
            line = self.line(values)
            start = line[..., 0].reshape(line.shape[:-1] + (1,) * compute.ndim)
            # An extreme draw must not overflow.
            return np.exp(np.clip(start + np.multiply.outer(line[..., 1], np.log(compute)), -700.0, 700.0))

        return n


def joint(law: Law, sample: Sample, compute: npt.ArrayLike, c: float = 6.0) -> Frontier:
    """Approach 3: the frontier of a fitted `E + A N^-alpha + B D^-beta` in closed form.

    `a = beta / (alpha + beta)` and `N* = (alpha A / (beta B))^(1 / (alpha + beta)) (C / c)^a` (Hoffmann et al. 2022,
    arXiv 2203.15556, eq. 4).

    Args:
        law: `chinchilla`, or another law of that form.
        sample: Its bootstrap.
        compute: FLOPs of the runs behind the fit; only the extremes count.
        c: FLOPs per unit of N D.

    Raises:
        FitError: The law is of another form, or an exponent is 0 (`no_interior_optimum`).
    """
    cost = Cost(c)

    def line(values: Array) -> Array:
        found = optimal_line(law, values, cost)
        found[..., 0] -= found[..., 1] * np.log(c)
        return found

    if not np.isfinite(line(sample.values)).all():
        raise FitError(
            f"A frontier needs a loss that falls along both {' and '.join(law.axes)}, but one of the exponents or "
            "amplitudes is 0 (no_interior_optimum). Add runs that vary that scale."
        )
    compute = np.asarray(compute, dtype=np.float64)
    return Frontier("joint", sample, line, c, (float(compute.min()), float(compute.max())), {})


@dataclass(frozen=True)
class Comparison:
    """N* of several approaches at one budget.

    Attributes:
        n: N* of each approach, by name.
        intervals: Low and high of each.
        details: A sentence for each note code (`approaches_disagree`, `extrapolated`).
    """

    compute: float
    n: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    details: Mapping[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.details)


def compare_approaches(
    frontiers: Sequence[Frontier], compute: float, *, factor: float = 1.5, level: float = 0.95
) -> Comparison:
    """Disagreement of approaches on N* at a budget: disjoint intervals, or estimates more than `factor` apart."""
    for line in frontiers:
        check_reach("A budget of training", [compute], f"compute of {line.approach} that was", line.window)
    n = {f.approach: float(f.n(compute)) for f in frontiers}
    ends = {f.approach: f.n_interval(compute, level) for f in frontiers}
    quarrels = []
    for one, other in combinations(n, 2):
        ratio = max(n[one], n[other]) / min(n[one], n[other])
        apart = bool(max(ends[one][0], ends[other][0]) > min(ends[one][1], ends[other][1]))
        if apart or ratio > factor:
            said = " and ".join(f"{k} {n[k]:.3g} [{ends[k][0]:.3g}, {ends[k][1]:.3g}]" for k in (one, other))
            quarrels.append(f"{said} ({ratio:.2f} times apart, intervals {'disjoint' if apart else 'overlapping'})")
    details = {}
    if quarrels:
        details["approaches_disagree"] = (
            f"At {compute:.3g} FLOPs the optimum N* differs: {'; '.join(quarrels)}. Trust none beyond its window: look "
            "at the residuals of the joint law and at the valleys, and add runs near the budget."
        )
    beyond = [f"{f.approach} by {compute / f.window[1]:.3g} times" for f in frontiers if compute > f.window[1]]
    if beyond:
        details["extrapolated"] = f"The budget {compute:.3g} exceeds the largest compute of {', '.join(beyond)}."
    return Comparison(compute, n, {k: (float(v[0]), float(v[1])) for k, v in ends.items()}, details)


def itself(values: Array) -> Array:
    """The line of draws that are lines already."""
    return values


def positive(**columns: npt.ArrayLike) -> Array:
    """The columns as rows of one array.

    Raises:
        FitError: They differ in length or hold values that are not positive and finite.
    """
    found = [np.asarray(values, dtype=np.float64) for values in columns.values()]
    if len({values.shape for values in found}) > 1 or found[0].ndim != 1 or not found[0].size:
        raise FitError(
            f"{', '.join(columns)} must be of one length, but have shapes {[v.shape for v in found]}. Give one value "
            "per row."
        )
    for name, values in zip(columns, found, strict=True):
        bad = values[~((values > 0) & np.isfinite(values))]
        if bad.size:
            raise FitError(
                f"A fit on the log scale needs positive, finite {name}, but {bad.size} of {values.size} are not "
                f"(the first is {bad[0]:g}). Remove those points."
            )
    return np.stack(found)
