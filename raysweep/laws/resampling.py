"""The draws of a bootstrap: multiplicities of runs, or multipliers of their residuals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError
from raysweep.laws.definition import Array, Law

__all__ = [
    "Residuals",
    "beyond",
    "canonical",
    "measured",
    "multiplicities",
    "multipliers",
    "residuals",
    "spent_by",
    "tangent",
]

_REDRAWS = 100
_SCALES = 200
# Six-point multipliers of mean 0 and variance 1 (Webb 2014): few clusters still give many distinct draws.
_WEBB = np.array([-np.sqrt(1.5), -1.0, -np.sqrt(0.5), np.sqrt(0.5), 1.0, np.sqrt(1.5)])
_BORROWED = 32.0  # a run at one scale borrows a residual this often, against n - p times its own; found by coverage
_MOST_LEVERAGE = 0.99  # a run the law follows exactly has no residual left to enlarge


def canonical(x: Array, y: Array, labels: npt.NDArray[np.generic] | None) -> npt.NDArray[np.int64]:
    """An order of points, x [axes, points], that does not depend on the order they come in."""
    keys = [y, *x[::-1]]
    if labels is not None:
        keys.insert(0, np.unique(labels, return_inverse=True)[1])
    return np.lexsort(keys)


def measured(x: Array, cluster: npt.NDArray[np.int64]) -> Array:
    """1 where run r was measured at scale s, else 0, [runs, scales]; x [axes, points], cluster [points]."""
    _, scale = np.unique(x, axis=1, return_inverse=True)
    if scale.max() >= _SCALES:  # neighbours count as one: no law has so many parameters
        scale = scale * _SCALES // (scale.max() + 1)
    has = np.zeros((cluster.max() + 1, scale.max() + 1))
    has[cluster, scale] = 1.0
    return has


def spent_by(law: Law, x: Array, cluster: npt.NDArray[np.int64], has: Array, parameters: int | None = None) -> int:
    """Degrees of freedom the law takes from the runs: p, but 1 where each run alone could be fitted.

    Args:
        x: Scales, [axes, points].
        cluster: The run of each point, from 0, [points].
        has: See `measured`.
        parameters: How many parameters the data determine, p; all of the law's if not given.

    Raises:
        FitError: There are too few independent runs to judge an error by.
    """
    runs, p = len(has), len(law.parameters) if parameters is None else parameters
    if runs < 2:
        raise FitError(
            "An interval needs independent runs, but all points come from 1 run. "
            "Add runs (seeds), or set `bootstrap=0` for the estimate alone."
        )
    # A run of many steps at one width says nothing of the width's exponent: every axis must vary within it.
    alone = (has.sum(axis=1) > p).all() and all(
        (measured(axis[None], cluster).sum(axis=1) >= levels).all() for axis, levels in zip(x, law.levels, strict=True)
    )
    if not alone and runs <= p + 1 and has.sum(axis=0).max() < 2:
        raise FitError(
            f"An interval needs 2 runs at some scale, or more than {p + 1} runs, but there are {runs} runs at "
            f"{has.shape[1]} scales. Add runs (seeds) or scales, or set `bootstrap=0` for the estimate alone."
        )
    # Few runs that span some scales each lie between the two cases: take what leaves one degree of freedom.
    return 1 if alone else min(p, runs - 1)


def multiplicities(has: Array, fewest: int, draws: int, rng: np.random.Generator) -> tuple[Array, int]:
    """How often each draw takes each run, [draws, runs], with `fewest` scales at least; and how many were redrawn."""
    runs = len(has)
    uniform = np.full(runs, 1.0 / runs)
    counts = rng.multinomial(runs, uniform, size=draws)
    lost = np.flatnonzero(((counts @ has) > 0).sum(axis=1) < fewest)
    redrawn = lost.size
    for _ in range(_REDRAWS):
        if not lost.size:
            break
        counts[lost] = rng.multinomial(runs, uniform, size=lost.size)
        lost = lost[((counts[lost] @ has) > 0).sum(axis=1) < fewest]
    return np.delete(counts, lost, axis=0).astype(np.float64), redrawn


def multipliers(runs: int, freedom: int, draws: int, rng: np.random.Generator) -> Array:
    """The multipliers of each run's residuals in each draw, [draws, runs].

    Webb's six points, times sqrt(freedom / chi2) of the whole draw: the spread is itself judged from few runs, so that
    draws of a linear law follow Student's t.
    """
    points = _WEBB[rng.integers(0, _WEBB.size, size=(draws, runs))]
    return np.asarray(points * np.sqrt(freedom / rng.chisquare(freedom, size=(draws, 1))))


@dataclass(frozen=True)
class Residuals:
    """A fit's log residuals, freed of what the fit took from them.

    Attributes:
        centre: Fitted log y, [points].
        own: Residuals of each run as a law fitted without it would leave them (CR3), [points].
        even: Residuals whose variance is that of the errors (CR2), [points].
        root: Square roots of the weights over their mean, [points]; both residuals are times it.
        cluster: The run of each point, from 0, [points].
        single: Whether each run was measured at one scale only.
    """

    centre: Array
    own: Array
    even: Array
    root: Array
    cluster: npt.NDArray[np.int64]
    single: bool

    @property
    def spread(self) -> float:
        """Standard deviation of log y about the law at the mean weight."""
        return float(np.sqrt((self.even**2).mean()))

    def drawn(
        self, freedom: int, draws: int, rng: np.random.Generator, scale: npt.NDArray[np.float64] | None = None
    ) -> Array:
        """Deviations of log y from the fit, [draws, points], for a wild bootstrap with some borrowed residuals.

        A run at one scale says little about its own variance. So where all runs are such, a draw gives each run, at
        random, its own residual (wild, Wu 1986) or that of any run (Efron 1979): nearly always the latter with few
        degrees of freedom, nearly always the former with many. The choice is the same in data sets of the same runs,
        and a draw is linear in the residuals: comparisons stay paired. A borrowed residual is enlarged by the ratio
        of `scale`, the spread at each point in any unit, [points].
        """
        runs = int(self.cluster.max()) + 1
        factor = multipliers(runs, freedom, draws, rng)
        if not self.single:
            return factor[:, self.cluster] * (self.own / self.root)
        # A run's several measurements at its scale act as their mean.
        size = np.sqrt(np.bincount(self.cluster, self.root**2))
        own, even = (np.bincount(self.cluster, self.root * e) / size for e in (self.own, self.even))
        borrows = rng.random((draws, runs)) < _BORROWED / (_BORROWED + freedom)
        each = np.ones(runs) if scale is None else np.sqrt(np.bincount(self.cluster, scale**2)) / size
        taken = np.where(borrows, (even / each)[rng.integers(0, runs, size=(draws, runs))] * each, own)
        return np.asarray((factor * taken / size)[:, self.cluster])


def tangent(
    law: Law, u: Array, t: Array, w: Array, fitted: Array, precision: Array | None = None
) -> tuple[Array, Array, Array]:
    """Fitted log y, [points]; root weights over their mean, [points]; and the directions in which the law can bend.

    The directions, [points, rank], are an orthonormal basis q of the law's slopes times the root weights: the hat
    matrix is q q'. With a `precision` they are shorter, by what the priors hold. Arguments as in `residuals`.
    """
    centre, rows = law.evaluate(u, fitted)
    # A parameter on its bound cannot bend the law.
    columns = [
        np.broadcast_to(row * value if p.log else row, t.shape) * (p.low < value < p.high)
        for row, value, p in zip(rows, fitted, law.parameters, strict=True)
    ]
    root = np.sqrt(w / w.mean())
    jacobian = np.stack(columns, axis=1) * root[:, None]
    if precision is not None:
        jacobian = np.concatenate([jacobian, np.diag(np.sqrt(precision / w.mean()))])
    size = np.linalg.norm(jacobian, axis=0)
    left, values, _ = np.linalg.svd(jacobian / np.where(size > 0, size, 1.0), full_matrices=False)
    return centre, root, left[: t.size, values > 1e-9 * values[0]]


def beyond(q: Array, columns: Array) -> Array:
    """An orthonormal basis, [points, rank], of what `columns`, [points, k], add to the directions `q`."""
    more, size, _ = np.linalg.svd(columns - q @ (q.T @ columns), full_matrices=False)
    return np.asarray(more[:, size > 1e-9 * max(float(size[0]), 1.0)])


def residuals(
    law: Law,
    u: Array,
    t: Array,
    w: Array,
    fitted: Array,
    cluster: npt.NDArray[np.int64],
    precision: Array | None = None,
) -> Residuals:
    """Residuals of a fit, enlarged by leverage.

    A residual is smaller than the error it stands for, because the law bends towards its run. With H the hat matrix,
    (I - H_cc)^-1/2 times run c's residuals has the variance of the errors (CR2, Bell & McCaffrey 2002; HC2 for runs of
    one point), and (I - H_cc)^-1 times them is what a law fitted without the run would leave (CR3, the jackknife).

    Args:
        u: Log scales, [axes, points].
        t: Log measurements, [points].
        w: Weights, positive, [points].
        fitted: The law's values, [parameters].
        cluster: The run of each point, from 0, [points].
        precision: How strongly priors hold each parameter, in the units of `w`, [parameters]; None without priors.
    """
    centre, root, q = tangent(law, u, t, w, fitted, precision)
    residual = (t - centre) * root
    # Through p x p matrices, however many points a run has: H_cc = q_c q_c'.
    runs = int(cluster.max()) + 1
    gram, moment = np.zeros((runs, q.shape[1], q.shape[1])), np.zeros((runs, q.shape[1], 1))
    np.add.at(gram, cluster, q[:, :, None] * q[:, None, :])
    np.add.at(moment, cluster, (q * residual[:, None])[:, :, None])
    leverage, axes = np.linalg.eigh(gram)
    leverage = np.clip(leverage, 1e-9, _MOST_LEVERAGE)

    def enlarged(power: float) -> Array:
        """(I - H_cc)^-power times the residuals of each run."""
        gain = ((1 - leverage) ** -power - 1) / leverage
        turned = axes @ (gain[:, :, None] * (np.swapaxes(axes, 1, 2) @ moment))
        return np.asarray(residual + (q * turned[cluster, :, 0]).sum(axis=1))

    single = bool(measured(u, cluster).sum(axis=1).max() == 1)
    return Residuals(centre, enlarged(1.0), enlarged(0.5), root, cluster, single)
