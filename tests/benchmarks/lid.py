"""A grid of a million cells with the inference budget observed, against a plain Ray Tune grid over the same cells.

    python tests/benchmarks/lid.py [--cells 200]      (writes lid.json beside it; asserts nothing)

Ours: `raysweep run sweeps/lid_million.yaml` from an empty store to its report, and planning alone. The naive way: one
Tune trial a cell, each doing what the experiment does for one run and one k; measured on a sample of cells, the rest is
extrapolated and said to be.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SWEEP = ROOT / "sweeps/lid_million.yaml"


def cell(config: dict[str, Any]) -> dict[str, float]:
    """One cell by itself, as a user without observed axes would write it."""
    import numpy as np

    from raysweep.experiments.lid import EXPERIMENT, excess_risks
    from raysweep.grid.enumeration import enumerate_runs
    from raysweep.grid.expand import expand
    from raysweep.theory.difficulty import rates

    k = config.pop("k")
    axes = {axis.name: axis for axis in EXPERIMENT.axes}
    runs = enumerate_runs(expand({name: [value] for name, value in config.items()}, axes), axes, "naive")
    ((_, risk, _),) = excess_risks(runs, np.array([1e-9]))
    failure = rates(config["beta"], 1.0, float(risk[0]) / 1e-6, most=k).failure([k])
    return {"failure": float(failure[0])}


def naive(cells: int) -> dict[str, Any]:
    """Seconds a cell under plain Tune, in steady state and from start to end."""
    import ray
    from ray import tune

    grid = {"n_train": [100, 1600], "beta": [2.5], "seed": [0, 1], "k": list(range(1, cells // 4 + 1))}
    space = {name: tune.grid_search(values) for name, values in grid.items()}
    with tempfile.TemporaryDirectory() as scratch:
        begin = time.perf_counter()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        fit = tune.Tuner(cell, param_space=space, run_config=tune.RunConfig(storage_path=scratch, verbose=0)).fit()
        seconds = time.perf_counter() - begin
        done = len(fit)
        ray.shutdown()
    return {"cells": done, "seconds": round(seconds, 2), "cells_per_s": round(done / seconds, 3)}


def ours() -> dict[str, Any]:
    """The whole command, and planning alone."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, verb in (("plan", ["plan"]), ("run", ["run"])):
            begin = time.perf_counter()
            command = [sys.executable, "-m", "raysweep", *verb, str(SWEEP), "--store", f"{scratch}/store"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stdout + done.stderr)
            found[f"{name}_s"] = round(time.perf_counter() - begin, 2)
        found["store_mib"] = round(sum(f.stat().st_size for f in Path(scratch).rglob("*") if f.is_file()) / 2**20, 1)
    return {"cells": 10**6, **found, "cells_per_s": round(10**6 / found["run_s"], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200, help="of the naive way's sample")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    mine, plain = ours(), naive(given.cells)
    ratio = mine["cells_per_s"] / plain["cells_per_s"]
    print(
        f"ours: {mine['cells']:,} cells in {mine['run_s']} s ({mine['cells_per_s']:,} cells/s; plan {mine['plan_s']} s)"
    )
    print(f"plain Ray Tune: {plain['cells']} cells in {plain['seconds']} s ({plain['cells_per_s']} cells/s)")
    hours = round(10**6 / plain["cells_per_s"] / 3600, 1)
    print(f"ratio {ratio:,.0f}; all cells under plain Tune would take {hours} h, extrapolated")
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", "tests/benchmarks/lid.py", *sys.argv[1:]]),
        "device": {"cpus": os.cpu_count(), "platform": platform.platform()},
        "versions": {name: version(name) for name in ("raysweep", "ray", "numpy", "scipy", "pyarrow")},
        "ours": mine,
        "plain_tune": {**plain, "extrapolated_hours_for_all_cells": hours},
        "ratio": round(ratio, 1),
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
