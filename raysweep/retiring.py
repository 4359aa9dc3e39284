"""Successive halving: which candidates are retired at a rung, and how they rank from then on.

Jamieson & Talwalkar 2016 (arXiv 1502.07943). At each rung the best 1 of `eta` of a round's candidates that are left go
on, separately for each setting. Nothing but the scores decides, so that a driver that was killed retires the same ones.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.grid.runs import Runs
from raysweep.ledger.remaining import locate
from raysweep.ledger.rows import Stamp, Status, failure_rows

__all__ = ["ON", "is_retired", "ranked", "retired_at", "retired_rows"]

ON = np.iinfo(np.int64).max  # the rung of a candidate that is not retired
_RETIRED = "retired by halving"  # the beginning of the reason of a retired candidate's rows


def retired_at(scores: npt.NDArray[np.float64], eta: float) -> npt.NDArray[np.int64]:
    """[candidates] the rung at which each candidate of a round is retired, from 0; `ON` where it is at none of them.

    Args:
        scores: [rungs, candidates] low is better, by rows up to each rung; a candidate whose score is not finite is
            retired. Of equal scores the one asked for first is better.
        eta: Of so many candidates that reach a rung, the best one goes on, rounded up.
    """
    found = np.full(scores.shape[1], ON)
    left = np.arange(scores.shape[1])
    for rung, row in enumerate(scores):
        best = left[np.argsort(row[left], kind="stable")][: math.ceil(round(len(left) / eta, 9))]
        on = best[np.isfinite(row[best])]
        found[np.setdiff1d(left, on)] = rung
        left = np.sort(on)
    return found


def ranked(scores: npt.NDArray[np.float64], passed: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """[candidates] ranks in place of scores that were reached at different times: candidates that passed more rungs come
    first, as pruned trials do in Optuna's TPE; infinity stays what it is.

    Args:
        passed: [candidates] rungs that each passed before it was retired; `ON` where it was not.
    """
    rank = np.empty(len(scores))
    rank[np.lexsort((scores, -passed))] = np.arange(len(scores))
    return np.where(np.isfinite(scores), rank, np.inf)


def is_retired(table: pa.Table) -> npt.NDArray[np.bool_]:
    """[rows] whether each is of a cell that a retired candidate did not reach.

    Args:
        table: Columns status and error.
    """
    named = pc.fill_null(pc.starts_with(table.column("error"), _RETIRED), False)
    return np.asarray(pc.and_(pc.equal(table.column("status"), "skipped"), named).to_numpy())


def retired_rows(left: Runs, table: pa.Table, schema: pa.Schema, by: Stamp, where: str) -> pa.Table:
    """A row for each cell that retired candidates no longer reach: `skipped`. Where a run failed, `failed`, so that it
    is tried again whenever failed cells are.

    Args:
        left: The runs of retired candidates, asked for those cells.
        table: The rows so far, with columns cell, status and training_id.
        where: The rung.
    """
    at = locate(left, table.column("cell"))
    failed = np.zeros(len(left), dtype=bool)
    bad = pc.equal(table.column("status"), "failed").to_numpy()
    failed[at[(at >= 0) & bad]] = True
    endings: tuple[tuple[npt.NDArray[np.bool_], Status, str], ...] = (
        (~failed, "skipped", f"{_RETIRED} at {where}"),
        (failed, "failed", f"not trained beyond {where}, as it had failed"),
    )
    parts = [
        failure_rows(left.take(mask), schema, by, status, reason)
        for mask, status, reason in endings
        if mask.any()
    ]
    rows = pa.concat_tables(parts)
    if "training_id" not in table.schema.names:
        return rows
    training = dict(zip(at.tolist(), table.column("training_id").to_pylist(), strict=True))  # one run, one training
    own = [training.get(i) for i in locate(left, rows.column("cell")).tolist()]
    place = rows.schema.get_field_index("training_id")
    return rows.set_column(place, rows.schema.field(place), pa.array(own, pa.string()))
