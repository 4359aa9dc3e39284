"""Tables in, fitted laws out. This file and what makes `points` know Polars; what they call to fit is NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from raysweep.errors import FitError, nearest
from raysweep.laws import forms
from raysweep.laws.fitting import Options, fit_groups
from raysweep.laws.group import Data, GroupFit
from raysweep.laws.points import Points, points
from raysweep.laws.source import Source, numbers, require

__all__ = ["AUTO", "Fit", "checked", "fit", "fit_points"]

AUTO = "auto"


@dataclass(frozen=True)
class Fit:
    """A law fitted to every group of a table. What belongs to one fit can be asked of a `Fit` of one group.

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
    def laws(self) -> tuple[forms.Law, ...]:
        """The laws that were fitted: one, or under `auto` those that some group chose."""
        return tuple({group.law.name: group.law for group in self.groups}.values())

    @property
    def law(self) -> forms.Law:
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
            raise FitError(f"No group has {values}. Groups have {have}.")
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
        for index, rows in _runs_of(owner[order]):
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
        # Where an axis follows x within a group, the group is that of any value of it.
        followed = [tuple(n for n in by if f"follows_{n}" in g.details and g.group[n] is None) for g in self.groups]
        for free in sorted(set(followed), key=len, reverse=True):
            on = [name for name in by if name not in free]
            mine = groups.filter(pl.Series([one == free for one in followed])).with_columns(cast)
            if on:
                found = frame.select(cast).join(mine, on=on, how="left", nulls_equal=True, maintain_order="left")
                index = found["_group"].cast(pl.Int64).fill_null(-1).to_numpy()
            else:
                index = np.full(frame.height, mine["_group"].item(), dtype=np.int64)
            owner = np.where(index >= 0, index, owner)
        return owner

    def to_frame(self) -> pl.DataFrame:
        """One row a group and parameter; a group that could not be fitted has one row, with no name, and its reason.

        Columns: the by-columns, `law`, `name`, `value`, `ci_low`, `ci_high`, `status`, `n_points`,
        `n_clusters`, `x_min` and `x_max` (of several scales `<column>_min` and `<column>_max`), `notes`. Derived
        quantities follow the parameters.
        """
        ends = [("x_min", "x_max")] if len(self.x) == 1 else [(f"{name}_min", f"{name}_max") for name in self.x]
        rows: list[dict[str, Any]] = []
        for group in self.groups:
            shared: dict[str, Any] = {"status": group.status, "n_points": group.n_points}
            shared["n_clusters"] = group.n_clusters
            for names, window in zip(ends, group.window, strict=True):
                shared |= dict(zip(names, window, strict=True))
            shared["notes"] = ", ".join(group.notes) if group.error is None else group.error
            for name, value in {**group.params, **group.derived}.items() or [(None, None)]:
                low, high = group.intervals.get(name, (None, None)) if name else (None, None)
                one = {"law": group.law.name, "name": name, "value": value, "ci_low": low, "ci_high": high}
                rows.append({**group.group, **one, **shared})
        return pl.DataFrame(rows, infer_schema_length=None)

    def to_json(self) -> list[dict[str, Any]]:
        """One record a group; see `GroupFit.to_json`."""
        return [group.to_json() for group in self.groups]


def fit(
    data: Source,
    law: str = "power",
    x: str | Sequence[str] = "n_train",
    y: str = "epistemic",
    by: str | Sequence[str] = (),
    where: str | None = None,
    at: str | float = "best",
    run: str | None = None,
    se: str | None = None,
    level: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
    huber: float | None = None,
    holdout: float = 0.3,
) -> Fit:
    """Fit a law y(x) to every group of a table, with bootstrap intervals over independent clusters.

    Args:
        data: A Polars or pandas frame, an Arrow table, or a file: .csv, .json or .jsonl (also as .gz), or .parquet.
            Several paths, or a pattern such as `runs/*.csv`, are one table with the column `file`. A ledger's tables
            say what each column is, by their metadata or by their column `columns`; of any other table only the
            columns named here count.
        law: A key of `LAWS`; or `auto`, the one-axis law that foretells held-out scales best.
        x: Column of the scale, positive; of a law of several axes one column for each, in their order.
        y: Column of the measurement, positive.
        by: Columns whose every combination of values is fitted by itself, as if the others were not there.
        where: A Polars SQL condition on the rows, applied before anything else, e.g. `"width >= 64"`.
        at: Which snapshot of a ledger's run counts: `best` on `<y>_select`, `last`, or the one at this time. Where x
            has the time axis (law `time`) every snapshot counts.
        run: Column that tells independent clusters of rows apart. By default a ledger's seed in groups that have three,
            else its runs; rows of a plain table are independent.
        se: Column of the standard error of y from finite evaluation, without which a row does not count; a ledger's own
            is `<y>_se`, in groups whose every row has it.
        level: Nominal coverage of the intervals.
        bootstrap: Draws; 0 for estimates without intervals.
        seed: Of the draws; groups with the same runs share their draws.
        huber: Where Huber's loss on log residuals turns linear (Hoffmann et al. use 1e-3); least squares if not given.
        holdout: Share of the distinct scales, from the largest down, that a second fit does without and is judged on;
            0 for none.

    Raises:
        FitError: An unknown law or column, a bad `where`, a table that mixes worlds, a frame of a store that has lost
            what its columns are, or no group that can be fitted.
    """
    options = Options(level=level, draws=bootstrap, seed=seed, huber=huber, holdout=holdout)
    form = checked(law, (x,) if isinstance(x, str) else tuple(x), options)  # before anything is read
    return _fitted(points(data, x, y, by, where, at, run, se), form, options)


def fit_points(found: Points, law: str = "power", options: Options | None = None) -> Fit:
    """`fit` for points that are already there, e.g. to draw them beside the law.

    Raises:
        FitError: As `fit`.
    """
    options = options or Options()
    return _fitted(found, checked(law, found.x, options), options)


def _fitted(found: Points, law: forms.Law | None, options: Options) -> Fit:
    groups = fit_groups(law, _groups(found), found.x, found.y, options)
    if all(g.error is not None for g in groups):
        if len(groups) == 1:
            raise FitError(str(groups[0].error))
        raise FitError(
            f"None of {len(groups)} groups can be fitted. The first, {dict(groups[0].group)}: {groups[0].error}"
        )
    return Fit(found.x, found.y, tuple(groups))


def checked(law: str, x: Sequence[str], options: Options) -> forms.Law | None:
    """The law, None for `auto`; a FitError for what no table could answer."""
    form = None if law == AUTO else forms.law(law)
    axes, about = (("x",), "of one scale") if form is None else (form.axes, form.formula)
    if len(x) != len(axes):
        raise FitError(
            f"The law {law!r} ({about}) takes {len(axes)} column{'s' * (len(axes) > 1)} of x ({', '.join(axes)}), "
            f"but got {len(x)}: {', '.join(x)}. Name one column for each, in this order."
        )
    level, huber, holdout = options.level, options.huber, options.holdout
    if not (0 < level < 1 and options.draws >= 0):
        raise FitError(f"level lies in (0, 1) and bootstrap is >= 0, but got {level=} and bootstrap={options.draws}.")
    if huber is not None and not huber > 0:
        raise FitError(f"huber is where the loss turns linear, > 0 in log units, but got {huber=:g}. Try 1e-3.")
    if not 0 <= holdout <= 0.9:
        raise FitError(f"holdout is a share of the scales in [0, 0.9], but got {holdout=:g}. Try 0.3, or 0 for none.")
    return form


def _groups(found: Points) -> list[Data]:
    """The points of every group, in the order of the by-columns' values."""
    by = list(found.by)
    frame = found.frame.sort(by, maintain_order=True) if by else found.frame
    x, y = np.stack([numbers(frame, name) for name in found.x]), numbers(frame, found.y)
    runs = _clusters(frame, found)
    errors = {name: numbers(frame, name) for name in {part.se for part in found.parts} if name is not None}
    owner = frame.select(pl.struct(by).rle_id()).to_series().to_numpy() if by else np.zeros(frame.height, np.int64)
    return [
        Data(
            x[:, rows],
            y[rows],
            run=None if part.run is None else runs[part.run][rows],
            se=None if part.se is None else errors[part.se][rows],
            group=part.group,
            details=part.details,
            cluster=part.run or "run",
        )
        for (_, rows), part in zip(_runs_of(owner), found.parts, strict=True)
    ]


def _clusters(frame: pl.DataFrame, found: Points) -> dict[str, np.ndarray[Any, Any]]:
    """A number for each row's cluster, by the column that some group's clusters are told apart by, [rows] each.

    Ranks keep the order of the names, so groups with the same clusters still share their draws; those of two columns
    have no number in common.
    """
    runs, before = {}, 0
    for name in sorted({part.run for part in found.parts if part.run is not None}):
        runs[name] = frame[name].cast(pl.String).fill_null("").rank("dense").to_numpy().astype(np.int64) + before
        before = int(runs[name].max())
    return runs


def _runs_of(owner: np.ndarray[Any, Any]) -> Iterator[tuple[int, slice]]:
    """The value and extent of each stretch of equal values."""
    starts = np.flatnonzero(np.diff(owner, prepend=owner[:1] - 1)) if owner.size else np.zeros(0, np.int64)
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), owner.size], strict=True):
        yield int(owner[start]), slice(start, stop)


def _shown(values: set[str], most: int = 20) -> str:
    listed = sorted(values)
    return f"{listed[:most]}" + (f" and {len(listed) - most} more" if len(listed) > most else "")
