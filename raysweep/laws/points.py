"""Points: what each row of a ledger or a plain table means to a fit.

A ledger's columns say what they are (axis, metric or stamp), so every axis is accounted for: seeds are replicates,
time is reduced to one snapshot a run, any other varying axis splits the fit, and a note says so. A plain table says
nothing: the named columns count, the others are ignored, and rows of equal x are replicates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from raysweep.errors import FitError, nearest
from raysweep.laws.forms import Array

__all__ = ["Column", "Points", "Source", "numbers", "points", "read", "require"]

Source: TypeAlias = "pl.DataFrame | pl.LazyFrame | pa.Table | str | Path"


@dataclass(frozen=True)
class Column:
    """What a ledger says about one of its columns; a field is empty where it says nothing.

    Attributes:
        role: `axis`, `metric` or `stamp`.
        kind: Of an axis: `shape`, `lane` or `observed`.
        axis_role: Of an axis: `seed` or `time`.
        better: Of a metric: `low` or `high`.
    """

    role: str = ""
    kind: str = ""
    axis_role: str = ""
    better: str = ""


@dataclass(frozen=True)
class Points:
    """Rows that are ready to be fitted.

    Attributes:
        frame: One row a point; x and y are finite.
        by: Columns whose every combination of values is fitted by itself.
        run: The column that tells independent runs apart; None if each row is one.
        details: What was dropped, reduced or split, a sentence for each stable note code.
    """

    frame: pl.DataFrame
    by: tuple[str, ...]
    run: str | None
    details: Mapping[str, str]


def read(data: Source) -> tuple[pl.DataFrame, dict[str, Column]]:
    """The rows of `data`, and what its columns are; a table without metadata has no `Column`.

    Raises:
        FitError: `data` is no table, or a file that does not exist or is not .csv, .csv.gz or .parquet.
    """
    if isinstance(data, pl.DataFrame):
        return data, {}
    if isinstance(data, pl.LazyFrame):
        return data.collect(), {}
    if isinstance(data, (str, Path)):
        path = Path(data)
        if not path.is_file():
            raise FitError(f"There is no table at {str(path)!r}. Pass a .csv, .csv.gz or .parquet file.")
        try:
            if path.name.endswith((".csv", ".csv.gz")):
                return pl.read_csv(path, infer_schema_length=None), {}
            if path.suffix != ".parquet":
                raise FitError(f"A table is a .csv, .csv.gz or .parquet file, but got {str(path)!r}.")
            data = pq.read_table(path)
        except (pl.exceptions.PolarsError, pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise FitError(f"{path}: cannot be read as a table: {str(error).splitlines()[0]}") from error
    if not isinstance(data, pa.Table):
        raise FitError(f"A table is a Polars frame, an Arrow table or a file, but got {type(data).__name__}.")
    columns = {}
    for entry in data.schema:
        told = {key.decode(): value.decode() for key, value in (entry.metadata or {}).items()}
        if "role" in told:
            columns[entry.name] = Column(*(told.get(key, "") for key in ("role", "kind", "axis_role", "better")))
    return pl.DataFrame(pl.from_arrow(data)), columns


def points(
    frame: pl.DataFrame,
    columns: Mapping[str, Column],
    x: str,
    y: str,
    by: Sequence[str] = (),
    where: str | None = None,
    at: str | float = "best",
    run: str | None = None,
) -> Points:
    """The rows of `frame` that a fit of y(x) takes, and what had to be decided about the others.

    Args: see `table.fit`.

    Raises:
        FitError: An unknown column, one that holds no numbers, a bad `where` or `at`, a table that mixes worlds, or no
            row left.
    """
    details: dict[str, str] = {}
    for name in (x, y, *by, *([run] if run else [])):
        require(frame, name)
    if {x, y} & set(by) or x == y or len(set(by)) < len(by):
        raise FitError(f"x, y and by must be different columns, but got x={x!r}, y={y!r}, by={list(by)}.")
    if where is not None:
        try:
            frame = frame.filter(pl.sql_expr(where))
        except pl.exceptions.PolarsError as error:
            raise FitError(f"{where!r} is not a condition on this table's rows. {error}".rstrip()) from error
    if columns:
        frame = _finished(frame, columns, details)
        run = run or ("run" if "run" in columns else None)
    for name in (x, y):
        numbers(frame, name)
    finite = pl.col(x, y).cast(pl.Float64).is_finite().fill_null(False)
    frame = _dropped(frame, ~pl.all_horizontal(finite), "null", f"without a finite {x} and {y}", details)
    if columns and frame.height:
        axes = {name: column for name, column in columns.items() if column.role == "axis"}
        time = next((name for name, axis in axes.items() if axis.axis_role == "time"), None)
        if time is not None:
            del axes[time]
            if time not in (x, *by) and frame[time].n_unique() > 1:
                key = [*axes, *([run] if run is not None and run not in axes else [])]
                frame = _snapshot(frame, columns, time, key, y, at, details)
        frame, by = _axes(frame, axes, x, y, by, run, details)
    if not frame.height:
        raise FitError(f"No rows are left to fit. {' '.join(details.values())} Check where= and the table.".strip())
    return Points(frame, tuple(by), run, details)


def require(frame: pl.DataFrame, name: str) -> None:
    """Raise a FitError unless `frame` has the column `name`."""
    if name not in frame.columns:
        raise FitError(f"There is no column {name!r}. {nearest(name, frame.columns)}")


def numbers(frame: pl.DataFrame, name: str) -> Array:
    """The column `name` as floats, [rows], NaN for null; a FitError if it does not hold numbers."""
    if not (frame[name].dtype.is_numeric() or frame[name].dtype == pl.Null):
        raise FitError(f"A fit needs numbers, but column {name!r} holds {frame[name].dtype}. Name another column.")
    return frame[name].cast(pl.Float64).to_numpy()


def _dropped(frame: pl.DataFrame, bad: pl.Expr, code: str, why: str, details: dict[str, str]) -> pl.DataFrame:
    kept = frame.remove(bad)
    if kept.height < frame.height:
        details[f"dropped_{code}"] = f"{frame.height - kept.height} of {frame.height} rows {why} were dropped."
    return kept


def _finished(frame: pl.DataFrame, columns: Mapping[str, Column], details: dict[str, str]) -> pl.DataFrame:
    """Rows of finished cells of one world, without the candidates that only served to choose a hyper-parameter."""
    if "status" in columns:
        for status in sorted(set(frame["status"].cast(pl.String).fill_null("unknown")) - {"ok"}):
            bad = pl.col("status").cast(pl.String).fill_null("unknown") == status
            frame = _dropped(frame, bad, status, f"with status {status}", details)
    if "role" in columns:
        bad = (pl.col("role").cast(pl.String) == "candidate").fill_null(False)
        frame = _dropped(frame, bad, "candidate", "that only served to choose a hyper-parameter", details)
    worlds = frame["world_sha"].drop_nulls().unique().sort().to_list() if "world_sha" in columns else []
    if len(worlds) > 1:
        raise FitError(
            f"A fit must not mix worlds, but the table holds {len(worlds)}: {', '.join(map(str, worlds))}. "
            f"Fit one with --where \"world_sha = '{worlds[0]}'\"."
        )
    return frame


def _snapshot(
    frame: pl.DataFrame,
    columns: Mapping[str, Column],
    time: str,
    key: Sequence[str],
    y: str,
    at: str | float,
    details: dict[str, str],
) -> pl.DataFrame:
    """One snapshot for each value of `key`, chosen on `<y>_select` so that y itself stays an unbiased reading."""
    select = f"{y}_select"
    if at == "best" and select in frame.columns:
        high = columns.get(select, Column()).better or columns.get(y, Column()).better
        # Equal or missing scores fall to the latest snapshot.
        score = pl.col(select).cast(pl.Float64).fill_nan(None)
        frame = frame.sort(score, pl.col(time), descending=[high == "high", True], nulls_last=True)
        details[f"reduced_{time}"] = f"Of each run the snapshot best on {select} was taken, over {time}."
    elif at in ("best", "last"):
        frame = frame.sort(time, descending=True, nulls_last=True)
        details[f"reduced_{time}"] = f"Of each run the last snapshot was taken, over {time}."
        if at == "best":
            details["no_select_column"] = f"There is no {select} to choose the best snapshot on: the last was taken."
    else:
        try:
            moment = float(at)
            if not math.isfinite(moment):
                raise ValueError
        except ValueError:
            raise FitError(f"at is 'best', 'last' or a value of {time!r}, but got {at!r}.") from None
        near = (pl.col(time) - moment).abs() <= 1e-9 * math.fabs(moment)
        if frame.filter(near).is_empty():
            have = ", ".join(f"{t:g}" for t in np.unique(numbers(frame, time)))
            raise FitError(f"No snapshot has {time} = {moment:g}. Choose one of {have}.")
        runs = frame.select(key).n_unique()
        frame = frame.filter(near)
        details[f"reduced_{time}"] = f"Of each run the snapshot at {time} = {moment:g} was taken."
        if lost := runs - frame.select(key).n_unique():
            details["dropped_no_snapshot"] = f"{lost} of {runs} runs without a snapshot at that {time} were dropped."
    return frame.unique(key, keep="first", maintain_order=True)


def _axes(
    frame: pl.DataFrame,
    axes: Mapping[str, Column],
    x: str,
    y: str,
    by: Sequence[str],
    run: str | None,
    details: dict[str, str],
) -> tuple[pl.DataFrame, Sequence[str]]:
    """Account for every varying axis that was not named: collapse it, leave it to x, or fit each value by itself."""

    def varies(axis: str) -> bool:
        return axis not in (x, *by) and axes[axis].axis_role != "seed" and frame[axis].n_unique() > 1

    alike: list[str] = []
    for axis in filter(varies, axes):
        others = [a for a in axes if a not in (axis, *alike)] + [x] * (x not in axes)
        if axes[axis].kind == "observed" and run is not None and run not in axes:
            others.append(run)  # the same run read off twice, not two runs that happen to agree
        seen = frame.group_by(others).agg(pl.col(axis).n_unique().alias("_values"), pl.col(y).n_unique().alias("_ys"))
        repeated = seen.filter(pl.col("_values") > 1)
        if not repeated.is_empty() and (repeated["_ys"] == 1).all():
            alike.append(axis)
            frame = frame.unique(others, keep="first", maintain_order=True)
            details[f"collapsed_{axis}"] = f"{y} is the same at every value of {axis}, so each point counts once."
    # Labels before numbers and shapes before lanes: a learning rate tuned in each arm then follows x within the arm.
    order = [a for a in axes if a not in alike]
    for axis in sorted(order, key=lambda a: (frame[a].dtype.is_numeric(), axes[a].kind != "shape")):
        if not varies(axis):
            continue
        values = frame[axis].unique().sort().to_list()
        follows = frame.group_by(x, *by).agg(pl.col(axis).n_unique())[axis].max() == 1
        if follows and frame[axis].dtype.is_numeric():
            details[f"follows_{axis}"] = f"{axis} takes one value at each {x}; nothing was averaged over it."
        else:
            by = [*by, axis]
            shown = ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
            details[f"grouped_by_{axis}"] = f"{axis} varies ({shown}), so each value was fitted by itself."
    return frame, by
