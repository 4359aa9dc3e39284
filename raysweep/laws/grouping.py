"""Grouping: every axis of a ledger that varies is accounted for.

Axes that change nothing are dropped; axes that were not named split the fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from raysweep.laws.column import PROVENANCE, Column
from raysweep.laws.notes import Note, each, over
from raysweep.laws.request import FitRequest
from raysweep.laws.source import gather

__all__ = ["Grouping", "accounted", "collapsed", "grouped", "varying"]

_SHOWN = 6  # values that a note names


def accounted(columns: Mapping[str, Column]) -> dict[str, Column]:
    """The columns whose every value must be accounted for: axes, and stamps that say which code made a row."""
    axes = {name: column for name, column in columns.items() if column.role == "axis"}
    origin = Column("axis", "provenance")
    return axes | {name: origin for name in PROVENANCE if columns.get(name, Column()).role == "stamp"}


def varying(rows: pl.LazyFrame, names: Sequence[str]) -> list[str]:
    """The columns that hold more than one value."""
    if not names:
        return []
    differs = gather(rows.select(_differs(name).alias(name) for name in names))
    return [name for name in names if differs[name].item()]


def _differs(name: str) -> pl.Expr:
    """Whether a column holds more than one value, null being one."""
    column, null = pl.col(name), pl.col(name).is_null()
    return column.min().ne_missing(column.max()) | (null.any() & ~null.all())


def collapsed(
    rows: pl.LazyFrame, axes: dict[str, Column], request: FitRequest, run: str | None, keep: Sequence[str]
) -> tuple[pl.LazyFrame, dict[str, Column], list[Note]]:
    """Rows and axes without the varying axes that neither y nor what is carried along depends on: each point counts
    once.
    """
    notes, x, y = [], request.x, request.y
    for axis in [a for a in axes if a not in (*x, *request.by) and axes[a].axis_role != "seed"]:
        if axes[axis].kind == "provenance":
            continue
        others = [a for a in axes if a != axis] + [name for name in x if name not in axes]
        if axes[axis].kind == "observed" and run is not None and run not in axes:
            others.append(run)  # the same run read off twice, not two runs that happen to agree
        several = pl.col(axis).min().ne_missing(pl.col(axis).max())
        differs = pl.any_horizontal(_differs(name) for name in (y, *keep))
        seen = rows.group_by(others).agg(several=several, differs=differs)
        repeated = gather(seen.filter("several").select(pl.len(), pl.col("differs").any()))
        if repeated["len"].item() and not repeated["differs"].item():
            axes = {name: column for name, column in axes.items() if name != axis}
            rows = rows.unique(others, keep="any")
            text = f"{y} is the same at every value of {axis}, so each point counts once."
            notes.append(Note(f"collapsed_{axis}", text))
    return rows, axes, notes


@dataclass(frozen=True)
class Grouping:
    """Rows by the groups that are fitted.

    Attributes:
        frame: The rows; an axis of `by` that follows x within a group is null there, for nothing is split by it.
        by: The columns that tell groups apart.
        notes: What was split, and what follows x.
    """

    frame: pl.DataFrame
    by: tuple[str, ...]
    notes: tuple[Note, ...]
    _followed: tuple[tuple[str, pl.DataFrame], ...] = ()

    def regrouped(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Other rows with the by-columns of their groups."""
        for axis, where in self._followed:
            rows = _without(rows, axis, where)
        return rows


def grouped(frame: pl.DataFrame, axes: Mapping[str, Column], x: Sequence[str], by: tuple[str, ...]) -> Grouping:
    """`by` and every varying axis that was not named and does not follow x: each value is fitted separately.

    Whether an axis follows x is decided in each group: a rate that one arm scans may be tuned at each x in another,
    which is then not split.
    """

    # Code before labels, labels before numbers, shapes before lanes: a learning rate tuned in each arm then follows x
    # within the arm.
    def order(axis: str) -> tuple[bool, bool, bool]:
        return axes[axis].kind != "provenance", frame[axis].dtype.is_numeric(), axes[axis].kind != "shape"

    notes, followed = [], []
    for axis in sorted(axes, key=order):
        if axis in (*x, *by) or axes[axis].axis_role == "seed" or frame[axis].n_unique() < 2:
            continue
        number = frame[axis].dtype.is_numeric() and axes[axis].kind != "provenance"
        at_x = over(frame, list(dict.fromkeys([*by, *x])), pl.col(axis).n_unique().alias("_most"))
        most = over(at_x, by, pl.col("_most").max())
        values = over(frame, by, pl.col(axis).n_unique().alias("_count"), _first(axis))
        follows = (most["_most"] == 1) & number
        text = f"{axis} takes one value at each {', '.join(x)}; nothing was averaged over it."
        if follows.all():
            notes.append(Note(f"follows_{axis}", text))
            continue
        alone = values["_count"] == 1
        known = axes[axis].kind == "provenance"  # null is an origin, too
        overall = _listed(frame[axis].n_unique(), frame.select(_first(axis))["_first"][0].to_list(), known)
        shown = [
            overall if one else _listed(count, first.to_list(), known)
            for one, count, first in zip(alone, values["_count"], values["_first"], strict=True)
        ]
        tied = follows & ~alone
        said = [
            None if one else f"{axis} varies ({those}), so each value was fitted separately."
            for one, those in zip(tied, shown, strict=True)
        ]
        parts = values.select(by)
        notes.append(Note(f"grouped_by_{axis}", each(parts, said)))
        if tied.any():
            notes.append(Note(f"follows_{axis}", each(parts, [text if one else None for one in tied])))
            followed.append((axis, parts.filter(tied)))
            frame = _without(frame.lazy(), axis, parts.filter(tied)).collect()
        by = (*by, axis)
    return Grouping(frame, by, tuple(notes), tuple(followed))


def _without(rows: pl.LazyFrame, axis: str, where: pl.DataFrame) -> pl.LazyFrame:
    """The rows with null for an axis in the groups `where`."""
    mark = where.lazy().with_columns(_tied=pl.lit(True))
    rows = rows.join(mark, on=where.columns, how="left", nulls_equal=True, maintain_order="left")
    return rows.with_columns(pl.when(pl.col("_tied").is_null()).then(axis).alias(axis)).drop("_tied")


def _first(axis: str) -> pl.Expr:
    return pl.col(axis).unique().sort().head(_SHOWN + 1).implode().alias("_first")


def _listed(count: int, first: Sequence[object], null: bool) -> str:
    """The first of `count` values, in their order; null, where the axis does not apply, only if there is one other."""
    values = [value for value in first if null or count < 3 or value is not None]
    more = count - (len(first) - len(values)) > _SHOWN
    return ", ".join(map(str, values[:_SHOWN])) + (", ..." if more else "")
