"""A sweep of random features from an empty store to its report, against one fit after another in plain NumPy.

    python tests/benchmarks/twin_peaks.py [--seeds 20] [--rival-seeds 2] [--executors ray inline] [--out DIR]

30 widths x 20 seeds x 2 ridges at D = 100 and P = 300 (sweeps/bmd_twin_peaks.yaml, tanh): test error on 10,000 inputs,
Boolean mean dimension from every flip of 100 others. The goal is a minute on two cores. Ours is the whole command
`raysweep run`, timed as a process of its own: interpreter, Ray, the cells, fits, theory, figures and report.html, whose
time of writing must lie within the time measured. The rival is what one writes first: each (width, seed, ridge) draws
its data, solves its own linear system, and passes every flipped input through all features, in float64, in as many
single-threaded processes as there are cores. It writes no table, fit, theory or report. It runs
--rival-seeds of the seeds, at all widths and both ridges, with its processes started beforehand; `rival_seconds` is
extrapolated from these to all seeds. Both ways see the same draws: `apart` is the largest relative difference of their
BMD, and `items_apart` the largest difference in the number of test items that they miss. CPU seconds are those of all
processes; they are not known of Ray's, and depend less on what else the machine does than wall seconds. Writes
twin_peaks.json beside this file, or into DIR.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from raysweep.experiments.random_features import drawn  # noqa: E402

ITEMS, DIM, POINTS, BASE = 300, 100, 10_000, 100
WIDTHS = (20, 25, 30, 40, 50, 65, 80, 100, 125, 150, 180, 210, 230, 250, 270, 285, 300, 315, 330, 350, 380, 420, 480,
          560, 700, 900, 1200, 1600, 2200, 3000)  # fmt: skip
RIDGES = (1e-6, 0.01)
GOAL = 60.0  # seconds
_BATCH = 100  # flipped inputs of one base input


def ours(seeds: int, executor: str, store: Path) -> dict[str, Any]:
    """The command, in a process of its own."""
    load = [round(one, 1) for one in os.getloadavg()]
    asked = {"activation": "tanh", "width": ",".join(map(str, WIDTHS)), "ridge": ",".join(map(str, RIDGES))}
    asked["seed"] = ",".join(map(str, range(seeds)))
    settings = [part for name, values in asked.items() for part in ("--set", f"{name}={values}")]
    command = [sys.executable, "-m", "raysweep", "run", str(ROOT / "sweeps/bmd_twin_peaks.yaml"), *settings]
    command += ["--store", str(store), "--executor", executor]
    began, started, before = time.time(), time.perf_counter(), cpu_seconds()
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    report = store / "report.html"
    if not began < report.stat().st_mtime <= began + seconds:
        raise SystemExit(f"{report} was not written by the command that was timed")
    return {
        "load_average_at_start": load,
        "seconds": seconds,
        "report_seconds": report.stat().st_mtime - began,
        "report_bytes": report.stat().st_size,
        "cpu_seconds": cpu_seconds() - before if executor == "inline" else None,
    }


def cpu_seconds() -> float:
    """Of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def naive(setting: tuple[int, int, float]) -> tuple[float, float, float]:
    """Test error and BMD of one width, seed and ridge, and the CPU seconds that they took."""
    started = time.process_time()
    width, seed, ridge = setting
    draws = drawn(seed, width, ITEMS, DIM, POINTS, BASE)
    y = draws.labels(False, 0.0, 0.0)

    def features(x: Any) -> Any:
        return np.tanh(x @ draws.rows.T / np.sqrt(DIM)) / np.sqrt(width)

    phi = features(draws.items)
    if width > ITEMS:
        weights = phi.T @ np.linalg.solve(phi @ phi.T + ridge * np.eye(ITEMS), y)
    else:
        weights = np.linalg.solve(phi.T @ phi + ridge * np.eye(width), phi.T @ y)
    outputs = features(draws.points) @ weights
    influence = 0.0
    for x in draws.base:
        flipped = np.tile(x, (DIM, 1))
        flipped[np.arange(DIM), np.arange(DIM)] *= -1
        influence += float(((features(x[None]) @ weights - features(flipped) @ weights) ** 2).sum()) / 4 / BASE
    error = np.mean((outputs >= 0) != (draws.points @ draws.teacher >= 0))
    return float(error), float(influence / outputs.var(ddof=1)), time.process_time() - started


def rival(seeds: int) -> tuple[dict[tuple[int, int, float], tuple[float, float, float]], float]:
    """What the plain fits find, and their wall seconds, without those in which their processes start."""
    settings = sorted(product(WIDTHS, range(seeds), RIDGES), reverse=True)  # widest first: both cores end together
    with multiprocessing.get_context("spawn").Pool() as pool:
        pool.map(naive, [(20, 0, 0.01)] * 2 * (os.cpu_count() or 1), chunksize=1)
        started = time.perf_counter()
        found = pool.map(naive, settings, chunksize=1)
        seconds = time.perf_counter() - started
    return dict(zip(settings, found, strict=True)), seconds


def processor() -> str:
    """Its name, as Linux gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Time both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rival-seeds", type=int, default=2)
    parser.add_argument("--executors", nargs="+", default=["ray", "inline"], choices=("ray", "inline"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    asked = parser.parse_args()
    runs = {}
    for executor in asked.executors:
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "store"
            runs[executor] = ours(asked.seeds, executor, store)
            from raysweep.store import Store
            from raysweep.sweep.current import cells

            rows = [row for row in cells(Store(str(store)))[0].to_pylist() if row["status"] == "ok"]
    measured = {(row["width"], row["seed"], row["ridge"]): row for row in rows}
    if len(measured) != len(WIDTHS) * asked.seeds * len(RIDGES):
        raise SystemExit(f"{len(measured)} cells are ok of {len(WIDTHS) * asked.seeds * len(RIDGES)}")
    seeds = min(asked.rival_seeds, asked.seeds)
    load = [round(one, 1) for one in os.getloadavg()]
    found, seconds = rival(seeds)
    factor = asked.seeds / seeds
    used = sum(cpu for _, _, cpu in found.values()) * factor
    for one in runs.values():
        one["ratio"] = seconds * factor / one["seconds"]
        one["cpu_ratio"] = None if one["cpu_seconds"] is None else used / one["cpu_seconds"]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "platform": platform.platform(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "torch", "ray", "polars", "matplotlib", "raysweep")},
        "widths": len(WIDTHS),
        "seeds": asked.seeds,
        "ridges": len(RIDGES),
        "cells": len(measured),
        "goal_seconds": GOAL,
        "runs": runs,
        "rival_load_average_at_start": load,
        "rival_seeds": seeds,
        "rival_seconds_measured": seconds,
        "rival_seconds": seconds * factor,
        "rival_cpu_seconds": used,
        "apart": max(abs(measured[at]["bmd"] / bmd - 1) for at, (_, bmd, _) in found.items()),
        "items_apart": max(abs(measured[at]["test_error"] - error) for at, (error, _, _) in found.items()) * POINTS,
    }
    print(json.dumps(result, indent=1))
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "twin_peaks.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
