"""A sweep of random features from an empty store to its report, against one fit after another in plain NumPy.

    python tests/benchmarks/twin_peaks.py [--seeds 20] [--rival-seeds 2] [--executor ray]    (writes twin_peaks.json)

30 widths x 20 seeds x 2 ridges at D = 100 and P = 300 (sweeps/bmd_twin_peaks.yaml, tanh): test error on 10,000 inputs,
Boolean mean dimension from every flip of 100 others. The goal is a minute on two cores. Ours is the whole command
`raysweep run`, timed as a process of its own: interpreter, Ray, the cells, fits, theory, figures and report.html, whose
time of writing must lie within the time measured. The rival is what one writes first: each (width, seed, ridge) draws
its data, solves its own linear system, and passes every flipped input through all features, in float64, in as many
single-threaded processes as there are cores. It writes no table, fit, theory or report. It runs
--rival-seeds of the seeds, at all widths and both ridges, with its processes started beforehand; `rival_seconds` is
extrapolated from these to all seeds. Both ways see the same draws: `apart` is the largest relative difference of their
BMD, and `items_apart` the largest difference in the number of test items that they miss.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
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
    asked = {"activation": "tanh", "width": ",".join(map(str, WIDTHS)), "ridge": ",".join(map(str, RIDGES))}
    asked["seed"] = ",".join(map(str, range(seeds)))
    settings = [part for name, values in asked.items() for part in ("--set", f"{name}={values}")]
    command = [sys.executable, "-m", "raysweep", "run", str(ROOT / "sweeps/bmd_twin_peaks.yaml"), *settings]
    command += ["--store", str(store), "--executor", executor]
    began, started = time.time(), time.perf_counter()
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    report = store / "report.html"
    if not began < report.stat().st_mtime <= began + seconds:
        raise SystemExit(f"{report} was not written by the command that was timed")
    return {"seconds": seconds, "report_seconds": report.stat().st_mtime - began, "report_bytes": report.stat().st_size}


def naive(setting: tuple[int, int, float]) -> tuple[float, float]:
    """Test error and BMD of one width, seed and ridge."""
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
    return float(error), float(influence / outputs.var(ddof=1))


def rival(seeds: int) -> tuple[dict[tuple[int, int, float], tuple[float, float]], float]:
    """What the plain fits find, and their seconds; the pool is started before."""
    settings = list(product(WIDTHS, range(seeds), RIDGES))
    with multiprocessing.get_context("spawn").Pool() as pool:
        pool.map(naive, [(20, 0, 0.01)] * 2 * (os.cpu_count() or 1), chunksize=1)
        started = time.perf_counter()
        found = pool.map(
            naive, sorted(settings, reverse=True), chunksize=1
        )  # widest first, so that both cores end together
        seconds = time.perf_counter() - started
    return dict(zip(sorted(settings, reverse=True), found, strict=True)), seconds


def main() -> None:
    """Time both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rival-seeds", type=int, default=2)
    parser.add_argument("--executor", default="ray", choices=("ray", "inline"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    asked = parser.parse_args()
    load = [round(one, 1) for one in os.getloadavg()]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        timed = ours(asked.seeds, asked.executor, store)
        from raysweep.store import Store
        from raysweep.sweep.current import cells

        rows = cells(Store(str(store)))[0].to_pylist()
    found, seconds = rival(min(asked.rival_seeds, asked.seeds))
    measured = {(row["width"], row["seed"], row["ridge"]): row for row in rows if row["status"] == "ok"}
    if len(measured) != len(WIDTHS) * asked.seeds * len(RIDGES):
        raise SystemExit(f"{len(measured)} cells are ok of {len(WIDTHS) * asked.seeds * len(RIDGES)}")
    extrapolated = seconds * asked.seeds / min(asked.rival_seeds, asked.seeds)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "load_average_at_start": load,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "torch", "ray", "polars", "matplotlib", "raysweep")},
        "executor": asked.executor,
        "widths": len(WIDTHS),
        "seeds": asked.seeds,
        "ridges": len(RIDGES),
        "cells": len(measured),
        "goal_seconds": GOAL,
        **timed,
        "rival_seeds": min(asked.rival_seeds, asked.seeds),
        "rival_seconds_measured": seconds,
        "rival_seconds": extrapolated,
        "ratio": extrapolated / timed["seconds"],
        "apart": max(abs(measured[at]["bmd"] / bmd - 1) for at, (_, bmd) in found.items()),
        "items_apart": max(abs(measured[at]["test_error"] - error) for at, (error, _) in found.items()) * POINTS,
    }
    for name, value in result.items():
        print(f"{name:24} {value:.4g}" if isinstance(value, float) else f"{name:24} {value}")
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "twin_peaks.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
