"""How often a larger run lies inside the interval that was predicted for it: the law's own, a bent and a conformal one.

Run: .venv/bin/python tests/benchmarks/predictions.py [--worlds 100]
(writes predictions.json beside itself; asserts nothing)

A world is 10 scales over two decades with 3 runs each, 3 % noise, to which a law is fitted. A run at 3 and at 10 times
the largest scale is then drawn from the truth, which is the law, the law with a floor or a bend that it lacks, or the
law with noise that grows with scale.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":  # before numpy is imported
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402

from raysweep.conformal import conformal  # noqa: E402
from raysweep.laws.fitting import fit_groups  # noqa: E402
from raysweep.laws.group import Data  # noqa: E402
from raysweep.laws.misfit import bent_band  # noqa: E402
from raysweep.laws.request import FitRequest, Options  # noqa: E402

X = np.repeat(np.geomspace(10, 1e3, 10), 3)
AHEAD = (3, 10)
NOISE = 0.03
# The fitted law, the truth, and by which power of the scale noise grows.
WORLDS: dict[str, tuple[str, Callable[[Any], Any], float]] = {
    "power": ("power", lambda x: 3 * x**-0.4, 0.0),
    "power, the truth has a floor": ("power", lambda x: 0.05 + 3 * x**-0.4, 0.0),
    "power, the truth bends": ("power", lambda x: 3 * x**-0.4 * (1 + (x / 300) ** 2) ** -0.05, 0.0),
    "power, noise grows": ("power", lambda x: 3 * x**-0.4, 0.25),
    "power and floor": ("power+floor", lambda x: 0.05 + 3 * x**-0.4, 0.0),
    "power and floor, the truth bends": ("power+floor", lambda x: 3 * x**-0.4 * (1 + (x / 300) ** 2) ** -0.05, 0.0),
}


def covered(law: str, truth: Callable[[Any], Any], growth: float, worlds: int) -> dict[str, Any]:
    """Shares of new runs inside, and median widths (ratios of ends), by how far ahead they are."""
    request, rng = FitRequest(x=("x",), y="y", law=law), np.random.default_rng(0)
    inside: dict[str, list[list[float]]] = {"own": [], "bent": [], "conformal": []}
    wide: dict[str, list[list[float]]] = {"own": [], "bent": [], "conformal": []}
    at = np.array([X.max() * times for times in AHEAD])
    for _ in range(worlds):
        y, new = (truth(x) * np.exp(NOISE * (x / X.min()) ** growth * rng.standard_normal(x.size)) for x in (X, at))
        (fit,) = fit_groups(request.form, [Data(X[None], y)], ("x",), "y", Options(draws=200, holdout=0.0))
        record = conformal(X[None], y, request)
        if fit.error is not None or record is None:
            continue
        own = fit.prediction(at)
        bent = bent_band(fit, at[None], new_run=True)
        if bent is None:
            continue
        wider = np.array([record.widened(e, [x]) for e, x in zip(own, at, strict=True)])
        for name, ends in {"own": own, "bent": bent, "conformal": wider}.items():
            inside[name].append(((new >= ends[:, 0]) & (new <= ends[:, 1])).tolist())
            wide[name].append((ends[:, 1] / ends[:, 0]).tolist())
    return {
        name: {
            "coverage": dict(zip(map(str, AHEAD), np.mean(inside[name], axis=0).tolist(), strict=True)),
            "median_ratio_of_ends": dict(zip(map(str, AHEAD), np.median(wide[name], axis=0).tolist(), strict=True)),
            "worlds": len(inside[name]),
        }
        for name in inside
    }


def main() -> None:
    """Simulate, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=100)
    args = parser.parse_args()
    results, started = {}, time.process_time()
    for name, world in WORLDS.items():
        results[name] = covered(*world, args.worlds)
        print(name, json.dumps(results[name]), flush=True)
    print(f"{time.process_time() - started:.0f} CPU-seconds")
    from packing_meter import where

    record = {**where("cpu"), "level": 0.95, "results": results}
    (HERE / "predictions.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
