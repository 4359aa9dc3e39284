"""Rank correlations of a table's columns, such as of a measure of complexity with the test error, with intervals.

Kendall's tau-b counts the pairs of rows that both columns order alike, minus those that they order differently; it is
the coefficient of Jiang et al. 2019 (arXiv 1912.02178) for measures that may predict generalisation. Spearman's rho is
the correlation of midranks. Neither changes under a monotone transformation of a column.

Rows of one seed at many widths are not independent. The unit of an interval is therefore the seed, whose rows are drawn
together, or any other column that identifies independent clusters. Where a unit is drawn twice, its copies are not
compared with each other. Columns that are compared share their draws, so that their differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import kendalltau, spearmanr

from raysweep.errors import FitError
from raysweep.laws.definition import Array
from raysweep.laws.draws import Draws
from raysweep.laws.source import Source, gather, numbers, require, scan, selected

__all__ = ["GroupCorrelation", "RankCorrelation", "difference", "rank_correlation", "rank_correlation_of"]

_KINDS = ("kendall", "spearman")
_FEWEST = 100  # draws
_FEWEST_UNITS = 4  # with fewer, most draws repeat one unit
_LAST = 1 - 1e-9  # correlations are transformed by atanh, which has no value at 1


@dataclass(frozen=True)
class RankCorrelation:
    """A rank correlation.

    Attributes:
        value: In [-1, 1].
        interval: Low and high. One without width says that all pairs of rows were ordered alike in every draw; the
            true one is then wider.
        kind: `kendall` or `spearman`.
        rows, units: Numbers of rows and of independent units.
        level: Nominal coverage.
        draws: [draws] of the value; NaN where a draw's x or y was constant.
    """

    value: float
    interval: tuple[float, float]
    kind: str
    rows: int
    units: int
    level: float
    draws: Array = field(repr=False, compare=False)


@dataclass(frozen=True)
class GroupCorrelation:
    """The rank correlations of one group's rows.

    Attributes:
        group: The by-columns' values that single it out.
        y: Column that is to be predicted.
        each: Of each x by its column, or why there is none.
    """

    group: Mapping[str, Any]
    y: str
    each: Mapping[str, RankCorrelation | str]


def rank_correlation(
    data: Source,
    *,
    x: str | Sequence[str],
    y: str,
    by: str | Sequence[str] = (),
    where: str | None = None,
    unit: str | None = "seed",
    kind: Literal["kendall", "spearman"] = "kendall",
    level: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
) -> tuple[GroupCorrelation, ...]:
    """The rank correlation of x and y in every group of a table, with its interval over units.

    Args:
        data: A table; see `laws.fit`. Rows in which x or y is missing or not finite do not count.
        x: Column, or several, whose correlations share their draws.
        y: Column.
        by: Columns each of whose combinations of values is a group.
        where: A condition that rows must meet.
        unit: Column of the independent units; None if every row is one.
        kind: Coefficient.
        level: Nominal coverage.
        bootstrap: Draws, at least 100.
        seed: Seed of the draws.

    Raises:
        FitError: The table has no such column, the condition is invalid, an argument makes no sense, or no group has a
            correlation: then the reason of the first.

    Example:
        >>> table = pl.DataFrame({"width": [1, 2, 3] * 4, "error": [3, 2, 1] * 4, "seed": [0] * 3 + [1] * 3 + [2] * 6})
        >>> rank_correlation(table, x="width", y="error", unit=None)[0].each["width"].value
        -1.0
    """
    names, groups = ((columns,) if isinstance(columns, str) else tuple(columns) for columns in (x, by))
    if not names:
        raise FitError("A rank correlation takes one or more columns as x, but got none. Name them, such as x=['bmd'].")
    rows, _ = scan(data)
    wanted = list(dict.fromkeys([*names, y, *groups, *([unit] if unit else [])]))
    for name in wanted:
        require(rows.collect_schema().names(), name)
    table = gather(selected(rows, where, [*names, y], data).select(wanted))
    parts = table.partition_by(groups, maintain_order=True, as_dict=True) if groups else {(): table}
    found = []
    for key, part in sorted(parts.items(), key=lambda item: str(item[0])):
        each = {name: _of_part(part, name, y, unit, kind, bootstrap, level, seed) for name in names}
        found.append(GroupCorrelation(dict(zip(groups, key, strict=True)), y, each))
    reasons = [one for group in found for one in group.each.values() if isinstance(one, str)]
    if len(reasons) == len(names) * len(found):
        raise FitError(reasons[0] if reasons else "A rank correlation takes rows, but no row is left. Change where.")
    return tuple(found)


def rank_correlation_of(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    unit: npt.ArrayLike | None = None,
    kind: str = "kendall",
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    names: tuple[str, str] = ("x", "y"),
) -> RankCorrelation:
    """The rank correlation of two arrays.

    Args:
        x, y: [rows], finite. Memory grows with the square of their number.
        unit: [rows] the unit of each row; every row is one if not given.
        kind, level, seed: See `rank_correlation`.
        draws: Bootstrap draws.
        names: Of x and y, in messages.

    Raises:
        FitError: An argument makes no sense, x or y is constant, or there are fewer than 4 units.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if kind not in _KINDS or draws < _FEWEST or not 0 < level < 1:
        raise FitError(
            f"A rank correlation is one of {', '.join(_KINDS)}, with at least {_FEWEST} draws and a level in (0, 1), "
            f"but got kind={kind}, bootstrap={draws} and level={level:g}. Give bootstrap=1000 and level=0.95, say."
        )
    if x.ndim != 1 or x.shape != y.shape or not (np.isfinite(x) & np.isfinite(y)).all():
        raise FitError(
            f"A rank correlation takes one finite x and y per row, but got arrays of shapes {x.shape} and {y.shape}, "
            "or values that are not finite. Remove those rows."
        )
    _, own = (None, np.arange(x.size)) if unit is None else np.unique(np.asarray(unit), return_inverse=True)
    units = int(own.max(initial=-1)) + 1
    if units < _FEWEST_UNITS:
        raise FitError(f"A rank correlation's interval needs {_FEWEST_UNITS} units, but there are {units}. Add seeds.")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        name, value = (names[0], x[0] + 0.0) if np.ptp(x) == 0 else (names[1], y[0] + 0.0)  # no -0
        raise FitError(
            f"A rank correlation takes two columns that vary, but {name} is {value:g} in all {x.size} rows: it has a "
            "single value. Choose another column or other rows."
        )
    estimate = float((kendalltau if kind == "kendall" else spearmanr)(x, y).statistic)
    counts = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=draws).astype(np.float64)
    drawn = (_kendall if kind == "kendall" else _spearman)(x, y, own, counts)
    low, high = np.tanh(_interval(_wide(np.array([estimate])), _wide(drawn), units, level))
    interval = min(float(low), estimate), max(float(high), estimate)
    return RankCorrelation(estimate, interval, kind, x.size, units, level, drawn)


def difference(
    first: RankCorrelation, second: RankCorrelation, level: float | None = None
) -> tuple[float, tuple[float, float]]:
    """How much larger the first correlation's size is than the second's, |r_1| - |r_2|, and its interval.

    Args:
        first, second: Of the same rows and units, with the same seed: their draws are paired.
        level: Nominal coverage; that of the first if not given.

    Raises:
        FitError: They have different numbers of units or draws.
    """
    if first.units != second.units or first.draws.shape != second.draws.shape:
        raise FitError(
            "Two correlations are compared draw by draw, but they have "
            f"{first.units} and {second.units} units, {len(first.draws)} and {len(second.draws)} draws. Take the same "
            "rows."
        )
    value = np.array([abs(first.value) - abs(second.value)])
    drawn = np.abs(first.draws) - np.abs(second.draws)
    low, high = _interval(value, drawn, first.units, first.level if level is None else level)
    return float(value[0]), (float(low), float(high))


def _of_part(
    rows: pl.DataFrame, x: str, y: str, unit: str | None, kind: str, draws: int, level: float, seed: int
) -> RankCorrelation | str:
    one, two = numbers(rows, x), numbers(rows, y)
    usual = np.isfinite(one) & np.isfinite(two)
    own = None if unit is None else rows[unit].cast(pl.String).fill_null("").to_numpy()[usual]
    try:
        return rank_correlation_of(one[usual], two[usual], own, kind, draws, level, seed, (x, y))
    except FitError as error:
        return str(error)


def _kendall(x: Array, y: Array, own: npt.NDArray[np.int64], counts: Array) -> Array:
    """[draws] tau-b: sums over pairs are quadratic forms in how often a draw takes each unit, counts [draws, units]."""
    units = counts.shape[1]
    of_x, of_y = (np.sign(v[:, None] - v) for v in (x, y))
    order = np.argsort(own, kind="stable")
    starts = np.searchsorted(own[order], np.arange(units))

    def drawn(pairs: Array) -> Array:
        blocks = np.add.reduceat(np.add.reduceat(pairs[np.ix_(order, order)], starts, axis=0), starts, axis=1)
        inside = blocks.diagonal().copy()
        np.fill_diagonal(blocks, 0.0)
        return np.asarray(((counts @ blocks) * counts).sum(axis=1) + counts @ inside)

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(drawn(of_x * of_y) / np.sqrt(drawn(np.abs(of_x)) * drawn(np.abs(of_y))))


def _spearman(x: Array, y: Array, own: npt.NDArray[np.int64], counts: Array) -> Array:
    """[draws] rho: the correlation of midranks among a draw's rows."""
    weights = counts[:, own]
    ranks = [weights @ ((v[:, None] < v) + 0.5 * (v[:, None] == v)) for v in (x, y)]
    one, two = (r - (weights * r).sum(axis=1, keepdims=True) / weights.sum(axis=1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.sqrt((weights * one**2).sum(axis=1) * (weights * two**2).sum(axis=1))
        return np.asarray((weights * one * two).sum(axis=1) / size)


def _wide(correlations: Array) -> Array:
    return np.arctanh(np.clip(correlations, -_LAST, _LAST))


def _interval(value: Array, drawn: Array, units: int, level: float) -> Array:
    """Low and high of a value [1] with draws over so many units."""
    usual = drawn[np.isfinite(drawn)][:, None]
    return Draws(value, usual, units - 1, np.sqrt(units / (units - 1))).interval_of(lambda v: v[..., 0], level)
