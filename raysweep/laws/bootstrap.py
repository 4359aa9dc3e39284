"""The bootstrap of a law: draws of whole runs, and the intervals and bands they give.

The unit is the independently trained run: all rows of one run move together, so checkpoints of a run are one cluster
(Cameron, Gelbach & Miller 2008). Percentiles of few runs are too narrow, so deviations of the draws from the estimate
are widened by sqrt(n / (n - p)), the degrees of freedom the fit used up, and by Student's t over the normal quantile
(Hesterberg 2015, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

from raysweep.errors import FitError
from raysweep.laws.estimate import estimate
from raysweep.laws.forms import Array, Law

__all__ = ["Bootstrap", "bootstrap"]

_REDRAWS = 100


@dataclass(frozen=True)
class Bootstrap:
    """Draws of a fitted law.

    Attributes:
        law: The law.
        values: The estimate the draws surround, [parameters].
        draws: Parameter values of each draw, in the estimate's units, [draws, parameters].
        redrawn: How many draws lost too many scales to fit the law and were drawn again.
        discarded: How many of them still had too few after many attempts and are not in `draws`.
        runs: Independent runs, n.
        spent: Degrees of freedom the law takes from them, p.
    """

    law: Law
    values: Array
    draws: Array
    redrawn: int
    discarded: int
    runs: int
    spent: int

    def interval(self, level: float = 0.95) -> Array:
        """Low and high of each parameter, [parameters, 2], within the parameter's bounds."""
        parameters = self.law.parameters
        log = np.array([p.log for p in parameters])

        def scale(values: Array) -> Array:
            return np.where(log, np.log(np.where(log, values, 1.0)), values)

        ends = self._widened(scale(self.values), scale(self.draws), level)
        ends = np.where(log[:, None], np.exp(np.where(log[:, None], ends, 0.0)), ends)
        return np.clip(ends, [[p.low] for p in parameters], [[p.high] for p in parameters])

    def band(self, x: npt.ArrayLike, level: float = 0.95) -> Array:
        """Low and high of the mean law at each new x > 0 of shape [points]: [points, 2], pointwise."""
        x = np.asarray(x, dtype=np.float64)
        centre, draws = self.law.predict(x, self.values), self.law.predict(x, self.draws)
        return np.exp(self._widened(np.log(centre), np.log(draws), level))

    def _widened(self, centre: Array, draws: Array, level: float) -> Array:
        n, freedom = self.runs, self.runs - self.spent
        tails = np.array([(1 - level) / 2, (1 + level) / 2])
        factor = np.sqrt(n / freedom) * stdtrit(freedom, tails[1]) / ndtri(tails[1])
        low, high = np.quantile(draws - centre, tails, axis=0)
        # An estimate on its bound may have every draw on one side; its interval still holds the estimate.
        return np.stack([centre + factor * np.minimum(low, 0.0), centre + factor * np.maximum(high, 0.0)], axis=-1)


def bootstrap(
    law: Law,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    run: npt.ArrayLike | None = None,
    weights: npt.ArrayLike | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """Refit `law` to `draws` samples of runs, drawn with replacement.

    Args:
        law: What to fit.
        x: Scales, positive, [points].
        y: Measurements, positive, [points].
        run: The run each point comes from, [points]; every point is a run of its own if not given.
        weights: Non-negative, [points]; all 1 if not given.
        draws: How many.
        seed: The same seed gives the same draws, and data sets with the same runs share their multiplicities, which
            keeps comparisons between them paired.

    Raises:
        FitError: `law` does not fit these points at all (see `estimate.check`), or there are too few independent
            runs to judge an error by.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    w = np.ones(x.size) if weights is None else np.asarray(weights, dtype=np.float64)
    centre = estimate(law, x, y, w).values[0]
    _, run_index = np.unique(np.arange(x.size) if run is None else np.asarray(run), return_inverse=True)
    _, scale_index = np.unique(x, return_inverse=True)
    # has[r, s]: run r was measured at scale s.
    has = np.zeros((run_index.max() + 1, scale_index.max() + 1))
    has[run_index[w > 0], scale_index[w > 0]] = 1.0
    runs, spent = len(has), _spent(law, has)
    counts, redrawn = _draw(has, len(law.parameters), draws, np.random.default_rng(np.random.SeedSequence(seed)))
    fitted = estimate(law, x, y, counts[:, run_index] * w)
    return Bootstrap(law, centre, fitted.values, redrawn, draws - len(counts), runs, spent)


def _spent(law: Law, has: Array) -> int:
    """Degrees of freedom the law takes from the runs: p, but 1 where each run alone spans the scales."""
    runs, p = len(has), len(law.parameters)
    if runs < 2:
        raise FitError(
            "An interval needs independent runs, but all points come from 1 run. "
            "Add runs (seeds), or set bootstrap=0 for the estimate alone."
        )
    if runs <= p + 1 and has.sum(axis=0).max() < 2:
        raise FitError(
            f"An interval needs 2 runs at some scale, or more than {p + 1} runs, but there are {runs} runs at "
            f"{has.shape[1]} scales. Add runs (seeds) or scales, or set bootstrap=0 for the estimate alone."
        )
    # Few runs that span some scales each lie between the two cases: take what leaves one degree of freedom.
    return 1 if (has.sum(axis=1) > p).all() else min(p, runs - 1)


def _draw(has: Array, fewest: int, draws: int, rng: np.random.Generator) -> tuple[Array, int]:
    """Multiplicities of the runs, [draws, runs], that keep `fewest` scales; and how many draws were redrawn."""
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
