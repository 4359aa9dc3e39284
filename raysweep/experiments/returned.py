"""What a user's function gave back, as plain columns: numbers, words, or nothing."""

from __future__ import annotations

import json
import math
import numbers
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from raysweep.grid.axes import Axis
from raysweep.grid.values import Value, canonical
from raysweep.ledger.rows import RESERVED

__all__ = ["Column", "flattened", "matched", "not_finite", "renamed", "same_value", "snapped"]

_MOST_ITEMS = 64  # longest list whose items become separate columns
_MOST_COLUMNS = 500  # per row; a part of the ledger holds 2,000
_MORE = "more_metrics"
_UNSTORABLE = re.compile("[\ud800-\udfff]")
_NUMBERS = {"nan": math.nan, "inf": math.inf, "+inf": math.inf, "-inf": -math.inf}
Column = float | str | None


def renamed(name: str) -> str:
    """The column of a metric: a name that every ledger already has becomes `metric_<name>`."""
    return f"metric_{name}" if name in RESERVED else name


def flattened(row: Mapping[Any, Any]) -> dict[str, Column]:
    """A row's metrics. Nested mappings become `val/loss`, short lists `loss/0`, numbers of any library floats.

    Anything that is neither a number nor a word is kept as text, so that no result of a training is thrown away.

    Raises:
        ValueError: two metrics have one name and different values, or a metric has no name.
    """
    found: dict[str, Column] = {}
    for name, value in _leaves("", row):
        name = renamed(name)
        plain = _plain(value)
        if name in found and not _same(found[name], plain):
            raise ValueError(f"a metric must have one value in a row, but {name} has {found[name]!r} and {plain!r}")
        found[name] = plain
    if len(found) <= _MOST_COLUMNS:
        return found
    names = list(found)
    rest = {name: found.pop(name) for name in names[_MOST_COLUMNS:]}
    return {**found, _MORE: json.dumps(rest)}


def not_finite(row: Mapping[str, Any], watched: Collection[str], apart: Collection[str]) -> dict[str, str]:
    """The status and error of a row that diverged: all of its numbers, or one that is `watched`, are not finite; empty
    for any other row. Numbers of the columns `apart` do not count.
    """
    figures = {name: value for name, value in row.items() if isinstance(value, float) and name not in apart}
    bad = [name for name, value in figures.items() if not math.isfinite(value)]
    if bad and (len(bad) == len(figures) or not {*bad}.isdisjoint(watched)):
        return {"status": "diverged", "error": f"not finite: {', '.join(bad)}"}
    return {}


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str | int) or key == "":
                raise ValueError(f"a metric must have a name, but one in {prefix or 'the row'} has {key!r}")
            yield from _leaves(f"{prefix}/{key}" if prefix else str(key), part)
        return
    items = _items(value)
    if items is None:
        yield prefix, value
    elif len(items) <= _MOST_ITEMS:
        for i, part in enumerate(items):
            yield from _leaves(f"{prefix}/{i}", part)
    else:
        yield prefix, json.dumps([_plain(part) for part in items])


def _items(value: Any) -> list[Any] | None:
    """The items of a list or array; None for a scalar, even if wrapped in an array."""
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if getattr(value, "ndim", 0) and hasattr(value, "tolist"):
        return None if _size(value) == 1 else list(value.tolist())
    return None


def _size(value: Any) -> int:
    size = getattr(value, "size", None)  # a number in numpy, a method in torch
    return int(value.numel()) if callable(size) else int(size or 0)


def _plain(value: Any) -> Column:
    if value is None:
        return None
    if hasattr(value, "item") and not isinstance(value, str):
        try:
            value = value.item()
        except (ValueError, RuntimeError, TypeError):
            return _words(repr(value))
    if isinstance(value, str):
        return _NUMBERS.get(value.strip().lower(), _words(value))
    if isinstance(value, bool | numbers.Real) or (hasattr(value, "__float__") and not isinstance(value, complex)):
        try:
            return float(value)
        except OverflowError:  # beyond 1.8e308
            return math.inf if value == abs(value) else -math.inf
        except (ValueError, TypeError):
            return _words(str(value))
    return _words(repr(value))


def _words(text: str) -> str:
    return _UNSTORABLE.sub("\ufffd", text)


def _same(one: Column, other: Column) -> bool:
    return one == other or (
        isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    )


def same_value(axis: Axis, value: Value | None, given: Any) -> bool:
    """Whether a value that a function returned under an axis's name is the axis's value, however it is written."""
    if given is None:
        return value is None or axis.nullable
    if value is None:
        return False
    try:
        parsed = axis.parse(given, "")
    except Exception:
        return False
    if parsed == value:
        return True
    return isinstance(parsed, float | int) and isinstance(value, float | int) and parsed in snapped([value])


def snapped(values: Iterable[Value]) -> dict[float, Value]:
    """Map numbers rounded to fewer bits to the values they stand for: 0.30000001192092896 is 0.3 in 32 bits.

    A number that could stand for two of the values is left out.
    """
    found: dict[float, Value] = {}
    twice: set[float] = set()
    for value in values:
        if isinstance(value, bool | str) or not isinstance(value, int | float):
            continue
        for short in _rounded(value):
            key = canonical(short)
            assert isinstance(key, float)
            if found.setdefault(key, value) != value:
                twice.add(key)
    return {key: value for key, value in found.items() if key not in twice}


def _rounded(value: float) -> set[float]:
    """The number in 32 bits, in 16, and in the upper 16 of 32 (bfloat16), ties to even."""
    with np.errstate(over="ignore"):
        single, half = np.float32(value), np.float16(value)
    bits = int(single.view(np.uint32))
    upper = np.uint32((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)
    return {float(single), float(half), float(upper)}


def matched(axis: Axis, given: Any, asked: frozenset[Value], near: Mapping[float, Value]) -> Value:
    """The observed value of a row; where it is a rounding of a value that was asked for, that value.

    Raises:
        SweepError: it is no value of the axis.
        ValueError: it is not finite.
    """
    if isinstance(given, list | tuple):
        raise ValueError(f"a row must hold one value of its observed axis {axis.name}, but got {given!r}")
    if hasattr(given, "item"):
        given = given.item()
    if axis.type in (int, float) and isinstance(given, int | float) and not isinstance(given, bool):
        value: Value | None = canonical(given)
        if not math.isfinite(given):
            raise ValueError(f"a row must hold a finite value of its observed axis {axis.name}, but got {given!r}")
    else:
        value = axis.parse(given, "a row's observed value")
    assert value is not None
    if value in asked:
        return value
    return near.get(value, value) if isinstance(value, int | float) else value
