"""What snapshot evaluation costs in a default sweep: the demo's widest pack as it is, and evaluated in full each time.

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
from raysweep.experiments.held_out import HeldOut
from raysweep.oracle.recipe import folder_of
from raysweep.oracle.world import load_world
from raysweep.store import Store
from raysweep.sweep import load_sweep

ROOT = Path(__file__).parent.parent.parent


def seconds(overrides: list[str]) -> tuple[float, float]:
    """Seconds of a whole pack without its start-up: (training and all, evaluation)."""
    sweep = load_sweep(ROOT / "sweeps/demo.yaml", ["width=64", *overrides])
    assert sweep.file.world is not None
    world = load_world(Store(str(ROOT / "results/demo")), folder_of(sweep.file.world))
    spent = 0.0
    plain = HeldOut.measure

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal spent
        begin = time.perf_counter()
        found = plain(*args, **kwargs)
        spent += time.perf_counter() - begin
        return found

    HeldOut.measure = timed  # type: ignore[method-assign]
    try:
        rows = sweep.experiment.run(sweep.runs, Context(world=world))
        next(rows)
        start, spent = time.perf_counter(), 0.0
        for _ in rows:
            pass
        return time.perf_counter() - start, spent
    finally:
        HeldOut.measure = plain  # type: ignore[method-assign]


def main() -> None:
    torch.set_num_threads(1)
    ways = {"as it is": [], "all items at every snapshot": ["eval_share=0"]}
    found = {name: [seconds(overrides) for _ in range(2)] for name, overrides in ways.items()}
    shares = {name: float(np.median([e / (whole - e) for whole, e in times])) for name, times in found.items()}
    for name, times in found.items():
        told = ", ".join(f"{e:.2f} of {whole:.2f} s" for whole, e in times)
        print(f"{name:30}{told}   evaluation {100 * shares[name]:5.1f} % of training")
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "device": "cpu, one thread",
        "versions": {p: version(p) for p in ("torch", "numpy", "raysweep")},
        "whole_and_evaluation_s": found,
        "evaluation_over_training": shares,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
