"""Theory beside measurement: what an experiment expects of its metrics, and how far measurements deviate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from raysweep.errors import FitError, SweepError
from raysweep.experiment import Experiment, TheoryExperiment
from raysweep.grid.axes import Axis
from raysweep.grid.values import Value
from raysweep.laws.definition import Array
from raysweep.laws.notes import group_name
from raysweep.laws.points import Part, Points
from raysweep.laws.source import condition, numbers

__all__ = ["REASON", "Agreement", "agreements", "sentences", "theory_name", "with_theory"]

REASON = "theory_reason"
_UNREAD = "no fit reads this row"
_LISTED = 6  # groups that get a sentence each
_FEWEST = 5  # clusters that an interval needs
_DRAWS = 1000
_HELD = 2**22  # weights at a time


def theory_name(metric: str) -> str:
    """The column of the expected value of a metric."""
    return f"{metric}_theory"


def with_theory(
    table: pa.Table,
    experiment: Experiment | None,
    metrics: Collection[str],
    wheres: Collection[tuple[str | None, str | None]] = ((None, None),),
) -> pa.Table:
    """A ledger's table with a column `<metric>_theory` for each of these metrics that the experiment has a theory of,
    and `theory_reason`, which says why a row has none. A table of an experiment without a theory comes back as it is.

    Args:
        wheres: The condition and the scale of each fit; None is no condition, which keeps all. A setting is computed
            where a condition keeps a row that differs from it in nothing but the scale, for a figure shows all data.

    Raises:
        FitError: the experiment's theory raised, or returned no such columns.
    """
    if not isinstance(experiment, TheoryExperiment):
        return table
    wanted = {metric.name for metric in experiment.metrics} & {*metrics}
    if not wanted:
        return table
    axes = [axis.name for axis in experiment.axes if axis.role != "seed" and axis.name in table.column_names]
    if not len(read := _read(table, wheres, axes)):
        return table
    settings = read.select(axes).group_by(axes).aggregate([])  # without seeds: few compared with the rows
    possible = _possible(settings, experiment)
    try:
        asked = settings.filter(possible)
        known = _checked(experiment.theory(asked, wanted), len(asked), wanted)
        rows = np.where(possible.to_numpy(zero_copy_only=False), np.cumsum(possible) - 1, len(asked))
        outside = pl.DataFrame({REASON: ["an axis has a value that it cannot have"]})
        expected = pl.concat([known, outside], how="diagonal")[rows]
        if taken := sorted({*expected.columns} & {*table.column_names}):
            raise ValueError(f"the ledger has columns {', '.join(taken)} of its own")
    except (Exception, SystemExit) as error:  # a user's code
        raise FitError(f"theory of {experiment.name}: {type(error).__name__}: {error}") from error
    keyed = pl.DataFrame(pl.from_arrow(settings)).hstack(expected).with_columns(_asked=True)
    joined = pl.DataFrame(pl.from_arrow(table.select(axes))).join(
        keyed, on=axes, how="left", nulls_equal=True, maintain_order="left"
    )
    joined = joined.with_columns(
        pl.when(pl.col("_asked").is_null()).then(pl.lit(_UNREAD)).otherwise(REASON).alias(REASON)
    )
    for name in expected.columns:
        table = table.append_column(name, joined[name].to_arrow())
    return table


def _read(table: pa.Table, wheres: Collection[tuple[str | None, str | None]], axes: Sequence[str]) -> pa.Table:
    """The rows that any of the conditions keeps, and those that differ from one in the scale alone; an invalid
    condition, which its fit reports, keeps all.
    """
    rows = pl.DataFrame(pl.from_arrow(table))
    read = pl.repeat(False, rows.height, eager=True)
    for where, scale in wheres:
        if where is None:
            return table
        try:
            kept = rows.filter(condition(where, rows.schema))
        except (FitError, pl.exceptions.PolarsError):
            return table
        others = [name for name in axes if name != scale]
        if not others:
            read = read | bool(kept.height)
            continue
        mark = kept.select(others).unique().with_columns(_kept=True)
        joined = rows.select(others).join(mark, on=others, how="left", nulls_equal=True, maintain_order="left")
        read = read | joined["_kept"].fill_null(False)
    return table.filter(read.to_arrow())


def _possible(settings: pa.Table, experiment: Experiment) -> pa.BooleanArray:
    """A mask of the rows with values that their axes allow: a store may come from anybody, and sizes cost memory."""
    good = np.ones(len(settings), dtype=bool)
    for axis in experiment.axes:
        if axis.name in settings.column_names:
            values = settings[axis.name].to_pylist()
            allowed = {value: _allowed(axis, value) for value in set(values)}
            good &= np.array([allowed[value] for value in values], dtype=bool)
    return pa.array(good)


def _allowed(axis: Axis, value: Value | None) -> bool:
    try:
        return value is None or axis.parse(value, "theory") is not None
    except SweepError:
        return False


def _checked(found: object, rows: int, metrics: set[str]) -> pl.DataFrame:
    """A theory's results as columns of a ledger: floats, null where there is no finite number, and reasons."""
    if not isinstance(found, pa.Table) or len(found) != rows or "reason" not in found.column_names:
        raise ValueError("it must return a table of as many rows with a column `reason`")
    names = [name for name in found.column_names if name in metrics or name == "reason"]
    if len(set(names)) < len(names):
        raise ValueError(f"its columns must have distinct names, but are {', '.join(found.column_names)}")
    reason = found["reason"]
    if not (pa.types.is_null(reason.type) or pa.types.is_string(reason.type) or pa.types.is_large_string(reason.type)):
        raise ValueError(f"its column `reason` must hold text, but holds {reason.type}")
    columns = {}
    for name in names:
        column = found[name]
        if name == "reason":
            columns[REASON] = pl.Series(column.cast(pa.large_string()))
        elif pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type):
            number = pl.Series(column.cast(pa.float64()))
            columns[theory_name(name)] = number.set(~number.is_finite(), None)
        else:
            raise ValueError(f"its column {name} must hold numbers, but holds {column.type}")
    return pl.DataFrame(columns)


@dataclass(frozen=True)
class Agreement:
    """How far the rows of one group deviate from the theory.

    Attributes:
        group: Values of the columns that identify the group.
        window: Smallest and largest x of rows with a theory; None if there are none.
        rows: Number of rows with a theory.
        clusters: Number of independent clusters among them.
        cluster: What identifies clusters: `run`, or a column.
        ratio: Median of measured / expected over those rows.
        interval: 95 % bootstrap interval of it over clusters; None with fewer than five of them.
        mean: Mean of measured / expected, which is 1 for a theory of expectations.
        farthest: The x whose median ratio is farthest from 1, and that ratio.
        without: Number of rows without a theory, or without a ratio to it.
        reasons: Why.
    """

    group: Mapping[str, Any]
    window: tuple[float, float] | None
    rows: int = 0
    clusters: int = 0
    cluster: str = "run"
    ratio: float = float("nan")
    interval: tuple[float, float] | None = None
    mean: float = float("nan")
    farthest: tuple[float, float] = (float("nan"), float("nan"))
    without: int = 0
    reasons: tuple[str, ...] = ()


def agreements(points: Points) -> list[Agreement]:
    """One for each group of some points that carry `<y>_theory` and `theory_reason`, in the order of their values."""
    return [_agreement(points, part) for part in points.parts]


def _agreement(points: Points, part: Part) -> Agreement:
    group, (x,) = part.group, points.x
    rows = points.of(group).filter(pl.col(REASON).ne_missing(_UNREAD))
    expected = theory_name(points.y)
    known = rows.filter(pl.col(expected).is_not_null())
    reasons = set(rows.filter(pl.col(expected).is_null())[REASON].drop_nulls())
    usable = known.filter((pl.col(expected) > 0) & (pl.col(points.y) > 0))
    if usable.height < known.height:
        reasons.add("a ratio takes numbers above 0")
    without = rows.height - usable.height
    if usable.is_empty():
        return Agreement(group, None, cluster=part.cluster, without=without, reasons=tuple(sorted(reasons)))
    logs = np.log(numbers(usable, points.y) / numbers(usable, expected))
    at = numbers(usable, x)
    cluster = usable[part.run].rank("dense").to_numpy() - 1 if part.run else np.arange(usable.height)
    by_x = usable.select(x).with_columns(_log=pl.Series(logs)).group_by(x).agg(pl.col("_log").median()).sort(x)
    worst = by_x.row(int(by_x["_log"].abs().arg_max() or 0))
    return Agreement(
        group,
        window=(float(at.min()), float(at.max())),
        rows=usable.height,
        clusters=len(np.unique(cluster)),
        cluster=part.cluster,
        ratio=float(np.exp(np.median(logs))),
        interval=_interval(logs, cluster.astype(np.int64)),
        mean=float(np.exp(logs).mean()),
        farthest=(float(worst[0]), float(np.exp(worst[1]))),
        without=without,
        reasons=tuple(sorted(reasons)),
    )


def _interval(logs: Array, cluster: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[float, float] | None:
    """The interval of exp(median), by a bootstrap over clusters."""
    count = int(cluster.max()) + 1
    if count < _FEWEST:
        return None
    order = np.argsort(logs, kind="stable")
    logs, cluster = logs[order], cluster[order]
    rng, medians = np.random.default_rng(0), []
    chunk = max(1, _HELD // logs.size)
    for start in range(0, _DRAWS, chunk):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(chunk, _DRAWS - start))
        reached = np.cumsum(drawn[:, cluster], axis=1)
        medians.append(logs[(reached >= reached[:, -1:] / 2).argmax(axis=1)])
    low, high = np.exp(np.quantile(np.concatenate(medians), [0.025, 0.975]))
    return float(low), float(high)


def sentences(points: Points, found: Sequence[Agreement]) -> list[str]:
    """How theory and measurement compare, in words: each of few groups, or the range over many."""
    compared = [one for one in found if one.window is not None]
    said = []
    if len(compared) > _LISTED:
        low, high = min(compared, key=lambda one: one.ratio), max(compared, key=lambda one: one.ratio)
        worst = max(compared, key=lambda one: abs(np.log(one.farthest[1])))
        said.append(
            f"theory of {points.y} in {points.x[0]}: medians of measured / expected lie between {low.ratio:.3g} "
            f"({group_name(low.group)}) and {high.ratio:.3g} ({group_name(high.group)}) in {len(compared)} groups; "
            f"largest deviation {worst.farthest[1]:.3g} at {points.x[0]} = {worst.farthest[0]:.6g} "
            f"({group_name(worst.group)})"
        )
    else:
        said += [_sentence(points, one) for one in compared]
    lacking: dict[tuple[str, ...], int] = {}
    for one in found:
        if one.without:
            lacking[one.reasons] = lacking.get(one.reasons, 0) + one.without
    said += [
        f"theory of {points.y} in {points.x[0]}: none for {count:,} rows: {'; '.join(reasons) or 'no reason given'}"
        for reasons, count in lacking.items()
    ]
    return said


def _sentence(points: Points, one: Agreement) -> str:
    assert one.window is not None
    name = f" ({group_name(one.group)})" if one.group else ""
    span = f" [{one.interval[0]:.3g}, {one.interval[1]:.3g}]" if one.interval else ""
    unit = "runs" if one.cluster == "run" else f"clusters by {one.cluster}"
    x = points.x[0]
    return (
        f"theory of {points.y}{name}: measured / expected {one.ratio:.3g}{span}, the median of {one.rows:,} rows of "
        f"{one.clusters:,} {unit}, {x} {one.window[0]:.6g} to {one.window[1]:.6g}; largest deviation "
        f"{one.farthest[1]:.3g} at {x} = {one.farthest[0]:.6g}"
    )
