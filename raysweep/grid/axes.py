"""Axes: the named, typed, bounded quantities a grid is declared over, and the ranges they accept.

An axis has a *kind*, which says how it is executed:

* `shape`: changes tensor shapes or the program; cells that differ here cannot share a pack.
* `lane`: differs per run but not in shape; stacked inside a pack.
* `observed`: measured during a run that happens anyway; never enumerated for a plan.

The kind may depend on another axis of the same cell (`KindBy`): training time is observed under a
constant schedule and a lane under cosine.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from raysweep.errors import SweepError, nearest
from raysweep.grid.values import LONGEST, NULL, UNSTORABLE, Json, Value, as_whole, canonical, structured, unwrapped

__all__ = ["RANGES", "TYPES", "Axis", "Kind", "KindBy", "axis_values", "declared", "described", "index_axes"]

Kind = Literal["shape", "lane", "observed"]


RANGES = ("geom", "log2", "linear", "range")
_MAX_POINTS = 1_000_000  # values of one range
TYPES: dict[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a word",
    Json: "a scalar, a list or a mapping",
}
_LEAST, _MOST = -(2**63), 2**63 - 1  # whole numbers that a column of the ledger holds


@dataclass(frozen=True)
class KindBy:
    """A kind chosen by the value of another axis, e.g. `KindBy("schedule", {"cosine": "lane"}, "observed")`."""

    axis: str
    kinds: Mapping[Value, Kind]
    otherwise: Kind


@dataclass(frozen=True)
class Axis:
    """One quantity of a grid.

    Args:
        name: Column name, axis name in sweep files.
        type: `bool`, `int`, `float`, `str`; or `Json` where some values are lists or mappings.
        kind: How the axis is executed; see the module.
        default: Value of a cell that does not name the axis. A cell's key leaves out axes at their default,
            so adding an axis to an experiment keeps its old cells.
        follows: Name of an axis whose value is the default instead (`data_seed` follows `seed`).
        low, high: Inclusive bounds.
        choices: The only values allowed.
        unit, help: Texts shown by `plan`, in errors and in the ledger's metadata.
        role: `seed` for replicates, `time` for training time: what a fit may reduce over.
        inferred: Its type was inferred from the values of a grid, and may change as the grid grows: equal numbers are
            then one value whatever their type (1 and 1.0).
        optional: A cell may lack the axis, which is then no part of its key.
        nullable: Null is one of its values.
    """

    name: str
    type: type
    kind: Kind | KindBy
    default: Value | None = None
    follows: str | None = None
    low: float | None = None
    high: float | None = None
    choices: tuple[Value, ...] = ()
    unit: str = ""
    help: str = ""
    role: Literal["", "seed", "time"] = ""
    inferred: bool = False
    optional: bool = False
    nullable: bool = False

    def kind_for(self, cell: Mapping[str, Value]) -> Kind:
        """The kind in a cell that holds at least the axis this kind depends on."""
        if isinstance(self.kind, KindBy):
            return self.kind.kinds.get(cell.get(self.kind.axis, ""), self.kind.otherwise)
        return self.kind

    def parse(self, raw: Any, where: str) -> Value:
        """One canonical value of this axis.

        Raises:
            SweepError: wrong type, out of bounds, not among the choices; `where` names the place.
        """
        if raw is None or raw == NULL:
            if self.nullable:
                return NULL
            raise SweepError(f"{where}: {self.name} must be {TYPES[self.type]}{self._bounds()}, but got None")
        raw = unwrapped(raw)
        if self.type is Json:
            return structured(raw, f"{where}: {self.name}")
        value = _cast(raw, self.type)
        value = as_whole(value) if self.inferred else canonical(value)
        if type(value) is int and not _LEAST <= value <= _MOST:
            raise SweepError(f"{where}: {self.name} must fit in 64 bits, but got about 2^{value.bit_length()}")
        if (
            isinstance(value, str)
            and not isinstance(value, Json)
            and (len(value) > LONGEST or UNSTORABLE.search(value))
        ):
            raise SweepError(
                f"{where}: {self.name} must be a word of at most {LONGEST:,} characters that UTF-8 has, without the "
                f"null character, but got {value!r}"
            )
        if value is None:
            raise SweepError(f"{where}: {self.name} must be {TYPES[self.type]}{self._bounds()}, but got {raw!r}")
        if self.choices and value not in self.choices:
            raise SweepError(
                f"{where}: {self.name} must be one of {', '.join(map(str, self.choices))}, but got {raw!r}. "
                + nearest(str(raw), map(str, self.choices))
            )
        if not isinstance(value, str) and (
            (self.low is not None and value < self.low) or (self.high is not None and value > self.high)
        ):
            raise SweepError(f"{where}: {self.name} must be {TYPES[self.type]}{self._bounds()}, but got {raw!r}")
        return value

    def plain(self, value: Value) -> Any:
        """A value as passed to a user's function: of the axis's type, lists and mappings as they were written.

        Each call makes new lists and mappings: what a function does to its own must not reach another run.
        """
        if isinstance(value, Json):
            return copy.deepcopy(value.plain)
        return float(value) if self.type is float and type(value) is int else value

    def _bounds(self) -> str:
        if self.low is None and self.high is None:
            return ""
        low = "-inf" if self.low is None else f"{self.low:g}"
        high = "inf" if self.high is None else f"{self.high:g}"
        unit = f" {self.unit}" if self.unit else ""
        return f" in [{low}, {high}]{unit}"


def _cast(raw: Any, to: type) -> Value | None:
    """`raw` converted to `to`, or None where that would lose or add something. YAML reads `1e-3` as a word."""
    if to is bool or isinstance(raw, bool):
        return raw if to is bool and isinstance(raw, bool) else None
    if to is str:
        return raw if isinstance(raw, str) else str(raw) if isinstance(raw, int | float) else None
    if to is int and isinstance(raw, str):
        with contextlib.suppress(ValueError):
            return int(raw)  # exact beyond 2^53
    try:
        number = float(raw) if isinstance(raw, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    if to is int:
        if isinstance(raw, int):
            return raw
        return int(number) if number == int(number) else None
    return number


def axis_values(axis: Axis, spec: Any, where: str) -> tuple[Value, ...]:
    """The distinct values a sweep file's entry stands for, in the order given.

    `spec` is a single value, a list of values, or one range:

    * `{geom: [low, high, n]}`: n points evenly spaced in the logarithm
    * `{log2: [low, high]}`: low, 2 low, 4 low, ... up to high
    * `{linear: [low, high, n]}`: n points evenly spaced
    * `{range: n}`, `{range: [start, stop]}`, `{range: [start, stop, step]}`: as Python's, stop excluded

    Integer axes stay integers: points are rounded, and coinciding ones are kept once.

    Raises:
        SweepError: an unknown range, wrong arguments, an empty list or an invalid value.
    """
    if isinstance(spec, Mapping):
        points: Sequence[Any] = _range(axis, spec, where)
    elif isinstance(spec, list | tuple):
        points = spec
    elif getattr(spec, "ndim", 0) == 1:  # an array of numpy
        points = list(spec)
    else:
        points = [spec]
    if not len(points):
        raise SweepError(f"{where}: {axis.name} must have at least one value, but got {spec!r}")
    return tuple(dict.fromkeys(axis.parse(p, where) for p in points))


def _range(axis: Axis, spec: Mapping[str, Any], where: str) -> list[Any]:
    if len(spec) != 1 or next(iter(spec)) not in RANGES:
        hint = nearest(str(next(iter(spec), "")), RANGES)
        if len(spec) == 1 and isinstance(listed := next(iter(spec.values())), list | tuple) and "values" in spec:
            hint = f"A list needs no key: {axis.name}: {list(listed)!r}"
        raise SweepError(
            f"{where}: a range must have exactly one of {', '.join(RANGES)}, but got {dict(spec)!r}. {hint}"
        )
    if axis.type not in (int, float):
        raise SweepError(
            f"{where}: {axis.name} is {TYPES[axis.type]} and takes a list, not a range; got {dict(spec)!r}"
        )
    name, raw = next(iter(spec.items()))
    args = raw if isinstance(raw, list | tuple) else [raw]
    numbers = [_cast(a, float) for a in args]
    forms = {"geom": (3,), "linear": (3,), "log2": (2,), "range": (1, 2, 3)}
    if len(args) not in forms[name] or any(n is None for n in numbers):
        usage = {
            "geom": "[low, high, n]",
            "linear": "[low, high, n]",
            "log2": "[low, high]",
            "range": "n, [start, stop] or [start, stop, step]",
        }[name]
        raise SweepError(f"{where}: {name} takes {usage}, but got {raw!r}")
    x = [float(n) for n in numbers if n is not None]
    if name == "range":
        whole = [n for a in args if isinstance(n := _cast(a, int), int)]
        if len(whole) != len(args) or whole[2:] == [0]:
            raise SweepError(f"{where}: range takes whole numbers and a step other than 0, but got {raw!r}")
        count = _length(*whole)
        if count > _MAX_POINTS:
            raise SweepError(
                f"{where}: range may have at most {_MAX_POINTS:,} values, but {raw!r} has {count:,}. "
                "Give a larger step, or split the sweep"
            )
        return list(range(*whole))
    low, high = x[0], x[1]
    if low > high or (name in ("geom", "log2") and low <= 0):
        rule = "low <= high" if name == "linear" else "0 < low <= high"
        raise SweepError(f"{where}: `{rule}` must hold in {name}, but got (low={low:g}, high={high:g})")
    if name == "log2":
        count = math.floor(math.log2(high) - math.log2(low) + 1e-9) + 1
        points = [math.ldexp(low, i) for i in range(count)]
    else:
        n = int(x[2])
        if n != x[2] or n < 1 or n > _MAX_POINTS or (n == 1 and low != high):
            raise SweepError(
                f"{where}: {name} needs a whole number of points n in [2, {_MAX_POINTS:,}], but got {x[2]:g}"
            )
        step = [i / max(n - 1, 1) for i in range(n)]
        # low^(1-s) high^s: high / low may overflow
        points = (
            [low ** (1 - s) * high**s for s in step] if name == "geom" else [low * (1 - s) + high * s for s in step]
        )
        points[-1] = high  # exact, whatever pow rounds to
    # canonical first: a point at one half must not be rounded by the last bit of somebody's pow
    return [round(float(f"{p:.12g}")) if abs(p) < 1e12 else round(p) for p in points] if axis.type is int else points


def _length(*arguments: int) -> int:
    """The length of a range; `len` fails beyond 2^63."""
    numbers = range(*arguments)
    return max(0, -(-(numbers.stop - numbers.start) // numbers.step))


def described(axis: Axis) -> dict[str, Any]:
    """An axis as plain data, for JSON: enough to count a grid's cells without the experiment's code."""
    kind: Any = axis.kind
    if isinstance(kind, KindBy):
        kind = {"axis": kind.axis, "kinds": [list(pair) for pair in kind.kinds.items()], "otherwise": kind.otherwise}
    same = ("name", "default", "follows", "low", "high", "role", "inferred", "optional", "nullable")
    plain: dict[str, Any] = {name: getattr(axis, name) for name in same}
    if isinstance(axis.default, Json):
        plain["default"] = {"json": axis.default.plain}
    return {**plain, "type": axis.type.__name__, "kind": kind, "choices": list(axis.choices)}


def declared(plain: Mapping[str, Any]) -> Axis:
    """Undo `described`.

    Raises:
        KeyError, TypeError, ValueError: it is not a description of an axis; `index_axes` checks the rest.
    """
    types = {known.__name__: known for known in TYPES}
    kind = plain["kind"]
    if not isinstance(kind, str):
        kind = KindBy(str(kind["axis"]), dict(kind["kinds"]), kind["otherwise"])
    follows = None if plain["follows"] is None else str(plain["follows"])
    low, high = (None if plain[end] is None else float(plain[end]) for end in ("low", "high"))
    default = plain["default"]
    if isinstance(default, dict):
        default = NULL if default["json"] is None else structured(default["json"], f"axis {plain['name']}: default")
    return Axis(
        name=str(plain["name"]),
        type=types[plain["type"]],
        kind=kind,
        default=default,
        follows=follows,
        low=low,
        high=high,
        choices=tuple(plain["choices"]),
        role=plain["role"],
        inferred=plain.get("inferred") is True,
        optional=plain.get("optional") is True,
        nullable=plain.get("nullable") is True,
    )


def index_axes(axes: Sequence[Axis]) -> dict[str, Axis]:
    """Axes by name, checked to make sense together.

    Raises:
        SweepError: two axes of one name, a `follows` or `KindBy` that names no axis, a bad default.
    """
    table = {a.name: a for a in axes}
    if len(table) != len(axes):
        raise SweepError(f"axis names must be distinct, but got {sorted(a.name for a in axes)}")
    for axis in axes:
        if axis.type not in TYPES:
            raise SweepError(
                f"axis {axis.name}: type must be one of bool, int, float, str, Json, but got {axis.type!r}"
            )
        controls = [axis.follows] if axis.follows else []
        if isinstance(axis.kind, KindBy):
            controls.append(axis.kind.axis)
            if axis.kind.axis in table and table[axis.kind.axis].kind not in ("shape", "lane"):
                raise SweepError(
                    f"axis {axis.name}: its kind depends on {axis.kind.axis}, which must always be shape or lane"
                )
        elif axis.kind not in get_args(Kind):
            raise SweepError(f"axis {axis.name}: kind must be one of {get_args(Kind)}, but got {axis.kind!r}")
        for other in controls:
            if other not in table:
                raise SweepError(f"axis {axis.name} depends on {other!r}, which is no axis. {nearest(other, table)}")
        if axis.follows is not None:
            lead = table[axis.follows]
            if lead.follows is not None or lead.type is not axis.type or "observed" in (*_kinds(lead), *_kinds(axis)):
                raise SweepError(
                    f"axis {axis.name} follows {lead.name}, which must be of its type and follow none, "
                    "and neither may be observed"
                )
            if axis.default is not None:
                raise SweepError(
                    f"axis {axis.name} follows {lead.name}, so it has no default, but got {axis.default!r}"
                )
        if axis.default is not None:  # canonical, like the values it is compared with
            table[axis.name] = replace(axis, default=axis.parse(axis.default, f"axis {axis.name}: default"))
    return table


def _kinds(axis: Axis) -> tuple[Kind, ...]:
    return (*axis.kind.kinds.values(), axis.kind.otherwise) if isinstance(axis.kind, KindBy) else (axis.kind,)
