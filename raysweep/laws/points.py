"""Points: what each row of a ledger or a plain table means for a fit.

A ledger's columns say what they are (axis, metric or stamp), so every axis is accounted for: seeds are replicates,
time that is observed is reduced to one snapshot per run, any other varying axis splits the fit (also time, where each
run has its own, as under a cosine schedule), and a note says so. Rows that another version or another code made are
split off as well. A plain table says nothing: the named columns count, the others are ignored, and rows of equal x are
replicates.

Groups are independent: each has its own unit of intervals and its own notes. Rows stay unread until they are few:
a table of any length is counted, filtered and reduced a block at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from raysweep.errors import FitError
from raysweep.laws.averages import averaged
from raysweep.laws.bounded import BOUNDS, bounded, inside, of_groups
from raysweep.laws.column import Column
from raysweep.laws.grouping import Grouping, accounted, collapsed, grouped, varying
from raysweep.laws.kept import Kept, finite, keep_measured, state_of
from raysweep.laws.kinds import moment
from raysweep.laws.notes import Note, Regrouped, counts, details_of, each, group_name
from raysweep.laws.opened import Table, opened
from raysweep.laws.request import FitRequest, RequestError
from raysweep.laws.snapshot import Snapshots, snapshots
from raysweep.laws.source import Source, gather
from raysweep.laws.units import units
from raysweep.laws.window import Bounds

__all__ = ["Part", "Points", "points"]

_OWN = ("lane", "shape")  # kinds of axes whose values each have runs of their own
_HELD = 5_000_000  # rows that are simply read: a few hundred MB
_LOOKED = 100_000  # rows up to which columns that nobody named are looked at
_SHOWN = 6  # groups without a row that a note names


@dataclass(frozen=True)
class Part:
    """What is known about the points of one group.

    Attributes:
        group: The by-columns' values that single it out.
        run: The column that identifies its independent clusters of rows; None if each row is one.
        se: The column of y's standard error from finite evaluation; None if it is unknown.
        details: What was dropped, reduced or split, in one sentence per stable note code.
        bounds: How the window of the fit came out; None without one.
    """

    group: Mapping[str, Any]
    run: str | None
    se: str | None
    details: Mapping[str, str]
    bounds: Bounds | None = None

    @property
    def cluster(self) -> str:
        """What clusters are called: `run`, or the column that identifies them."""
        return self.run or "run"


@dataclass(frozen=True)
class Points:
    """Rows that are ready to be fitted.

    Attributes:
        frame: One row per point; x and y are finite.
        x: Columns of the scales, in the order of the law's axes.
        y: Column of the measurement.
        by: Columns whose every combination of values is fitted separately.
        parts: What is known about each group, in the order of the by-columns' values; also of groups of which a window
            left no row.
        others: Columns of a plain table that nobody named; those of a ledger are accounted for.
    """

    frame: pl.DataFrame
    x: tuple[str, ...]
    y: str
    by: tuple[str, ...]
    parts: tuple[Part, ...]
    others: tuple[str, ...] = ()

    def of(self, group: Mapping[str, Any]) -> pl.DataFrame:
        """The rows of one group."""
        same = (pl.col(name).eq_missing(pl.lit(value)) for name, value in group.items())
        return self.frame.filter(pl.all_horizontal(pl.lit(True), *same))


@dataclass(frozen=True)
class _Reduced:
    """One row per point.

    Attributes:
        grouping: The rows by the groups that are fitted.
        se: The column of y's standard error; None if there is none.
        chosen: How the snapshots of runs were chosen.
        notes: What was averaged or counts once.
        windowed: The groups before the window was applied, see `bounded.inside`; None without a window.
    """

    grouping: Grouping
    se: str | None
    chosen: Snapshots
    notes: Sequence[Note] = ()
    windowed: pl.DataFrame | None = None


def points(data: Source, request: FitRequest, keep: Sequence[str] = ()) -> Points:
    """The rows of `data` that a fit takes, and what was decided about the others.

    Args:
        data: See `table.fit`.
        request: Which columns and rows.
        keep: Further columns to carry along.

    Raises:
        FitError: An unknown column, one that holds no numbers, a bad `where`, a time without a snapshot, a table that
            mixes worlds or snapshots, or no row left.
    """
    keep = keep if request.metric is None else (*keep, request.metric)
    table = opened(data, request, keep)
    if request.formula is not None and request.form is not None:
        clash = [name for name in request.form.names if name in table.rows.collect_schema()]
        if clash:
            raise RequestError(
                "formula",
                f"must not call a parameter as a column of the table, but {request.formula!r} has {', '.join(clash)}, "
                f"and x is {', '.join(request.x)}. Name the column as x if it is a scale, or rename the parameter.",
            )
    named = {*request.x, request.y, *request.by, *request.x_se, *keep, table.run}
    state = None if table.columns else state_of(table.rows, named, request.where)
    kept = keep_measured(table.rows, table.columns, request.y, table.measured, state)
    if request.window is not None:
        kept, keep = replace(kept, rows=bounded(kept.rows, request.window)), (*keep, *BOUNDS)
    others = _unnamed(kept, table, request, keep)
    rows = _carried(kept, table, request, (*keep, *others))
    if table.columns and kept.count:
        reduced = _of_ledger(rows, table, request, keep)
    else:
        reduced = _of_plain(rows, kept.count, table, request)
    grouping, windowed = reduced.grouping, reduced.windowed
    if (grouping.frame if windowed is None else windowed.filter(pl.col("_rows") > 0)).is_empty():
        lost = "".join(f" {sentence}" for sentence in kept.lost.values())
        raise FitError(f"No rows are left to fit.{lost} Check `where=` and the table.")
    groups = grouping.frame.select(grouping.by).unique().sort(grouping.by) if grouping.by else pl.DataFrame()
    clusters, how = _clusters(grouping.frame, groups, table, request)
    frame, ownerless = _owned(grouping.frame, groups, clusters)
    if frame.is_empty() and not grouping.frame.is_empty():
        raise FitError(f"No rows are left to fit: none has a {table.run}. Check `where=` and the table.")
    errors, unknown = _errors(frame, groups, reduced.se, named=request.se is not None)
    dropped = kept.notes(groups, grouping.regrouped)
    every = groups if windowed is None else windowed.select(grouping.by)
    if kept.lost or reduced.chosen.lost:
        dropped += _gone(kept.rows_before, every, grouping.regrouped)
    dropped += reduced.chosen.notes(groups, grouping.regrouped)
    notes = [*dropped, *reduced.notes, *grouping.notes, *how, *ownerless, *unknown]
    parts = _parts(frame, groups, clusters, errors, notes)
    if windowed is not None:
        parts = _with_bounds(parts, counts(frame, every), every, of_groups(windowed, request))
    return Points(frame, request.x, request.y, grouping.by, parts, tuple(n for n in others if n in frame.columns))


def _unnamed(kept: Kept, table: Table, request: FitRequest, keep: Sequence[str]) -> tuple[str, ...]:
    """The columns of a plain table, if it is not too long, in which different set-ups may lie pooled."""
    if table.columns or kept.count > _LOOKED:
        return ()
    named = {*request.x, request.y, *request.by, *request.x_se, *keep, table.run, table.se}
    schema = kept.rows.collect_schema()
    return tuple(name for name, kind in schema.items() if name not in named and not kind.is_nested())


def _carried(kept: Kept, table: Table, request: FitRequest, keep: Sequence[str]) -> pl.LazyFrame:
    """The rows that count with the columns that matter; read, where they are few."""
    axes = accounted(table.columns)
    names = [*axes, *map(moment, axes), *table.measured, *request.by, *keep]
    names += [name for name in (table.run, table.se) if name]
    names += [f"{request.y}_select"] if table.columns else []
    schema = kept.rows.collect_schema()
    rows = kept.rows.select([name for name in dict.fromkeys(names) if name in schema])
    return gather(rows).lazy() if kept.count <= _HELD else rows


def _of_plain(rows: pl.LazyFrame, count: int, table: Table, request: FitRequest) -> _Reduced:
    """A plain table's rows as they are; averages, where they are too many."""
    if request.moment is not None and not table.columns:
        raise _timeless()
    windowed = None
    if request.window is not None:
        rows, windowed = inside(rows, request.by, request.bounded)
    if count <= _HELD:
        return _Reduced(Grouping(gather(rows), request.by, ()), table.se, Snapshots(rows, ()), (), windowed)
    frame, se, notes = averaged(rows, request.x, request.y, request.by, table.run, table.se)
    return _Reduced(Grouping(frame, request.by, ()), se, Snapshots(rows, ()), notes, windowed)


def _of_ledger(rows: pl.LazyFrame, table: Table, request: FitRequest, keep: Sequence[str]) -> _Reduced:
    """A ledger's rows, one per point, grouped by the axes that split them: every axis is accounted for."""
    named, axes = (*request.x, *request.by), accounted(table.columns)
    held = rows.collect_schema()
    mixed = {name for name in axes if moment(name) in held}
    counted = {*named, *mixed, *varying(rows, list(axes))}
    if request.moment is not None:
        counted |= _clock(axes, counted, named)
    rows = rows.drop(name for name in axes if name not in (*counted, *keep))
    axes = {name: column for name, column in axes.items() if name in counted}
    # A table's columns stand in the order in which its axes were declared; the text that describes them does not.
    declared = [name for name in table.rows.collect_schema() if name in axes]
    times = [name for name in declared if axes[name].axis_role == "time" and name not in named]
    # Runs that each have their own time are not snapshots of one run: time separates them, unless one is requested.
    times = [name for name in times if axes[name].kind not in _OWN] or (times if request.moment is not None else [])
    apart = mixed if request.moment is None else set()
    axes = {name: column for name, column in axes.items() if name not in times or name in apart}
    chosen = Snapshots(rows, ())
    if times:
        chosen = snapshots(rows, table.columns, times, _run_key(axes, table), request)
    rows, axes, notes = collapsed(chosen.rows, axes, request, table.run, keep)
    grouping, windowed = grouped(gather(rows), axes, request.x, request.by), None
    if request.window is not None:
        left, windowed = inside(grouping.frame.lazy(), grouping.by, request.bounded)
        grouping = replace(grouping, frame=gather(left))
    return _Reduced(grouping, table.se, chosen, notes, windowed)


def _clock(axes: Mapping[str, Column], counted: Collection[str], named: Collection[str]) -> set[str]:
    """The axes of time at one of which a fit was asked for: those that vary, or else those with a single value.

    Raises:
        FitError: There is none besides those that are named.
    """
    times = {name for name, column in axes.items() if column.axis_role == "time" and name not in named}
    if not times:
        raise _timeless()
    return times.intersection(counted) or times


def _timeless() -> RequestError:
    return RequestError(
        "at",
        "a time needs an axis of time that is read along a run and that is neither x nor in by, but the table has "
        "no such axis. Choose rows with where, or leave out at.",
    )


def _run_key(axes: Mapping[str, Column], table: Table) -> list[str]:
    """The columns whose values identify the runs, each of which has one snapshot."""
    run = table.run
    # A ledger's own key of a run stands for all axes that are not observed, and alone takes less memory.
    known = _OWN if run == "run" and table.columns.get(run, Column()).role == "stamp" else ()
    key = [name for name in axes if axes[name].kind not in known]
    return [*key, run] if run is not None and run not in axes else key


def _clusters(
    frame: pl.DataFrame, groups: pl.DataFrame, table: Table, request: FitRequest
) -> tuple[list[str | None], list[Note]]:
    """The column that identifies the clusters of each group: the one that was named, its seed, or its runs."""
    count = _count(groups)
    if request.run:
        return [request.run] * count, []
    seeds, notes = units(frame, table.columns, request.x, groups, count)
    return [seed or table.run for seed in seeds], notes


def _parts(
    frame: pl.DataFrame,
    groups: pl.DataFrame,
    clusters: Sequence[str | None],
    errors: Sequence[str | None],
    notes: Sequence[Note],
) -> tuple[Part, ...]:
    """What is known about each group that has a row left."""
    details = details_of(groups, _count(groups), notes)
    values = groups.to_dicts() if groups.columns else [{}]
    there = [n > 0 for n in counts(frame, groups)]
    parts = [Part(*one) for one in zip(values, clusters, errors, details, strict=True)]
    return tuple(part for part, some in zip(parts, there, strict=True) if some)


def _with_bounds(
    parts: Sequence[Part], left: Sequence[int], groups: pl.DataFrame, found: Iterable[tuple[Bounds, Mapping[str, str]]]
) -> tuple[Part, ...]:
    """The parts of groups with rows left, and of those that the window emptied; `found`: how it came out in each."""
    known, out = iter(parts), []
    for group, count, (bounds, details) in zip(groups.to_dicts() or [{}], left, found, strict=True):
        if count or not bounds.kept:  # else no row of the group has a cluster
            part = next(known) if count else Part(group, None, None, {})
            out.append(replace(part, details={**part.details, **details}, bounds=bounds))
    return tuple(out)


def _count(groups: pl.DataFrame) -> int:
    return groups.height if groups.columns else 1


def _owned(
    frame: pl.DataFrame, groups: pl.DataFrame, clusters: Sequence[str | None]
) -> tuple[pl.DataFrame, list[Note]]:
    """The rows whose cluster is known, and what was dropped of each group."""
    notes = []
    for name in sorted({name for name in clusters if name is not None}):
        if not frame[name].null_count():
            continue
        mine = [one == name for one in clusters]
        absent = counts(frame.filter(pl.col(name).is_null()), groups)
        said = [
            f"{lost} rows without a {name} were dropped: their cluster is unknown." if lost and own else None
            for lost, own in zip(absent, mine, strict=True)
        ]
        if groups.columns:
            marked = groups.filter(pl.Series(mine)).with_columns(_mine=pl.lit(True))
            frame = frame.join(marked, on=groups.columns, how="left", nulls_equal=True, maintain_order="left")
            frame = frame.filter(pl.col(name).is_not_null() | pl.col("_mine").is_null()).drop("_mine")
        else:
            frame = frame.filter(pl.col(name).is_not_null())
        notes.append(Note(f"dropped_no_{name}", each(groups, said)))
    return frame, notes


def _gone(rows: pl.LazyFrame, groups: pl.DataFrame, regrouped: Regrouped) -> list[Note]:
    """A note on the groups that lost every row, as they have no notes of their own."""
    if not groups.columns:
        return []
    by = groups.columns
    gone = gather(regrouped(rows).select(by).unique()).join(groups, on=by, how="anti", nulls_equal=True).sort(by)
    if gone.is_empty():
        return []
    names = "; ".join(map(group_name, gone.head(_SHOWN).to_dicts()))
    more = f"; and {gone.height - _SHOWN:,} more" if gone.height > _SHOWN else ""
    return [Note("dropped_groups", f"Groups without a usable row: {names}{more}.")]


def _errors(
    frame: pl.DataFrame, groups: pl.DataFrame, se: str | None, named: bool
) -> tuple[list[str | None], list[Note]]:
    """The column of standard errors for each group: a ledger's own only where every row has one."""
    count = _count(groups)
    if se is None or named:
        return [se] * count, []
    rows, without = counts(frame, groups), counts(frame.filter(~finite(se)), groups)
    said = [
        f"{lost} of {total} rows have no finite {se}, so all rows weigh the same." if 0 < lost < total else None
        for lost, total in zip(without, rows, strict=True)
    ]
    return [None if lost else se for lost in without], [Note("no_se", each(groups, said))] if any(said) else []
