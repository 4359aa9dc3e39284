"""Rows inside a window: bounds evaluated in every row, and what the window leaves of each group."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import polars as pl

from raysweep.laws.kinds import moment
from raysweep.laws.request import FitRequest
from raysweep.laws.source import gather
from raysweep.laws.window import Bounds, Window, crossed, within

__all__ = ["BOUNDS", "bounded", "inside", "of_groups"]

BOUNDS = ("_low", "_high")  # columns; null where a bound is unknown


def bounded(rows: pl.LazyFrame, window: Window) -> pl.LazyFrame:
    """The rows with the columns `BOUNDS`.

    Raises:
        FitError: A formula has no value in some row.
    """
    held = rows.collect_schema()
    # An axis of time that is null where it is observed has its values beside it.
    places = {name: moment(name) if moment(name) in held else name for name in window.names}
    if not places:
        ends = window.bounds({})
        return rows.with_columns(pl.lit(float(end)).alias(name) for name, end in zip(BOUNDS, ends, strict=True))
    settings = gather(rows.select(places.values()).unique()).sort(pl.all())  # an error names the first
    ends = window.bounds({name: settings[place] for name, place in places.items()})
    settings = settings.with_columns(
        (pl.lit(float(end)) if end.ndim == 0 else pl.Series(end)).fill_nan(None).alias(name)
        for name, end in zip(BOUNDS, ends, strict=True)
    )
    return rows.join(settings.lazy(), on=list(places.values()), how="left", nulls_equal=True, maintain_order="left")


def inside(rows: pl.LazyFrame, by: Sequence[str], x: str) -> tuple[pl.LazyFrame, pl.DataFrame]:
    """The rows inside, without their bounds; and of each group, in the order of the by-columns' values, `_rows`,
    `_kept`, `_unknown` (rows without a bound), `_crossed` (rows whose low exceeds their high), `_crossed_low` and
    `_crossed_high` (the bounds of one of them), and `BOUNDS` (smallest lower, largest upper).
    """
    low, high = map(pl.col, BOUNDS)
    here = within(pl.col(x).cast(pl.Float64), low, high).fill_null(False)
    none = crossed(low, high).fill_null(False)
    least = low.filter(none).min()
    what = [
        pl.len().cast(pl.Int64).alias("_rows"),
        here.sum().cast(pl.Int64).alias("_kept"),
        (low.is_null() | high.is_null()).sum().cast(pl.Int64).alias("_unknown"),
        none.sum().cast(pl.Int64).alias("_crossed"),
        least.alias("_crossed_low"),
        high.filter(none & (low == least)).min().alias("_crossed_high"),
        low.min(),
        high.max(),
    ]
    groups = gather(rows.group_by(by).agg(what)).sort(by) if by else gather(rows.select(what))
    return rows.filter(here).drop(BOUNDS), groups


def of_groups(groups: pl.DataFrame, request: FitRequest) -> Iterator[tuple[Bounds, dict[str, str]]]:
    """How the window came out in each of the groups of `inside`, and sentences on it by note code."""
    window, x, y = request.window, request.bounded, request.y
    assert window is not None
    for row in groups.iter_rows(named=True):
        rows, kept, unknown = row["_rows"], row["_kept"], row["_unknown"]
        low, high = (math.nan if row[end] is None else row[end] for end in BOUNDS)
        example = (row["_crossed_low"], row["_crossed_high"]) if row["_crossed"] else None
        bounds = Bounds(window, x, low, high, kept, rows, row["_crossed"], example)
        empty = f" In it, {bounds.empty}." if bounds.empty else ""
        details = {"window": f"Fitted where {window.text(x)}, here {bounds.span}: {kept:,} of {rows:,} rows.{empty}"}
        if unknown:
            details["dropped_no_bound"] = (
                f"{unknown:,} of {rows:,} rows were dropped: a bound of the window is unknown there, because "
                f"{' or '.join(window.names)} is missing."
            )
        if y in window.names:
            details["window_on_y"] = (
                f"The window depends on {y}, which is fitted: its noise then decides which rows are used, which biases "
                "the law. Prefer bounds that depend on other columns."
            )
        yield bounds, details
