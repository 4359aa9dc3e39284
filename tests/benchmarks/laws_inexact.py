"""Bias and coverage where x was measured with errors: with x taken as exact, and with its standard errors (`x_se`).

Run: .venv/bin/python tests/benchmarks/laws_inexact.py [--worlds 300] [--draws 200]
(writes laws-inexact.json beside itself; asserts nothing; about 2 minutes on one core)

A world is one data set: the truth at scales that are equally spaced in logs, times exp(noise of y), at x times
exp(noise of x). The last designs state errors that are not there, or half of those that are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":  # before numpy is imported; a test that imports this leaves its process as it is
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402
from laws_data import here  # noqa: E402

from raysweep.laws import law  # noqa: E402
from raysweep.laws.fitting import fit_groups  # noqa: E402
from raysweep.laws.group import Data  # noqa: E402
from raysweep.laws.request import Options  # noqa: E402

LOW, HIGH = 1e2, 1e6


@dataclass(frozen=True)
class Design:
    """A law at `points` scales, with errors of log x and of log y; `stated`: errors of log x that the fit is given."""

    form: str
    truth: tuple[float, ...]
    points: int
    of_x: float
    of_y: float
    stated: float


def design(form: str, points: int, of_x: float, of_y: float, stated: float | None = None) -> Design:
    truth = {"power": (3.0, 0.4), "power+floor": (0.3, 4.0, 0.4)}[form]
    return Design(form, truth, points, of_x, of_y, of_x if stated is None else stated)


DESIGNS = {
    "power, 12 scales, x 10 %, y 5 %": design("power", 12, 0.1, 0.05),
    "power, 12 scales, x 100 %, y 5 %": design("power", 12, 1.0, 0.05),
    "power, 40 scales, x 100 %, y 5 %": design("power", 40, 1.0, 0.05),
    "power, 40 scales, x 100 %, y 30 %": design("power", 40, 1.0, 0.3),
    "power+floor, 12 scales, x 30 %, y 1 %": design("power+floor", 12, 0.3, 0.01),
    "power+floor, 40 scales, x 30 %, y 3 %": design("power+floor", 40, 0.3, 0.03),
    "power+floor, 40 scales, x 60 %, y 3 %": design("power+floor", 40, 0.6, 0.03),
    "power, 40 scales, x exact, 50 % stated": design("power", 40, 0.0, 0.05, 0.5),
    "power, 40 scales, x 100 %, half stated": design("power", 40, 1.0, 0.05, 0.5),
}


def run(one: Design, worlds: int, draws: int, stated: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    form, true = law(one.form), np.geomspace(LOW, HIGH, one.points)
    clean = form.predict(true, np.array(one.truth))
    data = []
    for _ in range(worlds):
        x = true * np.exp(one.of_x * rng.standard_normal(true.size))
        y = clean * np.exp(one.of_y * rng.standard_normal(true.size))
        data.append(Data(x[None], y, x_se=(one.stated * x)[None] if stated else None))
    found = fit_groups(form, data, ["x"], "y", Options(draws=draws, holdout=0))
    out: dict[str, Any] = {}
    for name, value in zip(form.names, one.truth, strict=True):
        each = np.array([g.params[name] for g in found])
        ends = np.array([g.interval(name) for g in found])
        out[name] = {
            "truth": value,
            "median": round(float(np.median(each)), 5),
            "coverage": round(float(((ends[:, 0] <= value) & (value <= ends[:, 1])).mean()), 4),
            "width": round(float(np.median(np.ptp(ends, axis=1))), 5),
        }
    out["x_errors_too_large"] = round(float(np.mean(["x_errors_too_large" in g.notes for g in found])), 4)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=300)
    parser.add_argument("--draws", type=int, default=200)
    args = parser.parse_args()
    begun, table = time.process_time(), {}
    for name, one in DESIGNS.items():
        table[name] = {key: run(one, args.worlds, args.draws, key == "x_se") for key in ("as exact", "x_se")}
        print(f"{name:42s}", *(json.dumps(each) for each in table[name].values()), sep="\n    ", flush=True)
    seconds = round(time.process_time() - begun, 1)
    record = {"where": here(), "worlds": args.worlds, "draws": args.draws, "cpu_s": seconds, "designs": table}
    (HERE / "laws-inexact.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
