"""The result of a fit: a law fitted to every group of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from raysweep.errors import FitError, nearest
from raysweep.laws.definition import Law
from raysweep.laws.group import GroupFit
from raysweep.laws.source import numbers, require

__all__ = ["Fit", "stretches"]


@dataclass(frozen=True)
class Fit:
    """A law fitted to every group of a table. The attributes of a single fit are available on a `Fit` of one group.

    Attributes:
        x: Columns of the scales, in the order of the law's axes.
        y: Column of the measurement.
        groups: One fit for every combination of the by-columns' values.
    """

    x: tuple[str, ...]
    y: str
    groups: tuple[GroupFit, ...]

    def __iter__(self) -> Iterator[GroupFit]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def only(self) -> GroupFit:
        """The single group.

        Raises:
            FitError: There are several groups, or this one could not be fitted.
        """
        if len(self.groups) > 1:
            first = ", ".join(f"{key}={value!r}" for key, value in self.groups[0].group.items())
            raise FitError(f"This fit has {len(self.groups)} groups. Narrow it to one, e.g. .group({first}).")
        if self.groups[0].error is not None:
            raise FitError(self.groups[0].error)
        return self.groups[0]

    @property
    def laws(self) -> tuple[Law, ...]:
        """The laws that were fitted: one, or under `auto` those that some group chose."""
        return tuple({group.law.name: group.law for group in self.groups}.values())

    @property
    def law(self) -> Law:
        """The law of the only group."""
        return self.only.law

    @property
    def params(self) -> Mapping[str, float]:
        return self.only.params

    @property
    def derived(self) -> Mapping[str, float]:
        return self.only.derived

    @property
    def status(self) -> str:
        return self.only.status

    @property
    def notes(self) -> tuple[str, ...]:
        return self.only.notes

    def interval(self, name: str) -> tuple[float, float]:
        """Low and high of a parameter or derived quantity of the only group."""
        return self.only.interval(name)

    def group(self, **values: Any) -> Fit:
        """The fit of the groups with these values of by-columns, e.g. `.group(width=64)`.

        Raises:
            FitError: A column was not fitted by, or no group has these values.
        """
        by = self.groups[0].group
        for name in values:
            if name not in by:
                raise FitError(f"{name!r} is not a column this fit is grouped by. {nearest(name, by)}")
        kept = tuple(g for g in self.groups if all(g.group[name] == value for name, value in values.items()))
        if not kept:
            have = "; ".join(f"{name}: {_shown({str(g.group[name]) for g in self.groups})}" for name in values)
            raise FitError(f"No group has {values}. Groups have {have}. Choose among these.")
        return replace(self, groups=kept)

    def predict(self, frame: pl.DataFrame, interval: bool = False) -> pl.DataFrame:
        """`frame` with a column `prediction`: the mean law of the group each row belongs to.

        Args:
            frame: Has the columns of x, positive, and every by-column.
            interval: Also add `prediction_low` and `prediction_high`, the pointwise band of the mean law (not of a
                new measurement; that is `GroupFit.prediction`) at the level of the fit.

        Rows of no fitted group are null.

        Raises:
            FitError: A column is missing, or x is not positive.
        """
        for name in (*self.x, *self.groups[0].group):
            require(frame.columns, name)
        x = np.stack([numbers(frame, name) for name in self.x])
        if not (x > 0).all():
            name, values = next((n, v) for n, v in zip(self.x, x, strict=True) if not (v > 0).all())
            raise FitError(
                f"A law predicts at positive {name!r}, but got {values[~(values > 0)][0]:g}. Filter those rows."
            )
        owner = self._owners(frame)
        order = np.argsort(owner, kind="stable")
        out = np.full((3 if interval else 1, frame.height), np.nan)
        for index, rows in stretches(owner[order]):
            if index < 0:
                continue
            at, group = order[rows], self.groups[index]
            out[0, at] = group.predict(x[:, at])
            if interval:
                out[1:, at] = group.band(x[:, at]).T
        names = ("prediction", "prediction_low", "prediction_high")
        return frame.with_columns(
            pl.Series(name, values).fill_nan(None) for name, values in zip(names, out, strict=False)
        )

    def _owners(self, frame: pl.DataFrame) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Index of the group each row belongs to, -1 for none, [rows]."""
        by = list(self.groups[0].group)
        if not by:
            return np.zeros(frame.height, dtype=np.int64)
        groups = pl.DataFrame([dict(g.group) for g in self.groups], infer_schema_length=None).with_row_index("_group")
        keys = {}
        for name in by:
            # 64 and 64.0 are one value; a label read as another type is compared as text.
            both = [table.schema[name] for table in (frame, groups)]
            common = pl.Float64 if all(t.is_numeric() for t in both) else pl.String
            keys[name] = both[0] if both[0] == both[1] else common
        cast = [pl.col(name).cast(kind) for name, kind in keys.items()]
        owner = np.full(frame.height, -1, dtype=np.int64)
        # Where an axis follows x within a group, the group is the same for all its values.
        followed = [tuple(n for n in by if f"follows_{n}" in g.details and g.group[n] is None) for g in self.groups]
        for free in sorted(set(followed), key=len, reverse=True):
            on = [name for name in by if name not in free]
            mine = groups.filter(pl.Series([one == free for one in followed])).with_columns(cast)
            if on:
                owned = frame.select(cast).join(mine, on=on, how="left", nulls_equal=True, maintain_order="left")
                index = owned["_group"].cast(pl.Int64).fill_null(-1).to_numpy()
            else:
                index = np.full(frame.height, mine["_group"].item(), dtype=np.int64)
            owner = np.where(index >= 0, index, owner)
        return owner

    def to_frame(self) -> pl.DataFrame:
        """One row per group and parameter; a group that could not be fitted has one row, with no name, and its reason.

        Columns: the by-columns, `law`, `name`, `value`, `ci_low`, `ci_high`, `status`, `n_points`,
        `n_clusters`, `x_min` and `x_max` (for several scales `<column>_min` and `<column>_max`), `notes`; with a
        window also `window_low` and `window_high` (infinite for no bound) and `window_rows`, the rows before it.
        Derived quantities follow the parameters.
        """
        ends = [("x_min", "x_max")] if len(self.x) == 1 else [(f"{name}_min", f"{name}_max") for name in self.x]
        rows: list[dict[str, Any]] = []
        for group in self.groups:
            shared: dict[str, Any] = {"status": group.status, "n_points": group.n_points}
            shared["n_clusters"] = group.n_clusters
            for names, window in zip(ends, group.window, strict=True):
                shared |= dict(zip(names, (None if np.isnan(end) else end for end in window), strict=True))
            if group.bounds is not None:
                kept = group.bounds
                shared |= {"window_low": kept.low, "window_high": kept.high, "window_rows": kept.rows}
            shared["notes"] = ", ".join(group.notes) if group.error is None else group.error
            for name, value in {**group.params, **group.derived}.items() or [(None, None)]:
                low, high = group.intervals.get(name, (None, None)) if name else (None, None)
                one = {"law": group.law.name, "name": name, "value": value, "ci_low": low, "ci_high": high}
                rows.append({**group.group, **one, **shared})
        return pl.DataFrame(rows, infer_schema_length=None)

    def to_json(self, draws: bool = False) -> list[dict[str, Any]]:
        """One record per group; see `GroupFit.to_json`."""
        return [group.to_json(draws) for group in self.groups]


def stretches(owner: np.ndarray[Any, Any]) -> Iterator[tuple[int, slice]]:
    """The value and extent of each stretch of equal values."""
    starts = np.flatnonzero(np.diff(owner, prepend=owner[:1] - 1)) if owner.size else np.zeros(0, np.int64)
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), owner.size], strict=True):
        yield int(owner[start]), slice(start, stop)


def _shown(values: set[str], most: int = 20) -> str:
    listed = sorted(values)
    return f"{listed[:most]}" + (f" and {len(listed) - most} more" if len(listed) > most else "")
