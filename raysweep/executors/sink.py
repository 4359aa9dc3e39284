"""Where a pack's rows go: stamped, counted, and in the ledger at most 30 s after they were measured."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from raysweep.executors.runlog import RunLog
from raysweep.experiment import Outbox
from raysweep.grid.runs import Runs
from raysweep.ledger.causes import alike, cause
from raysweep.ledger.log import Ledger, sequence
from raysweep.ledger.remaining import subtract
from raysweep.ledger.rows import STATUSES, Counts, Stamp, failure_rows, stamp
from raysweep.store import UnreachableError

__all__ = ["Sink"]


class _Health(Protocol):
    begun: int
    spoilt: bool


class Sink:
    """The rows of one pack. A separate thread flushes them, however long the experiment takes to produce its next row.

    Args:
        schema: `row_schema(experiment)`.
        outbox: Where a user's function puts rows.
        health: Health of this process, where it can be replaced by a fresh one.
        on_failure: Called with the reason of each failure that counts.
        sure: Causes of failure that count in any process.
        on_rows: Called with the rows that count, stamped.
    """

    def __init__(
        self,
        ledger: Ledger,
        runs: Runs,
        schema: pa.Schema,
        by: Stamp,
        outbox: Outbox,
        health: _Health | None,
        on_failure: Callable[[str], None],
        sure: Collection[str] = (),
        on_rows: Callable[[pa.Table], None] = lambda rows: None,
    ) -> None:
        self._ledger, self._runs, self._schema, self._by, self._outbox = ledger, runs, schema, by, outbox
        self._health, self._on_failure, self._sure = health, on_failure, frozenset(sure)
        self._on_rows = on_rows
        self._numbers = sequence()
        self._waiting: list[pa.Table] = []
        self._seen: list[pa.ChunkedArray] = []
        self._counts = Counts()
        self._logs: list[RunLog] = []
        self._lock = threading.RLock()
        self._started = self._flushed = time.monotonic()
        self.doubtful: set[str] = set()  # runs whose failure does not count yet

    def take(self, batch: pa.RecordBatch) -> None:
        """Add an experiment's batch."""
        with self._lock:
            by = replace(self._by, seconds=time.monotonic() - self._started)
            self._add(stamp(batch, self._runs, self._schema, by))

    def _add(self, rows: pa.Table) -> None:
        if not len(rows):
            return
        self._seen.append(rows.column("cell"))
        if self._health is not None and self._health.begun > 1:  # the first run of a process can only blame itself
            failed = pa.array(
                state == "failed" and alike(cause(str(error))) not in self._sure
                for state, error in zip(
                    rows.column("status").to_pylist(), rows.column("error").to_pylist(), strict=True
                )
            )
            if pc.any(failed).as_py():
                self.doubtful.update(rows.column("run").filter(failed).to_pylist())
                rows = rows.filter(pc.invert(failed))
                if not len(rows):
                    return
        self._waiting.append(rows)
        self._on_rows(rows)
        failed = rows.filter(pc.equal(rows.column("status"), "failed"))
        if len(failed):
            firsts = failed.group_by("run").aggregate([("error", "min")])
            for reason in firsts.column("error_min").to_pylist():
                self._on_failure(str(reason))
        found = {v["values"]: v["counts"] for v in pc.value_counts(rows.column("status")).to_pylist()}
        self._counts += Counts(*(found.get(s, 0) for s in STATUSES))

    def counted(self) -> Counts | None:
        """Cells that came since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counts()
        return counts if counts.total else None

    def watch(self, log: RunLog) -> None:
        """Save a run's log from time to time, too."""
        with self._lock:
            self._logs = [log]

    def finish(self, reason: str) -> bool:
        """Mark the cells without a row as failed; returns whether there were none."""
        with self._lock:
            self._drain()
            done = [cell for chunk in self._seen for cell in chunk.to_pylist()]
            if len(set(done)) >= self._runs.cells:
                return not self.doubtful
            missing = subtract(self._runs, done)
            by = replace(self._by, seconds=time.monotonic() - self._started)
            self._add(failure_rows(missing, self._schema, by, "failed", reason))
            return False

    def flush(self, patience: float | None = None, held: bool = False) -> None:
        """Write all rows to the ledger.

        Args:
            patience: As in `Ledger.append`.
            held: Include rows that may still be taken back.

        Raises:
            LedgerError: rows cannot be written; they are kept for the next flush.
        """
        with self._lock:
            if held:
                self._outbox.release()
            self._drain()
            if self._waiting:
                rows = pa.concat_tables(self._waiting, promote_options="permissive")
                self._ledger.append(rows, next(self._numbers), patience)
                self._waiting.clear()
            self._flushed = time.monotonic()

    def _drain(self) -> None:
        for batch in self._outbox.drain():
            self.take(batch)

    @contextlib.contextmanager
    def regularly(self, seconds: float) -> Iterator[None]:
        """Flush every `seconds`, and at the end, even if the pack is stopped halfway."""
        stop = threading.Event()

        def keep() -> None:
            while not stop.wait(seconds / 6):
                if time.monotonic() - self._flushed < seconds * 5 / 6:
                    continue
                # The store is away, or a batch is wrong: the pack itself will meet it.
                with contextlib.suppress(Exception):
                    with contextlib.suppress(UnreachableError):
                        self.flush(patience=0.0, held=True)
                    self._flushed = time.monotonic()
                    for log in self._logs:
                        log.keep()

        thread = threading.Thread(target=keep, daemon=True, name="raysweep-flush")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.flush()
