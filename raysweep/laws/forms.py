"""Laws: what a functional form is, and the forms that can be fitted.

Every law here is a sum of amplitudes times basis functions, `y = sum_k amplitude_k * basis_k(x; exponents)`. That is
all a fit needs to know: the amplitudes are solved exactly, only the exponents are searched (variable projection,
Golub & Pereyra 1973). A further law is one more `Law` value, not a branch anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError, nearest

__all__ = ["LAWS", "Array", "Law", "Parameter", "law"]

Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Parameter:
    """One estimated quantity of a law.

    Attributes:
        name: As it appears in tables and JSON.
        unit: In terms of the units of x and y; `"1"` is dimensionless.
        low, high: Closed bounds; an estimate that lies on one has status `BOUND_HIT`.
        log: Strictly positive, and its error is multiplicative: searched, and given an interval, on the log scale.
        search: Values an exponent's outer search starts from (empty for an amplitude).
    """

    name: str
    unit: str
    low: float
    high: float
    log: bool = False
    search: tuple[float, ...] = ()


@dataclass(frozen=True)
class Law:
    """A functional form `y = sum_k amplitude_k * basis_k(x; exponents)`.

    `basis(u, exponents)` takes `u = log x` of shape [points] and exponents [..., m] and returns [..., points, k];
    `slope`, its derivative in the exponents, returns [..., points, k, m]. Each basis function must satisfy
    `basis(u + v) = basis(u) * basis(v)`: then a fit may centre log x and put the amplitudes back exactly.

    Attributes:
        name: What `law=` accepts.
        formula: For people.
        amplitudes: The linear parameters, one a basis function, all non-negative.
        exponents: The nonlinear parameters.
        fewest_scales: Fewest distinct x that leave a residual to judge the law by.
        source: Where the form comes from.
    """

    name: str
    formula: str
    amplitudes: tuple[Parameter, ...]
    exponents: tuple[Parameter, ...]
    basis: Callable[[Array, Array], Array]
    slope: Callable[[Array, Array], Array]
    fewest_scales: int
    source: str

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Amplitudes, then exponents: the order of every array of parameter values."""
        return self.amplitudes + self.exponents

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.parameters)

    def predict(self, x: Array, values: Array) -> Array:
        """The law's y, [..., points], at x > 0 of shape [points], for parameter values [..., parameters]."""
        k = len(self.amplitudes)
        columns = self.basis(np.log(x), values[..., k:])
        return np.asarray((columns @ values[..., :k, None])[..., 0])


def law(name: str) -> Law:
    """The law called `name`.

    Raises:
        FitError: There is no such law.
    """
    if name not in LAWS:
        raise FitError(f"There is no law {name!r}. {nearest(name, LAWS)}")
    return LAWS[name]


def _decay(u: Array, exponents: Array) -> Array:
    return np.exp(-exponents[..., None, :] * u[:, None])


def _decay_slope(u: Array, exponents: Array) -> Array:
    return (-u[:, None] * _decay(u, exponents))[..., None]


def _floored_decay(u: Array, exponents: Array) -> Array:
    decay = _decay(u, exponents)
    return np.concatenate([np.ones_like(decay), decay], axis=-1)


def _floored_decay_slope(u: Array, exponents: Array) -> Array:
    slope = _decay_slope(u, exponents)
    return np.concatenate([np.zeros_like(slope), slope], axis=-2)


_AMPLITUDE = Parameter("A", "y x^alpha", 0.0, math.inf, log=True)

LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law(
            name="power",
            formula="y = A x^-alpha",
            amplitudes=(_AMPLITUDE,),
            # Linear in (log A, alpha), so any start reaches the one optimum, whatever alpha's sign.
            exponents=(Parameter("alpha", "1", -math.inf, math.inf, search=(0.0,)),),
            basis=_decay,
            slope=_decay_slope,
            fewest_scales=3,
            source="Hestness et al. 2017, arXiv 1712.00409",
        ),
        Law(
            name="power+floor",
            formula="y = E + A x^-alpha",
            amplitudes=(Parameter("E", "y", 0.0, math.inf), _AMPLITUDE),
            exponents=(Parameter("alpha", "1", 0.0, 10.0, search=tuple(np.geomspace(0.01, 10.0, 25).tolist())),),
            basis=_floored_decay,
            slope=_floored_decay_slope,
            fewest_scales=4,
            source="one axis of Hoffmann et al. 2022, arXiv 2203.15556, eq. 2",
        ),
    )
}
