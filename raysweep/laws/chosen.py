"""Which law is fitted where none is named: by hold-out, or of one family by Akaike's criterion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from raysweep.laws.choice import choose, evidence
from raysweep.laws.definition import Array, Law
from raysweep.laws.estimate import check, scales_of

__all__ = ["chosen"]

_AS_GOOD = 4.0  # AICc above the least up to which a law with fewer parameters is taken: positions are searched, too


def chosen(x: Array, y: Array, huber: float | None, family: Sequence[Law] = ()) -> tuple[Law, str]:
    """A one-axis law, and why it was chosen.

    Args:
        x: Scales, positive, [1, points].
        y: Measurements, positive, [points].
        huber: See `estimate`.
        family: Laws of which the one with the fewest parameters is taken whose AICc, by least squares, exceeds the
            least by at most 4; `choice.choose` decides where there are none.

    Raises:
        FitError: No law can be fitted; of a family: its first law needs more scales.
    """
    if not family:
        choice = choose(x, y, huber=huber)
        shown = ", ".join(f"{n} {s:.3g}" for n, s in choice.scores.items() if math.isfinite(s))
        text = f"{choice.law.name} was chosen by hold-out of the largest scales (log RMSE: {shown})."
        if choice.law.name not in choice.scores and shown:
            text = (
                f"{choice.law.name} was taken: the law that predicts the largest scales best (log RMSE when they are "
                f"held out: {shown}) is no better on all points than this one, which it contains."
            )
        elif stuck := choice.stuck:
            text += (
                f" Its {', '.join(stuck)} {'lies' if len(stuck) == 1 else 'lie'} on a bound, where hold-outs may take "
                "a law by luck: compare it with `law='power+floor'`."
            )
        few = f"{choice.law.name} was taken: scales are too few to choose a law by hold-out."
        return choice.law, text if shown else few
    first, *others = family
    check(first, scales_of(first, x), y)
    table = evidence(replace(first, rivals=tuple(others)), x, y, holdout=0.0)
    shown = ", ".join(f"{one.law} {one.aicc:.3g}" for one in table if math.isfinite(one.aicc))
    simple = min((one for one in table if one.aicc <= _AS_GOOD), key=lambda one: one.parameters, default=table[0])
    best = next(one for one in family if one.name == simple.law)
    return best, f"{best.name} has the fewest breaks within {_AS_GOOD:g} of the least AICc (above it: {shown})."
