"""What a scan of the ledger found, and what it leaves to be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.grid.runs import KEY_LENGTH, Runs
from raysweep.ledger.remaining import locate, subtract

__all__ = ["Scan"]


@dataclass(frozen=True)
class Scan:
    """The result of a scan.

    Attributes:
        table: One row per cell with every column of any part, in no particular order.
        skipped: (file, reason) of each file in the ledger's folder that is torn or foreign, or holds values that
            contradict the other parts'.
        parts: How many parts were read.
        landed: [rows] when each row's part came to the store, in seconds by the store's clock; 0 where it keeps none.
    """

    table: pa.Table
    skipped: tuple[tuple[str, str], ...]
    parts: int
    landed: npt.NDArray[np.float64]

    def of(self, parts: Sequence[Runs]) -> Scan:
        """The scan without the rows of other runs than these."""
        if not len(self.table) or sum(runs.cells for runs in parts) * 4 > len(self.table):
            return self  # most of it stays
        keys = pa.array(np.concatenate([runs.keys for runs in parts])).cast(pa.string())
        run = pc.utf8_slice_codeunits(self.table.column("cell"), 0, KEY_LENGTH)
        of = pc.is_in(run, keys)
        return replace(self, table=self.table.filter(of), landed=self.landed[of.to_numpy()])

    def cells(self, *status: str) -> pa.ChunkedArray:
        """The keys of the cells of any of these statuses."""
        wanted = pc.is_in(self.table.column("status"), pa.array(status, pa.string()))
        cells = self.table.column("cell")
        return cells if pc.all(wanted).as_py() else cells.filter(wanted)

    def pending(self, runs: Runs, skip_failed: bool = False, retry_diverged: bool = False) -> Runs:
        """The runs with cells not done, each asked only for those cells.

        Done is ok or diverged. Failed cells are pending again unless `skip_failed`; diverged ones only if
        `retry_diverged`. Skipped cells (refused by theory or budget) are done.
        """
        if not len(self.table):
            return runs
        done = ["ok", "skipped"] + ["diverged"] * (not retry_diverged) + ["failed"] * skip_failed
        return subtract(runs, self.cells(*done))

    def partly_done(self, runs: Runs) -> set[str]:
        """The keys of those of these runs that have finished cells."""
        at = (
            locate(runs, self.cells("ok", "diverged", "skipped")) if len(self.table) and len(runs) else np.zeros(0, int)
        )
        return {bytes(key).decode() for key in runs.keys[np.unique(at[at >= 0])].tolist()}

    def attempts(self, runs: Runs) -> npt.NDArray[np.int32]:
        """[n] the highest attempt recorded of each run, 0 where there is none."""
        found = np.zeros(len(runs), dtype=np.int32)
        if len(self.table) and len(runs):
            at = locate(runs, self.table.column("cell"))
            attempt = pc.fill_null(pc.cast(self.table.column("attempt"), pa.int32()), 0).to_numpy()
            np.maximum.at(found, at[at >= 0], attempt[at >= 0])
        return found
