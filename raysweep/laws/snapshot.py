"""Snapshots: of a run that was read off several times, the one that counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from raysweep.errors import FitError
from raysweep.laws.column import Column
from raysweep.laws.kinds import moment
from raysweep.laws.notes import Note, Regrouped, counts, each
from raysweep.laws.source import gather, numbers

__all__ = ["Snapshots", "snapshots"]


@dataclass(frozen=True)
class Snapshots:
    """One row a run.

    Attributes:
        rows: They.
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
    rows: pl.LazyFrame, columns: Mapping[str, Column], time: str, key: Sequence[str], y: str, at: str | float
) -> Snapshots:
    """One snapshot for each value of `key`, chosen on `<y>_select` so that y itself stays an unbiased reading.

    Raises:
        FitError: `at` is no moment, or no snapshot was taken then.
    """
    select, has_select = f"{y}_select", f"{y}_select" in rows.collect_schema()
    clock = moment(time) if moment(time) in rows.collect_schema() else time
    if not key:  # a table of one run, which has no name
        key, rows = ["_run"], rows.with_columns(_run=pl.lit(0))
    said, before, after = [], None, None
    if at == "best" and has_select:
        high = (columns.get(select, Column()).better or columns.get(y, Column()).better) == "high"
        score = pl.col(select).cast(pl.Float64).fill_nan(None) * (1.0 if high else -1.0)
        said.append(Note(f"reduced_{time}", f"Of each run the snapshot best on {select} was taken, over {time}."))
    elif at in ("best", "last"):
        score = pl.col(clock)
        said.append(Note(f"reduced_{time}", f"Of each run the last snapshot was taken, over {time}."))
        if at == "best":
            text = f"There is no {select} to choose the best snapshot on: the last was taken."
            said.append(Note("no_select_column", text))
    else:
        score, wanted = pl.col(clock), _wanted(rows, clock, time, at)
        near = rows.filter((pl.col(clock) - wanted).abs() <= 1e-9 * math.fabs(wanted))
        said.append(Note(f"reduced_{time}", f"Of each run the snapshot at {time} = {wanted:g} was taken."))
        runs, left = (gather(part.select(key).unique().select(pl.len())).item() for part in (rows, near))
        if left < runs:
            before, after = rows, near
        rows = near
    # The best score of each run is a small table; joined to the rows it leaves little more than one row a run.
    rows = rows.with_columns(_score=score)
    best = gather(rows.group_by(key).agg(_best=pl.col("_score").max())).lazy()
    rows = rows.join(best, on=key, nulls_equal=True).filter(pl.col("_score").eq_missing(pl.col("_best")))
    frame = gather(rows.drop("_score", "_best"))
    # Equal or missing scores fall to the latest snapshot.
    frame = frame.sort(clock, y, descending=True, nulls_last=True).unique(key, keep="first")
    return Snapshots(frame.lazy().drop(moment(time), strict=False), tuple(said), tuple(key), time, before, after)


def _wanted(rows: pl.LazyFrame, clock: str, time: str, at: str | float) -> float:
    """The time that `at` names, if some row has it in the column `clock`."""
    try:
        wanted = float(at)
        if not math.isfinite(wanted):
            raise ValueError
    except ValueError:
        raise FitError(f"at is 'best', 'last' or a value of {time!r}, but got {at!r}.") from None
    have = np.unique(numbers(gather(rows.select(pl.col(time).unique())), time))
    if not (np.abs(have - wanted) <= 1e-9 * math.fabs(wanted)).any():
        raise FitError(f"No snapshot has {time} = {wanted:g}. Choose one of {', '.join(f'{t:g}' for t in have)}.")
    return wanted
