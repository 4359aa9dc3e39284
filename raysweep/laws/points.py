"""Points: what each row of a ledger or a plain table means to a fit.

A ledger's columns say what they are (axis, metric or stamp), so every axis is accounted for: seeds are replicates,
time that is observed is reduced to one snapshot per run, any other varying axis splits the fit (also time, where each
run has its own, as under a cosine schedule), and a note says so. Rows that another
version or another code made are split off as well. A plain table says nothing: the named columns count, the others are
ignored, and rows of equal x are replicates.

No group depends on another: each has its own unit of intervals and its own notes. Rows stay unread until they are few:
a table of any length is counted, filtered and reduced a block at a time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from raysweep.errors import FitError
from raysweep.laws.averages import averaged
from raysweep.laws.column import Column
from raysweep.laws.grouping import Grouping, accounted, collapsed, grouped, varying
from raysweep.laws.kept import finite, keep_measured
from raysweep.laws.kinds import moment, settled
from raysweep.laws.notes import Note, Regrouped, counts, details_of, each
from raysweep.laws.snapshot import Snapshots, snapshots
from raysweep.laws.source import Source, gather, require, scan, selected
from raysweep.laws.units import units

__all__ = ["Part", "Points", "points"]

_HELD = 5_000_000  # rows that are simply read: a few hundred MB
_SHOWN = 6  # groups without a row that are named


@dataclass(frozen=True)
class Part:
    """What is known of the points of one group.

    Attributes:
        group: The by-columns' values that single it out.
        run: The column that tells its independent clusters of rows apart; None if each row is one.
        se: The column of y's standard error from finite evaluation; None if nothing is known of it.
        details: What was dropped, reduced or split, a sentence for each stable note code.
    """

    group: Mapping[str, Any]
    run: str | None
    se: str | None
    details: Mapping[str, str]

    @property
    def cluster(self) -> str:
        """What clusters are called: `run`, or the column that tells them apart."""
        return self.run or "run"


@dataclass(frozen=True)
class Points:
    """Rows that are ready to be fitted.

    Attributes:
        frame: One row a point; x and y are finite.
        x: Columns of the scales, in the order of the law's axes.
        y: Column of the measurement.
        by: Columns whose every combination of values is fitted by itself.
        parts: What is known of each group, in the order of the by-columns' values.
    """

    frame: pl.DataFrame
    x: tuple[str, ...]
    y: str
    by: tuple[str, ...]
    parts: tuple[Part, ...]

    def of(self, group: Mapping[str, Any]) -> pl.DataFrame:
        """The rows of one group."""
        same = (pl.col(name).eq_missing(pl.lit(value)) for name, value in group.items())
        return self.frame.filter(pl.all_horizontal(pl.lit(True), *same))


def points(
    data: Source,
    x: str | Sequence[str],
    y: str,
    by: str | Sequence[str] = (),
    where: str | None = None,
    at: str | float = "best",
    run: str | None = None,
    se: str | None = None,
    keep: Sequence[str] = (),
) -> Points:
    """The rows of `data` that a fit of y(x) takes, and what had to be decided about the others.

    Args:
        keep: Further columns to carry along.
        (the others): See `table.fit`.

    Raises:
        FitError: An unknown column, one that holds no numbers, a bad `where` or `at`, a table that mixes worlds or
            snapshots, or no row left.
    """
    x = (x,) if isinstance(x, str) else tuple(x)
    by = (by,) if isinstance(by, str) else tuple(by)
    rows, columns = scan(data)
    schema = rows.collect_schema()
    coded = [name for name, kind in schema.items() if kind in (pl.Categorical, pl.Enum)]
    rows = rows.with_columns(pl.col(coded).cast(pl.String))
    for name in (*x, y, *by, *keep, *(n for n in (run, se) if n)):
        require(schema, name)
    if len({*x, y, *by}) < len(x) + 1 + len(by):
        raise FitError(f"x, y and by must be different columns, but got x={', '.join(x)}, y={y}, by={', '.join(by)}.")
    measured = [*x, y, *([se] if se else [])]
    rows = selected(rows, where, measured, data)
    if not columns:
        _refuse_snapshots(rows)
    rows = _of_one_code(rows, columns.get("code_sha", Column()).accepted)
    rows, columns = settled(rows, columns, (*x, *by))
    asked, run = run, run or ("run" if "run" in columns else None)
    own = se or (f"{y}_se" if f"{y}_se" in columns and schema[f"{y}_se"].is_numeric() else None)

    kept = keep_measured(rows, columns, y, measured)
    axes = accounted(columns)
    carried = [*axes, *measured, *by, *keep, *([run] if run else []), *([own] if own else [])]
    carried += [f"{y}_select", *map(moment, axes)] if columns else []
    present = kept.rows.collect_schema()
    rows = kept.rows.select([name for name in dict.fromkeys(carried) if name in present])
    if kept.count <= _HELD:
        rows = gather(rows).lazy()
    chosen, notes = Snapshots(rows, ()), list[Note]()
    if columns and kept.count:
        chosen, parted, notes = _reduced(rows, columns, axes, x, y, by, at, run, keep)
    elif kept.count > _HELD:
        frame, own, notes = averaged(rows, x, y, by, run, own)
        parted = Grouping(frame, by, ())
    else:
        parted = Grouping(gather(rows), by, ())
    frame, by = parted.frame, parted.by
    if frame.is_empty():
        raise FitError(f"No rows are left to fit. {' '.join(kept.lost.values())} Check where= and the table.")
    groups = frame.select(by).unique().sort(by) if by else pl.DataFrame()
    count = groups.height if by else 1
    seeds, told = ([asked] * count, []) if asked else units(frame, columns, x, groups, count)
    found = [seed or run for seed in seeds]
    frame, ownerless = _owned(frame, groups, found)
    if frame.is_empty():
        raise FitError(f"No rows are left to fit: none has a {run}. Check where= and the table.")
    dropped = kept.notes(groups, parted.regrouped)
    if kept.lost or chosen.lost:
        dropped += _gone(kept.rows_before, groups, parted.regrouped)
    errors, unknown = _errors(frame, groups, own, named=se is not None)
    said = [*dropped, *chosen.notes(groups, parted.regrouped), *notes, *parted.notes, *told, *ownerless, *unknown]
    details = details_of(groups, count, said)
    values = groups.to_dicts() if by else [{}]
    there = [n > 0 for n in counts(frame, groups)]
    parts = [Part(*one) for one in zip(values, found, errors, details, strict=True)]
    return Points(frame, x, y, by, tuple(part for part, some in zip(parts, there, strict=True) if some))


def _refuse_snapshots(rows: pl.LazyFrame) -> None:
    """A ledger's rows that do not say what their columns are would count every snapshot of a run as independent."""
    schema = rows.collect_schema()
    if "run" not in schema or not ({"cell", "status"} <= set(schema) or schema["run"] == pl.String):
        return
    if not {"cell", "status"} <= set(schema):  # a selection: a run's key betrays it
        some = gather(rows.select(pl.col("run").drop_nulls().head(1)))
        if not len(some) or not re.fullmatch(r"[0-9a-f]{20}", str(some["run"][0])):
            return
    run = pl.col("run").drop_nulls()
    (runs, count) = gather(rows.select(run.n_unique().alias("runs"), run.len().alias("rows"))).row(0)
    if runs < count:
        raise FitError(
            f"{count:,} rows of {runs:,} runs look like a store's, but have lost what "
            "says which columns are axes and which are metrics, so that snapshots of a run would count as independent "
            "runs. Pass the parquet file itself, or keep its column `columns`. (If they are no store's, leave out the "
            "columns `cell` and `run`.)"
        )


def _of_one_code(rows: pl.LazyFrame, groups: Sequence[str]) -> pl.LazyFrame:
    """The rows with one hash of code for all of a group that the user declared equal."""
    for equal in (group.split(",") for group in groups):
        sha = pl.col("code_sha").cast(pl.String)
        known = sha.fill_null("none")  # of rows that do not say
        rows = rows.with_columns(pl.when(known.is_in(equal)).then(pl.lit(equal[0])).otherwise(sha).alias("code_sha"))
    return rows


def _reduced(
    rows: pl.LazyFrame,
    columns: Mapping[str, Column],
    axes: Mapping[str, Column],
    x: Sequence[str],
    y: str,
    by: tuple[str, ...],
    at: str | float,
    run: str | None,
    keep: Sequence[str],
) -> tuple[Snapshots, Grouping, list[Note]]:
    """A ledger's rows, one a point, by the axes that split them: every axis is accounted for."""
    held = rows.collect_schema()
    counted = {*x, *by, *varying(rows, list(axes)), *(name for name in axes if moment(name) in held)}
    rows = rows.drop(name for name in axes if name not in (*counted, *keep))
    axes = {name: column for name, column in axes.items() if name in counted}
    times = [name for name, axis in axes.items() if axis.axis_role == "time" and name not in (*x, *by)]
    time = next((name for name in times if axes[name].kind not in ("lane", "shape")), next(iter(times), None))
    chosen = Snapshots(rows, ())
    # Runs that each have a time of their own are no snapshots of one: time tells them apart, unless `at` names a time.
    mixed = time is not None and moment(time) in held
    apart = at in ("best", "last") and time is not None and (mixed or axes[time].kind in ("lane", "shape"))
    if time is not None and (mixed or not apart):
        if not apart:
            del axes[time]
        # A ledger's own key of a run stands for all axes that are not observed, and alone is less to hold.
        known = ("lane", "shape") if run == "run" and columns.get(run, Column()).role == "stamp" else ()
        key = [name for name in axes if axes[name].kind not in known]
        if run is not None and run not in axes:
            key.append(run)
        chosen = snapshots(rows, columns, time, key, y, at)
    rows, axes, notes = collapsed(chosen.rows, axes, x, y, by, run, keep)
    return chosen, grouped(gather(rows), axes, x, by), notes


def _owned(frame: pl.DataFrame, groups: pl.DataFrame, found: Sequence[str | None]) -> tuple[pl.DataFrame, list[Note]]:
    """The rows whose cluster is known, and what was dropped of each group."""
    notes = []
    for name in sorted({name for name in found if name is not None}):
        if not frame[name].null_count():
            continue
        mine = [one == name for one in found]
        absent = counts(frame.filter(pl.col(name).is_null()), groups)
        said = [
            f"{lost} rows without a {name} were dropped: nobody knows whose they are." if lost and own else None
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
    """The groups that lost every row: they are not there to say so themselves."""
    if not groups.columns:
        return []
    by = groups.columns
    gone = gather(regrouped(rows).select(by).unique()).join(groups, on=by, how="anti", nulls_equal=True).sort(by)
    if gone.is_empty():
        return []
    names = "; ".join(", ".join(f"{n}={v}" for n, v in row.items()) for row in gone.head(_SHOWN).to_dicts())
    more = f"; and {gone.height - _SHOWN:,} more" if gone.height > _SHOWN else ""
    return [Note("dropped_groups", f"Groups without a row that counts: {names}{more}.")]


def _errors(
    frame: pl.DataFrame, groups: pl.DataFrame, se: str | None, named: bool
) -> tuple[list[str | None], list[Note]]:
    """The column of standard errors for each group: a ledger's own only where every row has one."""
    count = groups.height if groups.columns else 1
    if se is None or named:
        return [se] * count, []
    rows, without = counts(frame, groups), counts(frame.filter(~finite(se)), groups)
    said = [
        f"{lost} of {total} rows have no finite {se}, so all rows weigh the same." if 0 < lost < total else None
        for lost, total in zip(without, rows, strict=True)
    ]
    return [None if lost else se for lost in without], [Note("no_se", each(groups, said))] if any(said) else []
