"""Exporting 1,000 runs: batches of MLflow and whole event files, against a call for each value.

Run: .venv/bin/python tests/benchmarks/export.py [RUNS]   (writes export.json beside itself; asserts nothing)
Then: a second export with nothing new, and one after each run got one more snapshot. MLflow is its file store.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"

STEPS = (10, 30, 100, 300, 1000, 3000)
METRICS = tuple(f"metric_{i}" for i in range(10))


def train(config: dict[str, Any]) -> None:
    """Never run: the ledger is written directly."""


def fill(folder: Path, runs: int, steps: tuple[int, ...]) -> Any:
    """A store with `runs` runs, 10 metrics at each of these times, 100 runs a part."""
    from raysweep.ledger.log import Ledger, sequence
    from raysweep.ledger.rows import Stamp, row_schema, stamp
    from raysweep.progress import Progress
    from raysweep.run import open_store
    from raysweep.store import Store
    from raysweep.sweep import from_mapping

    grid = {"seed": {"range": runs}, "width": 64, "lr": 0.1, "step": list(steps)}
    raw = {"name": "bench", "experiment": "export:train", "observed": ["step"], "grid": grid}
    sweep, store = from_mapping(raw, folders=[Path(__file__).parent]), Store(str(folder))
    open_store(store, sweep, Progress(lambda: sys.stderr))
    rng, schema, numbers = np.random.default_rng(0), row_schema(sweep.experiment), sequence()
    for index in np.array_split(np.arange(runs), max(1, runs // 100)):
        part = sweep.runs.take(index)
        lanes = np.repeat(np.arange(len(index)), len(steps))
        columns: dict[str, Any] = {"lane": pa.array(lanes, pa.int32()), "step": np.tile(steps, len(index))}
        columns |= {m: rng.random(len(lanes)) for m in METRICS}
        rows = stamp(pa.RecordBatch.from_pydict(columns), part, schema, Stamp("pack", 1, "cpu"))
        Ledger(store).append(rows, next(numbers))
    return store


def naive_mlflow(records: list[Any], dest: str) -> int:
    """A request for each parameter, tag and value, as most scripts do."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=dest)
    experiment = client.create_experiment("bench")
    for record in records:
        run = client.create_run(experiment).info.run_id
        for name, value in {**record.params}.items():
            client.log_param(run, name, value)
        for name, value in record.tags.items():
            client.set_tag(run, name, value)
        for point in record.points:
            client.log_metric(run, point.name, point.value, int(point.made * 1000), point.step)
        client.set_terminated(run)
    return sum(len(r.points) for r in records)


def naive_tensorboard(records: list[Any], dest: str) -> int:
    """tensorboardX: a writer with its threads for each run, a call for each value."""
    from tensorboardX import SummaryWriter

    for record in records:
        with SummaryWriter(f"{dest}/{record.run}") as writer:
            for point in record.points:
                writer.add_scalar(point.name, point.value, point.step, point.made)
    return sum(len(r.points) for r in records)


def main(runs: int) -> None:
    from raysweep.export import export
    from raysweep.export.records import read_records

    results: dict[str, Any] = {}

    def measure(case: str, work: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        found = work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        values = getattr(found, "points", found if isinstance(found, int) else None)
        results[case] = {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "values": values}
        print(f"{case:44}{wall:9.2f} s{cpu:9.2f} s of CPU{values if values is not None else '':>10}", flush=True)
        return found

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = fill(root / "store", runs, STEPS[:-1])
        records = measure("read the ledger", lambda: read_records(store)[1])
        for tracker, naive in (("mlflow", naive_mlflow), ("tensorboard", naive_tensorboard)):
            dest = f"file://{root}/{tracker}" if tracker == "mlflow" else str(root / tracker)
            if tracker == "mlflow":
                import mlflow  # noqa: F401  (seconds, and the same for both)
            measure(f"{tracker}/naive", lambda n=naive, d=dest: n(records, f"{d}-naive"))
            measure(f"{tracker}/ours", lambda t=tracker, d=dest: export(store, t, d))
            measure(f"{tracker}/ours, nothing new", lambda t=tracker, d=dest: export(store, t, d))
        store = fill(root / "store", runs, STEPS)
        for tracker in ("mlflow", "tensorboard"):
            dest = f"file://{root}/{tracker}" if tracker == "mlflow" else str(root / tracker)
            measure(f"{tracker}/ours, one more snapshot", lambda t=tracker, d=dest: export(store, t, d))
    where = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"tests/benchmarks/export.py {runs}",
        "runs": runs,
        "metrics": len(METRICS) + 1,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "load_average_at_end": [round(x, 1) for x in os.getloadavg()],
        "versions": {p: version(p) for p in ("mlflow-skinny", "tensorboard", "tensorboardX", "pyarrow", "raysweep")},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps({**where, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
