"""Kinds: the kind that an axis has in the given rows, where another axis chooses it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import polars as pl

from raysweep.laws.column import Column, Scalar
from raysweep.laws.source import gather

__all__ = ["moment", "settled"]


def moment(name: str) -> str:
    """The column of the time at which each row was read, where the axis `name` holds it in some rows only."""
    return f"_moment_{name}"


def settled(
    rows: pl.LazyFrame, columns: Mapping[str, Column], named: Collection[str]
) -> tuple[pl.LazyFrame, dict[str, Column]]:
    """The rows, and their columns with the kind that each axis has in them.

    An unnamed axis of time may be observed in some rows, where one snapshot of a run counts, and a lane in others,
    where it is an axis like any other. Then the column `moment(name)` has the time of all rows, and the axis is null
    where it is observed, because it splits nothing there.

    Args:
        named: Axes that the fit names: these stay as they are.
    """
    schema, out = rows.collect_schema(), dict(columns)
    for name, column in columns.items():
        if not column.kinds or name not in schema or column.chosen_by not in schema:
            continue
        kind = pl.lit(column.kind)
        for value, at in reversed(column.kinds):
            kind = pl.when(_equals(column.chosen_by, schema[column.chosen_by], value)).then(pl.lit(at)).otherwise(kind)
        kinds = gather(rows.select(kind.alias("kind").unique()))["kind"].to_list()
        # Several: what an observed axis needs, such as the key of its run, is right for all the others, too.
        most = "observed" if "observed" in kinds else next(iter(kinds), column.kind)
        out[name] = replace(column, kind=most, chosen_by="", kinds=())
        if len(kinds) > 1 and most == "observed" and column.axis_role == "time" and name not in named:
            own = pl.when(kind != "observed").then(pl.col(name))
            rows = rows.with_columns(pl.col(name).alias(moment(name)), own.alias(name))
    return rows, out


def _equals(name: str, dtype: pl.DataType, value: Scalar) -> pl.Expr:
    """Whether a column holds a value; a frame that went through a CSV may hold it as another type."""
    if isinstance(value, str) or not (dtype.is_numeric() or dtype == pl.Boolean):
        return pl.col(name).cast(pl.String).eq_missing(pl.lit(str(value)))
    return pl.col(name).cast(pl.Float64).eq_missing(pl.lit(float(value)))
