"""The last word of a sweep that stops itself: what was found, how sure that is, and what more would cost and buy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import stdtrit

from raysweep import adaptive
from raysweep.adaptive import Slopes
from raysweep.stopping import Judged, State
from raysweep.terminal import counted

if TYPE_CHECKING:
    from raysweep.laws.group import GroupFit

__all__ = ["one_more_decade", "record", "sentences"]

_LIKE_EQUAL = 0.01  # share of a half width below which runs tell of a bend what equally many at every scale would
_FAR = 0.5  # error in log y beyond which it is said as a factor: a percentage would be another number


def sentences(state: State) -> list[str]:
    """What the rounds gave, in one sentence each."""
    found = []
    for one in state.judged:
        found += _of(one)
    if state.over:
        found.append(f"stopped after {counted(state.rounds, 'round')}: {state.over}.")
    return found


def _of(one: Judged) -> list[str]:
    group, target, look = one.group, one.target, one.look
    of = f" ({group.name})" if group.name else ""
    estimate = f"{one.brief} from {counted(int(group.seen.count.sum()), 'run')}"
    if look.bent:
        return [
            f"{target.text}{of}: the law {group.fit.law.name} does not hold over the grid (p = {look.bend.p:.1g}). "
            f"{estimate} would be its interval if it did. Fit another law, or a window of scales."
        ]
    said = "as narrow as wanted" if look.half <= target.width / 2 else f"wider than the wanted {target.width:g}"
    found = [f"{estimate}; {said}."]
    if look.bend.unseen > 0:
        how = "" if target.at is None else " (in its logarithm)"
        bent = (
            f"A bend that these runs do not exclude may move it{how} by up to {look.bend.unseen:.2g}, towards what "
            "equally many runs at every scale would give."
        )
        if look.bend.unseen < _LIKE_EQUAL * min(float(look.half), target.width / 2):
            bent = "Where it bends, equally many runs at every scale would give about the same."
        found.append(f"  This takes the law to hold. {bent}")
    if compared := _compared(group.fit):
        found.append(f"  {compared}")
    if more := one_more_decade(one):
        x, cost, half = more
        unit = "FLOP" if group.in_flops else "s"
        found.append(
            f"  One more decade: a run at {group.fit.x[0]} = {x:.3g} would cost about {cost:.2g} {unit} and leave an "
            f"interval {2 * half:.2g} wide, {_share(half / float(look.half))}."
        )
    return found


def _compared(fit: GroupFit) -> str:
    """The law beside others, and without its largest scales."""
    said, held = [], fit.holdout
    finite = [one for one in fit.rivals or () if math.isfinite(one.aicc)]
    own = next((one for one in finite if one.law == fit.law.name), None)
    if own is not None and len(finite) > 1:
        best = min((one for one in finite if one is not own), key=lambda one: one.aicc)
        gap = best.aicc - own.aicc
        how = f"comes closest, {gap:.1f} behind it" if gap >= 0 else f"fits better, by {-gap:.1f}"
        said.append(f"Of {len(finite) - 1} other laws, {best.law} {how} in AICc.")
    if held is not None:
        error = held.rmse_log
        by = f"{100 * error:.2g} %" if error < _FAR else f"a factor of {np.exp(error):.2g}"
        said.append(
            f"Fitted without the scales above {held.cut:.4g}, the law {fit.law.name} misses the "
            f"{counted(held.n_points, 'run')} there by {by}."
        )
    return " ".join(said)


def _share(ratio: float) -> str:
    return f"{100 * (1 - ratio):.0f} % narrower" if ratio < 0.995 else "no narrower"


def record(state: State) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "rounds": state.rounds,
        "over": state.over,
        "runs": int(state.chosen.sum()),
        "of_runs": len(state.chosen),
        "spent": state.spent,
        "hours": state.hours,
        "intervals": [one.to_json() for one in state.judged],
        "sentences": sentences(state),
    }


def one_more_decade(judged: Judged) -> tuple[float, float, float] | None:
    """A scale ten times the largest, the estimated cost of one run there, and the half width that it would leave.

    None for laws of several scales, and where there is no interval yet. Costs are extrapolated as a power of the scale.
    """
    group = judged.group
    if len(group.x) > 1 or len(group.settings) < 2 or not math.isfinite(judged.look.half):
        return None
    x, u = 10 * float(group.x.max()), group.u
    power, level = np.polyfit(u, np.log(group.cost), 1)
    slopes = group.slopes(judged.target)
    row = group.rows(np.array([[math.log(x)]]))[:, group.free]
    top = judged.look.per_run[np.argmax(u)]
    more = adaptive.variance(
        Slopes(np.concatenate([slopes.law, row]), slopes.target),
        np.append(group.seen.count, 1.0),
        np.append(judged.look.per_run, top),
    )
    freedom = max(group.seen.count.sum() + 1 - len(group.free), 1.0)
    return (
        x,
        math.exp(level + power * math.log(x)),
        float(adaptive.STOPPING * stdtrit(freedom, 0.975) * math.sqrt(more)),
    )
