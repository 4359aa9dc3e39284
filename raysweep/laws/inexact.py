"""Errors of measurement in x: points are moved to where, under the law, their true x most likely is.

Least squares takes x as exact. Where x was measured with an error, the law comes out too flat (attenuation), and
weights do not mend that. Here a residual counts with its effective variance, that of y plus slope^2 times that of x,
and each x is estimated beside the law (York 1966; York et al. 2004; Fuller 1987, chapter 3): log x moves by
slope var(log x) / variance times the residual. A law fitted to the moved points, with y moved along its slope, solves
the equations of orthogonal regression. Estimates are then consistent where the law is straight within an error of x,
and all that follows, intervals included, is that of points with exact x. tests/benchmarks/laws_inexact.py has bias and
coverage.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from raysweep.laws import stated
from raysweep.laws.batch import RATIO, Group
from raysweep.laws.definition import Array, Law
from raysweep.laws.estimate import solve

__all__ = ["at_likely_scales", "slopes"]

_ROUNDS = 100
_SETTLED = 1e-9  # change of log y at every point
_RELATIVE = 1e-8  # see `estimate`: an end within 1e-4 standard errors
_STEP = 1e-4  # of log x, for slopes
_HALVINGS = 60


def slopes(law: Law, u: Array, values: Array) -> Array:
    """Derivative of log y in each log scale, [axes, points], at log scales u, [axes, points]."""
    out = np.empty_like(u)
    for axis in range(len(u)):
        step = np.zeros((len(u), 1))
        step[axis] = _STEP
        above, below = law.evaluate(u + step, values)[0], law.evaluate(u - step, values)[0]
        out[axis] = (above - below) / (2 * _STEP)
    return out


def at_likely_scales(group: Group, huber: float | None) -> Group:
    """The group fitted with errors of x: its points moved, its weights those of effective variances.

    Args:
        group: Fitted as if x were exact; `data.x_se` are the standard errors of x in the units of x.
    """
    data, law = group.data, group.law
    assert data.x_se is not None
    u, t = np.log(data.x), np.log(data.y)
    of_x = (data.x_se / data.x) ** 2
    of_y = np.zeros_like(t) if data.se is None else (data.se / data.y) ** 2
    spare = max(t.size - law.free, 1)
    values, at, weights, seen, status = group.values, u, group.weights, t, group.status
    residual = size = np.zeros_like(t)
    for _ in range(_ROUNDS):
        steep = slopes(law, at, values)
        residual = t - law.evaluate(at, values)[0] - (steep * (u - at)).sum(axis=0)
        size = of_y + (steep**2 * of_x).sum(axis=0)
        between = _between(residual**2, size, spare)
        variance = np.maximum(size + between, 1e-300)
        at = u + steep * of_x / variance * residual
        seen = t - (slopes(law, at, values) * (u - at)).sum(axis=0)
        weights = np.clip(1.0 / variance, None, RATIO / variance.max())
        weights = weights / weights.mean()
        before = law.evaluate(at, values)[0]
        found = solve(law, at[None], seen[None], weights[None], huber, values[None], _RELATIVE)
        values, status = found.values[0], int(found.status[0])
        if np.abs(law.evaluate(at, values)[0] - before).max() < _SETTLED:
            break
    shown = [f"{name} = {value:.4g}" for name, value in zip(law.names, group.values, strict=True)]
    details = {
        **group.details,
        "errors_in_x": f"x was measured with errors (median standard error {np.sqrt(np.median(of_x)):.2g} of log x). "
        f"The law goes through the points moved to their most likely x; with x as exact, {', '.join(shown)}.",
    }
    own = {} if data.se is None else stated.of_y(residual**2, data.se / data.y, spare)
    details |= own or stated.of_x(residual**2, size, spare)
    adjusted = replace(data, x=np.exp(at), y=np.exp(seen), x_seen=data.x)
    return replace(group, data=adjusted, values=values, status=status, weights=weights, details=details)


def _between(squares: Array, size: Array, spare: int) -> float:
    """The variance of y besides `size`, so that squared residuals over variances sum to the degrees of freedom (Paule &
    Mandel 1982).

    Args:
        squares: Squared residuals, [points].
        size: Known variances, [points].
        spare: Points less parameters.
    """
    least = np.maximum(size, 1e-300)
    if float((squares / least).sum()) <= spare:
        return 0.0
    low, high = 0.0, float(squares.sum()) / spare  # with which the sum is at most the degrees of freedom
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if float((squares / (least + middle)).sum()) > spare else (low, middle)
    return high
