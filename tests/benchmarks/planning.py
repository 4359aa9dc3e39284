"""Planning a million cells: a dict, a JSON text and a hash per cell, against run keys and observed sets.

Run: .venv/bin/python tests/benchmarks/planning.py [--only WORD...]   (writes planning.json; asserts nothing)
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

WORLD = {"kind": "gaussian", "dim": 8, "classes": 4}
RUNS = {"seed": 50, "lr": 20, "n_train": 20, "momentum": 10, "width": 5}  # 10^6 runs
CELLS = {"seed": 50, "lr": 10, "width": 2, "steps": 100, "k": 10}  # 10^3 runs, 10^6 cells


def grid(sizes: dict[str, int]) -> dict[str, Any]:
    full = {
        "seed": {"range": sizes.get("seed", 0)},
        "lr": {"geom": [1e-4, 1.0, sizes.get("lr", 2)]},
        "n_train": {"range": [64, 64 + sizes.get("n_train", 0)]},
        "momentum": {"linear": [0.0, 0.9, sizes.get("momentum", 2)]},
        "width": {"range": [16, 16 + sizes.get("width", 0)]},
        "steps": {"range": [1, 1 + sizes.get("steps", 0)]},
        "k": {"range": [1, 1 + sizes.get("k", 0)]},
    }
    return {name: full[name] for name in sizes}


def naive(sizes: dict[str, int]) -> dict[str, Any]:
    """A dict, a JSON text and a SHA-256 per cell; packs by a dict of shapes."""
    values = [[round(i * 0.01, 6) if name in ("lr", "momentum") else i for i in range(n)] for name, n in sizes.items()]
    fixed = {"world": WORLD, "experiment": "classifier", "version": 1}
    packs: dict[Any, list[str]] = {}
    for cell in itertools.product(*values):
        config = {**fixed, **dict(zip(sizes, cell, strict=True))}
        key = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        packs.setdefault(config["width"], []).append(key)
    return {"cells": sum(map(len, packs.values())), "packs": len(packs)}


def ours(sizes: dict[str, int], lanes: int | None = None) -> dict[str, Any]:
    """A sweep through `make_plan` to the list of packs, in an empty store."""
    from raysweep.plan import make_plan
    from raysweep.store import Store
    from raysweep.sweep import from_mapping

    raw = {"name": "b", "experiment": "classifier", "world": WORLD, "grid": grid(sizes)}
    raw["resources"] = {"memory_gib": 64} | ({"lanes": lanes} if lanes else {})
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(from_mapping(raw), Store(folder), slots=2)
        packs = list(plan.packs())
    return {"cells": plan.runs.cells, "runs": len(plan.runs), "packs": len(packs)}


def function(sizes: dict[str, int]) -> dict[str, Any]:
    """A plain function's sweep: every run is a pack of its own."""
    from raysweep.plan import make_plan
    from raysweep.store import Store
    from raysweep.sweep import from_mapping

    raw = {"name": "b", "experiment": "planning:naive", "grid": grid(sizes)}
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(from_mapping(raw, folders=[Path(__file__).parent]), Store(folder), slots=2)
        packs = sum(1 for _ in plan.packs())
    return {"cells": plan.runs.cells, "runs": len(plan.runs), "packs": packs}


def resume(sizes: dict[str, int]) -> dict[str, Any]:
    """Planning what is left in a store that holds half of the cells, in 500 parts (written by another process)."""
    from raysweep.plan import make_plan
    from raysweep.store import Store
    from raysweep.sweep import from_mapping

    raw = {"name": "b", "experiment": "classifier", "world": WORLD, "grid": grid(sizes)}
    sweep = from_mapping(raw | {"resources": {"memory_gib": 64}})
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, f"fill {json.dumps(sizes)} {folder}"], check=True)
        start = time.process_time()
        plan = make_plan(sweep, Store(folder), slots=2)
        packs = sum(1 for _ in plan.packs())
        spent = time.process_time() - start
    return {"cells": plan.runs.cells, "runs": len(plan.runs), "packs": packs, "plan_cpu_seconds": round(spent, 2)}


def finish(sizes: dict[str, int], parts: int) -> dict[str, Any]:
    """The end of a run: every cell is done, with random metrics, in so many parts; `cells.parquet` is written."""
    from raysweep.ledger.log import CELLS, Ledger
    from raysweep.store import Store
    from raysweep.sweep import from_mapping

    raw = {"name": "b", "experiment": "classifier", "world": WORLD, "grid": grid(sizes)}
    sweep = from_mapping(raw | {"resources": {"memory_gib": 64}})
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, f"fill {json.dumps(sizes)} {folder} {parts}"], check=True)
        ledger, start, began = Ledger(Store(folder)), time.perf_counter(), time.process_time()
        left = ledger.pending(sweep.runs).cells
        scan = ledger.compact()
        spent, seconds = time.process_time() - began, time.perf_counter() - start
        size = os.path.getsize(Path(folder) / CELLS)
    assert left == 0
    assert len(scan.table) == sweep.runs.cells
    return {
        "cells": sweep.runs.cells,
        "runs": len(sweep.runs),
        "packs": parts,
        "finish_seconds": round(seconds, 1),
        "finish_cpu_seconds": round(spent, 1),
        "cells_parquet_mib": round(size / 2**20, 1),
    }


def fill(sizes: dict[str, int], folder: str, parts: str = "") -> None:
    """Write the first half of a grid's cells as done; all of them, with metrics, if a number of parts is given."""
    import numpy as np
    import pyarrow as pa

    from raysweep.ledger.log import Ledger, sequence
    from raysweep.ledger.rows import Stamp, failure_rows, row_schema
    from raysweep.store import Store
    from raysweep.sweep import from_mapping

    sweep = from_mapping({"name": "b", "experiment": "classifier", "world": WORLD, "grid": grid(sizes)})
    schema, numbers, ledger = row_schema(sweep.experiment), sequence(), Ledger(Store(folder))
    there, random = np.arange(len(sweep.runs) if parts else len(sweep.runs) // 2), np.random.default_rng(0)
    for index in np.array_split(there, int(parts or 500)):
        rows = failure_rows(sweep.runs.take(index), schema, Stamp("p", 1, "cpu"), "ok", "")
        for i, field in enumerate(schema if parts else ()):
            if pa.types.is_float64(field.type) and rows.column(i).null_count:  # a metric
                rows = rows.set_column(i, field, pa.array(random.random(len(rows))))
        ledger.append(rows, next(numbers))


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "runs/naive": lambda: naive(RUNS),
    "runs/ours": lambda: ours(RUNS),
    "runs/ours, 64 lanes a pack": lambda: ours(RUNS, 64),
    "runs/ours, seed: {range: 1000000}": lambda: ours({"seed": 10**6}),
    "cells/naive": lambda: naive(CELLS),
    "cells/ours": lambda: ours(CELLS),
    "10^7 runs/ours": lambda: ours(RUNS | {"seed": 500}),
    "10^7 runs/ours, half done": lambda: resume(RUNS | {"seed": 500}),
    "10^7 cells of 10^6 runs/ours": lambda: ours(RUNS | {"k": 10}),
    "10^7 cells of 10^6 runs/ours, half done": lambda: resume(RUNS | {"k": 10}),
    "finish/ours, 10^7 cells in 10^4 parts": lambda: finish(RUNS | {"k": 10}, 10_000),
    "finish/ours, 10^4 parts of a cell": lambda: finish({"seed": 200, "lr": 50}, 10_000),
    "function/ours, 10^5 runs": lambda: function({"seed": 5000, "lr": 20}),
}


def measure(case: str) -> dict[str, Any]:
    """One case in this process: wall seconds (imports apart) and peak memory."""
    import_start = time.perf_counter()
    if "ours" in case:
        import raysweep.experiments.classifier
        import raysweep.plan  # noqa: F401
    start = time.perf_counter()
    found = CASES[case]()
    seconds = time.perf_counter() - start
    cpu = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        **found,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 2),  # of the process, imports included
        "load": round(os.getloadavg()[0], 1),
        "import_seconds": round(start - import_start, 3),
        "peak_mib": round(peak, 1),
    }


def main() -> None:
    path = Path(__file__).with_suffix(".json")
    results = json.loads(path.read_text())["results"] if sys.argv[1:] else {}
    for case in [c for c in CASES if all(word in c for word in sys.argv[2:])]:
        command = [sys.executable, __file__, case]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        results[case] = json.loads(done.stdout)
    print(f"{'case':36}{'cells':>12}{'packs':>9}{'seconds':>9}{'MiB':>8}{'naive / ours':>14}")
    for case, found in results.items():
        base = results.get(f"{case.split('/')[0]}/naive")
        found["speedup"] = round(base["seconds"] / found["seconds"], 2) if base else None
        ratio = f"{found['speedup']:.2f}" if base else ""
        print(
            f"{case:36}{found['cells']:12,}{found['packs']:9,}{found['seconds']:9.2f}{found['peak_mib']:8.0f}{ratio:>14}"
        )
    where = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "device": "cpu",
        "versions": {p: version(p) for p in ("numpy", "pyarrow", "pydantic", "raysweep")},
    }
    path.write_text(json.dumps({**where, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("fill "):
        sizes, _, places = sys.argv[1].removeprefix("fill ").partition("} ")
        fill(json.loads(sizes + "}"), *places.split(" "))
    elif sys.argv[1:] and sys.argv[1] != "--only":
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
