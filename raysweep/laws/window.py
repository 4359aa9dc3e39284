"""Windows: the rows of a fit by a rule, bounds on x that are functions of the other columns of each row.

A law often holds only between a crossover and a plateau, whose places depend on the setting. A rule that is stated once
and evaluated in every row moves the window with them; a filter by hand has one window for all settings.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from raysweep.errors import FitError, SweepError, nearest
from raysweep.grid.formula import Formula, parse_formula
from raysweep.grid.values import unwrapped
from raysweep.laws.definition import Array
from raysweep.laws.refusal import RequestError

__all__ = ["Bounds", "Columns", "Window", "crossed", "within"]

Bound: TypeAlias = float | str | None
_INFINITE = "inf"  # a formula's word for infinity
_UNBOUNDED = {"low": "0", "high": "inf"}  # what a formula says where x > 0 has no bound
_DIGITS = 1e-9  # relative; a bound of 100 includes the 99.99999999999999 of a geometric axis


class Columns(Protocol):
    """Columns by name: a mapping of arrays, a Polars or pandas frame, an Arrow table."""

    def __getitem__(self, name: str, /) -> Any: ...


@dataclass(frozen=True)
class Window:
    """The rows with low <= x <= high, both ends included (to nine digits).

    A bound is a number, or a formula of other columns in the language of derived axes, e.g.
    `"0.1 * width ** alpha if width else inf"`. None is no bound; in a formula, where x is positive, a `low` of 0 is
    none, and so is a `high` of `inf`. A `low` of `inf` leaves the row out. A bound is unknown in a row in which a
    column that it needs is missing (null or NaN): such a row is outside.

    Attributes:
        low, high: Smallest and largest x.
        x: The column that is bounded; None for the law's only scale.

    Raises:
        RequestError: There is no bound, a bound is neither a number nor a formula, or it depends on x itself.
    """

    low: Bound = None
    high: Bound = None
    x: str | None = None

    def __post_init__(self) -> None:
        for name in ("low", "high"):  # numbers of NumPy become Python's
            object.__setattr__(self, name, unwrapped(getattr(self, name)))
        if self.low is None and self.high is None:
            raise RequestError("window", "must have a bound, low or high, but got neither. Give one, or no window.")
        ends = {name: bound for name, bound in (("low", self.low), ("high", self.high)) if bound is not None}
        for name, bound in ends.items():
            if not isinstance(bound, str) and (
                isinstance(bound, bool) or not isinstance(bound, int | float) or math.isnan(bound)
            ):
                raise RequestError(
                    "window",
                    f"{name} must be a number or a formula in quotes, but got {bound!r}. Write {name}: 10, or {name}: "
                    '"0.1 * width".',
                )
        for name in ends:
            if not self.needs(name):
                self._values(name, math.inf, {})
        if self.x is not None:
            self.checked(self.x)
        low, high = self.low, self.high
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            raise RequestError("window", f"low must not exceed high, but got low={low:g} and high={high:g}. Swap them.")

    @classmethod
    def of_mapping(cls, given: Any) -> Window:
        """The window that a sweep file or a command line writes as `{low: 10, high: "0.1 * width ** alpha"}`.

        Raises:
            RequestError: It is no such mapping.
        """
        keys = [one.name for one in fields(cls)]
        if not isinstance(given, Mapping):
            raise RequestError(
                "window", f"must be a mapping such as {{low: 10, high: 1000}}, but got {given!r}. Write it so."
            )
        for key in given:
            if key not in keys:
                raise RequestError("window", f"unknown key {key!r}. {nearest(str(key), keys)}")
        name = given.get("x")
        if name is not None and not isinstance(name, str):
            raise RequestError(
                "window", f"x must be the name of a column, but got {name!r}. Name a scale of the law, or leave x out."
            )
        return cls(**given)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that the bounds depend on, sorted."""
        return tuple(sorted({*self.needs("low"), *self.needs("high")}))

    def needs(self, end: str) -> tuple[str, ...]:
        """The columns that `low` or `high` depends on."""
        formula = self._formula(end)
        return () if formula is None else tuple(name for name in formula.names if name != _INFINITE)

    def checked(self, x: str) -> Window:
        """This window as one of the column `x`.

        Raises:
            RequestError: A bound depends on x itself.
        """
        for end in ("low", "high"):
            if x in self.needs(end):
                raise RequestError(
                    "window",
                    f"{end} must depend on columns other than {x}, which it bounds, but got {getattr(self, end)!r}. "
                    "Write the bound in terms of the others.",
                )
        return self

    def require(self, names: Iterable[str]) -> None:
        """Refuse a window that depends on columns other than `names`.

        Raises:
            RequestError: It does; the bound is named.
        """
        have = set(names)
        for end in ("low", "high"):
            for name in self.needs(end):
                if name not in have:
                    raise RequestError("window", f"{end}: there is no column {name!r}. {nearest(name, have)}")

    def text(self, x: str) -> str:
        """`10 * gamma ** -2 <= t <= 1000`."""
        before = "" if self.low is None else f"{_shown(self.low)} <= "
        return before + x + ("" if self.high is None else f" <= {_shown(self.high)}")

    def mask(self, columns: Columns, x: str) -> npt.NDArray[np.bool_]:
        """Whether each row is inside, [rows].

        Args:
            columns: The columns by name, each of as many rows.
            x: The column that is bounded, which holds positive numbers.

        Raises:
            FitError: x holds no numbers, columns have different lengths, or as `bounds`.
        """
        self.checked(x)
        rows = _column(columns, x)
        for name in self.names:
            _of_equal_length({x: rows, name: _column(columns, name)})
        return np.asarray(within(_numbers(rows, x), *self.bounds(columns)))

    def bounds(self, columns: Columns) -> tuple[Array, Array]:
        """The lower and the upper bound in each row, [rows] or a scalar array for a constant; NaN where unknown.

        Raises:
            FitError: There is no such column, columns have different lengths, or a formula has no value in a row that
                has all columns it needs; the row's values are named.
        """
        return self._values("low", -math.inf, columns), self._values("high", math.inf, columns)

    def _formula(self, end: str) -> Formula | None:
        bound = getattr(self, end)
        if not isinstance(bound, str):
            return None
        try:
            return parse_formula(bound, None, end)
        except SweepError as error:
            raise RequestError("window", f"{error}. Correct the formula.") from error

    def _values(self, end: str, none: float, columns: Columns) -> Array:
        formula, bound = self._formula(end), getattr(self, end)
        if formula is None:
            return np.asarray(none if bound is None else bound, dtype=np.float64)
        names, known = self.needs(end), {}
        if not names:
            return np.asarray(self._value(end, formula, {}))
        needed = {name: _column(columns, name) for name in names}
        _of_equal_length(needed)
        rows = list(zip(*map(_plain, needed.values()), strict=True))
        for row in dict.fromkeys(rows):  # few: one for each setting
            known[row] = self._value(end, formula, dict(zip(names, row, strict=True)))
        return np.array([known[row] for row in rows], dtype=np.float64)

    def _value(self, end: str, formula: Formula, row: Mapping[str, Any]) -> float:
        try:
            found = formula.step({**row, _INFINITE: math.inf})
            if isinstance(found, bool) or not isinstance(found, int | float):
                raise TypeError(f"it is {found!r}, not a number")
            if not math.isnan(found):
                return float(found)
        except (ArithmeticError, ValueError, TypeError) as error:
            if None not in row.values():
                if not row:
                    raise RequestError(
                        "window",
                        f"{end}: `{formula.text}` must have a number as its value, but: {error}. Write a number, or a "
                        'formula of other columns, as in "0.1 * width".',
                    ) from error
                at = ", ".join(f"{name}={value!r}" for name, value in row.items())
                raise RequestError(
                    "window",
                    f"{end}: `{formula.text}` must have a value in every row, but at {at}: {error}. Say what holds "
                    f"there, as in `a if gamma > 0 else {_UNBOUNDED[end]}` for no bound, or leave such rows out with "
                    "where.",
                ) from error
        return math.nan


@dataclass(frozen=True)
class Bounds:
    """A window as it came out in one group.

    Attributes:
        window: The rule.
        x: The column that it bounds.
        low, high: The smallest lower and the largest upper bound of the group's rows; infinite for none, NaN where
            no row has a known one.
        kept: Number of rows inside.
        rows: Number of rows before.
        crossed: Number of rows whose low exceeds their high.
        example: Low and high of one of those.
    """

    window: Window
    x: str
    low: float
    high: float
    kept: int
    rows: int
    crossed: int = 0
    example: tuple[float, float] | None = None

    @property
    def empty(self) -> str:
        """That low exceeds high in some rows, with numbers; nothing where it does in none."""
        if self.example is None:
            return ""
        low, high = self.example
        rows = "all" if self.crossed == self.rows else f"{self.crossed:,}"
        return f"low exceeds high in {rows} of these rows (there, low = {low:.6g} and high = {high:.6g})"

    @property
    def span(self) -> str:
        """`10 to 4096`, `from 10`, `up to 4096`."""
        if math.isnan(self.low) or math.isnan(self.high):
            return "unknown"
        if self.high == math.inf:
            return "anywhere" if self.low == -math.inf else f"from {self.low:.6g}"
        return f"up to {self.high:.6g}" if self.low == -math.inf else f"{self.low:.6g} to {self.high:.6g}"

    def to_json(self) -> dict[str, Any]:
        """Plain Python values, None for no bound; `rule` is the window as it was written."""
        low, high = (end if math.isfinite(end) else None for end in (self.low, self.high))
        rule = self.window.text(self.x)
        return {"rule": rule, "x": self.x, "low": low, "high": high, "kept": self.kept, "rows": self.rows}


def within(x: Any, low: Any, high: Any) -> Any:
    """Whether x > 0 lies between the bounds, of arrays or of Polars expressions alike; not where a bound is unknown."""
    return (x >= low * (1 - _DIGITS)) & (x <= high * (1 + _DIGITS))


def crossed(low: Any, high: Any) -> Any:
    """Whether low exceeds high, of arrays or of Polars expressions alike; a low of infinity leaves a row out."""
    return (low * (1 - _DIGITS) > high * (1 + _DIGITS)) & (low < math.inf)


def _shown(bound: float | str) -> str:
    if isinstance(bound, str):
        return f"({bound})" if " if " in bound else bound
    return f"{bound:g}"


def _column(columns: Columns, name: str) -> npt.NDArray[Any]:
    try:
        return np.atleast_1d(np.asarray(columns[name]))
    except Exception as error:  # each kind of table has its own
        names: Any = getattr(columns, "column_names", getattr(columns, "columns", columns))
        raise FitError(f"window: there is no column {name!r}. {nearest(name, [str(one) for one in names])}") from error


def _of_equal_length(columns: Mapping[str, npt.NDArray[Any]]) -> None:
    if len({column.shape for column in columns.values()}) > 1 or any(column.ndim > 1 for column in columns.values()):
        shapes = ", ".join(f"{name}: {' x '.join(map(str, column.shape))}" for name, column in columns.items())
        raise FitError(
            f"window: columns must be one-dimensional and have equally many rows, but got {shapes}. Take them from one "
            "table."
        )


def _numbers(column: npt.NDArray[Any], name: str) -> Array:
    try:
        if column.dtype.kind not in "SU":  # NumPy would read text such as "3"
            return column.astype(np.float64)
        wrong: Any = next(iter(column.tolist()), column.dtype)
    except (TypeError, ValueError):
        wrong = next((v for v in column.tolist() if not isinstance(v, numbers.Real | None)), column.dtype)
    raise FitError(f"window: {name}, which is bounded, must hold numbers, but got {wrong!r}. Convert the column.")


def _plain(column: npt.NDArray[Any]) -> list[Any]:
    """The values as Python's, None where one is missing."""
    return [None if value != value else value for value in column.tolist()]  # NaN differs from itself
