"""Expectiles: the law of the best runs, or of the worst, by asymmetric least squares.

Squared log residuals count tau where y lies above the law and 1 - tau where it lies below (Newey & Powell 1987): tau
below .5 gives a law that few points fall short of. The optimum is reached by least squares whose weights follow the
signs of its residuals, until they no longer change.
"""

from __future__ import annotations

import numpy as np

from raysweep.laws.definition import Array, Law
from raysweep.laws.estimate import Estimate, Status, solve

__all__ = ["solve_expectile"]

_ROUNDS = 50


def solve_expectile(
    law: Law, u: Array, t: Array, w: Array, tau: float, start: Array | None = None, relative: float = 1e-13
) -> Estimate:
    """`estimate.solve` under asymmetric squares; its arguments, and:

    Args:
        tau: Weight of squared log residuals of points above the law against 1 - tau for those below; .5 is least
            squares.
    """
    fitted = solve(law, u, t, w, None, start, relative)
    values, objective, status = fitted.values.copy(), fitted.objective.copy(), fitted.status.copy()
    weights, active = np.array(w, dtype=np.float64), np.arange(len(w))
    for _ in range(_ROUNDS):
        one_u, one_t = (a if len(a) == 1 else a[active] for a in (u, t))
        with np.errstate(all="ignore"):  # at the padding
            above = one_t > law.evaluate(one_u, values[active])[0]
        new = w[active] * np.where(above, 2 * tau, 2 * (1 - tau))
        moved = (new != weights[active]).any(axis=1)
        active, new = active[moved], new[moved]
        if not active.size:
            break
        weights[active] = new
        one_u, one_t = (a if len(a) == 1 else a[active] for a in (u, t))
        fitted = solve(law, one_u, one_t, new, None, values[active], relative)
        values[active], objective[active] = fitted.values, fitted.objective
        status[active] = fitted.status
    status[active] = Status.MAX_ITER
    return Estimate(law, values, objective, status)
