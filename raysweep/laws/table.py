"""Tables in, fitted laws out. Only this file and `points` know Polars; everything they call is NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from raysweep.errors import FitError, nearest
from raysweep.laws import forms
from raysweep.laws.group import GroupFit, fit_group
from raysweep.laws.points import Source, numbers, points, read, require

__all__ = ["Fit", "fit"]


@dataclass(frozen=True)
class Fit:
    """A law fitted to every group of a table. What belongs to one fit can be asked of a `Fit` of one group."""

    law: forms.Law
    x: str
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
    def params(self) -> Mapping[str, float]:
        return self.only.params

    @property
    def status(self) -> str:
        return self.only.status

    @property
    def notes(self) -> tuple[str, ...]:
        return self.only.notes

    def interval(self, name: str) -> tuple[float, float]:
        """Low and high of a parameter of the only group."""
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
            have = "; ".join(f"{name}: {sorted({str(g.group[name]) for g in self.groups})}" for name in values)
            raise FitError(f"No group has {values}. Groups have {have}.")
        return replace(self, groups=kept)

    def predict(self, frame: pl.DataFrame, interval: bool = False) -> pl.DataFrame:
        """`frame` with a column `prediction`: the mean law of the group each row belongs to.

        Args:
            frame: Has the column x, positive, and every by-column.
            interval: Also add `prediction_low` and `prediction_high`, the pointwise band of the mean law (not of a
                new measurement) at the level of the fit.

        Rows of no fitted group are null.

        Raises:
            FitError: A column is missing, or x is not positive.
        """
        for name in (self.x, *self.groups[0].group):
            require(frame, name)
        x = numbers(frame, self.x)
        if not (x > 0).all():
            raise FitError(
                f"A law predicts at positive {self.x!r}, but the smallest is {x.min():g}. Filter those rows."
            )
        out = np.full((3 if interval else 1, x.size), np.nan)
        for group in self.groups:
            same = [pl.col(name).eq_missing(pl.lit(value)) for name, value in group.group.items()]
            rows = frame.select(pl.all_horizontal(pl.repeat(True, pl.len()), *same)).to_series().to_numpy()
            out[0, rows] = group.predict(x[rows])
            if interval:
                out[1:, rows] = group.band(x[rows]).T
        names = ("prediction", "prediction_low", "prediction_high")
        return frame.with_columns(
            pl.Series(name, values).fill_nan(None) for name, values in zip(names, out, strict=False)
        )

    def to_frame(self) -> pl.DataFrame:
        """One row a group and parameter; a group that could not be fitted has one row, with no name, and its reason."""
        rows: list[dict[str, Any]] = []
        for group in self.groups:
            record = group.to_json()
            shared = {key: record[key] for key in ("status", "n_points", "n_runs")}
            shared |= {"x_min": group.window[0], "x_max": group.window[1]}
            shared["notes"] = ", ".join(group.notes) if group.error is None else group.error
            nothing = {"name": None, "value": None, "ci_low": None, "ci_high": None}
            rows += [record["group"] | param | shared for param in record["params"] or [nothing]]
        return pl.DataFrame(rows, infer_schema_length=None)

    def to_json(self) -> list[dict[str, Any]]:
        """One record a group; see `GroupFit.to_json`."""
        return [group.to_json() for group in self.groups]


def fit(
    data: Source,
    law: str = "power",
    x: str = "n_train",
    y: str = "epistemic",
    by: str | Sequence[str] = (),
    where: str | None = None,
    at: str | float = "best",
    run: str | None = None,
    level: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Fit:
    """Fit a law y(x) to every group of a table, with bootstrap intervals over independent runs.

    Args:
        data: A frame, an Arrow table, or a .csv, .csv.gz or .parquet file. A ledger's tables carry the metadata that
            says what each column is; of any other table only the columns named here count.
        law: A key of `LAWS`.
        x, y: Columns of the scale and of the measurement; both positive.
        by: Columns whose every combination of values is fitted by itself.
        where: A Polars SQL condition on the rows, applied before anything else, e.g. `"width >= 64"`.
        at: Which snapshot of a ledger's run counts: `best` on `<y>_select`, `last`, or the one at this time.
        run: Column that tells independent runs apart; a ledger has its own, and rows of a plain table are runs.
        level: Nominal coverage of the intervals.
        bootstrap: Draws; 0 for estimates without intervals.
        seed: Of the draws; groups with the same runs share their draws.

    Raises:
        FitError: An unknown law or column, a bad `where`, a table that mixes worlds, or no group that can be fitted.
    """
    form = forms.law(law)
    if not (0 < level < 1 and bootstrap >= 0):
        raise FitError(f"level lies in (0, 1) and bootstrap is >= 0, but got {level=} and {bootstrap=}.")
    frame, columns = read(data)
    found = points(frame, columns, x, y, (by,) if isinstance(by, str) else tuple(by), where, at, run)
    groups = []
    parts = found.frame.sort(found.by).partition_by(found.by) if found.by else [found.frame]
    for part in parts:
        groups.append(
            fit_group(
                form,
                numbers(part, x),
                numbers(part, y),
                None if found.run is None else part[found.run].cast(pl.String).fill_null("").to_numpy(),
                names=(x, y),
                group={name: part[name][0] for name in found.by},
                details=found.details,
                level=level,
                draws=bootstrap,
                seed=seed,
            )
        )
    if all(g.error is not None for g in groups):
        if len(groups) == 1:
            raise FitError(groups[0].error)
        raise FitError(f"None of {len(groups)} groups can be fitted. The first, {groups[0].group}: {groups[0].error}")
    return Fit(form, x, y, tuple(groups))
