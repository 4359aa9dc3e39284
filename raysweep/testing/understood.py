"""Checks of how the ledger and fits treat the axes, and of an experiment's theory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raysweep.errors import SweepError
from raysweep.experiment import TheoryExperiment, display_of
from raysweep.grid.axes import KindBy
from raysweep.grid.values import Value
from raysweep.laws.column import of_schema, of_text
from raysweep.laws.points import points
from raysweep.laws.request import FitRequest
from raysweep.ledger.log import Ledger, sequence
from raysweep.ledger.rows import COLUMNS
from raysweep.testing.trial import Trial, is_number, is_text, numbers, ok_rows

__all__ = ["display", "kind", "theory"]

_ALONE = 4  # cells that a theory is also asked for alone


def display(trial: Trial) -> Iterator[str]:
    """Check how the experiment is shown."""
    try:
        display_of(trial.experiment)
    except SweepError as error:
        yield str(error)


def kind(trial: Trial) -> Iterator[str]:
    """Check the kinds of axes that the ledger records, and how a fit treats them."""
    ledger, part = Ledger(trial.store), sequence()
    for read in trial.whole:
        ledger.append(read.rows, next(part))
    table = ledger.scan().table
    if COLUMNS not in table.schema.names:
        return  # no row has a valid status, which `rows` reports
    runs = trial.sweep.runs
    cells = {runs.key(i): runs.row(i) for i in range(len(runs))}
    text = str(table[COLUMNS][0].as_py())
    for columns in (of_schema(table.schema), of_text(text)):
        for name, axis in trial.sweep.axes.items():
            by, chosen = (axis.kind.axis, axis.kind.kinds) if isinstance(axis.kind, KindBy) else ("", {})
            tried: list[Mapping[str, Any]] = [*cells.values(), *({by: value} for value in chosen)]
            wrong = (cell for cell in tried if columns[name].kind_for(cell) != axis.kind_for(cell))
            for cell in itertools.islice(wrong, 1):
                yield (
                    f"the ledger must say what kind an axis is in each cell, but calls {name} "
                    f"{columns[name].kind_for(cell)} where it is {axis.kind_for(cell)}, at "
                    f"{ {by: cell[by]} if by in cell else dict(cell) }. Declare the kind by a word or a KindBy"
                )
    yield from _pooled(trial, table, cells)


def _pooled(trial: Trial, table: pa.Table, cells: Mapping[str, Mapping[str, Value]]) -> Iterator[str]:
    """Fit without naming any axis: each group may hold only one value of every axis, except seeds and axes that are
    observed in its runs.
    """
    ok = ok_rows(table)
    if not len(ok):
        return  # no run ends ok, which `rows` reports
    ok = ok.append_column("contract_x", pa.array(np.ones(len(ok))))
    ok = ok.append_column("contract_y", pa.array(np.arange(1.0, len(ok) + 1)))  # differs in every row
    fitted = points(ok, FitRequest(("contract_x",), "contract_y"))
    for part in fitted.parts:
        rows = fitted.of(part.group)
        for name, axis in trial.sweep.axes.items():
            if axis.role == "seed" or name not in rows.columns:
                continue
            owners = zip(rows[name].to_list(), rows["run"].to_list(), strict=True)
            pooled = {value for value, run in owners if axis.kind_for(cells[run]) != "observed"}
            if len(pooled) > 1:
                yield (
                    f"a fit that does not name {name} must keep its values apart where it is no "
                    f"observed axis, but pools {sorted(map(str, pooled))}. Give the axis its kind in every cell"
                )
                return


def theory(trial: Trial) -> Iterator[str]:
    """Ask the theory for all cells; for the same cells shuffled and repeated, for half of them, for single ones and for
    none; and for each metric alone. Metrics are asked for as a set, as reports do, and once as a list.
    """
    if not isinstance(trial.experiment, TheoryExperiment):
        return
    names = [axis.name for axis in trial.experiment.axes if axis.role != "seed"]
    rows = pa.concat_tables([read.rows.select(names) for read in trial.whole])
    metrics = [metric.name for metric in trial.experiment.metrics]
    cells = rows.group_by(names, use_threads=False).aggregate([]).select(names)
    whole = trial.experiment.theory(cells, set(metrics))
    if wrong := list(_answered(whole, len(cells), metrics)):
        yield from wrong
        return
    if more := sorted(set(whole.schema.names) - {*metrics, "reason"}):
        yield (
            f"a theory's columns must be named as metrics or `reason`, but {', '.join(more)} is none. A name that no "
            "metric has is never used"
        )
    valued, reasoned = _filled(whole, metrics)
    if (both := valued & reasoned).any():
        yield (
            f"a row's reason must be null where every metric of the theory has a value, but {both.sum()} of "
            f"{len(cells)} rows have both, e.g. row {int(np.argmax(both))}. Give a reason only where a value is null"
        )
    random = np.random.default_rng(0)
    order = random.permutation(np.tile(np.arange(len(cells)), 2))
    asked = {"they are shuffled and repeated": order, "half of them are asked for": order[: len(order) // 4]}
    for i in np.unique(np.linspace(0, len(cells) - 1, _ALONE).astype(int)).tolist():
        asked[f"cell {i} is asked for alone"] = np.array([i])
    asked["none is asked for"] = order[:0]
    for when, index in asked.items():
        part = trial.experiment.theory(cells.take(pa.array(index, pa.int64())), metrics)
        if wrong := list(_answered(part, len(index), metrics)):
            yield from (f"where {when}: {said}" for said in wrong)
        elif changed := [name for name in metrics if not _same(whole, part, name, index)]:
            yield (
                f"a cell's theory must not depend on the other cells, but {', '.join(changed)} changes when {when}. "
                "Compute each row from its own axes"
            )
    everything = np.arange(len(cells))
    for name in set(metrics) & set(whole.schema.names):
        alone = trial.experiment.theory(cells, {name})
        if wrong := list(_answered(alone, len(cells), [name])):
            yield from (f"where only {name} is asked for: {said}" for said in wrong)
        elif not _same(whole, alone, name, everything):
            yield (
                f"a metric's theory must not depend on the other metrics asked for, but {name} changes when it is "
                "asked for alone. Compute each metric that is in `metrics`"
            )


def _same(whole: pa.Table, part: pa.Table, name: str, index: npt.NDArray[np.int64]) -> bool:
    """Whether a part of the cells has the values of all of them."""
    given = [name in table.schema.names for table in (whole, part)]
    if not all(given):
        return not any(given)
    return np.allclose(numbers(whole, name)[index], numbers(part, name), rtol=1e-9, atol=0, equal_nan=True)


def _answered(found: Any, rows: int, metrics: Sequence[str]) -> Iterator[str]:
    """The errors in a theory's answers."""
    if not isinstance(found, pa.Table) or len(found) != rows or "reason" not in found.schema.names:
        size = f"{len(found)} rows of {found.schema.names}" if isinstance(found, pa.Table) else repr(type(found))
        yield f"theory() must return a table of {rows} rows with a column `reason`, but returns {size}"
        return
    types = {name: found.schema.field(name).type for name in found.schema.names}
    wrong = [f"{name} is returned as {types[name]}" for name in metrics if not is_number(types.get(name, pa.null()))]
    if wrong:
        yield f"a theory's values must be numbers or null, but {', '.join(wrong)}"
    if not (pa.types.is_null(types["reason"]) or is_text(types["reason"])):
        yield f"a theory's reasons must be text or null, but are returned as {types['reason']}"
    if wrong:
        return
    valued, reasoned = _filled(found, metrics)
    silent = ~valued & ~reasoned
    if silent.any():
        yield (
            f"every row must have a value or a reason, but {silent.sum()} of {rows} have neither, e.g. row "
            f"{int(np.argmax(silent))}. Say in `reason` why there is no value"
        )


def _filled(found: pa.Table, metrics: Sequence[str]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """[rows] whether every metric that a theory has is a number, and whether there is a reason."""
    values = [np.isfinite(numbers(found, name)) for name in metrics if name in found.schema.names]
    valued = np.all(values, axis=0) if values else np.zeros(len(found), dtype=bool)
    return valued, np.array([bool(reason) for reason in found["reason"].to_pylist()], dtype=bool)
