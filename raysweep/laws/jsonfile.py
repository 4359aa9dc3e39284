"""JSON as a table with one row per object: a list of objects, or one object after another (JSON lines).

A text may come from anywhere: it is parsed up to a limit of bytes, columns and values.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from raysweep.errors import FitError

__all__ = ["first_line", "read_json"]

_MOST_VALUES = 1 << 26  # rows times columns
_MOST_COLUMNS = 2000
_DEEPEST = 20  # objects inside objects that become columns


def read_json(path: Path, most: int) -> tuple[pl.DataFrame, int]:
    """The rows of a JSON file, and its length as text.

    Objects in objects become columns such as `config/lr`; lists are kept as text, null is an empty place.

    Args:
        path: Path of the file; may end in .gz.
        most: Largest size once unpacked, in bytes.

    Raises:
        FitError: It is too long, is not JSON, or holds anything but objects.
    """
    text = _text(path, most)
    columns: dict[str, list[Any]] = {}
    count = 0
    for count, row in enumerate(_objects(path, text), 1):
        for name, value in _flat(row).items():
            columns.setdefault(name, [None] * (count - 1)).append(value)
        if len(columns) > _MOST_COLUMNS or count * len(columns) > _MOST_VALUES:
            raise FitError(
                f"{path}: JSON may hold {_MOST_COLUMNS:,} columns and {_MOST_VALUES:,} values at most, but holds "
                f"{len(columns):,} columns in the first {count:,} rows. Write the rows as Parquet."
            )
        for values in columns.values():
            if len(values) < count:
                values.append(None)
    return pl.DataFrame([_series(name, values) for name, values in columns.items()]), len(text)


def _text(path: Path, most: int) -> str:
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise FitError(
            f"{path}: JSON is read up to a limit, of which {most:,} bytes are left, but this is longer once unpacked. "
            "Write the rows as Parquet."
        )
    return data.decode("utf-8-sig")


def _objects(path: Path, text: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON text, whether they stand in a list or one after the other."""
    decoder, solid, at = json.JSONDecoder(), re.compile(r"\S"), 0

    def line() -> int:
        return text.count("\n", 0, at) + 1

    while (begin := solid.search(text, at)) is not None:
        at = begin.start()
        try:
            found, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise FitError(
                f"{path}: line {line()} cannot be read as JSON: {first_line(error)}. Correct or remove it."
            ) from error
        for row in found if isinstance(found, list) else [found]:
            if not isinstance(row, dict):
                raise FitError(
                    f"{path}: line {line()} must hold a JSON object (one row), or a list of such, but holds "
                    f"{type(row).__name__}. Convert the table to one object, or one line of a .csv, per run."
                )
            yield row
        at = end


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """An object's values by their paths."""
    out: dict[str, Any] = {}
    stack: list[tuple[str, Mapping[str, Any], int]] = [("", row, 0)]
    while stack:
        before, inner, depth = stack.pop()
        for key, value in inner.items():
            name = _utf8(before + key)
            if isinstance(value, dict) and depth < _DEEPEST:
                stack.append((f"{name}/", value, depth + 1))
            else:
                out[name] = value
    return out


def _series(name: str, values: list[Any]) -> pl.Series:
    """A column: truth values, numbers, or text where anything is neither."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pl.Series(name, values, dtype=pl.Null)
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    if kinds == {int} and all(value is None or abs(value) < 1 << 63 for value in values):
        return pl.Series(name, values, dtype=pl.Int64)
    if kinds <= {int, float}:
        return pl.Series(name, [None if value is None else _float(value) for value in values], dtype=pl.Float64)
    words = [
        value if value is None else _utf8(value if isinstance(value, str) else json.dumps(value)) for value in values
    ]
    return pl.Series(name, words, dtype=pl.String)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _utf8(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON may spell but no table may hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def first_line(error: BaseException) -> str:
    """The first line of an error."""
    return next(iter(str(error).splitlines()), type(error).__name__)
