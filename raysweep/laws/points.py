"""Points: what each row of a ledger or a plain table means to a fit.

A ledger's columns say what they are (axis, metric or stamp), so every axis is accounted for: seeds are replicates,
time is reduced to one snapshot a run, any other varying axis splits the fit, and a note says so. A plain table says
nothing: the named columns count, the others are ignored, and rows of equal x are replicates.

Rows stay unread until they are few: a table of any length is counted, filtered and reduced a block at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from raysweep.errors import FitError
from raysweep.laws.source import Column, Source, condition, gather, numbers, require, scan

__all__ = ["Points", "points"]

_FEWEST_SEEDS = 3  # with three, intervals cover as they say, if they are wide (tests/benchmarks/laws_coverage.py)
_HELD = 5_000_000  # rows that are simply read: a few hundred MB


@dataclass(frozen=True)
class Points:
    """Rows that are ready to be fitted.

    Attributes:
        frame: One row a point; x, y and se are finite.
        x: Columns of the scales, in the order of the law's axes.
        y: Column of the measurement.
        by: Columns whose every combination of values is fitted by itself.
        run: The column that tells independent clusters of rows apart; None if each row is one.
        se: The column of y's standard error from finite evaluation; None if nothing is known of it.
        details: What was dropped, reduced or split, a sentence for each stable note code.
    """

    frame: pl.DataFrame
    x: tuple[str, ...]
    y: str
    by: tuple[str, ...]
    run: str | None
    se: str | None
    details: Mapping[str, str]

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
        FitError: An unknown column, one that holds no numbers, a bad `where` or `at`, a table that mixes worlds, or no
            row left.
    """
    x = (x,) if isinstance(x, str) else tuple(x)
    by = (by,) if isinstance(by, str) else tuple(by)
    rows, columns = scan(data)
    schema = rows.collect_schema()
    for name in (*x, y, *by, *keep, *(n for n in (run, se) if n)):
        require(schema, name)
    if len({*x, y, *by}) < len(x) + 1 + len(by):
        raise FitError(f"x, y and by must be different columns, but got x={', '.join(x)}, y={y}, by={', '.join(by)}.")
    if where is not None:
        rows = rows.filter(condition(where, schema))
    asked, run = run, run or ("run" if "run" in columns else None)
    se = se or (f"{y}_se" if f"{y}_se" in columns else None)
    measured = [*x, y, *([se] if se else [])]
    for name in measured:
        if not (schema[name].is_numeric() or schema[name] == pl.Null):
            raise FitError(f"A fit needs numbers, but column {name!r} holds {schema[name]}. Name another column.")

    details: dict[str, str] = {}
    rows, count = _finished(rows, columns, measured, details)
    axes = [name for name, column in columns.items() if column.role == "axis"]
    carried = [*axes, *measured, *by, *keep, *([run] if run else []), *([f"{y}_select"] if columns else [])]
    rows = rows.select([name for name in dict.fromkeys(carried) if name in schema])
    if count <= _HELD:
        rows = gather(rows).lazy()
    if columns and count:
        frame, by = _reduced(rows, columns, x, y, by, at, run, keep, details)
    elif count > _HELD:
        frame, se = _averaged(rows, x, y, by, run, se, details)
    else:
        frame = gather(rows)
    run = asked or _unit(frame, columns, x, by, details) or run
    if run and (lost := frame[run].null_count()):
        frame = frame.filter(pl.col(run).is_not_null())
        details[f"dropped_no_{run}"] = f"{lost} rows without a {run} were dropped: nobody knows whose they are."
    if frame.is_empty():
        raise FitError(f"No rows are left to fit. {' '.join(details.values())} Check where= and the table.".strip())
    return Points(frame, x, y, by, run, se, details)


def _finished(
    rows: pl.LazyFrame, columns: Mapping[str, Column], measured: Sequence[str], details: dict[str, str]
) -> tuple[pl.LazyFrame, int]:
    """Rows of finished cells of one world that were measured, without candidates; and how many there are.

    A candidate only served to choose a hyper-parameter.
    """

    def text(name: str) -> pl.Expr:
        return pl.col(name).cast(pl.String) if name in columns else pl.lit(None, pl.String)

    finite = pl.all_horizontal(pl.col(measured).cast(pl.Float64).is_finite().fill_null(False))
    flags = {
        "status": text("status").fill_null("unknown") if "status" in columns else pl.lit("ok"),
        "candidate": (text("role") == "candidate").fill_null(False),
        "finite": finite,
        "world": text("world_sha"),
    }
    found = gather(rows.select(**flags).group_by(list(flags)).agg(pl.len().cast(pl.Int64)))

    def dropped(kept: pl.Expr, code: str, why: str) -> None:
        nonlocal found
        left = found.filter(kept)
        total, lost = int(found["len"].sum()), int(found["len"].sum()) - int(left["len"].sum())
        if lost:
            details[f"dropped_{code}"] = f"{lost} of {total} rows {why} were dropped."
        found = left

    for status in sorted(set(found["status"]) - {"ok"}):
        dropped(pl.col("status") != status, status, f"with status {status}")
    dropped(~pl.col("candidate"), "candidate", "that only served to choose a hyper-parameter")
    worlds = found["world"].drop_nulls().unique().sort().to_list()
    if len(worlds) > 1:
        raise FitError(
            f"A fit must not mix worlds, but the table holds {len(worlds)}: {', '.join(worlds)}. "
            f"Fit one with --where \"world_sha = '{worlds[0]}'\"."
        )
    *most, last = measured
    dropped(pl.col("finite"), "null", f"without a finite {', '.join(most)} and {last}")
    if "status" in columns:
        finite &= flags["status"] == "ok"
    if "role" in columns:
        finite &= ~flags["candidate"]
    return rows.filter(finite), int(found["len"].sum())


def _reduced(
    rows: pl.LazyFrame,
    columns: Mapping[str, Column],
    x: Sequence[str],
    y: str,
    by: tuple[str, ...],
    at: str | float,
    run: str | None,
    keep: Sequence[str],
    details: dict[str, str],
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """A ledger's rows, one a point, and `by` with the axes that split them: every axis is accounted for."""
    axes = {name: column for name, column in columns.items() if column.role == "axis"}
    counts = {*x, *by, *_varying(rows, axes)}
    rows = rows.drop(name for name in axes if name not in (*counts, *keep))
    axes = {name: column for name, column in axes.items() if name in counts}
    time = next((name for name, axis in axes.items() if axis.axis_role == "time"), None)
    if time is not None and time not in (*x, *by):
        del axes[time]
        # A ledger's own key of a run stands for all axes that are not observed, and alone is less to hold.
        known = ("lane", "shape") if run == "run" and columns.get(run, Column()).role == "stamp" else ()
        key = [name for name in axes if axes[name].kind not in known]
        if run is not None and run not in axes:
            key.append(run)
        rows = _snapshot(rows, columns, time, key, y, at, details)
    rows, axes = _collapsed(rows, axes, x, y, by, run, keep, details)
    frame = gather(rows)
    return frame, _split(frame, axes, x, by, details)


def _varying(rows: pl.LazyFrame, names: Mapping[str, Column]) -> list[str]:
    """Those of the columns that hold more than one value."""
    if not names:
        return []

    found = gather(rows.select(_differs(name).alias(name) for name in names))
    return [name for name in names if found[name].item()]


def _differs(name: str) -> pl.Expr:
    """Whether a column holds more than one value, null being one."""
    column, null = pl.col(name), pl.col(name).is_null()
    return column.min().ne_missing(column.max()) | (null.any() & ~null.all())


def _snapshot(
    rows: pl.LazyFrame,
    columns: Mapping[str, Column],
    time: str,
    key: Sequence[str],
    y: str,
    at: str | float,
    details: dict[str, str],
) -> pl.LazyFrame:
    """One snapshot for each value of `key`, chosen on `<y>_select` so that y itself stays an unbiased reading."""
    select, has_select = f"{y}_select", f"{y}_select" in rows.collect_schema()
    if not key:  # a table of one run, which has no name
        key, rows = ["_run"], rows.with_columns(_run=pl.lit(0))
    if at == "best" and has_select:
        high = (columns.get(select, Column()).better or columns.get(y, Column()).better) == "high"
        score = pl.col(select).cast(pl.Float64).fill_nan(None) * (1.0 if high else -1.0)
        details[f"reduced_{time}"] = f"Of each run the snapshot best on {select} was taken, over {time}."
    elif at in ("best", "last"):
        score = pl.col(time)
        details[f"reduced_{time}"] = f"Of each run the last snapshot was taken, over {time}."
        if at == "best":
            details["no_select_column"] = f"There is no {select} to choose the best snapshot on: the last was taken."
    else:
        score, moment = pl.col(time), _moment(rows, time, at)
        near = rows.filter((pl.col(time) - moment).abs() <= 1e-9 * math.fabs(moment))
        details[f"reduced_{time}"] = f"Of each run the snapshot at {time} = {moment:g} was taken."
        runs, left = (gather(part.select(key).unique().select(pl.len())).item() for part in (rows, near))
        if left < runs:
            details["dropped_no_snapshot"] = (
                f"{runs - left} of {runs} runs without a snapshot at that {time} were dropped."
            )
        rows = near
    # The best score of each run is a small table; joined to the rows it leaves little more than one row a run.
    rows = rows.with_columns(_score=score)
    best = gather(rows.group_by(key).agg(_best=pl.col("_score").max())).lazy()
    rows = rows.join(best, on=key, nulls_equal=True).filter(pl.col("_score").eq_missing(pl.col("_best")))
    frame = gather(rows.drop("_score", "_best"))
    # Equal or missing scores fall to the latest snapshot.
    return frame.sort(time, y, descending=True, nulls_last=True).unique(key, keep="first").lazy()


def _moment(rows: pl.LazyFrame, time: str, at: str | float) -> float:
    """The time that `at` names, if some row has it."""
    try:
        moment = float(at)
        if not math.isfinite(moment):
            raise ValueError
    except ValueError:
        raise FitError(f"at is 'best', 'last' or a value of {time!r}, but got {at!r}.") from None
    have = np.unique(numbers(gather(rows.select(pl.col(time).unique())), time))
    if not (np.abs(have - moment) <= 1e-9 * math.fabs(moment)).any():
        raise FitError(f"No snapshot has {time} = {moment:g}. Choose one of {', '.join(f'{t:g}' for t in have)}.")
    return moment


def _collapsed(
    rows: pl.LazyFrame,
    axes: dict[str, Column],
    x: Sequence[str],
    y: str,
    by: Sequence[str],
    run: str | None,
    keep: Sequence[str],
    details: dict[str, str],
) -> tuple[pl.LazyFrame, dict[str, Column]]:
    """Rows and axes without the varying axes that neither y nor what is carried along depends on: each point counts
    once.
    """
    for axis in [a for a in axes if a not in (*x, *by) and axes[a].axis_role != "seed"]:
        others = [a for a in axes if a != axis] + [name for name in x if name not in axes]
        if axes[axis].kind == "observed" and run is not None and run not in axes:
            others.append(run)  # the same run read off twice, not two runs that happen to agree
        several = pl.col(axis).min().ne_missing(pl.col(axis).max())
        differs = pl.any_horizontal(_differs(name) for name in (y, *keep))
        seen = rows.group_by(others).agg(several=several, differs=differs)
        found = gather(seen.filter("several").select(pl.len(), pl.col("differs").any()))
        if found["len"].item() and not found["differs"].item():
            axes = {name: column for name, column in axes.items() if name != axis}
            rows = rows.unique(others, keep="any")
            details[f"collapsed_{axis}"] = f"{y} is the same at every value of {axis}, so each point counts once."
    return rows, axes


def _split(
    frame: pl.DataFrame, axes: Mapping[str, Column], x: Sequence[str], by: tuple[str, ...], details: dict[str, str]
) -> tuple[str, ...]:
    """`by` and every varying axis that was not named and does not follow x: each of its values is fitted by itself."""
    # Labels before numbers and shapes before lanes: a learning rate tuned in each arm then follows x within the arm.
    for axis in sorted(axes, key=lambda a: (frame[a].dtype.is_numeric(), axes[a].kind != "shape")):
        if axis in (*x, *by) or axes[axis].axis_role == "seed" or frame[axis].n_unique() < 2:
            continue
        follows = frame.group_by(*x, *by).agg(pl.col(axis).n_unique())[axis].max() == 1
        if follows and frame[axis].dtype.is_numeric():
            details[f"follows_{axis}"] = f"{axis} takes one value at each {', '.join(x)}; nothing was averaged over it."
        else:
            by = (*by, axis)
            values = frame[axis].unique().sort().to_list()
            shown = ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
            details[f"grouped_by_{axis}"] = f"{axis} varies ({shown}), so each value was fitted by itself."
    return by


def _unit(
    frame: pl.DataFrame, columns: Mapping[str, Column], x: Sequence[str], by: Sequence[str], details: dict[str, str]
) -> str | None:
    """A ledger's seed, if the runs of a seed may err together; None where each run is its own unit.

    Runs of one seed draw their data from one stream, so that smaller sets are contained in larger ones.
    """
    seeds = [n for n, c in columns.items() if c.axis_role == "seed" and n in frame.columns and n not in (*x, *by)]
    seeds = [n for n in seeds if frame[n].n_unique() > 1 and not frame[n].null_count()]
    if not seeds:
        return None
    seed, *others = seeds
    scales = frame.group_by(*by, seed).agg(pl.struct(x).n_unique().alias("_scales"))
    fewest = scales.group_by(by).len()["len"].min() if by else scales.height
    assert isinstance(fewest, int)
    if scales["_scales"].max() == 1:  # no seed was used at two scales
        return None
    if others and frame.select(pl.struct(seeds).n_unique()).item() > max(frame[n].n_unique() for n in seeds):
        details["crossed_seeds"] = (
            f"{', '.join(seeds)} vary apart, so no one of them is the unit of an interval: runs were taken to be "
            "independent. Name one with run= to keep together what shares it."
        )
        return None
    if fewest < _FEWEST_SEEDS:
        details["few_seeds"] = (
            f"{fewest} values of {seed} are too few to be the units of an interval, so runs were taken to be "
            "independent. Where smaller sets are contained in larger ones, intervals are then too narrow: add seeds."
        )
        return None
    return seed


def _averaged(
    rows: pl.LazyFrame,
    x: Sequence[str],
    y: str,
    by: Sequence[str],
    run: str | None,
    se: str | None,
    details: dict[str, str],
) -> tuple[pl.DataFrame, str | None]:
    """A table too long to fit row by row: one point for each (by, x, run), and its standard error.

    Points are geometric means: least squares in logs then has the same optimum on them as on their rows.
    """
    key = list(dict.fromkeys([*by, *x, *([run] if run else [])]))
    log = pl.col(y).cast(pl.Float64).log()
    spread = (log.var() * (pl.len() - 1)).fill_null(0.0).fill_nan(0.0)
    others = [c for c in rows.collect_schema() if c not in (*key, y, "_rows", "_spread")]
    frame = gather(
        rows.group_by(key).agg(
            # What has no logarithm stays as it is, for the fit to refuse.
            pl.when(pl.col(y).min() > 0).then(log.mean().exp()).otherwise(pl.col(y).min()).alias(y),
            pl.col(others).mean(),
            _rows=pl.len().cast(pl.Int64),
            _spread=spread,
        )
    )
    total = int(frame["_rows"].sum())
    if total == frame.height:
        return frame.drop("_rows", "_spread"), se
    variance = float(frame["_spread"].sum()) / (total - frame.height)
    details["averaged_rows"] = (
        f"{total:,} rows were averaged to {frame.height:,} points of equal {', '.join(key)}: geometric means, with "
        "standard errors from the spread within points."
    )
    error = pl.col(y) * (variance / pl.col("_rows")).sqrt()
    frame = frame.with_columns(error.alias("_se")).drop("_rows", "_spread")
    return frame, "_se" if variance > 0 else None
