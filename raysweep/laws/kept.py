"""Which rows count (measured ones, of finished cells of one world), and what is noted about the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from raysweep.errors import FitError
from raysweep.laws.column import Column
from raysweep.laws.notes import Note, Regrouped, each
from raysweep.laws.source import gather

__all__ = ["Kept", "finite", "keep_measured"]

_FLAGS = ("_status", "_candidate", "_finite")
_LENGTH = "_len"


@dataclass(frozen=True)
class Kept:
    """The rows that count, and those they were taken from.

    Attributes:
        rows: The rows, not yet read.
        count: Number of rows.
        lost: Number of rows that do not count, in one sentence per note code.
        rows_before: All rows, and what flags them.
        measured: Columns that must hold a finite number.
    """

    rows: pl.LazyFrame
    count: int
    lost: Mapping[str, str]
    rows_before: pl.LazyFrame
    measured: tuple[str, ...]

    def notes(self, groups: pl.DataFrame, regrouped: Regrouped) -> list[Note]:
        """The losses of each group, in its own numbers.

        Args:
            groups: The by-columns, one row per group.
            regrouped: Gives rows the by-columns of their groups.
        """
        by = groups.columns
        if not self.lost or not by:
            return [Note(code, text) for code, text in self.lost.items()]
        found = gather(regrouped(self.rows_before).group_by(*by, *_FLAGS).agg(pl.len().cast(pl.Int64).alias(_LENGTH)))
        found = found.join(groups.with_row_index("_group"), on=by, nulls_equal=True)
        tallies: dict[int, list[tuple[str, bool, bool, int]]] = {}
        for group, status, candidate, whole, length in found.select("_group", *_FLAGS, _LENGTH).iter_rows():
            tallies.setdefault(group, []).append((status, candidate, whole, length))
        said = {group: _lost(tally, self.measured) for group, tally in tallies.items()}
        return [
            Note(code, each(groups, [said.get(i, {}).get(code) for i in range(groups.height)])) for code in self.lost
        ]


def finite(name: str) -> pl.Expr:
    """Whether a column of numbers holds one."""
    return pl.col(name).cast(pl.Float64).is_finite().fill_null(False)


def keep_measured(rows: pl.LazyFrame, columns: Mapping[str, Column], y: str, measured: Sequence[str]) -> Kept:
    """The rows of finished cells of one world that have a finite number in each of `measured`, without candidates.

    A candidate only served to choose a hyper-parameter. A run whose own function returned a metric that is not finite
    has diverged in that metric alone.

    Raises:
        FitError: The rows are from several worlds.
    """

    def text(name: str) -> pl.Expr:
        return pl.col(name).cast(pl.String) if name in columns else pl.lit(None, pl.String)

    status = text("status").fill_null("unknown") if "status" in columns else pl.lit("ok")
    if columns.get(y, Column()).free:
        status = pl.when((status == "diverged") & finite(y)).then(pl.lit("ok")).otherwise(status)
    candidate = (text("role") == "candidate").fill_null(False)
    whole = pl.all_horizontal(finite(name) for name in measured)
    flagged = rows.with_columns(_status=status, _candidate=candidate, _finite=whole)
    rows_of = pl.len().cast(pl.Int64).alias(_LENGTH)
    found = gather(flagged.group_by(*_FLAGS, text("world_sha").alias("_world")).agg(rows_of))
    counted = (pl.col("_status") == "ok") & ~pl.col("_candidate")
    worlds = found.filter(counted)["_world"].drop_nulls().unique().sort().to_list()
    if len(worlds) > 1:
        one = f"world_sha = '{worlds[0]}'"
        raise FitError(
            f"A fit must not mix worlds, but the table holds {len(worlds)}: {', '.join(worlds)}. "
            f"Fit one with `where={one!r}`."
        )
    counted &= pl.col("_finite")
    # Flags that are constant are dropped, so that a file's reader can skip them.
    kept = whole
    if "status" in columns:
        kept &= status == "ok"
    if "role" in columns:
        kept &= ~candidate
    lost = _lost(list(found.select(*_FLAGS, _LENGTH).iter_rows()), measured)
    return Kept(rows.filter(kept), int(found.filter(counted)[_LENGTH].sum()), lost, flagged, tuple(measured))


def _lost(tally: Sequence[tuple[str, bool, bool, int]], measured: Sequence[str]) -> dict[str, str]:
    """Sentences by note code on the rows that do not count, from their (status, candidate, finite, number)."""
    *most, last = measured
    steps = [(status, f"with status {status}", 0, status) for status in sorted({one[0] for one in tally} - {"ok"})]
    out = {}
    for code, why, place, value in [
        *steps,
        ("candidate", "that only served to choose a hyper-parameter", 1, True),
        ("null", f"without a finite {', '.join(most)} and {last}", 2, False),
    ]:
        total, left = sum(one[3] for one in tally), [one for one in tally if one[place] != value]
        if dropped := total - sum(one[3] for one in left):
            out[f"dropped_{code}"] = f"{dropped} of {total} rows {why} were dropped."
        tally = left
    return out
