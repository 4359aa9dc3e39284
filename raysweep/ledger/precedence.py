"""Precedence: which of several rows of a cell counts.

A run keeps the rows of one training: where it was trained several times from its start, the training with the most
finished cells, then the later attempt. Among the rows of a cell, ok comes before diverged before failed before skipped,
then the later attempt, then the first part name; clocks do not matter. Within one training, a failure recorded for a
cell after its value, at the same attempt, revokes the value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.ledger.remaining import marks, run_marks
from raysweep.ledger.rows import STATUSES

__all__ = ["best_rows"]

_TRAINING = "training_id"  # set for a user's function, which need not give the same numbers twice
_MIX = np.uint64(0x9E3779B97F4A7C15)


def best_rows(table: pa.Table) -> npt.NDArray[np.bool_] | None:
    """[rows] whether a row is the one to keep of its cell; None where all are. Among equal rows the first is kept.

    A mask, because Arrow filters chunk by chunk, but takes positions only from one combined chunk.

    Args:
        table: Columns cell, status, attempt, and training_id where there is one; sorted by part name.
    """
    cell = marks(table.column("cell"))
    order = np.argsort(cell)
    equal = cell[order[1:]] == cell[order[:-1]]
    held = _trainings(table)
    if held is not None:
        return _of_trainings(table, cell, held)
    if not equal.any():
        return None
    maybe = np.zeros(len(table), dtype=bool)  # few rows: the others are surely the only ones of their cells
    maybe[order[np.append(equal, False) | np.append(False, equal)]] = True
    keep = ~maybe
    keep[np.flatnonzero(maybe)[_first_of_each(_only(table, maybe))]] = True
    return keep


def _only(table: pa.Table, rows: npt.NDArray[np.bool_]) -> pa.Table:
    return table.select(["cell", "status", "attempt"]).filter(pa.array(rows))


def _first_of_each(rows: pa.Table) -> npt.NDArray[np.int64]:
    """The row that counts for each cell, among these rows."""
    cells = rows.column("cell").cast(pa.large_string()).combine_chunks()
    cell = pc.dictionary_encode(cells).indices.to_numpy(zero_copy_only=False)
    order = np.lexsort((-_attempts(rows), _status(rows), cell))  # stable: rows are sorted by part name
    first = np.ones(len(order), dtype=bool)
    first[1:] = cell[order][1:] != cell[order][:-1]
    return np.asarray(order[first])


def _status(rows: pa.Table) -> npt.NDArray[Any]:
    """[rows] the place of each status in the order of precedence."""
    return np.asarray(pc.index_in(rows.column("status"), pa.array(STATUSES)).to_numpy(zero_copy_only=False))


def _attempts(rows: pa.Table) -> npt.NDArray[np.int64]:
    return np.asarray(pc.fill_null(pc.cast(rows.column("attempt"), pa.int64()), 0).to_numpy())


def _trainings(table: pa.Table) -> npt.NDArray[np.uint64] | None:
    """[rows] a number for each row's training, 0 where it has none; None where it cannot matter."""
    if _TRAINING not in table.schema.names or table.column(_TRAINING).null_count == len(table):
        return None
    code = pc.dictionary_encode(pc.fill_null(table.column(_TRAINING), "").combine_chunks())
    words = np.random.default_rng(1).integers(1, 2**64, len(code.dictionary), dtype=np.uint64)
    words[[i for i, name in enumerate(code.dictionary.to_pylist()) if name == ""]] = 0
    return np.asarray(words[code.indices.to_numpy()])


def _of_trainings(
    table: pa.Table, cell: npt.NDArray[np.uint64], training: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_] | None:
    status, attempt = _status(table), _attempts(table)
    failed = status == STATUSES.index("failed")
    # A later failure of the same attempt revokes the value it had recorded.
    tries = cell * _MIX + training + attempt.astype(np.uint64)
    void = ~failed & (training > 0) & np.isin(tries, tries[failed])
    run = run_marks(table.column("cell"))
    done = ~failed & ~void
    keep = ~void
    of_run, where = np.unique(run[done], return_inverse=True)
    if len(of_run):
        pair = np.unique(np.stack([where.astype(np.uint64), training[done]]), axis=1)
        if pair.shape[1] > len(of_run):  # some run has finished rows of several trainings
            keep &= failed | np.isin(run * _MIX + training, _chosen(cell, run, training, attempt, done))
    best = np.zeros(len(table), dtype=bool)
    best[np.flatnonzero(keep)[_first_of_each(_only(table, keep))]] = True
    return None if best.all() else best


def _chosen(
    cell: npt.NDArray[np.uint64],
    run: npt.NDArray[np.uint64],
    training: npt.NDArray[np.uint64],
    attempt: npt.NDArray[np.int64],
    done: npt.NDArray[np.bool_],
) -> npt.NDArray[np.uint64]:
    """The marks (run, training) of each run's training that counts."""
    at = np.flatnonzero(done)
    mark = run[at] * _MIX + training[at]
    pairs, first, inverse = np.unique(mark, return_index=True, return_inverse=True)
    cells = np.unique(np.stack([inverse.astype(np.uint64), cell[at]]), axis=1)[0]
    count = np.bincount(cells.astype(np.int64), minlength=len(pairs))
    latest = np.zeros(len(pairs), dtype=np.int64)
    np.maximum.at(latest, inverse, attempt[at])
    of = run[at][first]
    order = np.lexsort((training[at][first], -latest, -count, of))
    head = np.ones(len(order), dtype=bool)
    head[1:] = of[order][1:] != of[order][:-1]
    return np.asarray(pairs[order[head]])
