"""The axes of a user's function: every name in its sweep's grid, typed by the values it has there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raysweep.errors import SweepError, nearest
from raysweep.grid.axes import RANGES, Axis, Kind
from raysweep.grid.expand import derived_values
from raysweep.grid.formula import is_formula
from raysweep.grid.values import NULL, Json

__all__ = ["axis_names", "infer_axes"]

_ALGEBRA = ("zip", "concat", "when", "exclude")


def infer_axes(
    grid: Mapping[str, Any], observed: Sequence[str], where: str, defaults: Mapping[str, Any] | None = None
) -> tuple[Axis, ...]:
    """Axes of a user's function; `seed` and `..._seed` are replicates.

    Args:
        observed: Axes whose values the function reports along the way.
        where: Place named in errors.
        defaults: Values for cells that do not name an axis. An axis without one may be absent from some branches.

    Raises:
        SweepError: `observed` names no axis of the grid, or values of one axis mix types.
    """
    values: dict[str, list[Any]] = {}
    _collect(grid, values)
    for name in observed:
        if name not in values:
            raise SweepError(f"{where}: observed must name axes of the grid, but got {name!r}. {nearest(name, values)}")
    defaults = defaults or {}
    for name, default in defaults.items():
        values.setdefault(name, []).append(default)
    plain = {n: [v for v in found if not is_formula(v, values)] for n, found in values.items()}
    derived = {n for n, found in values.items() if len(plain[n]) < len(found)}

    def axis(name: str, found: Sequence[Any]) -> Axis:
        return _inferred(name, found, name in observed, defaults, where)

    axes = {name: axis(name, found) for name, found in plain.items() if name not in derived}
    if derived:
        try:
            computed = derived_values(grid, axes, derived)
        except SweepError as error:
            raise SweepError(f"{where}: {error}") from error
        axes |= {name: axis(name, [*plain[name], *(found or [0.0])]) for name, found in computed.items()}
    return tuple(axes[name] for name in values)


def axis_names(grid: Any) -> list[str]:
    """The names of a grid's axes, at any depth."""
    values: dict[str, list[Any]] = {}
    _collect(grid, values)
    return list(values)


def _inferred(name: str, values: Sequence[Any], observed: bool, defaults: Mapping[str, Any], where: str) -> Axis:
    type_ = _type_of(name, [v for v in values if v is not None], where)
    nullable = any(v is None for v in values)
    if observed and (nullable or type_ is Json):
        raise SweepError(f"{where}: axis {name} is observed and must have numbers or words, but got {list(values)!r}")
    kind: Kind = "observed" if observed else "shape"
    axis = Axis(
        name,
        type_,
        kind,
        role="seed" if name == "seed" or name.endswith("_seed") else "",
        inferred=True,
        optional=not observed,
        nullable=nullable,
    )
    if name not in defaults:
        return axis
    default = NULL if defaults[name] is None else axis.parse(defaults[name], f"{where}: defaults.{name}")
    return Axis(**{**vars(axis), "default": default})


def _collect(grid: Any, into: dict[str, list[Any]]) -> None:
    for key, entry in grid.items() if isinstance(grid, Mapping) else ():
        parts = _listed(entry)
        if key in ("zip", "concat"):
            for part in parts:
                _collect(part, into)
        elif key == "when":
            for part in parts:
                _collect(part.get("then", {}) if isinstance(part, Mapping) else {}, into)
        elif key in _ALGEBRA:
            continue
        elif _is_range(entry):
            ends = _listed(next(iter(entry.values())))
            if next(iter(entry)) == "linear" and len(ends) == 3 and all(type(e) is int for e in ends) and ends[2] > 1:
                step = (ends[1] - ends[0]) / (ends[2] - 1)  # 0 to 1 in 11 points has fractional steps
                ends = [*ends[:2], int(step) if step == int(step) else step]
            into.setdefault(key, []).extend(ends[:2] if next(iter(entry)) == "geom" else ends)
        else:
            for part in parts:
                if _is_range(part) and len(parts) > 1:
                    raise SweepError(f"grid.{key}: a range must stand alone, not in a list, but got {entry!r}"[:500])
            into.setdefault(key, []).extend(parts)


def _listed(entry: Any) -> list[Any]:
    return list(entry) if isinstance(entry, list | tuple) or getattr(entry, "ndim", 0) == 1 else [entry]


def _is_range(entry: Any) -> bool:
    return isinstance(entry, Mapping) and len(entry) == 1 and next(iter(entry)) in RANGES


def _type_of(name: str, values: Sequence[Any], where: str) -> type:
    types = {_scalar_type(v) for v in values}
    if Json in types:
        return Json
    if types == {int, float}:
        return float
    if not types:
        return str  # null alone
    if len(types) != 1 or not types <= {bool, int, float, str}:
        raise SweepError(f"{where}: axis {name} must have values of one type, but got {list(values)!r}"[:500])
    return types.pop()


def _scalar_type(value: Any) -> type:
    """The type of a scalar, numpy's included; Json for lists and mappings."""
    if isinstance(value, list | tuple | Mapping | Json) or getattr(value, "ndim", 0) > 0:
        return Json
    for type_, abstract in ((bool, "b"), (int, "iu"), (float, "f"), (str, "U")):
        if type(value) is type_ or getattr(getattr(value, "dtype", None), "kind", "-") in abstract:
            return type_
    return type(value)
