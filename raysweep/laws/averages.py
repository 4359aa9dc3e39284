"""Averages: a table too long to be fitted row by row, as points with standard errors."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from raysweep.laws.notes import Note, each, over
from raysweep.laws.source import gather

__all__ = ["averaged"]


def averaged(
    rows: pl.LazyFrame, x: Sequence[str], y: str, by: Sequence[str], run: str | None, se: str | None
) -> tuple[pl.DataFrame, str | None, list[Note]]:
    """One point for each (by, x, run), the column of its standard error, and notes on what was averaged in each group.

    Points are geometric means: least squares in logs then has the same optimum on them as on their rows. The spread
    within points is estimated separately in each group.
    """
    key = list(dict.fromkeys([*by, *x, *([run] if run else [])]))
    log = pl.col(y).cast(pl.Float64).log()
    spread = (log.var() * (pl.len() - 1)).fill_null(0.0).fill_nan(0.0)
    others = [c for c in rows.collect_schema() if c not in (*key, y, "_rows", "_spread")]
    frame = gather(
        rows.group_by(key).agg(
            # Values without a logarithm stay as they are, for the fit to refuse.
            pl.when(pl.col(y).min() > 0).then(log.mean().exp()).otherwise(pl.col(y).min()).alias(y),
            pl.col(others).mean(),
            _rows=pl.len().cast(pl.Int64),
            _spread=spread,
        )
    )
    if frame["_rows"].sum() == frame.height:
        return frame.drop("_rows", "_spread"), se, []
    spare = pl.col("_rows").sum() - pl.len().cast(pl.Int64)
    known = over(frame, by, pl.col("_rows").sum(), pl.len().alias("_points"), (pl.col("_spread").sum() / spare))
    said = [
        f"{total:,} rows were averaged to {points:,} points of equal {', '.join(key)}: geometric means, with standard "
        "errors from the spread within points."
        if points < total
        else None
        for total, points in known.select("_rows", "_points").iter_rows()
    ]
    note = Note("averaged_rows", each(known.select(by), said))
    variance = known.select(*by, pl.when(pl.col("_points") < pl.col("_rows")).then("_spread").alias("_variance"))
    if by:
        frame = frame.join(variance, on=by, how="left", nulls_equal=True)
    else:
        frame = frame.with_columns(_variance=pl.lit(variance["_variance"].item()))
    # In a group without replicates only the table's own standard errors are known.
    error = pl.col(y) * (pl.col("_variance") / pl.col("_rows")).sqrt()
    frame = frame.with_columns(_se=error.fill_null(pl.col(se) if se else pl.lit(0.0)))
    positive = bool((frame["_variance"].fill_null(0.0) > 0).any())
    return frame.drop("_rows", "_spread", "_variance"), "_se" if positive or se else None, [note]
