"""Intervals and a note for a law that may be wrong: what the data say against its form, and how far it may then err."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from raysweep.laws.batch import Group
from raysweep.laws.choice import Evidence
from raysweep.laws.definition import Array, Law
from raysweep.laws.deviation import departure, deviation
from raysweep.laws.group import GroupFit
from raysweep.laws.power import noticed
from raysweep.laws.remains import Remains

__all__ = ["UNTRUSTED", "bent_band", "of_form", "would_notice"]

UNTRUSTED = "extrapolation_untrusted"
_SUSPICIOUS = 0.025  # p-value of the law's form below which its extrapolation is not trusted
_LEAD = 10.0  # by which a rival's AICc then is better


def of_form(
    group: Group, left: Remains, rivals: Sequence[Evidence], details: Mapping[str, str], rises: str = ""
) -> dict[str, str]:
    """Whether the data speak against the form of a group's law, or against independent rows, which look the same.

    Args:
        left: What the fit leaves of the data.
        rivals: The comparison with other laws.
        details: Notes that are known already.
        rises: How y rises where the law does not follow, for the reader; empty where it follows.
    """
    said = [rises] if rises else []
    if "correlated_rows" in details:
        said.append("residuals of neighbouring points are correlated")
    if "lack_of_fit" in details:
        said.append("means at each scale deviate by more than the spread of runs explains")
    if _independent(group):
        said += _against(group.law, departure(group.law, group.values, left), rivals)
    if not said:
        return {}
    text = (
        f"The data do not follow {group.law.name!r} with independent errors: {'; '.join(said)}. Beyond the data its "
        "interval is withheld from predictions, and only that of a law that may bend is shown. Try another form or "
        "window."
    )
    return {UNTRUSTED: text}


def _against(law: Law, p_value: float | None, rivals: Sequence[Evidence]) -> list[str]:
    """What speaks against a law's form where rows are independent."""
    said = []
    if p_value is not None and p_value < _SUSPICIOUS:
        said.append(f"residuals follow a smooth curve (restricted likelihood ratio, p = {p_value:.1g})")
    own = next((one.aicc for one in rivals if one.law == law.name), 0.0)
    best = min((one for one in rivals if one.parameters >= law.free), key=lambda one: one.aicc, default=None)
    if best is not None and own - best.aicc > _LEAD:
        said.append(f"{best.law} fits better by {own - best.aicc:.0f} in AICc")
    return said


def _independent(group: Group) -> bool:
    """Whether every row is a run of its own: the rows of one run may have correlated errors, which look like a bend."""
    if group.data.run is None:
        return True
    runs = np.unique(group.data.run).size
    return bool(np.unique(np.vstack([group.data.x, group.run]), axis=1).shape[1] == runs)


def bent_band(group: GroupFit, x: Array, new_run: bool = False) -> Array | None:
    """Low and high of the mean at scales x > 0, [axes, points], if the law may bend: [points, 2]; None if unknown.

    It holds the interval of the law itself, and that of the law times a smooth deviation, see `laws.deviation`.

    Args:
        new_run: Of a new run's measurement, in place of the mean.
    """
    if group.error is not None or group.left is None:
        return None
    values = np.array([group.params[name] for name in group.law.names])
    found = deviation(group.law, values, group.left)
    if found is None:
        return None
    own = group.prediction(x) if new_run else group.band(x)
    bent = found.interval(x, group.level, noise=new_run)
    return np.stack([np.fmin(own[:, 0], bent[:, 0]), np.fmax(own[:, 1], bent[:, 1])], axis=1)


def would_notice(group: GroupFit, x: Array) -> Array:
    """The largest share of such data in which a bend that moves y at scales x > 0, [axes, points], by half the width of
    the law's interval there would be noticed, [points]: what the silence of `extrapolation_untrusted` is worth.

    NaN where it is unknown: without an interval, or where the rows are not independent of each other.
    """
    if group.error is not None or group.left is None or group.n_clusters != group.n_points:
        return np.full(x.shape[1], np.nan)
    with np.errstate(all="ignore"):
        move = np.diff(np.log(group.band(x)), axis=1)[:, 0] / 2
    values = np.array([group.params[name] for name in group.law.names])
    return noticed(group.law, values, group.left, x, move, _SUSPICIOUS)
