"""The fits of a sweep file against its columns, before anything is spent on their data."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from raysweep.errors import SweepError, nearest
from raysweep.experiment import Experiment
from raysweep.grid.axes import Axis
from raysweep.grid.terms import Term
from raysweep.grid.values import NULL
from raysweep.laws.request import FitRequest, RequestError
from raysweep.laws.window import Window, crossed
from raysweep.ledger.rows import STAMPS
from raysweep.sweep.schema import FitSpec

__all__ = ["check_fits"]

_MOST = 100_000  # settings of a grid at which a window is computed
_CLOSE = 0.7  # share of letters in common from which a name is taken for a misspelt one
_TEXT = re.compile("'(?:[^']|'')*'")
_NAME = re.compile(r'"([^"]+)"|\b([A-Za-z_]\w*)\b(?!\s*\()')  # not the name of a SQL function
_SQL = {"and", "or", "not", "in", "is", "null", "between", "like", "true", "false"}


def check_fits(
    fits: Sequence[FitSpec], axes: Mapping[str, Axis], experiment: Experiment, terms: Sequence[Term] = ()
) -> list[str]:
    """Notes on what is probably wrong, where that is not certain: the metrics of a plain function are known when it
    returns them, and a condition may name any column of the ledger, and leave out any row.

    Args:
        terms: The grid, at whose settings windows are computed.

    Raises:
        SweepError: A fit cannot be made: it contradicts itself, names what is neither an axis nor a metric, or its
            window has no value, or is empty, at the settings of the grid.
    """
    metrics = {metric.name for metric in experiment.metrics}
    columns = {*axes, *metrics, "flops", "flops_eval", "seconds"}
    notes = []
    for i, spec in enumerate(fits):
        try:
            asked = spec.request
            if asked.window is not None and metrics:
                asked.window.require(columns)
            if asked.window is not None:
                notes += _at_settings(f"fit.{i}.window", asked.window, asked.where, terms, axes)
        except RequestError as error:
            raise SweepError(f"fit.{i}.{error.key}: {error.rule}") from error
        for key, name in _measured(asked):
            if metrics and name not in columns:
                raise SweepError(
                    f"fit.{i}.{key}: must be an axis or a metric, but got {name!r}. {nearest(name, columns)}"
                )
            notes += _doubt(f"fit.{i}.{key}", name, columns, axes)
        for name in asked.by:
            if name not in axes:
                raise SweepError(f"fit.{i}.by: must name axes, but got {name!r}. {nearest(name, axes)}")
        for name in _names(asked.where or ""):
            notes += _doubt(f"fit.{i}.where", name, {*columns, *STAMPS}, {*axes, *metrics})
    return notes


def _at_settings(
    place: str, window: Window, where: str | None, terms: Sequence[Term], axes: Mapping[str, Axis]
) -> list[str]:
    """A note on a bound that has no value at some setting of a grid, which a condition may leave out.

    Raises:
        RequestError: There is such a bound and no condition; or low exceeds high at every setting.
    """
    for end, other in (("low", "high"), ("high", "low")):
        if getattr(window, end) is None or not {*window.needs(end)} <= {*axes}:
            continue
        try:
            replace(window, **{other: None}).bounds(_settings(terms, window.needs(end), axes))
        except RequestError as error:
            if where is None:
                raise
            if {*_names(where)}.isdisjoint(window.needs(end)):
                return [f"{place}: the fit fails unless where leaves such rows out: {error.rule}"]
            return []
    if window.low is None or window.high is None or not window.names or not {*window.names} <= {*axes}:
        return []
    settings = _settings(terms, window.names, axes)
    low, high = np.broadcast_arrays(*window.bounds(settings))
    if low.size and crossed(low, high).all():
        at = ", ".join(f"{name}={values[0]!r}" for name, values in settings.items())
        raise RequestError(
            "window",
            f"low must not exceed high, but does so at every setting of the grid: at {at}, low = {low[0]:.6g} and "
            f"high = {high[0]:.6g}. Correct its bounds.",
        )
    return []


def _settings(terms: Sequence[Term], names: Sequence[str], axes: Mapping[str, Axis]) -> dict[str, list[Any]]:
    """The settings of a grid in some axes, as columns: None where a cell lacks an axis; none of too many."""
    found: dict[tuple[Any, ...], None] = {}
    for term in terms:
        given = {name for table in term for name in table.names}
        leads = [name if name in given else axes[name].follows or name for name in names]
        tables = [(mine, table) for table in term if (mine := [n for n in dict.fromkeys(leads) if n in table.names])]
        rows = [dict.fromkeys(table.project(mine)) for mine, table in tables]
        if len(found) + math.prod(map(len, rows)) > _MOST:
            return {name: [] for name in names}
        order = [name for mine, _ in tables for name in mine]
        for parts in itertools.product(*rows):
            cell = dict(zip(order, itertools.chain(*parts), strict=True))
            values = (cell.get(lead, axes[lead].default) for lead in leads)
            found[tuple(None if value == NULL else value for value in values)] = None
    return {name: [setting[i] for setting in found] for i, name in enumerate(names)}


def _measured(asked: FitRequest) -> Iterator[tuple[str, str]]:
    yield from (("x", name) for name in asked.x)
    yield "y", asked.y
    if asked.metric:
        yield "metric", asked.metric
    if asked.se:
        yield "se", asked.se
    yield from (("x_se", name) for name in asked.x_se)
    if asked.window is not None:
        yield from (("window", name) for name in asked.window.names)


def _names(condition: str) -> Iterator[str]:
    """The columns that a SQL condition names."""
    for quoted, bare in _NAME.findall(_TEXT.sub(" ", condition)):
        if quoted or bare.lower() not in _SQL:
            yield quoted or bare


def _doubt(key: str, name: str, columns: set[str], likely: Iterable[str]) -> list[str]:
    close = [] if name in columns else difflib.get_close_matches(name[:200], sorted(likely), 1, _CLOSE)
    return [f"{key}: {name!r} is no axis; the fit fails unless it is a metric. Did you mean {c!r}?" for c in close]
