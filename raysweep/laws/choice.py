"""Which law? By how well each foretells its own largest scales, and by information criteria."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc

from raysweep.errors import FitError
from raysweep.laws.estimate import Estimate, distinct, scales_of, solve
from raysweep.laws.forms import LAWS, Array, Law
from raysweep.laws.polish import ITERATIONS

__all__ = ["CANDIDATES", "Choice", "Evidence", "choose", "evidence", "held_out", "likelihood_ratio"]

# Fewest parameters first. Without power and power+floor, limits of these that win short hold-outs by luck. Candidates,
# cuts and margin were picked on the 92 curves of Alabdulmohsin et al. (2022), test parts included (analysis/LOG.md).
CANDIDATES = ("shifted", "m4", "broken")
_FALLBACK = ("power+floor", "power")  # where scales are too few to compare
_CUTS = (0.2, 0.5)  # shares of distinct scales left out: one shallow, one deep; the worse of the two scores counts
_MARGIN = 1.05  # a law with more parameters must be better by this factor
_LATE = 0.75  # a break beyond this share of the window (in logs) is hearsay
_SCORED = 25  # iterations of a fit that is only scored
_RELATIVE = 1e-6  # of a fit that is compared: far below what tells laws apart
RIVALS: Mapping[str, tuple[str, ...]] = {
    "power": ("power+floor", "shifted", "broken"),
    "power+floor": ("power", "exponential", "shifted", "broken"),
    "shifted": ("power+floor", "m4", "broken"),
    "m4": ("power+floor", "shifted", "broken"),
    "broken": ("power", "power+floor", "shifted"),
    "exponential": ("power+floor",),
    "chinchilla": ("chinchilla, E = 0", "kaplan"),
    "kaplan": ("kaplan, E = 0", "chinchilla"),
    "time": ("time, E = 0",),
    "passk": ("power+floor",),
    "passk+training": (),
}
# (fewer parameters, more): the first is the second with a floor, a shift or a break taken out.
_NESTED = {
    ("power", "power+floor"), ("power+floor", "shifted"), ("power", "shifted"), ("chinchilla", "kaplan"),
    ("chinchilla, E = 0", "chinchilla"), ("kaplan, E = 0", "kaplan"), ("time, E = 0", "time"), ("passk", "power+floor"),
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """A law chosen by hold-out, fitted to all points.

    Attributes:
        law: The law.
        estimate: Of all points.
        scores: Of each candidate, the worse log RMSE of its hold-outs; inf for one that is out.
    """

    law: Law
    estimate: Estimate
    scores: Mapping[str, float]

    def predict(self, x: npt.ArrayLike) -> Array:
        """The law's y at scales x > 0."""
        return self.law.predict(np.asarray(x, dtype=np.float64), self.estimate.values[0])


def held_out(x: Array, share: float) -> npt.NDArray[np.bool_]:
    """Which points lie in the top `share` of distinct scales, at least one and never all; x is [axes, points].

    Several scales are judged by their product, which compute is proportional to.
    """
    size = np.exp(np.log(x).sum(axis=0)) if len(x) > 1 else x[0]
    size = np.round(np.log(size), 9)  # products of equal compute differ in their last digits
    scales = np.unique(size)
    out = min(max(1, math.ceil(share * scales.size - 1e-9)), scales.size - 1)
    return np.asarray(size > scales[scales.size - out - 1])


def choose(
    laws: Sequence[str] = CANDIDATES,
    x: npt.ArrayLike = (),
    y: npt.ArrayLike = (),
    weights: npt.ArrayLike | None = None,
    huber: float | None = None,
) -> Choice:
    """The one-axis law that foretells the largest scales best, fitted to all points.

    Each law is fitted without the top 20 % and without the top 50 % of distinct scales; its score is the worse log RMSE
    of what was left out. The law with the fewest parameters within 5 % of the best is taken. A break so late, or so at
    its bounds, that data beyond it are few is no candidate. Where scales are too few for the deep cut the shallow one
    decides alone; where they are too few for that, `power+floor` is taken, or `power`.

    Args:
        laws: Names of candidates.
        x: Scales, positive, [points].
        y: Measurements, positive, [points].
        weights, huber: See `estimate`.

    Raises:
        FitError: No law can be fitted.
    """
    forms = [LAWS[name] for name in laws]
    scales, y = scales_of(LAWS["power"], x), np.asarray(y, dtype=np.float64)
    w = np.ones(y.size) if weights is None else np.asarray(weights, dtype=np.float64)
    fits: dict[str, Estimate] = {}
    scores: dict[str, float] = {}
    for cuts in (
        _CUTS,
        _CUTS[:1],
    ):  # the deep cut counts only where it leaves enough scales for all that the shallow does
        kept = np.stack([np.ones(y.size, dtype=bool), *(~held_out(scales, cut) for cut in cuts)])
        shallow, deep = (distinct(scales[:, kept[i]]) for i in (1, -1))
        able = [form for form in forms if shallow >= form.fewest_scales]
        if any(deep < form.fewest_scales for form in able):
            continue
        for form in able:
            fits[form.name] = _fit(form, scales, y, w * kept, huber, _SCORED)
            scores[form.name] = _score(form, fits[form.name], scales, y, w, kept)
        if np.isfinite(list(scores.values())).any():
            break
    else:
        count = distinct(scales)
        name = next((n for n in _FALLBACK if count >= LAWS[n].fewest_scales), "")
        if not name:
            raise FitError(
                f"A law needs at least {LAWS['power'].fewest_scales} distinct scales, but there are {count}. "
                "Add scales."
            )
        return Choice(LAWS[name], _fit(LAWS[name], scales, y, w[None], huber), scores)
    best = min(scores.values())
    ranked = sorted(scores, key=lambda name: len(LAWS[name].parameters))
    name = next(n for n in ranked if scores[n] <= _MARGIN * best)
    start = fits[name].values[:1]
    final = solve(LAWS[name], np.log(scales)[None], np.log(y)[None], w[None], huber, start)
    return Choice(LAWS[name], final, scores)


def _fit(form: Law, x: Array, y: Array, w: Array, huber: float | None, iterations: int = ITERATIONS) -> Estimate:
    return solve(form, np.log(x)[None], np.log(y)[None], w, huber, None, _RELATIVE, iterations)


def _score(form: Law, fit: Estimate, x: Array, y: Array, w: Array, kept: npt.NDArray[np.bool_]) -> float:
    """The worst hold-out's log RMSE; inf for a law that is out."""
    if form.name == "broken":
        late = np.exp(np.quantile(np.log(np.unique(x)), _LATE))
        _, _, _, beta, at, _ = fit.values[0]
        if at > late or beta >= form.parameters[3].high:
            return math.inf
    with np.errstate(all="ignore"):
        missed = np.log(form.predict(x, fit.values)) - np.log(y)
    out = [np.sqrt(np.average(missed[i, ~row] ** 2, weights=w[~row])) for i, row in enumerate(kept) if i]
    return float(max(out)) if np.isfinite(out).all() else math.inf


@dataclass(frozen=True)
class Evidence:
    """How one law of several does on the same points.

    Attributes:
        law: Its name; "..., E = 0" where the floor is taken out.
        parameters: How many.
        rmse_log: Root mean squared log residual.
        aicc: Akaike's criterion, corrected for few points, less that of the best of the laws; inf where points are too
            few for it. Points are taken to be independent.
        p_value: Of the likelihood-ratio test of a nested pair: that of the fitted law's extra part being 0, or of this
            law's. None where neither contains the other. A parameter on the edge of its range (a floor of 0) counts
            half (Self & Liang 1987).
        holdout: Log RMSE on the top 30 % of scales, fitted without them; None where scales are too few.
    """

    law: str
    parameters: int
    rmse_log: float
    aicc: float
    p_value: float | None
    holdout: float | None

    def to_json(self) -> dict[str, Any]:
        return {k: v if v is None or isinstance(v, str) or math.isfinite(v) else None for k, v in vars(self).items()}


def evidence(law: Law, x: Array, y: Array, weights: Array | None = None, holdout: float = 0.3) -> list[Evidence]:
    """`law` and its rivals on the same points by least squares, best AICc first. Laws that need more scales are out.

    Args:
        law: The fitted law.
        x: Scales, positive, [axes, points].
        y: Measurements, positive, [points].
        weights: See `estimate`.
        holdout: Share of distinct scales left out for the last column; 0 for none.
    """
    w = np.ones(y.size) if weights is None else weights
    kept = np.stack([np.ones(y.size), ~held_out(x, holdout)]) if holdout else np.ones((1, y.size))
    n, rows = y.size, []
    for name in (law.name, *RIVALS[law.name]):
        form = _pinned(name)
        if any(distinct(x[:, row > 0]) < form.fewest_scales for row in kept[:1]):
            continue
        few = len(kept) > 1 and distinct(x[:, kept[1] > 0]) < form.fewest_scales
        fit = _fit(form, x, y, w * (kept[:1] if few else kept), None)
        with np.errstate(all="ignore"):
            missed = np.log(form.predict(x, fit.values)) - np.log(y)
        p = len(form.parameters) - name.endswith("E = 0")
        rss = float(np.average(missed[0] ** 2, weights=w)) * n
        spare = n - p - 2  # the spread is one more
        aicc = n * math.log(max(rss, 1e-300) / n) + 2 * (p + 1) * n / spare if spare > 0 else math.inf
        out = None
        if len(kept) > 1 and not few:
            left = kept[1] == 0
            out = float(np.sqrt(np.mean(missed[1, left] ** 2)))
        rows.append((name, p, rss, aicc, out))
    own = next((row for row in rows if row[0] == law.name), None)
    least = min((row[3] for row in rows), default=0.0)
    found = []
    for name, p, rss, aicc, out in rows:
        p_value = None
        if own is not None and ((name, law.name) in _NESTED or (law.name, name) in _NESTED) and min(rss, own[2]) > 0:
            small, large = (rss, own[2]) if p < own[1] else (own[2], rss)
            p_value = likelihood_ratio(small, large, n, abs(p - own[1]))
        apart = aicc - least if math.isfinite(aicc) else math.inf
        found.append(Evidence(name, p, math.sqrt(rss / n), apart, p_value, out))
    return sorted(found, key=lambda e: e.aicc)


def likelihood_ratio(small: float, large: float, n: int, extra: int) -> float:
    """The p-value of `extra` parameters being 0, from the sums of squares without and with them, of n points.

    A single extra parameter lies on the edge of its range, a floor of 0: half of chi-squared (Self & Liang 1987).
    """
    ratio = max(n * math.log(small / large), 0.0)  # below 0 only by a failed search
    return float(chdtrc(extra, ratio)) / (2 if extra == 1 and ratio > 0 else 1)


def _pinned(name: str) -> Law:
    """A law by name; with "E = 0" its floor cannot leave 0."""
    base, _, pinned = name.partition(", ")
    form = LAWS[base]
    if not pinned:
        return form
    floor, *rest = form.amplitudes
    return replace(form, amplitudes=(replace(floor, high=0.0), *rest))
