"""pass@k from counts: c successes in n trials of every problem, its exponent, and what more trials would show.

* Up to the fewest trials of a problem, 1 - pass@k is the mean over problems of C(n - c, k) / C(n, k), unbiased for a
  fixed n (Chen et al. 2021, arXiv 2107.03374, eq. 1; by log-gamma).
* Beyond, `beyond` gives bounds that hold for every distribution of success rates, and fits shapes of it.
* Where a problem was tried until it succeeded often enough, n depends on the counts: likelihoods are the same, but the
  unbiased estimate is biased, and `inverse_failure` gives the estimate for that design.
* The exponent as k grows is that of a Beta(a, b) fitted by maximum likelihood to the counts (beta-binomial; Kazdan et
  al. 2025, arXiv 2510.05197): 1 - pass@k = B(a, b + k) / B(a, b) ~ k^-a.
* The unit of every interval is the problem. An unbiased 1 - pass@k has the interval of a mean over
  problems (`proportion.mean_interval`); for exponents whole problems are drawn with replacement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from raysweep.errors import FitError
from raysweep.laws.beyond import Beyond, beyond
from raysweep.laws.definition import Array
from raysweep.laws.draws import Draws
from raysweep.laws.proportion import mean_interval
from raysweep.laws.tail import Tail

__all__ = ["Attempts", "attempts", "inverse_failure", "predict", "unbiased_failure"]

_WINDOW = 9  # points of k that an exponent is fitted to
_MOST_TRIALS = 1e9  # per problem
_FEW = 10  # problems solved, or sometimes failed: fewer do not show how problems scatter
_ENDLESS = 1e9  # stands for an exponent that no draw of problems bounds
_VAGUE = 20.0  # a tail exponent above this means that the problems look equally hard


def unbiased_failure(c: npt.ArrayLike, n: npt.ArrayLike, k: npt.ArrayLike) -> Array:
    """[problems, budgets] chance that k trials drawn from a problem's n without replacement all fail; NaN for k > n.

    Args:
        c, n: Successes and trials, [problems].
        k: [budgets].
    """
    c, n, k = (np.asarray(a, dtype=np.float64) for a in (c, n, k))
    c, n = c[:, None], n[:, None]
    miss = n - c
    with np.errstate(invalid="ignore"):
        log = gammaln(miss + 1) - gammaln(miss - k + 1) - gammaln(n + 1) + gammaln(n - k + 1)
    return np.where(k > n, np.nan, np.where(k > miss, 0.0, np.exp(np.where(k > miss, 0.0, log))))


def inverse_failure(c: npt.ArrayLike, n: npt.ArrayLike, k: npt.ArrayLike) -> Array:
    """[problems, budgets] (1 - p)^k with p = (c - 1) / (n - 1), unbiased for p where trials ended at the c-th success.

    A problem without success has p = 0; one whose only trial succeeded has p = 1.
    """
    c, n, k = (np.asarray(a, dtype=np.float64) for a in (c, n, k))
    rate = np.where(n > 1, np.maximum(c - 1, 0.0) / np.maximum(n - 1, 1.0), np.minimum(c, 1.0))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(rate < 1, np.exp(k * np.log1p(-np.minimum(rate, 1 - 1e-16))), 0.0))


@dataclass(frozen=True)
class Attempts:
    """The estimates of one group's pass@k.

    Attributes:
        problems: Number of problems; `unsolved` of them were never solved.
        trials: Fewest and most trials of a problem.
        k: Requested budgets, [budgets]; those above `trials[0]` are `extrapolated`.
        failure: 1 - pass@k, [budgets], and its interval, [budgets, 2]; NaN where only the interval is known.
        exponent: Local exponent of 1 - pass@k over `window`, and its interval.
        inverse_exponent: The same by `inverse_failure`.
        tail: The exponent a of the Beta distribution, and its interval; NaN where none fits. Believe neither with
            the note `beta_rejected`.
        window: Lowest and highest k of the exponent.
        level: Nominal coverage of intervals.
        further: What the counts say of the budgets that are extrapolated, and of shapes of success rates.
        notes: A sentence for each code.
    """

    problems: int
    unsolved: int
    trials: tuple[int, int]
    k: Array
    failure: Array
    failure_interval: Array
    extrapolated: npt.NDArray[np.bool_]
    exponent: float
    exponent_interval: tuple[float, float]
    inverse_exponent: float
    tail: float
    tail_interval: tuple[float, float]
    window: tuple[int, int]
    level: float
    further: Beyond
    notes: dict[str, str]


def checked(c: npt.ArrayLike, n: npt.ArrayLike) -> tuple[Array, Array]:
    """Counts as floats.

    Raises:
        FitError: The counts are invalid: not whole, c above n, n below 1 or above 10^9, or of unequal length.
    """
    c, n = np.asarray(c, dtype=np.float64), np.asarray(n, dtype=np.float64)
    if c.shape != n.shape or c.ndim != 1:
        raise FitError(
            f"Successes and trials must have one value per problem, but have {c.size} and {n.size}. Give as many of "
            "each."
        )
    bad = ~((c >= 0) & (c <= n) & (n >= 1) & (n <= _MOST_TRIALS) & (c == np.floor(c)) & (n == np.floor(n)))
    if bad.any():
        i = int(np.argmax(bad))
        raise FitError(
            f"`0 <= successes <= trials` must hold, in whole numbers with 1 to 10^9 trials, but {int(bad.sum())} of "
            f"{bad.size} rows break this (the first has successes={c[i]:g}, trials={n[i]:g}). Correct or drop them."
        )
    return c, n


def attempts(
    c: npt.ArrayLike,
    n: npt.ArrayLike,
    k: npt.ArrayLike | None = None,
    window: tuple[int, int] | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Attempts:
    """pass@k of a set of problems, with intervals over problems.

    Args:
        c, n: Successes and trials of each problem, [problems].
        k: Budgets, whole numbers >= 1; powers of ten up to the fewest trials if not given.
        window: Window of the exponent; the last decade below the fewest trials if not given.
        draws: Bootstrap draws over problems.
        level: Nominal coverage.
        seed: Seed of the draws.

    Raises:
        FitError: The counts are invalid (`checked`), k or the window is out of range, or there is one problem only.
    """
    c, n = checked(c, n)
    fewest = int(n.min())
    decades = 10.0 ** np.arange(int(np.log10(fewest)) + 1)
    asked: Array = np.asarray(decades if k is None else k, dtype=np.float64)
    if asked.size == 0 or (asked < 1).any() or (asked != np.floor(asked)).any():
        raise FitError(f"k must be whole numbers >= 1, but got {asked.tolist()}. Correct it.")
    low, high = window or (max(1, fewest // 10), fewest)
    if not 1 <= low < high <= fewest:
        raise FitError(
            f"`1 <= low < high <= fewest trials` must hold for the window of the exponent, but got (low={low}, "
            f"high={high}, fewest trials={fewest}). "
            + (
                "Give another window."
                if fewest > 1
                else "Leave out problems of one trial; pass@1 is the share of successes."
            )
        )
    if c.size < 2:
        raise FitError("The unit of an interval is the problem, but there is only 1. Add problems.")
    mesh = np.unique(np.round(np.geomspace(low, high, _WINDOW)))
    weights = np.random.default_rng(seed).multinomial(c.size, np.full(c.size, 1 / c.size), size=draws).astype(float)
    weights = np.concatenate([np.ones((1, c.size)), weights])  # the estimate, then its draws
    extrapolated = asked > fewest
    further = beyond(c, n, asked[extrapolated], level)
    solved = Tail.fitted(c, n, weights) if c.any() and (c < n).any() else None
    inside = unbiased_failure(c, n, asked[~extrapolated])
    failure, ends = np.empty(asked.size), np.empty((asked.size, 2))
    failure[~extrapolated], failure[extrapolated] = inside.mean(axis=0), further.failure
    ends[~extrapolated] = np.reshape([mean_interval(each, level) for each in inside.T], (-1, 2))
    ends[extrapolated] = further.interval
    slope = _slope(mesh, weights @ unbiased_failure(c, n, mesh))
    inverse = _slope(mesh, inverse_failure(c, n, mesh).sum(axis=0)[None])[0]
    tail = np.full(len(weights), np.nan) if solved is None else solved.a
    if solved is not None and not solved.settled[0]:
        tail = np.full(len(weights), np.nan)

    def interval(values: Array, log: bool) -> Array:
        if np.isnan(values[0]):
            return np.full(2, np.nan)
        drawn = np.minimum(np.where(np.isnan(values), np.inf, values), _ENDLESS)[:, None]
        sample = Draws(drawn[0], drawn[1:], c.size - 1, np.sqrt(c.size / (c.size - 1)))
        ends = sample.interval_of(lambda v: v[..., 0], level, log)
        return np.where(ends >= _ENDLESS / 1e3, np.inf, ends)

    slopes = interval(slope, False)
    return Attempts(
        problems=c.size,
        unsolved=int((c == 0).sum()),
        trials=(fewest, int(n.max())),
        k=asked,
        failure=failure,
        failure_interval=ends,
        extrapolated=extrapolated,
        exponent=float(slope[0]),
        exponent_interval=(max(0.0, float(slopes[0])), float(slopes[1])),
        inverse_exponent=float(inverse),
        tail=float(tail[0]),
        tail_interval=tuple(interval(tail, True).tolist()),
        window=(int(low), int(high)),
        level=level,
        further=further,
        notes=_notes(c, n, solved, inverse - slope[0]) | further.notes,
    )


def _slope(k: Array, failure: Array) -> Array:
    """Least-squares exponent of each row of failures at k, [draws]; NaN where one is 0."""
    u = np.log(k) - np.log(k).mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(-(np.log(failure) @ u) / (u @ u))


def _notes(c: Array, n: Array, solved: Tail | None, apart: float) -> dict[str, str]:
    notes = {}
    if (c == 0).any():
        notes["unsolved"] = (
            f"{int((c == 0).sum())} of {c.size} problems were never solved: only a lower bound of their difficulty is "
            "known."
        )
    if min((c > 0).sum(), (c < n).sum()) < _FEW:
        notes["few_problems"] = (
            f"fewer than {_FEW} problems were solved, or fewer than {_FEW} ever failed: intervals by resampling "
            "problems cover the true value less often than their level."
        )
    if n.min() < n.max():
        notes["unequal_trials"] = (
            f"trials differ ({n.min():,.0f} to {n.max():,.0f}); if problems were tried until they succeeded, the "
            f"unbiased estimate is biased: with (c - 1) / (n - 1) in its place the exponent changes by {apart:+.3g}."
        )
    if solved is None:
        notes["no_tail"] = "no trial at all succeeded, or every one did: there is no tail to fit."
    elif not solved.settled[0] or solved.a[0] > _VAGUE:
        notes["no_tail"] = (
            "too few trials succeeded to see that problems differ in difficulty: for equally hard ones failures fall "
            "exponentially in k, and the exponent for large k is unknown."
        )
    return notes


@dataclass(frozen=True)
class Prediction:
    """Failure at larger k, predicted from fewer trials.

    Attributes:
        trials: Trials per problem that were used.
        k: Budgets above them, [budgets].
        failure: 1 - pass@k by all trials, [budgets].
        predicted: 1 - pass@k as predicted by the fewer trials, [budgets], NaN where only its interval is known;
            `interval`: its interval, [budgets, 2].
    """

    trials: int
    k: Array
    failure: Array
    predicted: Array
    interval: Array

    @property
    def covered(self) -> float:
        """Share of budgets whose failure lies in the interval."""
        return float(((self.interval[:, 0] <= self.failure) & (self.failure <= self.interval[:, 1])).mean())

    @property
    def error(self) -> float:
        """Root mean square of log predicted / measured failure; NaN where either is 0 or unknown."""
        if not (self.predicted > 0).all() or not (self.failure > 0).all():
            return float("nan")
        return float(np.sqrt(np.mean(np.log(self.predicted / self.failure) ** 2)))


def predict(
    c: npt.ArrayLike, n: npt.ArrayLike, trials: int, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> Prediction:
    """Keep `trials` of every problem's trials, drawn without replacement, and predict pass@k up to the fewest trials.

    Raises:
        FitError: As `attempts`; or the fewest trials of a problem do not exceed `trials`.
    """
    c, n = checked(c, n)
    fewest = int(n.min())
    if not 2 <= trials < fewest:
        raise FitError(
            f"`2 <= holdout < fewest trials` must hold, but got (holdout={trials}, fewest trials={fewest}): there must "
            "be trials left to predict. Choose it in that range."
        )
    kept = np.random.default_rng(seed).hypergeometric(c.astype(int), (n - c).astype(int), trials)
    k = np.unique(np.round(np.geomspace(trials, fewest, 6)))[1:]
    found = attempts(kept, np.full(c.size, trials), k, None, draws, level, seed)
    measured = unbiased_failure(c, n, k).mean(axis=0)
    return Prediction(trials, k, measured, found.failure, found.failure_interval)
