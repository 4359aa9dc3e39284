"""Tables in, fitted laws out. Only this file, `points` and `source` know Polars; everything they call is NumPy."""

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
        found = frame.select(cast).join(
            groups.with_columns(cast), on=by, how="left", nulls_equal=True, maintain_order="left"
        )
        return found["_group"].cast(pl.Int64).fill_null(-1).to_numpy()

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
        data: A frame, an Arrow table, or a .csv, .csv.gz or .parquet file, which is read a block at a time. A ledger's
            tables carry the metadata that says what each column is; of any other table only the columns named here
            count.
        law: A key of `LAWS`; or `auto`, the one-axis law that foretells held-out scales best.
        x: Column of the scale, positive; of a law of several axes one column for each, in their order.
        y: Column of the measurement, positive.
        by: Columns whose every combination of values is fitted by itself.
        where: A Polars SQL condition on the rows, applied before anything else, e.g. `"width >= 64"`.
        at: Which snapshot of a ledger's run counts: `best` on `<y>_select`, `last`, or the one at this time. Where x
            has the time axis (law `time`) every snapshot counts.
        run: Column that tells independent clusters of rows apart. By default a ledger's seed if it has three, else its
            runs; rows of a plain table are independent.
        se: Column of the standard error of y from finite evaluation; a ledger's own is `<y>_se`.
        level: Nominal coverage of the intervals.
        bootstrap: Draws; 0 for estimates without intervals.
        seed: Of the draws; groups with the same runs share their draws.
        huber: Where Huber's loss on log residuals turns linear (Hoffmann et al. use 1e-3); least squares if not given.
        holdout: Share of the distinct scales, from the largest down, that a second fit does without and is judged on;
            0 for none.

    Raises:
        FitError: An unknown law or column, a bad `where`, a table that mixes worlds, or no group that can be fitted.
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
    se = None if found.se is None else numbers(frame, found.se)
    run = None
    if found.run is not None:
        # Ranks keep the order of the names, so groups with the same runs still share their draws.
        run = frame[found.run].cast(pl.String).fill_null("").rank("dense").to_numpy()
    owner = frame.select(pl.struct(by).rle_id()).to_series().to_numpy() if by else np.zeros(frame.height, np.int64)
    parts = [rows for _, rows in _runs_of(owner)]
    values = frame.select(by)[[rows.start for rows in parts]].to_dicts() if by else [{}]
    return [
        Data(
            x[:, rows],
            y[rows],
            run=None if run is None else run[rows],
            se=None if se is None else se[rows],
            group=group,
            details=found.details,
            cluster=found.run or "run",
        )
        for rows, group in zip(parts, values, strict=True)
    ]


def _runs_of(owner: np.ndarray[Any, Any]) -> Iterator[tuple[int, slice]]:
    """The value and extent of each stretch of equal values."""
    starts = np.flatnonzero(np.diff(owner, prepend=owner[:1] - 1)) if owner.size else np.zeros(0, np.int64)
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), owner.size], strict=True):
        yield int(owner[start]), slice(start, stop)


def _shown(values: set[str], most: int = 20) -> str:
    listed = sorted(values)
    return f"{listed[:most]}" + (f" and {len(listed) - most} more" if len(listed) > most else "")
