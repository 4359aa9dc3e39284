"""Two arms of a table, and what their comparison holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from raysweep.errors import FitError, nearest
from raysweep.laws.contrast import Contrast
from raysweep.laws.definition import Array
from raysweep.laws.group import GroupFit
from raysweep.laws.source import Source, gather, require, scan

__all__ = ["Arm", "Comparison", "Parameter", "arms_of"]

_NUMBERS = ("value", "ci_low", "ci_high")
_SHOWN = 8  # values of a column that an error names


@dataclass(frozen=True)
class Arm:
    """Two values of a column, whose rows are compared.

    Attributes:
        column: Such as `labels`.
        values: The two, the first of which is compared with the second.
    """

    column: str
    values: tuple[Any, Any]

    @property
    def names(self) -> tuple[str, str]:
        """What the arms are called."""
        return str(self.values[0]), str(self.values[1])


@dataclass(frozen=True)
class Parameter:
    """A parameter of both arms' laws, compared.

    Attributes:
        name: As in the law.
        kind: `ratio` for a positive one with multiplicative errors, such as an amplitude, else `difference`: the first
            arm's over, or minus, the second's.
        value, low, high: The estimate and its interval.
    """

    name: str
    kind: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two arms, compared.

    Attributes:
        arm: The arms.
        group: The by-columns' values that both have.
        x, y: What is compared over what.
        ratio: Whether the first over the second is compared, or else the first minus the second.
        paired: Whether clusters of both arms were drawn together; if not, the arms are taken to be independent.
        unit: What a cluster is; both, where the arms' differ.
        units: How many clusters each arm has.
        level: Nominal coverage.
        contrast: The comparison over x, of logs where it is a ratio.
        parameters: Those of both laws.
        fits: The law of each arm; empty where none was fitted.
        seen: x and y of the rows of each arm, [rows] each; empty where no law was fitted.
        points: The ratio or difference at points that were asked for: x, value, low and high of the pointwise band.
        details: A sentence for each note code.
        least: The least x that there can be.
    """

    arm: Arm
    group: Mapping[str, Any]
    x: str
    y: str
    ratio: bool
    paired: bool
    unit: str
    units: tuple[int, int]
    level: float
    contrast: Contrast
    parameters: tuple[Parameter, ...] = ()
    fits: tuple[GroupFit, ...] = ()
    points: tuple[tuple[float, float, float, float], ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    seen: tuple[tuple[Array, Array], ...] = field(default=(), repr=False)
    least: float = 0.0

    @property
    def words(self) -> str:
        """Where the arms cross, by the simultaneous band."""
        return self.contrast.crossings().words(self.x, *self.arm.names, self.least)

    def shown(self, values: Array) -> Array:
        """Ratios or differences, from what the contrast holds."""
        return np.asarray(np.exp(values) if self.ratio else values)

    def to_json(self) -> dict[str, Any]:
        """Plain data, null where there is no finite number."""
        found = self.contrast
        columns = {
            "x": found.x,
            "value": self.shown(found.value),
            "ci_low": self.shown(found.pointwise[:, 0]),
            "ci_high": self.shown(found.pointwise[:, 1]),
            "band_low": self.shown(found.simultaneous[:, 0]),
            "band_high": self.shown(found.simultaneous[:, 1]),
        }
        crossings = {}
        for name, simultaneous in (("crossings", True), ("crossings_pointwise", False)):
            one = found.crossings(simultaneous)
            words = one.words(self.x, *self.arm.names, self.least)
            sets = [[None if low == 0 else low, None if high == math.inf else high] for low, high in one.sets]
            crossings[name] = {
                "sets": sets,
                "estimates": list(one.estimates),
                "words": words,
            }
        return {
            "group": dict(self.group),
            "arm": {"column": self.arm.column, "values": list(self.arm.values)},
            "x": self.x,
            "y": self.y,
            "compared": "ratio" if self.ratio else "difference",
            "paired": self.paired,
            "unit": self.unit,
            "units": list(self.units),
            "level": self.level,
            **crossings,
            "parameters": [
                {"name": p.name, "compared": p.kind, **_named((p.value, p.low, p.high), _NUMBERS)}
                for p in self.parameters
            ],
            "points": [_named(point, ("x", *_NUMBERS)) for point in self.points],
            "stretch": found.stretch,
            "curve": [_named(row, tuple(columns)) for row in np.stack(list(columns.values()), axis=1).tolist()],
            "fits": [fit.to_json() for fit in self.fits],
            "notes": list(self.details),
            "details": dict(self.details),
        }


def _named(numbers: Sequence[float], names: Sequence[str]) -> dict[str, float | None]:
    return {name: float(n) if math.isfinite(n) else None for name, n in zip(names, numbers, strict=True)}


def arms_of(data: Source, column: str, names: Sequence[str]) -> Arm:
    """The arms that are called `names` among the values of a column.

    Raises:
        FitError: There is no such column, it lacks one of the values, or they are not two.
    """
    rows, _ = scan(data)
    require(rows.collect_schema().names(), column)
    held = gather(rows.select(pl.col(column).drop_nulls().unique())).to_series().sort().to_list()
    if len(names) != 2 or names[0] == names[1]:
        raise FitError(
            f"An arm must be two values of a column, but got {len(set(names))}: {', '.join(names)}. "
            f"{column!r} has {_listed(held)}. Write {column}=A,B."
        )
    one, other = (_value(held, column, name) for name in names)
    if one == other:
        raise FitError(
            f"An arm must be two values of a column, but {names[0]} and {names[1]} are one value. Name another."
        )
    return Arm(column, (one, other))


def _value(held: Sequence[Any], column: str, name: str) -> Any:
    for value in held:
        if str(value) == name or (isinstance(value, (int, float)) and _is(name, float(value))):
            return value
    raise FitError(f"No row has {column} = {name}. {column!r} has {_listed(held)}. {nearest(name, map(str, held))}")


def _is(name: str, value: float) -> bool:
    try:
        return float(name) == value
    except ValueError:
        return False


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:_SHOWN])) + (f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else "")
