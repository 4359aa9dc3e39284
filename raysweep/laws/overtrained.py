"""Over-training: loss over compute and the tokens per parameter, with one exponent for both terms.

L(C, M) = E + (a M^eta + b M^-eta) C^-eta (Gadre et al. 2024, arXiv 2403.08540, eq. 4). With C = 6 N D and M = D / N it
is Chinchilla's law with both exponents 2 eta: curves of constant M are parallel in logs above the floor.
"""

from __future__ import annotations

import math

import numpy as np

from raysweep.laws.definition import Array, Derived, Law, Parameter
from raysweep.laws.recast import Axes, recast
from raysweep.laws.terms import Restored, Terms

__all__ = ["BY_COMPUTE", "OVERTRAINED"]

_FLOPS = 6.0  # per parameter and token


def terms(u: Array, q: Array) -> Terms:
    """1, (C / M)^-eta, (C M)^-eta; exponent eta."""
    c, m, eta = u[..., 0, :], u[..., 1, :], q[..., 0, None]
    return (np.zeros(1), -eta * (c - m), -eta * (c + m)), ((1, 0, m - c), (2, 0, -m - c))


def restore(q: Array, u0: Array) -> Restored:
    c, m, eta = u0[..., 0], u0[..., 1], q[..., 0]
    first = eta * (c - m)
    return q, np.stack([np.zeros_like(first), first, eta * (c + m)], axis=-1)


def _best_multiplier(values: Array) -> Array:
    """The M at which the loss is least for a given C: where both terms are equal."""
    return np.asarray((values[..., 2] / values[..., 1]) ** (0.5 / values[..., 3]))


BY_COMPUTE = Law(
    name="overtrained-CM",
    formula="y = E + (a M^eta + b M^-eta) C^-eta",
    axes=("C", "M"),
    amplitudes=(
        Parameter("E", "y", 0.0, math.inf),
        Parameter("a", "y (C / M)^eta", 0.0, math.inf, log=True),
        Parameter("b", "y (C M)^eta", 0.0, math.inf, log=True),
    ),
    exponents=(Parameter("eta", "1", 0.0, 5.0, search=tuple(np.geomspace(0.01, 2.0, 30).tolist())),),
    fewest_scales=6,
    source="Gadre et al. 2024, arXiv 2403.08540, eq. 4",
    when="Loss over compute C and tokens per parameter M, both varied: runs trained past the compute-optimal M.",
    terms=terms,
    restore_terms=restore,
    levels=(2, 2),
    centred=(True, True),
    derived=(Derived("M_opt", "tokens per parameter of least loss for a given C", _best_multiplier, log=True),),
    rivals=("overtrained-CM, E = 0",),
    contains=("overtrained-CM, E = 0",),
    floorless="overtrained-CM, E = 0",
    proved=False,
)

_SIZES = Axes(("N", "D"), ((1.0, 1.0), (-1.0, 1.0)), (math.log(_FLOPS), 0.0), (2, 2), (True, True))
OVERTRAINED = recast(
    BY_COMPUTE,
    "overtrained",
    _SIZES,
    ("chinchilla", "kaplan"),
    formula="y = E + (a M^eta + b M^-eta) C^-eta, M = D / N, C = 6 N D",
    when="Size and data whose exponents are equal, as in runs of several fixed D / N: extrapolates in N and in D / N.",
    costs=True,
)
