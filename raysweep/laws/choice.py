"""Choosing a law by how well each predicts its own largest scales, and by information criteria."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import fdtrc

from raysweep.errors import FitError
from raysweep.laws import robust
from raysweep.laws.definition import Array, Law
from raysweep.laws.estimate import Estimate, distinct, scales_of, solve
from raysweep.laws.forms import LAWS, compared
from raysweep.laws.polish import ITERATIONS

__all__ = ["CANDIDATES", "Choice", "Evidence", "choose", "evidence", "f_test", "floor_evidence", "held_out"]

# Fewest parameters first. Without power and power+floor, limits of these that win short hold-outs by luck. Candidates,
# cuts and margin were picked on the 92 curves of Alabdulmohsin et al. (2022), test parts included (analysis/LOG.md).
CANDIDATES = ("shifted", "m4", "broken")
_FALLBACK = ("power+floor", "power")  # where scales are too few to compare: the first law that they suffice for
_CUTS = (0.2, 0.5)  # shares of distinct scales left out: one shallow, one deep; the worse of the two scores counts
_MARGIN = 1.05  # a law with more parameters must be better by this factor
_SCORED = 25  # iterations of a fit that is only scored
_AS_WELL = 1 + 1e-6  # ratio of objectives of two laws that fit the same
_RELATIVE = 1e-6  # tolerance of a fit that is compared: far below the differences between laws


@dataclass(frozen=True)
class Choice:
    """A law chosen by hold-out, fitted to all points.

    Attributes:
        estimate: Its fit to all points.
        scores: The worse log RMSE of each candidate's hold-outs; inf for one that is ruled out.
    """

    law: Law
    estimate: Estimate
    scores: Mapping[str, float]

    @property
    def stuck(self) -> list[str]:
        """Parameters that lie on a bound of theirs."""
        values = zip(self.law.parameters, self.estimate.values[0].tolist(), strict=True)
        return [one.name for one, value in values if not one.low < value < one.high]

    def predict(self, x: npt.ArrayLike) -> Array:
        """The law's y at scales x > 0."""
        return self.law.predict(np.asarray(x, dtype=np.float64), self.estimate.values[0])


def held_out(x: Array, share: float) -> npt.NDArray[np.bool_]:
    """A mask of the points in the top `share` of distinct scales, at least one and never all; x is [axes, points].

    Several scales are judged by their product, which compute is proportional to.
    """
    size = np.round(np.log(x).sum(axis=0), 9)  # products of equal compute differ in their last digits
    scales = np.unique(size)
    out = min(max(1, math.ceil(share * scales.size - 1e-9)), scales.size - 1)
    return np.asarray(size > scales[scales.size - out - 1])


def choose(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    laws: Sequence[str] = CANDIDATES,
    weights: npt.ArrayLike | None = None,
    huber: float | None = None,
) -> Choice:
    """The one-axis law that predicts the largest scales best, fitted to all points.

    Each law is fitted without the top 20 % and without the top 50 % of distinct scales; its score is the worse log RMSE
    on the scales left out. The law with the fewest parameters within 5 % of the best is taken. A law whose data do not
    show what it says (`Law.sees`) is not a candidate. Where scales are too few for the deep cut the shallow one
    decides alone; where they are too few for that, `power+floor` is taken, or `power`. A law gives way to one that it
    contains, or has as a limit, and that fits as well (`power+floor` for a shift of 0).

    Args:
        x: Scales, positive, [points].
        y: Measurements, positive, [points].
        laws: Names of candidates.
        weights, huber: See `estimate`.

    Raises:
        FitError: No law can be fitted.
    """
    forms = [LAWS[name] for name in laws]
    simplest = LAWS[_FALLBACK[-1]]
    scales, y = scales_of(simplest, x), np.asarray(y, dtype=np.float64)
    w = np.ones(y.size) if weights is None else np.asarray(weights, dtype=np.float64)
    fits: dict[str, Estimate] = {}
    scores: dict[str, float] = {}
    # The deep cut counts only where it leaves enough scales for all that the shallow does.
    for cuts in (_CUTS, _CUTS[:1]):
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
                f"A law needs at least {simplest.fewest_scales} distinct scales, but got {count}. Add scales."
            )
        return Choice(LAWS[name], _fit(LAWS[name], scales, y, w[None], huber), scores)
    best = min(scores.values())
    ranked = sorted(scores, key=lambda name: len(LAWS[name].parameters))
    name = next(n for n in ranked if scores[n] <= _MARGIN * best)
    start = fits[name].values[:1]
    final = solve(LAWS[name], np.log(scales)[None], np.log(y)[None], w[None], huber, start)
    return Choice(*_without_idle(LAWS[name], final, scales, y, w, huber), scores)


def _without_idle(form: Law, fit: Estimate, x: Array, y: Array, w: Array, huber: float | None) -> tuple[Law, Estimate]:
    """The simplest law that fits as well: parameters that do nothing would widen intervals."""
    within = [LAWS[name] for name in dict.fromkeys((*form.contains, *form.limits)) if name in LAWS]
    for smaller in sorted(within, key=lambda law: law.free):
        tried = _fit(smaller, x, y, w[None], huber)
        if tried.objective[0] <= fit.objective[0] * _AS_WELL:
            return smaller, tried
    return form, fit


def _fit(form: Law, x: Array, y: Array, w: Array, huber: float | None, iterations: int = ITERATIONS) -> Estimate:
    return solve(form, np.log(x)[None], np.log(y)[None], w, huber, None, _RELATIVE, iterations)


def _score(form: Law, fit: Estimate, x: Array, y: Array, w: Array, kept: npt.NDArray[np.bool_]) -> float:
    """The worst hold-out's log RMSE; inf for a law that is ruled out."""
    if form.sees is not None and not form.sees(np.unique(x), fit.values[0]):
        return math.inf
    with np.errstate(all="ignore"):
        missed = np.log(form.predict(x, fit.values)) - np.log(y)
    out = [np.sqrt(np.average(missed[i, ~row] ** 2, weights=w[~row])) for i, row in enumerate(kept) if i]
    return float(max(out)) if np.isfinite(out).all() else math.inf


@dataclass(frozen=True)
class Evidence:
    """How well one law of several fits the same points.

    Attributes:
        law: Its name; "..., E = 0" where the floor is removed.
        parameters: Number of parameters.
        rmse_log: Root mean squared log residual.
        aicc: Akaike's criterion, corrected for few points, less that of the best of the laws; inf where points are too
            few for it. Points are taken to be independent.
        p_value: The p-value of the F test of a nested pair: that the extra part of the fitted law, or of this one, is
            0. None where neither contains the other. A parameter on the edge of its range (a floor of 0) counts half
            (Self & Liang 1987).
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


def evidence(
    law: Law, x: Array, y: Array, weights: Array | None = None, holdout: float = 0.3, huber: float | None = None
) -> list[Evidence]:
    """`law` and its rivals on the same points, best AICc first, without laws that need more scales.

    Args:
        x: Scales, positive, [axes, points].
        y: Measurements, positive, [points].
        weights: See `estimate`.
        holdout: Share of distinct scales left out for the last column; 0 for none.
        huber: See `estimate`. The likelihood is then that of Huber's density, and the F test one of its losses.
    """
    w = np.ones(y.size) if weights is None else weights
    kept = np.stack([np.ones(y.size), ~held_out(x, holdout)]) if holdout else np.ones((1, y.size))
    able = [form for form in (law, *map(compared, law.rivals)) if distinct(x) >= form.fewest_scales]
    return _table(law, [_compared(form, x, y, w, kept, huber) for form in able], y.size)


def floor_evidence(
    law: Law, other: Law, values: tuple[Array, Array], x: Array, y: Array, weights: Array, huber: float | None
) -> list[Evidence]:
    """`evidence` on a law and that with or without its floor, both fitted: `values` are theirs; nothing is held out."""
    kept = np.ones((1, y.size))
    rows = [_row(form, v[None], x, y, weights, kept, huber) for form, v in zip((law, other), values, strict=True)]
    return _table(law, rows, y.size)


def _table(law: Law, rows: Sequence[_Compared], n: int) -> list[Evidence]:
    least = min((row.aicc for row in rows), default=0.0)
    own = next((row for row in rows if row.form is law), None)
    table = [
        Evidence(
            row.form.name,
            row.form.free,
            math.sqrt(row.squares / n),
            row.aicc - least if math.isfinite(row.aicc) else math.inf,
            None if own is None else _p_value(own, row, n),
            row.holdout,
        )
        for row in rows
    ]
    return sorted(table, key=lambda e: e.aicc)


@dataclass(frozen=True)
class _Compared:
    """A law fitted to the points.

    Attributes:
        squares: Sum of squared residuals.
        loss: What the fit minimised: the same, or twice the sum of Huber's losses.
        noise: What the F test compares a difference of losses with: the same, or see `robust.noise`.
        holdout: Log RMSE on what was held out.
    """

    form: Law
    squares: float
    loss: float
    noise: float
    aicc: float
    holdout: float | None


def _compared(form: Law, x: Array, y: Array, w: Array, kept: Array, huber: float | None) -> _Compared:
    """The rows of `kept`, [1 or 2, points], are 1 for all points and, if scales are held out, for the others."""
    second = len(kept) > 1 and distinct(x[:, kept[1] > 0]) >= form.fewest_scales
    kept = kept if second else kept[:1]
    return _row(form, _fit(form, x, y, w * kept, huber).values, x, y, w, kept, huber)


def _row(form: Law, values: Array, x: Array, y: Array, w: Array, kept: Array, huber: float | None) -> _Compared:
    """`values`, [1 or 2, parameters], are those of the fits to the rows of `kept`."""
    with np.errstate(all="ignore"):
        missed = np.log(form.predict(x, values)) - np.log(y)
    n, p = y.size, form.free
    squares = float(np.average(missed[0] ** 2, weights=w)) * n
    spare = n - p - 2  # the spread is one more
    if huber is None:
        loss = noise = squares
        fits = n * math.log(max(squares, 1e-300) / n)
    else:
        part = (missed[0], w / w.mean(), huber)
        loss, noise, fits = robust.loss(*part), robust.noise(*part), robust.deviance(*part)
    aicc = fits + 2 * (p + 1) * n / spare if spare > 0 else math.inf
    holdout = float(np.sqrt(np.mean(missed[1, kept[1] == 0] ** 2))) if len(kept) > 1 else None
    return _Compared(form, squares, loss, noise, aicc, holdout)


def _p_value(own: _Compared, other: _Compared, n: int) -> float | None:
    """The p-value of the F test of two laws on n points; None where neither contains the other, or none is spare."""
    a, b = own.form, other.form
    nested = b.name in a.contains or a.name in b.contains or a.inside == b.name
    if not nested or min(own.noise, other.noise) <= 0:
        return None
    small, large = (other, own) if b.free < a.free else (own, other)
    spare, edge = n - large.form.free, small.form.inside != large.form.name
    without = small.loss + (large.noise - large.loss)
    return f_test(without, large.noise, spare, abs(a.free - b.free), edge) if spare > 0 else None


def f_test(small: float, large: float, spare: int, extra: int, edge: bool = True) -> float:
    """The p-value of `extra` parameters being 0, from the sums of squares without and with them.

    The F distribution in place of the limit of many points, chi-squared, which four points are far from. A single extra
    parameter at the `edge` of its range (a floor of 0): half of it (Self & Liang 1987).

    Args:
        spare: Points less the parameters of the larger law, > 0.
    """
    ratio = max((small / large - 1.0) * spare / extra, 0.0)  # below 0 only by a failed search
    return float(fdtrc(extra, spare, ratio)) / (2 if edge and extra == 1 and ratio > 0 else 1)
