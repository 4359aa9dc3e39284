"""Which rows count (measured ones, of finished cells of one world), and what is noted about the others."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from raysweep.errors import FitError
from raysweep.laws.column import Column
from raysweep.laws.notes import Note, Regrouped, each
from raysweep.laws.source import gather

__all__ = ["Kept", "finite", "keep_measured", "state_of"]

# The states of a run in exports of W&B (`State` from its page, `state` from its API), Optuna (`state`) and MLflow
# (`status`): the word for a finished one, and all words. A crashed or pruned run holds the last value that it reported.
_STATES = (
    ("finished", {"finished", "crashed", "failed", "killed", "preempted", "preempting", "running", "pending"}),
    ("COMPLETE", {"COMPLETE", "FAIL", "PRUNED", "RUNNING", "WAITING"}),
    ("FINISHED", {"FINISHED", "FAILED", "KILLED", "RUNNING", "SCHEDULED"}),
)
_STATE_COLUMNS = ("State", "state", "status")
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


def state_of(rows: pl.LazyFrame, named: Collection[str | None], where: str | None) -> tuple[str, str] | None:
    """The column of a plain table that says whether a run finished, and its word for that; None without one.

    Args:
        rows: The table.
        named: Columns that the user named: they mean what the user takes them for.
        where: The user's condition, and what it names.
    """
    schema = rows.collect_schema()
    for name in _STATE_COLUMNS:
        if schema.get(name) == pl.String and name not in named and not re.search(rf"\b{name}\b", where or ""):
            found = set(gather(rows.select(pl.col(name).unique()))[name].to_list())
            for word, words in _STATES:
                if word in found and found <= words:
                    return name, word
    return None


def keep_measured(
    rows: pl.LazyFrame,
    columns: Mapping[str, Column],
    y: str,
    measured: Sequence[str],
    state: tuple[str, str] | None = None,
) -> Kept:
    """The rows of finished cells of one world that have a finite number in each of `measured`, without candidates.

    A candidate only served to choose a hyper-parameter. A run whose own function returned a metric that is not finite
    has diverged in that metric alone.

    Args:
        rows: The table.
        columns: What a ledger's columns are; empty for a plain table.
        y: The measurement.
        measured: Columns that must hold a finite number.
        state: See `state_of`.

    Raises:
        FitError: The rows are from several worlds.
    """

    def text(name: str) -> pl.Expr:
        return pl.col(name).cast(pl.String) if name in columns else pl.lit(None, pl.String)

    status = text("status").fill_null("unknown") if "status" in columns else pl.lit("ok")
    if state is not None:
        column, word = state
        status = pl.when(pl.col(column) == word).then(pl.lit("ok")).otherwise(pl.col(column))
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
    if "status" in columns or state is not None:
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
