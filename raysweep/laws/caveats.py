"""Caveats: the weaknesses of a group's fit, one sentence per stable code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raysweep.laws.batch import Group
from raysweep.laws.choice import Evidence, f_test
from raysweep.laws.definition import Array, Law
from raysweep.laws.deviation import departure
from raysweep.laws.estimate import Status, distinct
from raysweep.laws.forms import compared
from raysweep.laws.group import Holdout, lack_of_fit
from raysweep.laws.own import FORMULA
from raysweep.laws.remains import remains
from raysweep.laws.request import Options
from raysweep.laws.rise import rise
from raysweep.laws.trend import trend

__all__ = [
    "MOST_COMPARED",
    "MOST_JUDGED",
    "Trends",
    "of_comparison",
    "of_holdout",
    "of_place",
    "of_residuals",
    "of_rivals",
    "of_search",
    "of_trend",
    "of_window",
]

MOST_COMPARED = 50  # groups beyond which rivals are not fitted, but for a floor
MOST_JUDGED = 2000  # groups beyond which no floor and no form is tested, and draws are not kept, only their intervals
_SUSPICIOUS = 0.001  # p-value below which a fit is flagged
_UNCERTAIN = 0.05  # p-value of no floor above which the data cannot distinguish a floor from none
_BENT = 0.01  # p-value of the law's form below which a rise that lags behind it is no rise of its kind
_FAR = 1e60  # times the largest scale: a power of .05 has grown a thousandfold
_NARROW = 2.0  # ratio of scales below which an exponent is not to be trusted
_JUDGED = 8  # points held out that can speak against a law
_MISSED = 0.15  # a coverage this far below the nominal one is reported


def of_search(status: Status) -> dict[str, str]:
    """How the search ended, where it did not converge inside every bound."""
    if status is Status.BOUND_HIT:
        text = (
            "An estimate lies on a bound of its parameter: a law without it fits as well, or the data do not "
            "determine it. Fit that law, or add scales."
        )
        return {"parameter_at_bound": text}
    if status is Status.MAX_ITER:
        text = (
            "The search did not fully converge: the parameters are nearly interchangeable here. Take a law with "
            "fewer, or add scales."
        )
        return {"not_settled": text}
    return {}


@dataclass(frozen=True)
class Trends:
    """What is to be said of how y changes with the scales.

    Attributes:
        notes: A sentence for each code.
        determined: Whether the data determine the law's parameters.
        rises: How y rises where the law does not follow, for the reader; empty where it follows.
    """

    notes: Mapping[str, str]
    determined: bool = True
    rises: str = ""


def of_trend(group: Group, names: Sequence[str], y: str) -> Trends:
    """Whether y does not depend on the scales, called `names`, or rises with one and the law does not, or not so."""
    data, law, weights = group.data, group.law, group.weights
    found = trend(data.x, data.y, weights)
    if found is None:
        return Trends({})
    predicted = law.predict(data.x, group.values)
    size = np.log(data.x).sum(axis=0)
    logs = np.log(data.y)
    # Most data fall: where so many groups are fitted, each test counts.
    falls = float(weights * (size - np.average(size, weights=weights)) @ logs) <= 0
    curve = None if falls else rise(size, logs, weights)
    # A y that falls, too, as about an optimum, is none that rises to a ceiling.
    climbs = curve is not None and curve.p_value < _SUSPICIOUS and curve.up > 2 * curve.down
    if found.flat > _UNCERTAIN and law.free > 1 and not climbs:
        constant = np.average(np.log(data.y), weights=weights)
        small = float((weights * (np.log(data.y) - constant) ** 2).sum())
        large = float((weights * (np.log(data.y) - np.log(predicted)) ** 2).sum())
        spare = data.y.size - law.free
        if spare < 1 or large <= 0 or f_test(small, large, spare, law.free - 1) > _SUSPICIOUS:
            text = (
                f"{y} does not change with {', '.join(names)} beyond its noise (F test, p = {found.flat:.2g}): a "
                f"constant, {math.exp(constant):.4g}, fits as well, and no exponent or floor can be read from it; "
                f"intervals of {y} itself, at any scale, stay. Widen the range of scales, or report the constant."
            )
            return Trends({"no_trend": text}, determined=False)
    followed = trend(data.x, predicted, weights)
    cure = (
        "fit what is left to its ceiling as a column of its own, such as 1 - accuracy, or a law with a ceiling: "
        "sigmoid, or a formula such as T - A*x**-a"
    )
    rising: list[tuple[int | None, str, float]]
    rising = [(a, names[a], found.slopes[a]) for a in np.flatnonzero(found.rising < _SUSPICIOUS).tolist()]
    lost = [followed is None or bool(followed.slopes[axis] < slope / 2) for axis, _, slope in rising]
    if climbs and curve is not None:
        left = rise(size, np.log(data.y) - np.log(predicted), weights)
        rising.append((None, " times ".join(names), found.slopes.mean()))
        lost.append(left is not None and left.up > curve.up / 2)
    for (axis, name, slope), not_followed in zip(rising, lost, strict=True):
        shown = f"{y} rises with {name}" + (f" (about as {name}^{slope:.2g})" if axis is not None else "")
        if not_followed:
            text = f"{shown}, which {law.name!r} cannot follow: {cure}."
            return Trends({"rising": text}, determined=False, rises="they rise, which it cannot")
        if _levels_off(group, axis):
            continue
        if _bends_down(group, size, predicted):
            text = f"{shown}, ever more slowly, while {law.name!r} has no ceiling: {cure}."
            return Trends({"rising": text}, determined=False, rises="they rise ever more slowly, and it does not")
        if data.y.max() <= 1.0:
            return Trends({"rising": f"{shown}, and {law.name!r} has no ceiling: if {y} is a share, {cure}."})
    return Trends({})


def _levels_off(group: Group, axis: int | None) -> bool:
    """Whether the law stays near the data far beyond them along an axis, or along all for None."""
    far = group.data.x.copy()
    some = slice(None) if axis is None else slice(axis, axis + 1)
    far[some] = far[some].max(axis=1, keepdims=True) * _FAR
    with np.errstate(over="ignore"):
        return bool(group.law.predict(far, group.values).max() < 10 * group.data.y.max())


def _bends_down(group: Group, size: Array, predicted: Array) -> bool:
    """Whether the data depart from a law that rises, and lag behind it where scales are largest.

    Args:
        size: Log product of all scales, [points].
        predicted: The law there, [points].
    """
    data, weights = group.data, group.weights
    residual = np.log(data.y) - np.log(predicted)
    large = size >= (size.min() + size.max()) / 2
    away = size[large] - np.average(size[large], weights=weights[large])
    if float((weights[large] * away) @ residual[large]) >= 0:
        return False
    p_value = departure(group.law, group.values, remains(np.log(data.x), residual, weights))
    return p_value is not None and p_value < _BENT


def of_residuals(group: Group, residual: Array) -> dict[str, str]:
    """Whether log residuals, [points], exceed what the spread of runs explains, and whether that spread is known."""
    data, out = group.data, {}
    if group.growth is not None and group.growth.found:
        residual = residual * np.sqrt(group.weights)
    p_value = lack_of_fit(data.x, residual, len(group.law.parameters), group.run)
    if p_value is not None and p_value < _SUSPICIOUS:
        out["lack_of_fit"] = (
            f"Means at each scale deviate from the law by more than the spread of runs explains (F test, p = "
            f"{p_value:.1g}): the interval describes the best fit of this form, which the data do not follow. "
            "Try another form or window."
        )
    scales = distinct(data.x)
    single = data.y.size == scales or distinct(np.concatenate([data.x, group.run[None]])) == scales
    if single and data.x_se is None:  # else points that were moved to their likely scales only look single
        out["one_run_per_scale"] = (
            "There is one run at each scale, so the spread between runs is judged from the residuals of the law alone. "
            "Add runs (seeds) to see whether the law fits them."
        )
    return out


def of_window(group: Group, names: Sequence[str], residual: Array) -> dict[str, str]:
    """The scales, called `names`, that span less than a factor of 2."""
    said, spare = [], max(residual.size - len(group.law.parameters), 1)
    for name, scale in zip(names, np.log(group.data.x), strict=True):
        ratio = math.exp(float(np.ptp(scale)))
        if 1.0 < ratio < _NARROW:
            error = math.sqrt(float((residual**2).sum()) / spare / float(((scale - scale.mean()) ** 2).sum()))
            said.append(
                f"{name} spans a factor of {ratio:.4g} only (its exponent has a standard error of about {error:.2g}, "
                "from the spread about the law)"
            )
    if not said:
        return {}
    text = f"{'; '.join(said)}. Exponents depend on ratios of scales: widen the range to at least a factor of 2."
    return {"narrow_window": text}


def of_place(group: Group) -> dict[str, str]:
    """The parameters that are scales and lie beyond the data."""
    x = group.data.x[0]
    values = {name: float(group.values[group.law.names.index(name)]) for name in group.law.surrounded}
    out = [f"{name} = {value:.4g}" for name, value in values.items() if not x.min() < value < x.max()]
    if not out:
        return {}
    return {
        "outside_scales": (
            f"{', '.join(out)} lies outside the scales that were measured, {x.min():.4g} to {x.max():.4g}: no "
            "data show what lies on its other side. Add scales there."
        )
    }


def of_holdout(law: Law, holdout: Holdout | None, options: Options) -> dict[str, str]:
    """How well the second fit predicted the points held out."""
    if holdout is None:
        if not options.holdout:
            return {}
        share = f"{options.holdout:.0%}"
        return {
            "no_holdout": (
                f"Too few scales remain without the top {share} to fit {law.name!r}, so nothing was held out. "
                "Add scales."
            )
        }
    coverage, p_value = holdout.coverage, holdout.p_value
    if coverage is None or p_value is None or holdout.n_points < _JUDGED:
        return {}
    if coverage >= options.level - _MISSED or p_value > _UNCERTAIN:
        return {}
    return {
        "holdout_missed": (
            f"Only {coverage:.0%} of the points held out fell into their {options.level:.0%} interval: the law "
            "does not reach that far, and neither will intervals beyond the data. Try another form or window."
        )
    }


def _asked(law: str) -> str:
    return "the formula with it" if law == FORMULA else f"--law {law}"


def of_comparison(compared: bool, options: Options) -> dict[str, str]:
    """Where rivals are missing."""
    if options.envelope is not None:
        tau = options.envelope
        text = (
            f"The law is not of the mean: squared log residuals count {tau:g} where y lies above it and {1 - tau:g} "
            "below (an expectile). Rivals, tests of the fit and intervals of a new run are of the mean, and left out."
        )
        return {"envelope": text}
    if not compared:
        text = (
            f"Rivals are fitted in at most {MOST_COMPARED} groups at a time. A floor, and by the residuals the form "
            f"(extrapolation_untrusted), are tested in at most {MOST_JUDGED:,}; with more, neither is, and predictions "
            "have no intervals. Choose groups with `where=`."
        )
        return {"no_rivals": text}
    return {}


def of_rivals(law: Law, rivals: Sequence[Evidence]) -> dict[str, str]:
    """Whether the data need the floor that a law has, or one that it has not."""
    out = {}
    known = {one.name: one for one in (law, *map(compared, law.rivals))}
    for rival in rivals:
        if rival.law == law.floorless and rival.p_value is not None and rival.p_value > _UNCERTAIN:
            out["floor_not_needed"] = (
                f"A floor of E = 0 fits as well (F test, p = {rival.p_value:.2g}): these data cannot "
                "distinguish a floor from no floor. Add larger scales, or more runs."
            )
        if rival.law == law.inside and rival.p_value is not None and rival.p_value < _SUSPICIOUS:
            out["constraint_contradicted"] = (
                f"{rival.law} fits better without these constraints ({law.name.removeprefix(rival.law + ', ')}; "
                f"F test, p = {rival.p_value:.1g}): the data contradict them. Leave them out."
            )
        if known[rival.law].floorless == law.name and rival.p_value is not None and rival.p_value < _SUSPICIOUS:
            out["floor_needed"] = (
                f"A floor fits better than none (F test, p = {rival.p_value:.1g}). Look at {_asked(rival.law)}."
            )
    return out
