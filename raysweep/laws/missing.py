"""Text that stands for numbers: columns of a CSV or JSON file in which a word marks a missing number."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

__all__ = ["as_numbers", "first_word", "numeric"]

# What pandas reads as missing, and what C, Excel and JavaScript write, in small letters.
_WORDS = [
    "", "nan", "+nan", "-nan", "na", "n/a", "<na>", "null", "none", "nil", "nan(ind)", "-nan(ind)", "nan(snan)",
    "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan", "1.#inf", "-1.#inf", "inf", "+inf", "-inf", "infinity", "+infinity",
    "-infinity", "#n/a", "#n/a n/a", "#na", "#num!", "#div/0!", "#value!", "undefined",
]  # fmt: skip
_HEAD = 1000  # rows that suffice to recognise most columns of words


def _text(name: str) -> pl.Expr:
    return pl.col(name).str.strip_chars()


def _missing(name: str) -> pl.Expr:
    return _text(name).is_null() | _text(name).str.to_lowercase().is_in(_WORDS)


def _word(name: str) -> pl.Expr:
    """Whether a value is neither a number nor a word for a missing one."""
    return ~_missing(name) & _text(name).cast(pl.Float64, strict=False).is_null()


def numeric(rows: pl.LazyFrame, names: Sequence[str], least: int = 1) -> dict[str, pl.DataType]:
    """The columns of text that hold only numbers, at least `least`, and words for missing ones; and their type."""
    names = list(names)
    for part in (rows.head(_HEAD), rows):
        if not names:
            return {}
        words = part.select(_word(name).any().alias(name) for name in names).collect(engine="streaming")
        names = [name for name in names if not words[name].item()]
    if not names:
        return {}
    found = rows.select(
        pl.struct(
            (~_missing(name)).sum().alias("count"),
            _text(name).cast(pl.Int64, strict=False).is_not_null().sum().alias("whole"),
        ).alias(name)
        for name in names
    ).collect(engine="streaming")
    counts = {name: found[name].item() for name in names}
    return {
        name: pl.Int64() if one["whole"] == one["count"] else pl.Float64()
        for name, one in counts.items()
        if one["count"] >= least
    }


def as_numbers(name: str, kind: pl.DataType) -> pl.Expr:
    """The column as numbers, null where a word marks a missing one."""
    return pl.when(~_missing(name)).then(_text(name)).cast(kind, strict=False).alias(name)


def first_word(rows: pl.LazyFrame, name: str, where: pl.Expr) -> tuple[int, str]:
    """The first of these rows, counted from 1, where a column of text holds no number, and what it holds."""
    found = rows.with_row_index("_row", 1).filter(where & _word(name)).select("_row", name).head(1)
    number, value = found.collect(engine="streaming").row(0)
    return number, value
