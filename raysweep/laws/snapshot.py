"""Snapshots: the one that counts of a run that was measured several times."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from raysweep.errors import FitError
from raysweep.laws.column import Column
from raysweep.laws.kinds import moment
from raysweep.laws.notes import Note, Regrouped, counts, each
from raysweep.laws.request import FitRequest
from raysweep.laws.source import gather, numbers

__all__ = ["Snapshots", "snapshots"]


@dataclass(frozen=True)
class Snapshots:
    """One row per run.

    Attributes:
        said: How they were chosen.
    """

    rows: pl.LazyFrame
    said: tuple[Note, ...]
    _key: tuple[str, ...] = ()
    _time: str = ""
    _before: pl.LazyFrame | None = None
    _after: pl.LazyFrame | None = None

    @property
    def lost(self) -> bool:
        """Whether some runs have no snapshot."""
        return self._before is not None

    def notes(self, groups: pl.DataFrame, regrouped: Regrouped) -> list[Note]:
        """How they were chosen, and how many runs of each group have none; see `Kept.notes`."""
        if self._before is None or self._after is None:
            return list(self.said)
        runs, left = (
            counts(gather(regrouped(rows).select(list(dict.fromkeys([*self._key, *groups.columns]))).unique()), groups)
            for rows in (self._before, self._after)
        )
        said = [
            f"{n - m} of {n} runs without a snapshot at that {self._time} were dropped." if m < n else None
            for n, m in zip(runs, left, strict=True)
        ]
        return [*self.said, Note("dropped_no_snapshot", each(groups, said))]


def snapshots(
    rows: pl.LazyFrame, columns: Mapping[str, Column], times: Sequence[str], key: Sequence[str], request: FitRequest
) -> Snapshots:
    """One snapshot for each value of `key`, chosen on `<y>_select` so that y itself stays an unbiased reading.

    Args:
        times: Axes of time that are reduced, the first declared first: a later snapshot is one that is later in the
            first of them in which the two differ.
        key: Columns that tell runs apart.

    Raises:
        FitError: No snapshot was taken at the requested time, or there are several axes of time.
    """
    y, select = request.y, f"{request.y}_select"
    if not key:  # a table of one run, which has no name
        key, rows = ["_run"], rows.with_columns(_run=pl.lit(0))
    held = rows.collect_schema()
    clocks = [moment(time) if moment(time) in held else time for time in times]
    said, near = [], rows
    scores = [pl.col(clock) for clock in clocks]
    code, over = f"reduced_{'_'.join(times)}", ", ".join(times)
    if request.moment is not None:
        near, text = _at(rows, times, clocks, request.moment)
        said.append(Note(code, text))
    elif request.at == "best" and select in held:
        high = (columns.get(select, Column()).better or columns.get(y, Column()).better) == "high"
        scores = [pl.col(select).cast(pl.Float64).fill_nan(None) * (1.0 if high else -1.0)]
        said.append(Note(code, f"The snapshot of each run that is best on {select} was taken, over {over}."))
    else:
        said.append(Note(code, f"The last snapshot of each run was taken, over {over}."))
        if request.at == "best":
            text = f"There is no {select} to choose the best snapshot on: the last was taken."
            said.append(Note("no_select_column", text))
    best = near
    for score in scores:
        best = _highest(best, key, score)
    # Equal or missing scores fall to the latest snapshot.
    frame = gather(best).sort(*clocks, y, descending=True, nulls_last=True).unique(key, keep="first")
    frame = frame.drop([moment(time) for time in times], strict=False)
    chosen = Snapshots(frame.lazy(), tuple(said), tuple(key))
    left = near is rows or _runs(near, key) == _runs(rows, key)
    return chosen if left else replace(chosen, _time=times[0], _before=rows, _after=near)


def _highest(rows: pl.LazyFrame, key: Sequence[str], score: pl.Expr) -> pl.LazyFrame:
    """The rows of each run whose score is the highest; all of a run without any score."""
    rows = rows.with_columns(_score=score)
    # The best score of each run is a small table; joined to the rows it leaves little more than one row per run.
    best = gather(rows.group_by(key).agg(_best=pl.col("_score").max())).lazy()
    rows = rows.join(best, on=key, nulls_equal=True).filter(pl.col("_score").eq_missing(pl.col("_best")))
    return rows.drop("_score", "_best")


def _at(rows: pl.LazyFrame, times: Sequence[str], clocks: Sequence[str], wanted: float) -> tuple[pl.LazyFrame, str]:
    """The snapshots at a time, and a sentence that says so."""
    if len(times) > 1:
        raise FitError(
            f"at: must be 'best' or 'last' where several axes of time advance ({', '.join(times)}), but got "
            f'{wanted:g}. Choose the snapshots with where, e.g. "{times[-1]} = {wanted:g}", or name an axis in x or by.'
        )
    (time,), (clock,) = times, clocks
    have = np.unique(numbers(gather(rows.select(pl.col(clock).unique())), clock))
    if not (np.abs(have - wanted) <= 1e-9 * math.fabs(wanted)).any():
        raise FitError(f"No snapshot has {time} = {wanted:g}. Choose one of {', '.join(f'{t:g}' for t in have)}.")
    near = rows.filter((pl.col(clock) - wanted).abs() <= 1e-9 * math.fabs(wanted))
    return near, f"The snapshot of each run at {time} = {wanted:g} was taken."


def _runs(rows: pl.LazyFrame, key: Sequence[str]) -> int:
    return int(gather(rows.select(key).unique().select(pl.len())).item())
