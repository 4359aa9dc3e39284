"""The form of a fitted law as plain data, which a saved fit keeps: a name or a formula, and constraints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from raysweep.errors import FitError
from raysweep.laws.constrained import constrained
from raysweep.laws.constraint import Constraints
from raysweep.laws.definition import Law
from raysweep.laws.forms import LAWS, law
from raysweep.laws.own import FORMULA, own_law

__all__ = ["law_of", "written"]

_Y = "y = "  # before the text of a formula


def written(form: Law, columns: Sequence[str]) -> dict[str, Any]:
    """The form as data that `law_of` reads: `law`, of a formula `formula` and `positive`, and with constraints also
    `fix`, `tie` and `bound`.

    Args:
        columns: The columns of the scales.

    Raises:
        FitError: The law is neither one of `LAWS`, nor a formula, nor one of these under constraints.
    """
    base, what = form.of or (form, Constraints())
    record: dict[str, Any] = {"law": base.name}
    if base.name == FORMULA:
        record["formula"] = base.formula.removeprefix(_Y)
        record["positive"] = [p.name for p in base.parameters if p.log]
    if what:
        ends = {name: [None if math.isinf(end) else end for end in (low, high)] for name, low, high in what.bound}
        record |= {"fix": dict(what.fix), "tie": dict(what.tie), "bound": ends}
    if (base.name != FORMULA and base.name not in LAWS) or _shown(law_of(record, columns)) != _shown(form):
        raise FitError(
            f"A saved fit must be of one of {', '.join(LAWS)}, or of a formula, but got {form.name!r} in a form of its "
            "own. Fit one of them."
        )
    return record


def law_of(record: Mapping[str, Any], columns: Sequence[str]) -> Law:
    """The law that `written` described.

    Raises:
        FitError: There is no such law, or the formula or a constraint is none.
        KeyError, TypeError: The record is not one of a law.
    """
    if record["law"] == FORMULA:
        form = own_law(record["formula"], tuple(columns), tuple(record["positive"]))
    else:
        form = law(record["law"])
        form = form if form.of_axes is None else form.of_axes(len(columns))
    what = Constraints.of_mappings(record.get("fix"), record.get("tie"), record.get("bound"))
    return constrained(form, what) if what else form


def _shown(form: Law) -> tuple[Any, ...]:
    return form.name, form.formula, form.axes, form.parameters
