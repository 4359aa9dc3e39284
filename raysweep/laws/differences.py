"""Differences of quantities of two data sets, draw by draw where these share their runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from raysweep.laws.bootstrap import Bootstrap, ends_of
from raysweep.laws.definition import Array

__all__ = ["Deviations", "Difference", "compare", "differences", "paired"]


@dataclass(frozen=True)
class Difference:
    """One quantity of two data sets, compared.

    Attributes:
        value: The first's minus the second's.
        low, high: Its interval.
        paired: Whether the two share their runs' draws; otherwise they are taken to be independent.
    """

    value: float
    low: float
    high: float
    paired: bool


@dataclass(frozen=True)
class Deviations:
    """Quantities with draws of their errors.

    Attributes:
        centre: The estimates, [...].
        away: Deviations whose percentiles are those of the errors, [draws, ...].
        at_bounds: Masks of draws on a bound of a parameter, [draws] each: see the last rule of `laws.bootstrap`.
    """

    centre: Array
    away: Array = field(repr=False)
    at_bounds: tuple[npt.NDArray[np.bool_], ...] = field(default=(), repr=False)

    def interval(self, level: float) -> Array:
        """Low and high of each quantity, [..., 2]."""
        return ends_of(self.centre, self.away, level, self.at_bounds)


def paired(a: Bootstrap, b: Bootstrap) -> bool:
    """Whether two data sets share their runs' draws: the same labels of runs, drawn with the same seed."""
    return (
        a.labels is not None
        and b.labels is not None
        and np.array_equal(a.labels, b.labels)
        and (a.seed, a.kind, len(a.draws)) == (b.seed, b.kind, len(b.draws))
    )


def differences(
    a: Bootstrap,
    b: Bootstrap,
    functions: tuple[Callable[[Array], Array], Callable[[Array], Array]],
    level: float = 0.95,
    together: bool = True,
) -> Deviations:
    """What the first of `functions` makes of `a` minus what the second makes of `b`.

    Args:
        functions: Parameter values, [..., parameters], to quantities, [..., quantities].
        together: Difference draws one by one where the two share them; else they are taken to be independent.
    """
    count = min(len(a.draws), len(b.draws))
    # Unpaired draws of one seed still have their multipliers in common; in another order they do not.
    same = together and paired(a, b)
    order = np.arange(count) if same else np.random.default_rng(b.seed).permutation(len(b.draws))[:count]
    of_a, of_b = functions
    first, second = np.asarray(of_a(a.values)), np.asarray(of_b(b.values))
    away = a.away(first, np.asarray(of_a(a.draws)), level)[:count]
    away = away - b.away(second, np.asarray(of_b(b.draws)), level)[order]
    sides = [side[:count] for side in a.at_bounds()] + [side[order] for side in b.at_bounds()]
    return Deviations(first - second, away, tuple(sides))


def compare(a: Bootstrap, b: Bootstrap, function: Callable[[Array], Array], level: float = 0.95) -> Difference:
    """The difference of `function` between `a` and `b`, with an interval.

    Where both were drawn with the same seed and labels of runs, draws are differenced one by one, and what the arms'
    runs share (a seed's data, its initialisation) cancels; otherwise the arms are taken to be independent.

    Args:
        a, b: Two data sets' bootstraps, of any laws.
        function: Parameter values, [..., parameters], to a quantity, [...].
        level: Nominal coverage.
    """
    found = differences(a, b, (function, function), level)
    low, high = found.interval(level)
    return Difference(float(found.centre), float(low), float(high), paired(a, b))
