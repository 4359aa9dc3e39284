"""A table opened for a fit: its rows not yet read, and which of its columns the fit looks at."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from raysweep.errors import FitError
from raysweep.laws.column import Column
from raysweep.laws.kinds import settled
from raysweep.laws.request import FitRequest
from raysweep.laws.source import Source, gather, require, scan, selected

__all__ = ["Table", "opened"]


@dataclass(frozen=True)
class Table:
    """The rows that `where` keeps, and which of their columns a fit looks at.

    Attributes:
        rows: The rows, not yet read.
        columns: What a ledger says about its columns; empty for a plain table.
        run: The column of runs, or the one that was named; None if each row is a run.
        se: The column of y's standard error; None if there is none.
        measured: Columns that must hold a finite number.
    """

    rows: pl.LazyFrame
    columns: Mapping[str, Column]
    run: str | None
    se: str | None
    measured: tuple[str, ...]


def opened(data: Source, request: FitRequest, keep: Sequence[str]) -> Table:
    """The table with every column that is named, its numbers read as such."""
    rows, columns = scan(data)
    schema = rows.collect_schema()
    coded = [name for name, kind in schema.items() if kind in (pl.Categorical, pl.Enum)]
    rows = rows.with_columns(pl.col(coded).cast(pl.String))
    for name in (
        *request.x,
        request.y,
        *request.by,
        *keep,
        *request.x_se,
        *(n for n in (request.run, request.se) if n),
    ):
        require(schema, name)
    if request.window is not None:
        request.window.require(schema.names())
    measured = (*request.x, request.y, *([request.se] if request.se else []), *request.x_se)
    rows = selected(rows, request.where, measured, data)
    if not columns:
        _refuse_snapshots(rows)
    rows = _of_one_code(rows, columns.get("code_sha", Column()).accepted)
    rows, columns = settled(rows, columns, (*request.x, *request.by))
    run = request.run or ("run" if "run" in columns else None)
    own = f"{request.y}_se"
    se = request.se or (own if own in columns and schema[own].is_numeric() else None)
    return Table(rows, columns, run, se, measured)


def _refuse_snapshots(rows: pl.LazyFrame) -> None:
    """A ledger's rows that do not say what their columns are would count every snapshot of a run as independent."""
    schema = rows.collect_schema()
    if "run" not in schema or not ({"cell", "status"} <= set(schema) or schema["run"] == pl.String):
        return
    if not {"cell", "status"} <= set(schema):  # a selection: recognised by a run's key
        some = gather(rows.select(pl.col("run").drop_nulls().head(1)))
        if not len(some) or not re.fullmatch(r"[0-9a-f]{20}", str(some["run"][0])):
            return
    run = pl.col("run").drop_nulls()
    (runs, count) = gather(rows.select(run.n_unique().alias("runs"), run.len().alias("rows"))).row(0)
    if runs < count:
        raise FitError(
            f"{count:,} rows of {runs:,} runs look like a store's, but have lost what "
            "says which columns are axes and which are metrics, so that snapshots of a run would count as independent "
            "runs. Pass the parquet file itself, or keep its column `columns`. (If they are not from a store, leave "
            "out the columns `cell` and `run`.)"
        )


def _of_one_code(rows: pl.LazyFrame, groups: Sequence[str]) -> pl.LazyFrame:
    """The rows, with one hash of code for each group of hashes that the user declared equal."""
    for equal in (group.split(",") for group in groups):
        sha = pl.col("code_sha").cast(pl.String)
        known = sha.fill_null("none")  # for rows without a hash
        rows = rows.with_columns(pl.when(known.is_in(equal)).then(pl.lit(equal[0])).otherwise(sha).alias("code_sha"))
    return rows
