"""Laws: what a functional form is, and the forms that can be fitted.

Almost every law is a sum of amplitudes times positive terms, `y = sum_k amplitude_k term_k(scales; exponents)`. That is
all a fit needs to know: the amplitudes are solved exactly, only the exponents are searched (variable projection, Golub
& Pereyra 1973). A further law is one more `Law` value, not a branch anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from raysweep.errors import FitError, nearest
from raysweep.laws import m4, terms
from raysweep.laws.terms import Array, Restored, Slopes, Terms

__all__ = ["LAWS", "Array", "Derived", "Law", "Parameter", "law"]


@dataclass(frozen=True)
class Parameter:
    """One estimated quantity of a law.

    Attributes:
        name: As it appears in tables and JSON.
        unit: In terms of the units of x and y; `"1"` is dimensionless.
        low, high: Closed bounds; an estimate that lies on one has status `BOUND_HIT`.
        log: Strictly positive, and its error is multiplicative: searched, and given an interval, on the log scale.
        search: Values an exponent's outer search starts from, for scales centred at 1 (empty for an amplitude).
    """

    name: str
    unit: str
    low: float
    high: float
    log: bool = False
    search: tuple[float, ...] = ()


@dataclass(frozen=True)
class Derived:
    """A quantity that follows from a law's parameters.

    Attributes:
        name: As it appears in tables and JSON.
        about: What it is.
        of: Parameter values [..., parameters] to the quantity, [...].
    """

    name: str
    about: str
    of: Callable[[Array], Array]


Evaluate: TypeAlias = Callable[[Array, Array], tuple[Array, list[Array]]]


@dataclass(frozen=True)
class Law:
    """A functional form of y on one or more scales.

    Attributes:
        name: What `law=` accepts.
        formula: For people.
        axes: What the scales are called in the formula, in the order of every array of scales.
        amplitudes: The linear parameters, one a term, all non-negative; none for an implicit law.
        exponents: The other parameters.
        fewest_scales: Fewest distinct points of scales that leave a residual to judge the law by.
        source: Where the form comes from.
        when: When to use it, and when not.
        terms, restore_terms: See `raysweep.laws.terms`.
        levels: Fewest distinct values of each scale.
        centred: Which scales a fit may divide by a typical one.
        derived: Quantities that follow from the parameters.
        starts: How many starts of the search are polished.
        pairs: (amplitude, parameter) of each term that is exp(log amplitude + exponent * slope(x)): where all terms but
            a constant one are such, second derivatives are known too, and the polish is Newton's method.
        implicit: `evaluate` of a law that is no sum of terms; None for the others.
        inner: Its parameters that are solved anew after each step of the others, as amplitudes are.
    """

    name: str
    formula: str
    axes: tuple[str, ...]
    amplitudes: tuple[Parameter, ...]
    exponents: tuple[Parameter, ...]
    fewest_scales: int
    source: str
    when: str
    terms: Callable[[Array, Array], Terms] | None = None
    restore_terms: Callable[[Array, Array], Restored] | None = None
    levels: tuple[int, ...] = (2,)
    centred: tuple[bool, ...] = (True,)
    derived: tuple[Derived, ...] = ()
    starts: int = 1
    pairs: tuple[tuple[int, int], ...] = ()
    implicit: Evaluate | None = None
    inner: tuple[int, ...] = ()

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Amplitudes, then exponents: the order of every array of parameter values."""
        return self.amplitudes + self.exponents

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.parameters)

    def predict(self, x: Array, values: Array) -> Array:
        """The law's y, [..., points], at scales x > 0, [points] or [axes, points], for values [..., parameters]."""
        u = np.log(np.atleast_2d(np.asarray(x, dtype=np.float64)))
        with np.errstate(all="ignore"):  # far outside its window a law may vanish or overflow; its slopes are not asked
            return np.asarray(np.exp(self.evaluate(u, np.asarray(values, dtype=np.float64))[0]))

    def evaluate(self, u: Array, values: Array) -> tuple[Array, list[Array]]:
        """log y, [..., points], and its derivative in each parameter (each broadcasts to it).

        Args:
            u: Log scales, [..., axes, points].
            values: Parameter values, [..., parameters].
        """
        if self.implicit is not None:
            return self.implicit(u, values)
        assert self.terms is not None
        k = len(self.amplitudes)
        logs, slopes = self.terms(u, values[..., k:])
        return self.combined(values, [np.exp(log) for log in logs], slopes)

    def combined(self, values: Array, each: list[Array], slopes: Slopes) -> tuple[Array, list[Array]]:
        """`evaluate` from terms that are already known: each of them, and the slopes of their logs."""
        parts = [values[..., j, None] * term for j, term in enumerate(each)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        inverse = 1.0 / total
        rows = [term * inverse for term in each]
        moved: dict[int, Array] = {}
        for j, m, slope in slopes:
            row = parts[j] * inverse
            row *= slope
            moved[m] = moved[m] + row if m in moved else row
        return np.log(total), rows + [moved[m] for m in range(len(self.exponents))]

    def restore(self, values: Array, u0: Array, t0: Array) -> Array:
        """Values for x and y, from those for x / exp(u0) and y / exp(t0); u0 [..., axes], t0 [...]."""
        if self.restore_terms is None:
            return m4.restore(values, u0, t0)
        k = len(self.amplitudes)
        exponents, grown = self.restore_terms(values[..., k:], u0)
        amplitudes = values[..., :k] * np.exp(grown + t0[..., None])
        return np.concatenate(
            [amplitudes, np.broadcast_to(exponents, (*amplitudes.shape[:-1], len(self.exponents)))], -1
        )


def law(name: str) -> Law:
    """The law called `name`.

    Raises:
        FitError: There is no such law.
    """
    if name not in LAWS:
        raise FitError(f"There is no law {name!r}. {nearest(name, LAWS)}")
    return LAWS[name]


def _mesh(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(np.geomspace(low, high, count).tolist())


def _share(mine: int, other: int) -> Callable[[Array], Array]:
    """Exponent of the compute-optimal scale under C ~ x t: the other's exponent over the sum of both."""
    return lambda values: values[..., other] / (values[..., mine] + values[..., other])


_FLOOR = Parameter("E", "y", 0.0, math.inf)
_A = Parameter("A", "y x^alpha", 0.0, math.inf, log=True)


def _falling(name: str, low: float, high: float, count: int) -> Parameter:
    """An exponent of decay."""
    return Parameter(name, "1", 0.0, 10.0, search=_mesh(low, high, count))


_HOFFMANN = "Hoffmann et al. 2022, arXiv 2203.15556, eq. 2"

LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law(
            name="power",
            formula="y = A x^-alpha",
            axes=("x",),
            amplitudes=(_A,),
            # Linear in (log A, alpha), so any start reaches the one optimum, whatever alpha's sign.
            exponents=(Parameter("alpha", "1", -math.inf, math.inf, search=(0.0,)),),
            fewest_scales=3,
            source="Hestness et al. 2017, arXiv 1712.00409",
            when="An error that goes to 0, such as the epistemic error against an exact posterior. Not a total loss.",
            terms=terms.power,
            restore_terms=terms.power_restore,
        ),
        Law(
            name="power+floor",
            formula="y = E + A x^-alpha",
            axes=("x",),
            amplitudes=(_FLOOR, _A),
            exponents=(_falling("alpha", 0.01, 10.0, 25),),
            fewest_scales=4,
            source="one axis of " + _HOFFMANN,
            when="A loss with a floor (noise of the labels, a fixed width), seen while it bends.",
            terms=terms.floor_power,
            restore_terms=terms.floor_power_restore,
            pairs=((1, 2),),
        ),
        Law(
            name="shifted",
            formula="y = E + A (x + s)^-alpha",
            axes=("x",),
            amplitudes=(_FLOOR, _A),
            exponents=(
                _falling("alpha", 0.03, 8.0, 16),
                Parameter("s", "x", 0.0, math.inf, search=(0.0, *_mesh(0.003, 30.0, 11))),
            ),
            fewest_scales=5,
            source="Zhai et al. 2022, arXiv 2106.04560, eq. 1",
            when="Still flat at the small end. Three scales of x cannot tell s.",
            terms=terms.shifted,
            restore_terms=terms.shifted_restore,
            levels=(5,),
            starts=3,
        ),
        Law(
            name="m4",
            formula="(y - E) / (I - y)^gamma = A x^-alpha",
            axes=("x",),
            amplitudes=(),
            exponents=(
                _FLOOR,
                Parameter("I", "y", 0.0, math.inf, log=True),
                Parameter("A", "y^(1 - gamma) x^alpha", 0.0, math.inf, log=True),
                Parameter("alpha", "1", 0.0, 20.0),
                Parameter("gamma", "1", 0.01, 50.0, log=True),
            ),
            fewest_scales=7,
            source="Alabdulmohsin et al. 2022, arXiv 2209.06640, M4",
            when="A curve that starts at chance level and ends at a floor.",
            levels=(7,),
            starts=3,
            implicit=m4.evaluate,
            inner=(2, 3),
        ),
        Law(
            name="broken",
            formula="y = E + A x^-alpha (1 + (x / d)^(1/f))^((alpha - beta) f)",
            axes=("x",),
            amplitudes=(_FLOOR, _A),
            exponents=(
                Parameter("alpha", "1", 0.0, 10.0, search=(0.0, *_mesh(0.03, 2.0, 6))),
                Parameter("beta", "1", 0.0, 10.0, search=(0.03, *_mesh(0.1, 4.0, 6))),
                Parameter("d", "x", 0.0, math.inf, log=True, search=_mesh(0.05, 20.0, 7)),
                Parameter("f", "1", 0.03, 3.0, log=True, search=(0.1, 0.5, 1.0)),
            ),
            fewest_scales=8,
            source="Caballero et al. 2023, arXiv 2210.14891, one break",
            when="A slope that changes, from alpha to beta, inside the data. Never to foretell a break.",
            terms=terms.broken,
            restore_terms=terms.broken_restore,
            levels=(8,),
            starts=3,
        ),
        Law(
            name="exponential",
            formula="y = E + A exp(-x / scale)",
            axes=("x",),
            amplitudes=(_FLOOR, Parameter("A", "y", 0.0, math.inf, log=True)),
            exponents=(Parameter("scale", "x", 0.0, math.inf, log=True, search=_mesh(1e-3, 1e3, 25)),),
            fewest_scales=4,
            source="a rival that a power law must beat",
            when="As a rival of power+floor.",
            terms=terms.exponential,
            restore_terms=terms.exponential_restore,
        ),
        Law(
            name="chinchilla",
            formula="y = E + A N^-alpha + B D^-beta",
            axes=("N", "D"),
            amplitudes=(
                _FLOOR,
                Parameter("A", "y N^alpha", 0.0, math.inf, log=True),
                Parameter("B", "y D^beta", 0.0, math.inf, log=True),
            ),
            exponents=(_falling("alpha", 0.03, 3.0, 16), _falling("beta", 0.03, 3.0, 16)),
            fewest_scales=6,
            source=_HOFFMANN,
            when="Loss over width (parameters) and data. Needs both to vary apart from each other.",
            terms=terms.separable,
            restore_terms=terms.separable_restore,
            pairs=((1, 3), (2, 4)),
            levels=(3, 3),
            centred=(True, True),
            derived=(
                Derived("a_opt", "N* ~ C^a_opt under C ~ N D", _share(3, 4)),
                Derived("b_opt", "D* ~ C^b_opt under C ~ N D", _share(4, 3)),
            ),
        ),
        Law(
            name="kaplan",
            formula="y = E + A (N^-alpha + R D^-beta)^gamma",
            axes=("N", "D"),
            amplitudes=(_FLOOR, Parameter("A", "y N^(alpha gamma)", 0.0, math.inf, log=True)),
            exponents=(
                _falling("alpha", 0.05, 3.0, 7),
                _falling("beta", 0.05, 3.0, 7),
                Parameter("gamma", "1", 0.01, 20.0, log=True, search=(0.3, 1.0, 3.0)),
                Parameter("R", "D^beta N^-alpha", 0.0, math.inf, log=True, search=(0.1, 1.0, 10.0)),
            ),
            fewest_scales=7,
            source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.5, with a floor; gamma = 1 is chinchilla",
            when="Width and data limit each other (a bottleneck). Needs a grid, not a line.",
            terms=terms.coupled,
            restore_terms=terms.coupled_restore,
            levels=(3, 3),
            centred=(True, True),
            derived=(
                Derived("a_opt", "N* ~ C^a_opt under C ~ N D", _share(2, 3)),
                Derived("b_opt", "D* ~ C^b_opt under C ~ N D", _share(3, 2)),
            ),
            starts=3,
        ),
        Law(
            name="time",
            formula="y = E + A x^-alpha + B t^-gamma",
            axes=("x", "t"),
            amplitudes=(_FLOOR, _A, Parameter("B", "y t^gamma", 0.0, math.inf, log=True)),
            exponents=(_falling("alpha", 0.03, 3.0, 16), _falling("gamma", 0.03, 3.0, 16)),
            fewest_scales=6,
            source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.6, with a floor",
            when="Training time as an axis: a constant learning rate, or decay branches. Not along a cosine.",
            terms=terms.separable,
            restore_terms=terms.separable_restore,
            pairs=((1, 3), (2, 4)),
            levels=(3, 3),
            centred=(True, True),
            derived=(
                Derived("a_opt", "x* ~ C^a_opt under C ~ x t", _share(3, 4)),
                Derived("b_opt", "t* ~ C^b_opt under C ~ x t", _share(4, 3)),
            ),
        ),
        Law(
            name="passk",
            formula="y = C k^-beta",
            axes=("k",),
            amplitudes=(Parameter("C", "1", 0.0, math.inf, log=True),),
            exponents=(Parameter("beta", "1", -math.inf, math.inf, search=(0.0,)),),
            fewest_scales=3,
            source="Schaeffer et al. 2025, arXiv 2502.17578",
            when="1 - pass@k against the number of attempts k, where k is large.",
            terms=terms.power,
            restore_terms=terms.power_restore,
        ),
        Law(
            name="passk+training",
            formula="y = C k^-b(N), b(N) = beta - delta / (1 + (N / N0)^gamma)",
            axes=("k", "N"),
            amplitudes=(Parameter("C", "1", 0.0, math.inf, log=True),),
            exponents=(
                Parameter("beta", "1", 0.0, 20.0, search=_mesh(0.05, 5.0, 9)),
                Parameter("delta", "1", 0.0, 20.0, search=_mesh(0.02, 5.0, 8)),
                Parameter("N0", "N", 0.0, math.inf, log=True, search=_mesh(0.03, 30.0, 9)),
                Parameter("gamma", "1", 0.05, 20.0, log=True, search=(0.5, 1.5, 4.0)),
            ),
            fewest_scales=6,
            source="arXiv 2601.03764 (LID): the effective exponent grows with training and saturates at beta",
            when="1 - pass@k over attempts and training data. Needs N on both sides of the turn.",
            terms=terms.steepening,
            restore_terms=terms.steepening_restore,
            levels=(2, 4),
            centred=(False, True),
            starts=3,
        ),
    )
}
