"""How near is the theory of the excess risk to means over data sets, in every regime? (arXiv 2601.03764, d = 50.)

    python tests/benchmarks/excess_risk.py [data sets=1000] [--out tests/benchmarks/excess_risk.json]

Naive: the regimes apart, twice the spectrum's tail below d and noise d / (n - d - 1) beyond d + 1, of which neither
speaks of n near d or of a ridge (it is compared at 1e-9). Ours: `theory.lid.excess_risk`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from raysweep.experiments.lid import EXPERIMENT, excess_risks
from raysweep.grid.enumeration import enumerate_runs
from raysweep.grid.expand import expand
from raysweep.theory import lid as theory

D, BETA = 50, 9.0  # moments of the noise enough for means to settle
SIZES = (5, 10, 20, 35, 45, 50, 55, 60, 100, 400, 1600)
DESIGNS = ((0.5, 1e-3), (1.0, 1e-2), (1.0, 0.1), (2.0, 1e-2))  # alpha, sigma
RIDGES = (1e-9, 1e-3)
AXES = {axis.name: axis for axis in EXPERIMENT.axes}


def design(alpha: float, sigma: float, sets: int) -> list[dict[str, Any]]:
    grid = {"n_train": list(SIZES), "dim": D, "alpha": alpha, "beta": BETA, "sigma_eta": sigma, "seed": {"range": sets}}
    runs = enumerate_runs(expand(grid, AXES), AXES, "benchmark")
    found: dict[int, list[Any]] = {n: [] for n in SIZES}
    for lane, risks, _ in excess_risks(runs, np.array(RIDGES)):
        found[int(runs.row(lane)["n_train"])].append(risks)
    noise, rows = theory.noise_variance(BETA, sigma), []
    for n, risks_of_n in found.items():
        risks = np.array(risks_of_n)
        tail = float((np.arange(n + 1, D + 1.0) ** -(1 + alpha)).sum())  # of the spectrum
        apart = 2 * tail if n < D else float(theory.generalisation(n, D, noise))
        for j, ridge in enumerate(RIDGES):
            mean, error = risks[:, j].mean(), risks[:, j].std(ddof=1) / np.sqrt(sets)
            expected = theory.excess_risk(n, D, alpha, noise, ridge)
            rows.append(
                {
                    "alpha": alpha, "sigma": sigma, "ridge": ridge, "n": n, "mean": float(mean),
                    "mean_over_theory": round(float(mean / expected), 4),
                    "standard_error": round(float(error / expected), 4),
                    "median_over_theory": round(float(np.median(risks[:, j]) / expected), 4),
                    "mean_over_naive": None if np.isnan(apart) or j else round(float(mean / apart), 4),
                }
            )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", type=int, nargs="?", default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    begin = time.perf_counter()
    rows = [row for one in DESIGNS for row in design(*one, given.sets)]
    print("mean over data sets / theory, least to greatest over spectra, noises and ridges (in brackets: / naive)")
    for n in SIZES:
        own = [row for row in rows if row["n"] == n]
        ours = [row["mean_over_theory"] for row in own]
        naive = [row["mean_over_naive"] for row in own if row["mean_over_naive"] is not None]
        told = f"{min(naive):.3g} to {max(naive):.3g}" if naive else "nothing"
        error = max(row["standard_error"] for row in own)
        print(f"n = {n:5}: {min(ours):.3f} to {max(ours):.3f}, s.e. at most {error:.3f}   ({told})")
    versions = {name: version(name) for name in ("raysweep", "numpy", "scipy")}
    head = {
        "date": datetime.now(UTC).date().isoformat(), "command": "python tests/benchmarks/excess_risk.py",
        "python": platform.python_version(), "cpus": os.cpu_count(), "versions": versions,
        "data_sets": given.sets, "seconds": round(time.perf_counter() - begin, 1),
    }  # fmt: skip
    given.out.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
