"""Data that is repeated: Chinchilla's law of the data's effective size, and of the model's.

Muennighoff et al. 2023, arXiv 2305.16264, section 3: D tokens of which U are unique are worth
D' = U (1 + R_D (1 - exp(-r / R_D))) fresh ones, r = D / U - 1. A repeated token is worth exp(-r / R_D) of a fresh one.
Likewise parameters beyond U_N, those that U tokens would be compute-optimal for: N' = U_N (1 + R_N (1 - exp(-r / R_N)))
with r = N / U_N - 1. Chinchilla's law is the limit of large R_D and R_N.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from raysweep.laws.definition import Array, Derived, Implicit, Law, Parameter
from raysweep.laws.recast import Axes, recast
from raysweep.laws.start import starts
from raysweep.laws.terms import Restored, Terms, separable

__all__ = ["EXCESS", "EXCESS_BY_EPOCHS", "REPEATED", "REPEATED_BY_EPOCHS"]

_SMALL = 1e-4  # below it a series is exact to the last digit but one
_MOST = 1e5  # repetitions; a value beyond any experiment: no decay
_VALUES_N = (1.0, 5.0, 30.0, 1000.0)  # of R_N, in the search of starts
_RATES = tuple(np.geomspace(0.03, 3.0, 12).tolist())


def decayed(r: Array, most: Array) -> tuple[Array, Array, Array]:
    """What 1 + r repetitions are worth, h = 1 + R (1 - exp(-r / R)); dh / dr; dh / dR."""
    z = r / most
    left = np.exp(-z)
    with np.errstate(over="ignore"):  # in the branch that is not taken
        slope = np.where(z < _SMALL, z * z * (0.5 - z / 3), -np.expm1(-z) - z * left)
    return 1.0 - most * np.expm1(-z), left, slope


def _data(u: Array, most: Array) -> tuple[Array, Array, Array]:
    """Log of the unique tokens that a run has seen, [..., points]; log D'; and its derivative in R_D."""
    unique = np.minimum(u[..., 1, :], u[..., 2, :])  # a run of less than an epoch has not seen the rest
    worth, _, slope = decayed(np.expm1(u[..., 1, :] - unique), most)
    return unique, unique + np.log(worth), slope / worth


def terms(u: Array, q: Array) -> Terms:
    """1, N^-alpha, D'^-beta; exponents alpha, beta, R_D."""
    n, (alpha, beta, most) = u[..., 0, :], (q[..., j, None] for j in range(3))
    _, data, slope = _data(u, most)
    return (np.zeros(1), -alpha * n, -beta * data), ((1, 0, -n), (2, 1, -data), (2, 2, -beta * slope))


def restore(q: Array, u0: Array) -> Restored:
    """D and U are only ever divided by the same number."""
    grown = q[..., :2] * u0[..., :2]
    return q, np.concatenate([np.zeros_like(grown[..., :1]), grown], axis=-1)


def evaluate(u: Array, values: Array) -> tuple[Array, list[Array]]:
    """log y and its derivative in E, A, B, alpha, beta, R_D, R_N; see `Law.evaluate`."""
    floor, a, b, alpha, beta, most, excess = (values[..., j, None] for j in range(7))
    n = u[..., 0, :]
    unique, data, data_slope = _data(u, most)
    # Where alpha A N^-alpha = beta B U^-beta, compute is spent best on U tokens.
    best = (np.log(alpha * a) - np.log(beta * b) + beta * unique) / alpha
    base = np.minimum(best, n)
    r = np.expm1(n - base)
    worth, left, slope = decayed(r, excess)
    size = base + np.log(worth)
    by_best = np.where(best < n, 1.0 - left * (r + 1.0) / worth, 0.0)  # of log N', in log U_N
    first, second = a * np.exp(-alpha * size), b * np.exp(-beta * data)
    y = floor + first + second
    first, second = first / y, second / y
    pull = -alpha * first * by_best
    rows = [
        1.0 / y,
        first / a + pull / (alpha * a),
        second / b - pull / (alpha * b),
        -first * size + pull * (1.0 / alpha - best) / alpha,
        -second * data + pull * (unique - 1.0 / beta) / alpha,
        -beta * second * data_slope,
        -alpha * first * slope / worth,
    ]
    return np.log(y), rows


def _restore_all(values: Array, u0: Array, t0: Array) -> Array:
    out = np.array(np.broadcast_to(values, (*np.broadcast_shapes(values.shape[:-1], t0.shape), 7)))
    out[..., 0] *= np.exp(t0)
    out[..., 1] *= np.exp(t0 + out[..., 3] * u0[..., 0])
    out[..., 2] *= np.exp(t0 + out[..., 4] * u0[..., 1])
    return out


def _starts(u: Array, t: Array, w: Array) -> tuple[Array, Array]:
    """The best starts of `repeated`, with several R_N each."""
    found = starts(_LIKE, u, t, w)
    found = np.concatenate([found[:, :, :3], np.maximum(found[:, :, 3:], _LEAST)], axis=2)
    tried = [np.insert(found, 6, value, axis=2) for value in _VALUES_N]
    mesh = np.stack(tried, axis=2).reshape(len(found), -1, 7)
    with np.errstate(all="ignore"):
        logs, _ = evaluate(u[:, None], mesh)
        squares = (w[:, None] * np.where(w[:, None] > 0, logs - t[:, None], 0.0) ** 2).sum(axis=2)
    return mesh, np.where(np.isfinite(squares), squares, np.inf)


def _half(place: int) -> Callable[[Array], Array]:
    """1 + R log 2: from there on more of the same is worth less than half."""
    return lambda values: 1.0 + values[..., place] * math.log(2)


_FLOOR = Parameter("E", "y", 0.0, math.inf)
_A, _B = Parameter("A", "y N^alpha", 0.0, math.inf, log=True), Parameter("B", "y D^beta", 0.0, math.inf, log=True)
_LEAST = 1e-3
_ALPHA, _BETA = (Parameter(name, "1", 0.0, 10.0, search=_RATES) for name in ("alpha", "beta"))
_R_D = Parameter("R_D", "1", _LEAST, _MOST, log=True, search=(0.3, 2.0, 8.0, 30.0, 300.0))
_SOURCE = "Muennighoff et al. 2023, arXiv 2305.16264"
_AXES = ("N", "D", "U")
_EPOCHS = Axes(
    ("N", "D", "epochs"),
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 1.0, -1.0)),
    (0.0,) * 3,
    (3, 3, 1),
    (True, True, False),
)
_WORTH = "D' = U (1 + R_D (1 - exp((1 - D / U) / R_D)))"
_SIZE = "N' likewise of R_N and U_N = (alpha A U^beta / (beta B))^(1 / alpha)"
_WHEN = "Size N, tokens D of which U are unique: what an epoch is worth. Needs runs of one epoch and of many."
_WHEN_SIZE = "The same where models are also larger than U tokens are compute-optimal for: their excess decays, too."

# Tokens counted in full, however often they are repeated.
_FRESH = Law(
    name="chinchilla of N and D",
    formula="y = E + A N^-alpha + B D^-beta",
    axes=_AXES,
    amplitudes=(_FLOOR, _A, _B),
    exponents=(_ALPHA, _BETA),
    fewest_scales=6,
    source="Hoffmann et al. 2022, arXiv 2203.15556, eq. 2",
    when="",
    terms=separable,
    restore_terms=restore,
    levels=(3, 3, 1),
    centred=(True, False, False),
)

REPEATED = replace(
    _FRESH,
    name="repeated",
    formula=f"y = E + A N^-alpha + B D'^-beta, {_WORTH}",
    exponents=(_ALPHA, _BETA, _R_D),
    fewest_scales=8,
    source=_SOURCE,
    when=_WHEN,
    terms=terms,
    restore_terms=restore,
    derived=(Derived("epochs_half", "epochs beyond which a repeated token is worth under half", _half(5), log=True),),
    starts=2,
    rivals=("repeated, E = 0", _FRESH, "repeated+excess"),
    contains=("repeated, E = 0",),
    floorless="repeated, E = 0",
    proved=False,
)
_LIKE = replace(REPEATED, starts=3)

EXCESS = replace(
    REPEATED,
    name="repeated+excess",
    formula=f"y = E + A N'^-alpha + B D'^-beta, {_WORTH}, {_SIZE}",
    amplitudes=(),
    exponents=(
        _FLOOR,
        _A,
        _B,
        replace(_ALPHA, low=_LEAST, search=()),
        replace(_BETA, low=_LEAST, search=()),
        replace(_R_D, search=()),
        Parameter("R_N", "1", _LEAST, _MOST, log=True),
    ),
    fewest_scales=9,
    when=_WHEN_SIZE,
    terms=None,
    restore_terms=None,
    derived=(
        *REPEATED.derived,
        Derived("excess_half", "N over U_N beyond which a further parameter is worth under half", _half(6), log=True),
    ),
    starts=3,
    implicit=Implicit(evaluate, _restore_all, _starts, len(_VALUES_N), inner=(0, 1, 2)),
    rivals=("repeated", _FRESH),
    contains=(),
    floorless="",
)

_FRESH_BY_EPOCHS = recast(_FRESH, _FRESH.name, _EPOCHS)
REPEATED_BY_EPOCHS = recast(
    REPEATED, "repeated-epochs", _EPOCHS, (_FRESH_BY_EPOCHS, "repeated+excess-epochs"),
    formula=f"{REPEATED.formula}, U = D / epochs", when="The same with --x epochs in place of unique tokens.",
)  # fmt: skip
EXCESS_BY_EPOCHS = recast(
    EXCESS, "repeated+excess-epochs", _EPOCHS, ("repeated-epochs", _FRESH_BY_EPOCHS),
    formula=f"{EXCESS.formula}, U = D / epochs", when="The same with --x epochs in place of unique tokens.",
)  # fmt: skip
