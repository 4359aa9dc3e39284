"""What snapshot evaluation costs in a default sweep: the demo's widest pack as it is, and with the least evaluation.

Run: .venv/bin/python tests/benchmarks/evaluation.py   (writes evaluation.json beside itself; asserts nothing)
The world of the demo is made first if results/demo does not hold it: run `make demo` before.
"""

from __future__ import annotations

import json
import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raysweep.experiment import Context
from raysweep.oracle.recipe import folder_of
from raysweep.oracle.world import load_world
from raysweep.store import Store
from raysweep.sweep import load_sweep

ROOT = Path(__file__).parent.parent.parent


def seconds(overrides: list[str]) -> float:
    """From the first snapshot's row to the last one's: training and evaluation, start-up left out."""
    sweep = load_sweep(ROOT / "sweeps/demo.yaml", ["width=64", *overrides])
    assert sweep.file.world is not None
    world = load_world(Store(str(ROOT / "results/demo")), folder_of(sweep.file.world))
    rows = sweep.experiment.run(sweep.runs, Context(world=world))
    next(rows)
    start = time.perf_counter()
    for _ in rows:
        pass
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    ways = {
        "as it is": [],
        "all items at every snapshot": ["eval_share=0"],
        "least: 16 items": ["eval_items=16", "select_items=16"],
    }
    found = {name: [seconds(overrides) for _ in range(3)] for name, overrides in ways.items()}
    median = {name: float(np.median(times)) for name, times in found.items()}
    training = median["least: 16 items"]
    shares = {name: value / training - 1 for name, value in median.items()}
    for name, value in median.items():
        print(f"{name:30}{value:8.2f} s   evaluation {100 * shares[name]:5.1f} % of training")
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "device": "cpu, one thread",
        "versions": {p: version(p) for p in ("torch", "numpy", "raysweep")},
        "seconds": found,
        "median": median,
        "evaluation_over_training": shares,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
