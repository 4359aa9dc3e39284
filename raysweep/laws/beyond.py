"""pass@k beyond the trials of a problem: bounds that hold for every distribution of success rates, and shapes beside.

n trials hardly see success rates below 1 / n, and nothing else decides how pass@k goes on. No test inside n can show
that a shape holds there: where a fifth of 150 problems succeed once in 2,000 attempts, 100 trials reject a Beta in 15 %
of worlds, and the intervals of all shapes that are left hold pass@10,000 in 3 % (tests/benchmarks/passk_beyond.py). So
the interval comes from `unshaped.extremes`, and each shape's own is given beside it with what the counts say of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from raysweep.laws.definition import Array
from raysweep.laws.mesh import Mesh, merged
from raysweep.laws.shapes import SHAPES, Shaped
from raysweep.laws.unshaped import extremes

__all__ = ["Beyond", "beyond"]

_FINE, _COARSE = 0.1, 0.25  # log-odds of a cell: a shape is smooth, and bounds hardly change below a quarter
_REJECTED = 0.01  # p-value of the counts below which a shape is rejected
_EXCLUDED = 10.0  # AICc above the best shape's at which one has essentially no support (Burnham and Anderson 2002)


@dataclass(frozen=True)
class Beyond:
    """1 - pass@k beyond the trials.

    Attributes:
        failure: By the shape of least AICc among those that the counts do not contradict; NaN if they contradict all.
        interval: Least and largest of any distribution that the counts do not exclude, [budgets, 2].
        shapes: All shapes that were fitted.
        notes: A sentence for each code.
    """

    failure: Array
    interval: Array
    shapes: tuple[Shaped, ...]
    notes: dict[str, str]

    @property
    def least(self) -> float:
        """The least AICc of a shape; NaN without shapes."""
        return min((one.aicc for one in self.shapes), default=float("nan"))

    def supports(self, shape: Shaped) -> bool:
        """Whether the counts contradict neither a shape by itself nor beside the others."""
        return not shape.p_value < _REJECTED and shape.aicc <= self.least + _EXCLUDED


def beyond(c: Array, n: Array, k: Array, level: float) -> Beyond:
    """What counts c of n, [problems], say of budgets k, [budgets], above the fewest trials.

    Bounds take the distributions whose log likelihood is at most -log(1 - level) below the largest: where all problems
    agree this is the exact one-sided bound of a share that was never seen. Where they do not it is wider than the
    usual profile likelihood interval, by a tenth to a fifth.
    """
    pairs, trials, weights = merged(c, n)
    usual = float(stdtrit(c.size - 1, (1 + level) / 2)) ** 2 / 2
    interval = np.empty((0, 2))
    if k.size:
        interval = extremes(Mesh.over(pairs, trials, k, _COARSE), weights, max(usual, -np.log1p(-level)))
    shapes: tuple[Shaped, ...] = ()
    if (c > 0).any() and (c < n).any():
        mesh = Mesh.over(pairs, trials, k, _FINE)
        shapes = tuple(Shaped.fitted(shape, mesh, weights, usual) for shape in SHAPES)
    found = Beyond(np.full(k.size, np.nan), interval, shapes, {})
    left = [one for one in shapes if found.supports(one)]
    if left and k.size:
        found.failure[:] = np.clip(min(left, key=lambda one: one.aicc).failure, *interval.T)
    return replace(found, notes=_notes(found, left, n, k))


def _notes(found: Beyond, left: Sequence[Shaped], n: Array, k: Array) -> dict[str, str]:
    notes = {}
    if k.size:
        said = f"that of a {min(left, key=lambda one: one.aicc).shape.name}" if left else "not given"
        notes["extrapolated"] = (
            f"k above {n.min():,.0f}, the fewest trials of a problem, is extrapolated: problems that were never solved "
            "may be impossible, or just hard enough. The interval holds for any distribution of success rates; the "
            f"value is {said}."
        )
    if not found.shapes:
        return notes
    best, beta = min(found.shapes, key=lambda one: one.aicc), found.shapes[0]
    if beta not in left:
        why = [f"counts deviate from it (chi-squared test, p = {beta.p_value:.1g})"] * (beta.p_value < _REJECTED)
        if beta.aicc > best.aicc + _EXCLUDED:
            why.append(f"a {best.shape.name} fits better (AICc lower by {beta.aicc - best.aicc:.3g})")
        notes["beta_rejected"] = (
            f"Success rates do not follow a Beta distribution: {', and '.join(why)}. Do not believe its exponent for "
            "large k."
        )
    if not left:
        notes["no_shape"] = (
            "No shape of success rates that was tried follows these counts: beyond the trials there are bounds, and no "
            "single value."
        )
    return notes
