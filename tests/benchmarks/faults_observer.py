"""Watches a ledger from a process of its own, by pyarrow alone, and at the end says what of what it saw is missing.

python faults_observer.py STORE STOP OUT     # until the file STOP exists; then a last look, written to OUT
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from toy_experiment import steady_loss

from raysweep.errors import LedgerError
from raysweep.store import TEMPORARY, Store

FOLDER = "ledger"
Cell = tuple[int, int]


def parse(data: bytes) -> list[dict[str, Any]]:
    return pq.read_table(io.BytesIO(data), columns=["cell", "run_id", "epoch", "status", "loss"]).to_pylist()


class Seen:
    """All that was ever seen finished."""

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}  # name -> sha256
        self.times: list[float] = []
        self.cells: dict[Cell, tuple[str, float]] = {}  # -> key, value
        self.finished: dict[Cell, float] = {}  # -> when
        self.torn: dict[str, str] = {}
        self.half: set[str] = set()  # what was ever seen torn: this server shows an object while it is written
        self.outages = self.looks = self.rows = 0

    def look(self, store: Store) -> None:
        names = [name for name, _ in store.list(FOLDER)]
        self.looks += 1
        for name in names:
            if name in self.parts:
                continue
            data = store.read(f"{FOLDER}/{name}")
            try:
                rows = parse(data)
            except Exception as error:
                self.torn[name] = str(error)
                self.half.add(name)
                continue
            self.torn.pop(name, None)
            now = time.time()
            self.parts[name] = hashlib.sha256(data).hexdigest()
            self.times.append(now)
            for row in rows:
                if row["status"] == "ok":
                    self.rows += 1
                    cell = (row["run_id"], row["epoch"])
                    self.cells.setdefault(cell, (row["cell"], row["loss"]))
                    self.finished.setdefault(cell, now)


def verdict(store: Store, seen: Seen) -> dict[str, Any]:
    """Every part read again and compared with what was seen; the compacted table against both."""
    again = Seen()
    again.look(store)
    lost_parts = [n for n, sha in seen.parts.items() if again.parts.get(n) != sha]
    table = pq.read_table(io.BytesIO(store.read("cells.parquet")))
    rows = table.to_pylist()
    kept = {(r["run_id"], r["epoch"]): (r["cell"], r["loss"]) for r in rows if r["status"] == "ok"}
    scratch = [name for name in _raw(store) if name.startswith(TEMPORARY)]
    return {
        "parts": len(again.parts),
        "cells_seen_finished": len(seen.cells),
        "cells_in_table": len(kept),
        "looks": seen.looks,
        "looks_that_failed": seen.outages,
        "lost_or_changed_parts": len(lost_parts),
        "lost_finished_cells": sum(kept.get(c) != v for c, v in seen.cells.items()),
        "wrong_values": sum(loss != steady_loss(*cell) for cell, (_, loss) in kept.items()),
        "duplicates_after_scan": len(rows) - len({r["cell"] for r in rows}),
        "torn_files": len(again.torn),
        "seen_half_written": len(seen.half - set(again.torn)),
        "temporaries_left": len(scratch),
        "rows_written_more_than_once": again.rows - len(again.cells),
        "grid": sorted(kept),
    }


def _raw(store: Store) -> list[str]:
    """Names in the ledger's folder as they are, unfinished ones too; on an object store there are no such."""
    return [p.name for p in Path(store.path(FOLDER)).iterdir()] if store.is_local else []


def main(uri: str, stop: str, out: str) -> None:
    store, seen = Store(uri), Seen()
    while not Path(stop).exists():
        try:
            seen.look(store)
        except LedgerError:
            seen.outages += 1
        time.sleep(0.5)
    found = verdict(store, seen)
    finished = [[*cell, when] for cell, when in seen.finished.items()]
    Path(out).write_text(json.dumps({**found, "finished": finished, "part_times": seen.times}))


if __name__ == "__main__":
    main(*sys.argv[1:])
