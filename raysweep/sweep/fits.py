"""The fits of a sweep file against its columns, before anything is spent on their data."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from raysweep.errors import SweepError, nearest
from raysweep.experiment import Experiment
from raysweep.grid.axes import Axis
from raysweep.laws.request import FitRequest, RequestError
from raysweep.ledger.rows import STAMPS
from raysweep.sweep.schema import FitSpec

__all__ = ["check_fits"]

_CLOSE = 0.7  # share of letters in common from which a name is taken for a misspelt one
_TEXT = re.compile("'(?:[^']|'')*'")
_NAME = re.compile(r'"([^"]+)"|\b([A-Za-z_]\w*)\b(?!\s*\()')  # not the name of a SQL function
_SQL = {"and", "or", "not", "in", "is", "null", "between", "like", "true", "false"}


def check_fits(fits: Sequence[FitSpec], axes: Mapping[str, Axis], experiment: Experiment) -> list[str]:
    """Notes on columns that are probably misspelt, where that is not certain: the metrics of a plain function are known
    when it returns them, and a condition may name any column of the ledger.

    Raises:
        SweepError: A fit cannot be made: it contradicts itself, or names what is neither an axis nor a metric.
    """
    metrics = {metric.name for metric in experiment.metrics}
    columns = {*axes, *metrics, "flops", "flops_eval", "seconds"}
    notes = []
    for i, spec in enumerate(fits):
        try:
            asked = spec.request
            if asked.window is not None and metrics:
                asked.window.require(columns)
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


def _measured(asked: FitRequest) -> Iterator[tuple[str, str]]:
    yield from (("x", name) for name in asked.x)
    yield "y", asked.y
    if asked.se:
        yield "se", asked.se
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
