"""Which rows of a store a condition chooses, what they are and what they cost: for whoever wants to forget them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysweep.laws.source import gather, scan, selected
from raysweep.ledger.rows import STATUSES
from raysweep.predictions import drop_scores, score
from raysweep.store import Store
from raysweep.sweep.current import cells
from raysweep.sweep.stored import stored_runs, stored_sweep

__all__ = ["Chosen", "choose", "drop_statements"]


@dataclass(frozen=True)
class Chosen:
    """The rows that a condition chooses.

    Attributes:
        table: One row per cell, with all columns.
        of: Number of cells among which they were chosen.
        axes: Names of the axes that vary among all of these, those that are observed last.
    """

    table: pa.Table
    of: int
    axes: tuple[str, ...]

    @property
    def share(self) -> float:
        return len(self.table) / max(self.of, 1)

    @property
    def statuses(self) -> dict[str, int]:
        """Cells by status, without zeros."""
        found = {one["values"]: one["counts"] for one in pc.value_counts(self.table.column("status")).to_pylist()}
        return {status: found[status] for status in STATUSES if status in found}

    @property
    def runs(self) -> int:
        return len(pc.unique(self.table.column("run")))

    def spent(self, column: str) -> float:
        """The training that these rows were read off: sum over runs of the largest value of `flops` or `seconds`."""
        if column not in self.table.schema.names or not len(self.table):
            return 0.0
        of_runs = self.table.select(["run", column]).group_by("run").aggregate([(column, "max")])
        return float(pc.sum(of_runs.column(f"{column}_max")).as_py() or 0.0)

    def examples(self, most: int) -> list[dict[str, Any]]:
        """The axes of the first cells, by their keys."""
        rows = self.table.select(["cell", *self.axes]).sort_by("cell").slice(0, most)
        found: list[dict[str, Any]] = rows.drop_columns(["cell"]).to_pylist()
        return found


def choose(store: Store, where: str, rows: str = "current") -> Chosen:
    """The rows that a condition chooses.

    Args:
        where: A Polars SQL condition, as that of a fit; it sees rows of every status.
        rows: As in `sweep.current.cells`.

    Raises:
        FitError: The condition is not valid.
        LedgerError: It is not a store, or holds no rows.
    """
    table, _ = cells(store, rows)
    found, _ = scan(table)
    keys = gather(selected(found, where, (), table).select("cell"))["cell"].to_arrow()
    kept = table.filter(pc.is_in(table.column("cell"), keys.cast(pa.string())))
    return Chosen(kept, len(table), _varying(table))


def _varying(table: pa.Table) -> tuple[str, ...]:
    meta = {field.name: field.metadata or {} for field in table.schema}
    names: Sequence[str] = [name for name, one in meta.items() if one.get(b"role") == b"axis"]
    names = [name for name in names if len(pc.unique(table.column(name))) > 1]
    return tuple(sorted(names, key=lambda name: meta[name].get(b"kind") == b"observed"))


def drop_statements(store: Store) -> None:
    """Delete what was concluded from rows that no longer count, or count again: what tuning chose, the last word of a
    sweep that stops itself, and scores of predictions. The next run concludes the former from the ledger as it is then;
    predictions are scored again at once."""
    for folder in ("tuning", "until"):
        for name, _ in store.list(folder):
            store.delete(f"{folder}/{name}")
    drop_scores(store)
    if (runs := stored_runs(store)) is not None:
        score(store, [fit.request for fit in stored_sweep(store)[0].fit], runs)
