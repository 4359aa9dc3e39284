"""How often 95 % intervals of repeated data, over-training, breaks and two-step laws hold the truth; breaks chosen.

Run: .venv/bin/python tests/benchmarks/laws_named.py [--worlds 100] [--out laws-named.json]

Noise is multiplicative, 0.5 % of a loss, 2 % of a metric and 1 % of a curve with breaks. `y(10x)` is the law ten times
beyond the largest scale (a hundred times in compute); `new` is the measurement of a new run there. It asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
from laws_data import here  # noqa: E402

from raysweep.laws import GroupFit, fit, law  # noqa: E402
from raysweep.laws.chain import fit_chain  # noqa: E402
from raysweep.laws.request import FitRequest, Options  # noqa: E402

SIZES = np.geomspace(1e7, 1e9, 4)
GRID = [axis.ravel() for axis in np.meshgrid(SIZES, np.geomspace(1e8, 1e10, 3), [1.0, 4, 15, 60])]
REPEATED = np.stack([GRID[0], GRID[1] * GRID[2], GRID[1]])
RATIO = [axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 6), [10.0, 20, 40, 80, 160])]
TOKENS = np.stack([RATIO[0], RATIO[0] * RATIO[1]])
CURVE = np.repeat(np.geomspace(10, 1e6, 24), 2)[None]
PAPER = [1.87, 521.0, 1488.0, 0.353, 0.353, 15.4]
# law, its truth, its scales, noise, the scale that is predicted
LAWS: dict[str, tuple[list[float], Any, float, list[float]]] = {
    "repeated": (PAPER, REPEATED, 0.005, [1e10, 6e12, 1e11]),
    "repeated+excess": ([*PAPER, 5.3], REPEATED, 0.005, [1e10, 6e12, 1e11]),
    "overtrained": ([1.5, 140, 190, 0.12], TOKENS, 0.005, [1e10, 2e11]),
    "bnsl1": ([0.05, 3, 0.1, 0.7, 1000, 0.4], CURVE, 0.01, [1e7]),
    "bnsl2": ([0.02, 3, 0.1, 0.8, 300, 0.3, 0.2, 3e4, 0.2], CURVE, 0.01, [1e7]),
}
STEPS: dict[str, Callable[[Any], Any]] = {
    "sigmoid": lambda loss: 0.25 + 0.6 / (1 + np.exp(3.5 * (loss - 2.6))),
    "exponential": lambda loss: 0.8 - 1.4 * np.exp(-0.6 * loss),
}
HOFFMANN = np.array([1.69, 406.4, 410.7, 0.34, 0.28])
AHEAD = np.array([[1e10], [2e11]])


def of_law(name: str, worlds: int) -> dict[str, Any]:
    """Shares of worlds whose interval holds each parameter, derived quantity and prediction."""
    values, x, noise, at = LAWS[name]
    form, truth = law(name), np.array(values, dtype=float)
    known = dict(zip(form.names, truth, strict=True)) | {d.name: float(d.of(truth)) for d in form.derived}
    there = np.array(at)[:, None]
    columns = [f"x{i}" for i in range(len(x))]

    def made(rng: np.random.Generator) -> tuple[GroupFit, dict[str, float], float]:
        y = form.predict(x, truth) * np.exp(noise * rng.standard_normal(x.shape[1]))
        table = pl.DataFrame({**dict(zip(columns, x, strict=True)), "y": y})
        found = fit(table, law=name, x=columns, y="y", bootstrap=200, holdout=0).only
        ahead = float(form.predict(there, truth)[0])
        return found, {**known, "y(10x)": ahead}, ahead * float(np.exp(noise * rng.standard_normal()))

    return covered(made, there, worlds)


def of_chain(name: str, worlds: int) -> dict[str, Any]:
    """The same of a metric through two steps."""
    form, metric = law("chinchilla"), STEPS[name]
    asked = FitRequest(
        x=("N", "D"), y="loss", law="chinchilla", options=Options(draws=200, holdout=0), then=name, metric="y"
    )

    def made(rng: np.random.Generator) -> tuple[GroupFit, dict[str, float], float]:
        def run(x: Any) -> tuple[Any, Any]:
            loss = form.predict(x, HOFFMANN) * np.exp(0.005 * rng.standard_normal(x.shape[1]))
            return loss, metric(loss) * np.exp(0.02 * rng.standard_normal(x.shape[1]))

        loss, y = run(TOKENS)
        table = pl.DataFrame({"N": TOKENS[0], "D": TOKENS[1], "loss": loss, "y": y})
        found = fit_chain(table, asked)[1].only
        return found, {"y(10x)": float(metric(form.predict(AHEAD, HOFFMANN))[0])}, float(run(AHEAD)[1][0])

    return covered(made, AHEAD, worlds)


def covered(
    made: Callable[[np.random.Generator], tuple[GroupFit, dict[str, float], float]], there: Any, worlds: int
) -> dict[str, Any]:
    inside: Counter[str] = Counter()
    widths: list[float] = []
    begun = time.process_time()
    for seed in range(worlds):
        found, truth, new = made(np.random.default_rng(seed))
        ends = {**found.intervals, "y(10x)": tuple(found.band(there)[0]), "new": tuple(found.prediction(there)[0])}
        inside.update(name for name, value in {**truth, "new": new}.items() if ends[name][0] <= value <= ends[name][1])
        widths.append(ends["y(10x)"][1] / ends["y(10x)"][0] - 1)
    names = [*truth, "new"]
    return {
        "coverage": {name: round(inside[name] / worlds, 3) for name in names},
        "width of y(10x)": round(float(np.median(widths)), 4),
        "cpu_s": round(time.process_time() - begun, 1),
    }


def chosen(worlds: int) -> dict[str, dict[str, int]]:
    """How often each number of breaks is chosen, by the law that made the curve."""
    truths = {"power+floor": [0.2, 3, 0.4], **{name: LAWS[name][0] for name in ("bnsl1", "bnsl2")}}
    out = {}
    for name, values in truths.items():
        found: Counter[str] = Counter()
        for seed in range(worlds):
            noise = np.exp(0.01 * np.random.default_rng(seed).standard_normal(CURVE.shape[1]))
            table = pl.DataFrame({"x": CURVE[0], "y": law(name).predict(CURVE, np.array(values)) * noise})
            found[fit(table, law="bnsl", x="x", y="y", bootstrap=0, holdout=0).only.law.name] += 1
        out[name] = dict(found)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--out", type=Path, default=HERE / "laws-named.json")
    args = parser.parse_args()
    results: dict[str, Any] = {"where": here(), "worlds": args.worlds, "level": 0.95}
    for name in LAWS:
        results[name] = of_law(name, args.worlds)
        print(name, results[name], flush=True)
    for name in STEPS:
        results[f"chinchilla, then {name}"] = of_chain(name, args.worlds)
        print(name, results[f"chinchilla, then {name}"], flush=True)
    results["breaks chosen"] = chosen(args.worlds)
    print(results["breaks chosen"])
    args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
