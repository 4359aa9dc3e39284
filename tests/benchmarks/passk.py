"""Do intervals of pass@k hold where few problems are solved? Drawing problems anew beside what raysweep does.

    python tests/benchmarks/passk.py [worlds=1000] [--out tests/benchmarks/passk.json]

A world draws problems' success rates from a Beta distribution, whose pass@k is known. Naive: percentiles of 1,000 means
over problems drawn with replacement.
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

from raysweep.laws.attempts import unbiased_failure
from raysweep.laws.proportion import mean_interval
from raysweep.laws.tail import Tail

DESIGNS = (  # problems, a and b of their success rates, trials; the last four are the hardest that were found
    (30, 0.1, 5.0, 100),
    (50, 0.05, 10.0, 100),
    (50, 0.3, 20.0, 100),
    (128, 0.1, 20.0, 100),
    (128, 0.02, 0.5, 100),
    (20, 0.5, 5.0, 50),
    (128, 1.0, 3.0, 100),
    (50, 0.05, 0.05, 100),
    (20, 0.05, 1.0, 64),
    (20, 2.0, 0.3, 64),
    (50, 2.0, 0.3, 64),
    (128, 2.0, 0.3, 64),
)
DRAWS = 1000


def design(problems: int, a: float, b: float, n: int, worlds: int) -> list[dict[str, Any]]:
    k = np.array([1.0, 10.0, n])
    truth = Tail(np.array([a]), np.array([b]), np.array([True])).failure(k)[0]
    held, width = np.zeros((2, worlds, k.size)), np.zeros((2, worlds, k.size))
    for world in range(worlds):
        rng = np.random.default_rng([world, problems])
        c = rng.binomial(n, rng.beta(a, b, size=problems))
        x = unbiased_failure(c, np.full(problems, n), k)
        drawn = rng.multinomial(problems, np.full(problems, 1 / problems), size=DRAWS) @ x / problems
        both = np.quantile(drawn, [0.025, 0.975], axis=0).T, np.array([mean_interval(one) for one in x.T])
        for i, ends in enumerate(both):
            held[i, world] = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
            width[i, world] = ends[:, 1] - ends[:, 0]
    return [
        {
            "problems": problems, "a": a, "b": b, "trials": n, "k": int(k[j]), "failure": round(float(truth[j]), 4),
            "naive": {"covered": held[0, :, j].mean(), "width": round(float(width[0, :, j].mean()), 4)},
            "raysweep": {"covered": held[1, :, j].mean(), "width": round(float(width[1, :, j].mean()), 4)},
        }
        for j in range(k.size)
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("worlds", type=int, nargs="?", default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    begin = time.perf_counter()
    rows = [row for one in DESIGNS for row in design(*one, given.worlds)]
    for row in rows:
        name = f"{row['problems']:4} problems, Beta({row['a']:g}, {row['b']:g}), k = {row['k']:3}"
        both = "   ".join(f"{row[w]['covered']:.3f} (width {row[w]['width']:.3f})" for w in ("naive", "raysweep"))
        print(f"{name}: 1 - pass@k {row['failure']:.3f}   covered: naive, raysweep {both}")
    ratio = np.median([row["raysweep"]["width"] / row["naive"]["width"] for row in rows])
    least = {way: min(row[way]["covered"] for row in rows) for way in ("naive", "raysweep")}
    print(f"least coverage of a nominal .95: naive {least['naive']:.3f}, raysweep {least['raysweep']:.3f}; "
          f"width {ratio:.2f} x (median)")  # fmt: skip
    found = {
        "date": datetime.now(UTC).date().isoformat(), "command": "python tests/benchmarks/passk.py",
        "python": platform.python_version(), "cpus": os.cpu_count(),
        "versions": {name: version(name) for name in ("raysweep", "numpy", "scipy")},
        "worlds": given.worlds, "seconds": round(time.perf_counter() - begin, 1), "least_coverage": least,
        "median_width_ratio": round(float(ratio), 3), "designs": rows,
    }  # fmt: skip
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
