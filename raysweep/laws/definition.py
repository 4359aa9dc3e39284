"""Laws: their parameters, their terms, and anything else special about them.

Almost every law is a sum of amplitudes times positive terms, `y = sum_k amplitude_k term_k(scales; exponents)`. That is
all a fit needs to know: the amplitudes are solved exactly, only the exponents are searched (variable projection, Golub
& Pereyra 1973). A law that is not such a sum brings its own `Implicit`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from raysweep.laws.constraint import Constraints
from raysweep.laws.terms import Array, Restored, Slopes, Terms

__all__ = ["Array", "Derived", "Implicit", "Law", "Parameter", "Profile"]


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
        about: A description of it.
        of: Parameter values [..., parameters] to the quantity, [...].
        log: Strictly positive, and its error is multiplicative.
    """

    name: str
    about: str
    of: Callable[[Array], Array]
    log: bool = False


Evaluate: TypeAlias = Callable[[Array, Array], tuple[Array, list[Array]]]


@dataclass(frozen=True)
class Implicit:
    """A law that gives y only by an equation to be solved: what the terms of the others provide.

    Attributes:
        evaluate: See `Law.evaluate`.
        restore: See `Law.restore`.
        starts: Log scales [problems or 1, axes, points], log measurements [problems or 1, points] and weights
            [problems, points] to parameters on a mesh, [problems, mesh, parameters], and their objective.
        blocks: How many values the mesh's fastest index takes; the best point of each is kept.
        inner: Parameters that are solved again after each step of the others, as amplitudes are.
        linear: Parameters that y is linear in, jointly.
        value: y itself, of any sign, and its derivative in each parameter: what `evaluate` gives the log of. None where
            y is positive for all parameters within their bounds.
    """

    evaluate: Evaluate
    restore: Callable[[Array, Array, Array], Array]
    starts: Callable[[Array, Array, Array], tuple[Array, Array]]
    blocks: int
    inner: tuple[int, ...]
    linear: tuple[int, ...] = ()
    value: Evaluate | None = None


@dataclass(frozen=True)
class Profile:
    """A search of starts of its own for a law that is a sum of terms; `starts` and `blocks` as in `Implicit`."""

    starts: Callable[[Array, Array, Array], tuple[Array, Array]]
    blocks: int


@dataclass(frozen=True)
class Law:
    """A functional form of y on one or more scales.

    Attributes:
        name: What `law=` accepts.
        formula: As shown to people.
        axes: What the scales are called in the formula, in the order of every array of scales.
        amplitudes: The linear parameters, one per term, all non-negative; none for an implicit law.
        exponents: The other parameters.
        fewest_scales: Fewest distinct points of scales that leave a residual to judge the law by.
        source: The publication of the form.
        when: When to use it, and when not.
        terms, restore_terms: See `raysweep.laws.terms`.
        levels: Fewest distinct values of each scale.
        centred: Which scales a fit may divide by a typical one.
        levelled: Whether a fit may divide y by a typical one.
        derived: Quantities that follow from the parameters.
        starts: How many starts of the search are polished.
        pairs: (amplitude, parameter) of each term that is exp(log amplitude + exponent * slope(x)): where all terms but
            a constant one are such, second derivatives are known too, and the polish is Newton's method.
        implicit: How a law that is not a sum of terms is evaluated; None for the others.
        profile: How its starts are searched, where a mesh over all exponents would be too large.
        rivals: Laws that a fit is compared with: names that `forms.compared` knows, or laws.
        contains: Those of them that are this law with a part (a floor, a shift, a break) taken out, so that a
            test compares the two.
        limits: Laws that this one is, or comes as close to as one likes, where several of its parameters do nothing. No
            test of a part taken out compares them; where they fit as well they are the simpler answer.
        floorless: The one of `contains` that lacks only the floor E; empty where a law has none.
        inside: The one of `rivals` that is this law with its constraints lifted, which hold no parameter at the edge of
            its range; empty where there is none.
        surrounded: Parameters that are scales, which an estimate should have data on both sides of.
        ceiling: The parameter that y rises to, such as that of an accuracy; empty where there is none.
        costs: Whether compute is proportional to the product of its two scales, so that it can be allocated to them.
        of_axes: The same law of another number of axes; None where the number is fixed.
        proved: Whether the parameters are known to be distinguishable wherever scales suffice. Where they are not, as
            in a formula of one's own, a fit whose parameters the data do not determine is refused.
        sees: Whether the data, distinct scales [scales], show what an estimate, [parameters], says lies beyond them: a
            law whose data do not is not a candidate of `choice.choose`. None where no check is needed.
        pooled: Whether points belong to groups, with parameters of their own that a draw of whole runs could lose.
        of: The law that this one is under constraints, and the constraints; None where there are none.
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
    levelled: bool = True
    derived: tuple[Derived, ...] = ()
    starts: int = 1
    pairs: tuple[tuple[int, int], ...] = ()
    implicit: Implicit | None = None
    profile: Profile | None = None
    rivals: tuple[str | Law, ...] = ()
    contains: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    floorless: str = ""
    inside: str = ""
    surrounded: tuple[str, ...] = ()
    ceiling: str = ""
    costs: bool = False
    of_axes: Callable[[int], Law] | None = None
    proved: bool = True
    sees: Callable[[Array, Array], bool] | None = None
    pooled: bool = False
    of: tuple[Law, Constraints] | None = None

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Amplitudes, then exponents: the order of every array of parameter values."""
        return self.amplitudes + self.exponents

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.parameters)

    @property
    def free(self) -> int:
        """How many parameters can move: those between unequal bounds."""
        return sum(p.low < p.high for p in self.parameters)

    def value(self, u: Array, values: Array) -> tuple[Array, list[Array]]:
        """y, [..., points], and its derivative in each parameter; see `evaluate`."""
        if self.implicit is not None and self.implicit.value is not None:
            return self.implicit.value(u, values)
        log, rows = self.evaluate(u, values)
        y = np.exp(log)
        return y, [y * row for row in rows]

    def without_floor(self) -> Law:
        """The same law, its first amplitude held at 0."""
        floor, *rest = self.amplitudes
        return replace(self, name=f"{self.name}, E = 0", amplitudes=(replace(floor, high=0.0), *rest))

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
            return self.implicit.evaluate(u, values)
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
        # An amplitude grows as a scale to the power of its exponent: `determined.overflown` refuses what is no number.
        with np.errstate(all="ignore"):
            return self._restored(values, u0, t0)

    def _restored(self, values: Array, u0: Array, t0: Array) -> Array:
        if self.implicit is not None:
            return self.implicit.restore(values, u0, t0)
        assert self.restore_terms is not None
        k = len(self.amplitudes)
        exponents, grown = self.restore_terms(values[..., k:], u0)
        amplitudes = values[..., :k] * np.exp(grown + t0[..., None])
        return np.concatenate(
            [amplitudes, np.broadcast_to(exponents, (*amplitudes.shape[:-1], len(self.exponents)))], -1
        )
