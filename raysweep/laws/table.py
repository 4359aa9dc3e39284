"""Tables in, fitted laws out. This file and what makes `points` know Polars; what they call to fit is NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from raysweep.errors import FitError
from raysweep.laws.constraint import Constraints
from raysweep.laws.coupled import fit_coupled
from raysweep.laws.fitting import fit_groups
from raysweep.laws.group import Data
from raysweep.laws.notes import group_name
from raysweep.laws.own import FORMULA
from raysweep.laws.points import Points, points
from raysweep.laws.prior import of_mapping
from raysweep.laws.request import FitRequest, Options
from raysweep.laws.result import Fit, stretches
from raysweep.laws.source import Source, numbers
from raysweep.laws.window import Window

__all__ = ["data_of", "fit", "fit_points"]


def fit(
    data: Source,
    law: str | None = None,
    *,
    x: str | Sequence[str],
    y: str,
    by: str | Sequence[str] = (),
    where: str | None = None,
    window: Window | Mapping[str, Any] | None = None,
    at: str | float = "best",
    run: str | None = None,
    se: str | None = None,
    x_se: str | Sequence[str] = (),
    level: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
    huber: float | None = None,
    holdout: float = 0.3,
    formula: str | None = None,
    positive: str | Sequence[str] = (),
    fix: Mapping[str, float] | None = None,
    tie: Mapping[str, str] | None = None,
    bound: Mapping[str, Sequence[float | None]] | None = None,
    shared: str | Sequence[str] = (),
    prior: Mapping[str, Sequence[float] | str] | None = None,
    envelope: float | None = None,
) -> Fit:
    """Fit a law y(x) to every group of a table, with bootstrap intervals over independent clusters.

    Args:
        data: A Polars or pandas frame, an Arrow table, or a file: .csv, .json or .jsonl (also as .gz), or .parquet.
            Several paths, or a pattern such as `runs/*.csv`, are one table with the column `file`. A ledger's tables
            say what each column is, by their metadata or by their column `columns`; of any other table only the
            columns named here count.
        law: A key of `LAWS`, `power` if not given; or `auto`, the one-axis law that predicts held-out scales best;
            or `bnsl`, the number of breaks with the least AICc.
        x: Column of the scale, positive; of a law of several axes one column for each, in their order.
        y: Column of the measurement, positive.
        by: Columns whose every combination of values is fitted separately, as if the others did not exist.
        where: A Polars SQL condition on the rows, applied before anything else, e.g. `"width >= 64"`.
        window: Bounds on a scale, each a number or a formula of the other columns of a row, e.g.
            `{"low": 10, "high": "0.1 * width ** alpha"}`. Applied last: it decides neither on groups nor on snapshots.
        at: Which snapshot of a ledger's run counts: `best` on `<y>_select`, `last`, or the one at this time. With
            several axes of time (rounds, and steps within a round) the first declared counts most: `last` is the last
            step of the last round, and a time is refused. An axis of time in x (law `time`) or in `by` is not reduced.
        run: Column that identifies independent clusters of rows. By default a ledger's seed in groups that have three,
            else its runs; rows of a plain table are independent.
        se: Column of the standard error of y from finite evaluation, without which a row does not count; a ledger's own
            is `<y>_se`, in groups whose every row has it.
        x_se: Column of the standard error of x from its measurement, in the units of x; of several scales one column
            for each. Not for a nominal x about which the true one scatters.
        level: Nominal coverage of the intervals.
        bootstrap: Draws; 0 for estimates without intervals.
        seed: Seed of the draws; groups with the same runs share their draws.
        huber: Where Huber's loss on log residuals turns linear (Hoffmann et al. use 1e-3); least squares if not given.
        holdout: Share of the distinct scales, from the largest down, that a second fit does without and is judged on;
            0 for none.
        formula: A law of one's own in place of `law`, such as `"E + A*N**-a"`: see `raysweep.laws.own.own_law`.
        positive: Parameters of the formula that are above 0.
        fix: Values of parameters that are not fitted.
        tie: Parameters that are equal, in pairs.
        bound: The lowest and the highest value of parameters, None for no bound.
        shared: Parameters that are the same in all groups, which are then fitted together.
        prior: Mean and standard deviation of parameters, known beforehand: `{"alpha": (0.5, 0.1)}`. Normal; lognormal
            for amplitudes and others that are positive on the log scale. See `raysweep.laws.prior`.
        envelope: Weight of squared log residuals above the law against those below, in (0, 1): under .5 the law is
            that of the lowest y.

    Raises:
        FitError: An unknown law or column, a bad `where`, a table that mixes worlds, a frame of a store that has lost
            what its columns are, or no group that can be fitted.
    """
    request = FitRequest(
        x=_names(x),
        y=y,
        law=law or ("power" if formula is None else FORMULA),
        by=_names(by),
        where=where,
        at=at,
        run=run,
        se=se,
        x_se=_names(x_se),
        options=Options(level, bootstrap, seed, huber, holdout, envelope),
        window=window if window is None or isinstance(window, Window) else Window.of_mapping(window),
        formula=formula,
        positive=_names(positive),
        constraints=Constraints.of_mappings(fix, tie, bound),
        shared=_names(shared),
        priors=of_mapping(prior),
    )
    return fit_points(points(data, request), request)


def _names(columns: str | Sequence[str]) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(columns)


def fit_points(taken: Points, request: FitRequest) -> Fit:
    """`fit` for points that already exist, e.g. to draw them beside the law.

    Raises:
        FitError: As `fit`.
    """
    form, data, how = request.form, data_of(taken, request.x_se), request.options
    if form is not None and (request.shared or request.priors):
        groups = fit_coupled(form, data, taken.x, taken.y, how, request.shared, request.priors)
    else:
        groups = fit_groups(form, data, taken.x, taken.y, how, request.family)
    if all(g.error is not None for g in groups):
        if len(groups) == 1:
            raise FitError(str(groups[0].error))
        first = f"The first ({group_name(groups[0].group)}): {groups[0].error}"
        raise FitError(f"None of the {len(groups):,} groups could be fitted. {first}")
    return Fit(taken.x, taken.y, tuple(groups))


def data_of(taken: Points, x_se: Sequence[str] = ()) -> list[Data]:
    """The points of every group, in the order of the by-columns' values."""
    by = list(taken.by)
    frame = taken.frame.sort(by, maintain_order=True) if by else taken.frame
    x, y = np.stack([numbers(frame, name) for name in taken.x]), numbers(frame, taken.y)
    of_x = np.stack([numbers(frame, name) for name in x_se]) if x_se else None
    runs = _clusters(frame, taken)
    errors = {name: numbers(frame, name) for name in {part.se for part in taken.parts} if name is not None}
    others = {name: _numbered(frame[name]) for name in taken.others}
    owner = frame.select(pl.struct(by).rle_id()).to_series().to_numpy() if by else np.zeros(frame.height, np.int64)
    return [
        Data(
            x[:, rows],
            y[rows],
            run=None if part.run is None else runs[part.run][rows],
            se=None if part.se is None else errors[part.se][rows],
            group=part.group,
            details=part.details,
            cluster=part.cluster,
            bounds=part.bounds,
            others={name: codes[rows] for name, codes in others.items()},
            x_se=None if of_x is None else of_x[:, rows],
        )
        for rows, part in zip(_stretches(owner, taken), taken.parts, strict=True)
    ]


def _stretches(owner: np.ndarray[Any, Any], taken: Points) -> Iterator[slice]:
    """The rows of each part, of which a window may have left none."""
    known = stretches(owner)
    for part in taken.parts:
        yield slice(0, 0) if part.bounds is not None and not part.bounds.kept else next(known)[1]


def _numbered(column: pl.Series) -> np.ndarray[Any, Any]:
    """A number for each distinct value, [rows], from 1 in the order of their names."""
    return column.cast(pl.String).fill_null("").rank("dense").to_numpy().astype(np.int64)


def _clusters(frame: pl.DataFrame, taken: Points) -> dict[str, np.ndarray[Any, Any]]:
    """A number for each row's cluster, [rows], by each column that identifies the clusters of some group.

    Ranks keep the order of the names, so groups with the same clusters still share their draws; those of two columns
    have no number in common.
    """
    runs, before = {}, 0
    for name in sorted({part.run for part in taken.parts if part.run is not None}):
        runs[name] = _numbered(frame[name]) + before
        before = int(runs[name].max())
    return runs
