"""Checks of how the ledger and fits treat the axes, and of an experiment's theory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raysweep.experiment import TheoryExperiment
from raysweep.grid.axes import KindBy
from raysweep.grid.values import Value
from raysweep.laws.column import of_schema, of_text
from raysweep.laws.points import points
from raysweep.laws.request import FitRequest
from raysweep.ledger.log import Ledger, sequence
from raysweep.ledger.rows import COLUMNS
from raysweep.testing.trial import Trial, numbers, ok_rows

__all__ = ["kind", "theory"]


def kind(trial: Trial) -> Iterator[str]:
    """Check the kinds of axes that the ledger records, and how a fit treats them."""
    ledger, part = Ledger(trial.store), sequence()
    for read in trial.whole:
        ledger.append(read.rows, next(part))
    table = ledger.scan().table
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
    """Ask the theory for all cells, for the same cells shuffled and repeated, and for none."""
    if not isinstance(trial.experiment, TheoryExperiment):
        return
    names = [axis.name for axis in trial.experiment.axes if axis.role != "seed"]
    cells = pa.concat_tables([read.rows.select(names) for read in trial.whole])
    metrics = [metric.name for metric in trial.experiment.metrics]
    order = np.random.default_rng(0).permutation(np.tile(np.arange(len(cells)), 2))
    whole = trial.experiment.theory(cells, metrics)
    yield from _answered(whole, len(cells), metrics)
    mixed = trial.experiment.theory(cells.take(pa.array(order)), metrics)
    for said in _answered(mixed, len(order), metrics):
        yield f"for shuffled and repeated cells: {said}"
    if len(mixed) == len(order) and len(whole) == len(cells):
        for name in set(metrics) & set(whole.schema.names) & set(mixed.schema.names):
            one, other = numbers(whole, name)[order], numbers(mixed, name)
            if not np.allclose(one, other, rtol=1e-9, atol=0, equal_nan=True):
                yield (f"a cell's theory must not depend on the other cells, but {name} changes when they are shuffled")
    for said in _answered(trial.experiment.theory(cells.slice(0, 0), metrics), 0, metrics):
        yield f"for no cells: {said}"


def _answered(found: Any, rows: int, metrics: Sequence[str]) -> Iterator[str]:
    """The errors in a theory's answers."""
    if not isinstance(found, pa.Table) or len(found) != rows or "reason" not in found.schema.names:
        size = f"{len(found)} rows of {found.schema.names}" if isinstance(found, pa.Table) else repr(type(found))
        yield f"theory() must return a table of {rows} rows with a column `reason`, but returns {size}"
        return
    values = [np.isfinite(numbers(found, name)) for name in metrics if name in found.schema.names]
    reasoned = np.array([bool(reason) for reason in found["reason"].to_pylist()], dtype=bool)
    silent = ~(np.all(values, axis=0) if values else np.zeros(rows, dtype=bool)) & ~reasoned
    if silent.any():
        yield (
            f"every row must have a value or a reason, but {silent.sum()} of {rows} have neither, e.g. row "
            f"{int(np.argmax(silent))}. Say in `reason` why there is no value"
        )
