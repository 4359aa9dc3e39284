"""A look at a store of many parts: the first, the next after a few more parts, and what reading whole parts would take.

Run: .venv/bin/python tests/benchmarks/status.py [PARTS]   (writes status.json beside itself; asserts nothing)
The store is a local folder; "30 ms a request" is the same folder with a wait before each read and listing, as a model
of S3 from another region. Parts hold 32 cells of `classifier`, as a pack of one run does. Writing is not timed.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

GRID = {
    "n_train": 32,
    "width": 4,
    "steps": [1, 2, 4, 8, 16, 32, 64, 128],
    "k": [1, 10, 100, 1000],
    "batch": 16,
    "pool": 512,
}
DELAY = 0.03
MORE = 20  # parts between two looks


def main(parts: int) -> None:
    import numpy as np

    from raysweep import store as module
    from raysweep.ledger.log import Ledger, sequence
    from raysweep.ledger.rows import Stamp, failure_rows, row_schema
    from raysweep.progress import Progress
    from raysweep.run import open_store
    from raysweep.status import Seen, status
    from raysweep.store import Store
    from raysweep.sweep import from_mapping

    results: dict[str, Any] = {}

    def measure(case: str, work: Callable[[], Any]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        results[case] = {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2)}
        print(f"{case:52}{wall:9.2f} s{cpu:9.2f} s of CPU", flush=True)

    grid = {**GRID, "seed": {"range": parts + 2 * MORE}}
    world = {"kind": "gaussian", "dim": 4, "classes": 3}
    sweep = from_mapping({"name": "b", "experiment": "classifier", "world": world, "grid": grid})
    schema, numbers = row_schema(sweep.experiment), sequence()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        open_store(store, sweep, Progress(lambda: sys.stderr))
        ledger, made = Ledger(store), 0

        def add(count: int) -> None:
            nonlocal made
            for i in range(made, made + count):
                rows = failure_rows(sweep.runs.take(np.array([i])), schema, Stamp(f"p{i}", 1, "cpu"), "ok", "")
                ledger.append(rows, next(numbers))
            made += count

        real, os.fsync = os.fsync, lambda descriptor: None  # making the store is not what is measured
        add(parts)
        size = sum(f.stat().st_size for f in (Path(folder) / "ledger").iterdir())
        seen = Seen()
        measure("first look", lambda: status(store, seen))
        add(MORE)
        measure(f"next look, {MORE} new parts", lambda: status(store, seen))
        far = _Far(store)
        for name in ("read", "list"):
            setattr(module.Store, name, far.delayed(getattr(module.Store, name)))
        seen = Seen()
        for threads, local in ((8, True), (32, False)):
            far.pretend(module.Store, local)
            seen = Seen()
            measure(f"first look, 30 ms a request, {threads} threads", lambda: status(store, seen))  # noqa: B023
        far.on = False
        add(MORE)
        far.on = True
        measure(f"next look, 30 ms a request, {MORE} new parts", lambda: status(store, seen))
        far.on = False
        measure("every column of every part (compact)", lambda: ledger.scan())
        os.fsync = real
    where = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"tests/benchmarks/status.py {parts}",
        "parts": parts,
        "cells_per_part": 32,
        "bytes_per_part": size // parts,
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "load_average_at_end": [round(x, 1) for x in os.getloadavg()],
        "versions": {p: version(p) for p in ("pyarrow", "numpy", "raysweep")},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps({**where, "results": results}, indent=1) + "\n")


class _Far:
    """A store far away."""

    def __init__(self, store: Any) -> None:
        self.on = True

    def delayed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def later(*arguments: Any) -> Any:
            if self.on:
                time.sleep(DELAY)
            return method(*arguments)

        return later

    def pretend(self, store: Any, local: bool) -> None:
        store.is_local = property(lambda _: local)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
