"""Whether data determine the parameters of a law of which that is not known beforehand."""

from __future__ import annotations

import numpy as np

from raysweep.laws.definition import Array, Law

__all__ = ["overflown", "undetermined"]

_RANK = 1e-9  # a direction of parameters that moves y by less than this share of another does not move it
_PART = 0.05  # share of a parameter in such a direction from which it is named


def overflown(law: Law, x: Array, values: Array) -> str | None:
    """Why `values`, [parameters], at scales x > 0, [axes, points], are no numbers to go on with; None where they are.

    Amplitudes grow as scales to the power of exponents, beyond what a float holds where a law does not suit its data.
    """
    with np.errstate(all="ignore"):
        log, rows = law.evaluate(np.log(x), values)
        moved = [row * value if p.log else row for row, value, p in zip(rows, values, law.parameters, strict=True)]
    if all(np.isfinite(one).all() for one in (values, log, *moved)):
        return None
    shown = ", ".join(f"{name} = {value:.3g}" for name, value in zip(law.names, values, strict=True))
    return (
        f"The search ended where {law.formula} exceeds the range of numbers ({shown}): the law does not suit these "
        "data, or their units are extreme. Check the columns and their order, take units nearer to 1, or another law."
    )


def undetermined(law: Law, x: Array, values: Array) -> str | None:
    """Why `values`, [parameters], at scales x > 0, [axes, points], are no estimate; None where they are."""
    u = np.log(x)
    with np.errstate(all="ignore"):
        y, _ = law.value(u, values)
        log, rows = law.evaluate(u, values)
    if not (np.isfinite(values).all() and (y > 0).all() and np.isfinite(log).all()):
        return (
            f"The search found no parameters at which {law.formula} is positive at every scale. State the signs of its "
            "parameters (positive), or their ranges (bound)."
        )
    if not all(np.isfinite(row).all() for row in rows):
        return overflown(law, x, values)
    free = [j for j, p in enumerate(law.parameters) if p.low < values[j] < p.high]
    columns = np.stack(
        [np.broadcast_to(rows[j] * (values[j] if law.parameters[j].log else 1.0), log.shape) for j in free], axis=1
    )
    size = np.linalg.norm(columns, axis=0)
    names = [law.names[j] for j, length in zip(free, size, strict=True) if length == 0]
    if not names and len(free) > 1:
        _, sizes, directions = np.linalg.svd(columns / size, full_matrices=True)
        sizes = np.append(sizes, np.zeros(len(free) - len(sizes)))
        loose = (np.abs(directions[sizes <= _RANK * sizes[0]]) > _PART).any(axis=0)
        names = [law.names[j] for j, some in zip(free, loose, strict=True) if some]
    if not names:
        return None
    means = "can change together without changing" if len(names) > 1 else "does not change"
    return (
        f"These data do not determine {', '.join(names)}, which {means} {law.formula} at any of its scales. "
        f"Add rows that show what {names[0]} does, fix it (fix) or tie it to another (tie), or take a law without it."
        f"{f' The law {law.name!r}: {law.when}' if law.when else ''}"
    )
