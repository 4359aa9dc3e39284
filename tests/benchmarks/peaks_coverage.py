"""How often the 95 % intervals of a peak hold its location and height, over curves that it was not tuned on.

Run: .venv/bin/python tests/benchmarks/peaks_coverage.py [--worlds 300] [--draws 300] [--only TEXT]
(writes peaks-coverage.json beside itself unless only some designs are run; asserts nothing)

`laws.summit` was tuned on Gaussian, exponential and Gumbel shapes over 30 scales. Here are other families, with 5 to 40
scales and 3 to 30 seeds. Its rules for cusps, jumps of curvature and prominences were mended on all but `FRESH`, which
came after that. A world is one data set: the curve plus noise of each row and of each seed. Grids lie at random against
the peak. Noise is in units of the curve's range. The truth is the peak of the mean curve, which is what the estimate is
of. Where there is none (`FALLING`, and a peak beyond an end), what counts is how often one is reported, and how often
with a prominence whose interval excludes 0 (`alarm`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":  # before numpy is imported; a test that imports this leaves its process as it is
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from raysweep.errors import FitError  # noqa: E402
from raysweep.laws.maximum import find_peak  # noqa: E402
from raysweep.theory.bmd import activation  # noqa: E402
from raysweep.theory.replica import square  # noqa: E402

Array = npt.NDArray[np.float64]
GOAL = 0.9
HALF = 2.3  # the range of log x on either side of the peak
FINE = np.linspace(-4.0, 4.0, 8001)  # where curves are tabulated


def _sigmoid(t: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-t)))


# Functions of t = log x, with a peak or falling.
SHAPES: dict[str, Callable[[Array], Array]] = {
    "lorentzian": lambda t: 1 / (1 + (t / 0.7) ** 2),
    "skewed": lambda t: np.exp(-((t / np.where(t < 0, 0.5, 1.5)) ** 2)),
    "gamma": lambda t: np.maximum(1 + t / 2.5, 0.0) ** 5 * np.exp(-2 * t),
    "plateau": lambda t: _sigmoid(5 * (t + 1)) * _sigmoid(-2 * (t - 1)),
    "divergence": lambda t: -np.log(np.abs(np.expm1(t)) + 0.05),
    "two humps": lambda t: np.exp(-((t / 0.5) ** 2)) + 0.6 * np.exp(-(((t - 1.5) / 0.4) ** 2)),
    "shoulder": lambda t: np.exp(-((t / 0.5) ** 2)) + 0.6 * _sigmoid(-3 * (t + 0.5)),
    "BMD of random features": lambda t: square(activation("tanh"), 3 * np.exp(t), 3, 1, 1e-6).bmd(),
    "error of random features": lambda t: square(activation("relu"), 3 * np.exp(t), 3, 1, 1e-6, 0.1).test_error,
    "power": lambda t: np.exp(-t / 2),
    "saturating": lambda t: _sigmoid(-2 * t),
    "constant": np.zeros_like,
    "sech": lambda t: 1 / np.cosh(2 * t),
    "lopsided cusp": lambda t: np.exp(-np.abs(t) * np.where(t < 0, 3.0, 1.0)),
    "rational": lambda t: np.exp(2 * t) / (1 + np.exp(3 * t)),
    "arch": lambda t: np.sqrt(np.maximum(1 - (t / 1.5) ** 2, 0.0)),
    "stairs": lambda t: -np.tanh(4 * (t + 1)) - np.tanh(4 * (t - 1)),
}
FALLING = ("power", "saturating", "constant", "stairs")
FRESH = tuple(SHAPES)[12:]
PEAKED = tuple(name for name in SHAPES if name not in FALLING)


@dataclass(frozen=True)
class Design:
    """Where a curve is measured, and how its noise falls; in units of the curve's range within `HALF`.

    Attributes:
        row, seed: Standard deviations of the errors of a row, and of a seed.
        rising: How much of a row's standard deviation grows with the curve, from 0 to its whole.
        moving: Standard deviation of a seed's shift of log x.
        heavy: Errors of rows follow Student's t with 3 degrees of freedom.
        low, high: The range of log x against the peak.
    """

    scales: int
    seeds: int
    row: float
    seed: float = 0.0
    rising: float = 0.0
    moving: float = 0.0
    heavy: bool = False
    low: float = -HALF
    high: float = HALF


DESIGNS = {
    "5 scales, 5 seeds": Design(5, 5, 0.05),
    "8 scales, 3 seeds": Design(8, 3, 0.05),
    "12 scales, 5 seeds, noisy": Design(12, 5, 0.2, 0.1),
    "20 scales, 10 seeds": Design(20, 10, 0.05, 0.05),
    "20 scales, 10 seeds, noise that grows": Design(20, 10, 0.2, 0.0, rising=0.9),
    "20 scales, 10 seeds, moving": Design(20, 10, 0.05, 0.0, moving=0.15),
    "30 scales, 20 seeds, heavy tails": Design(30, 20, 0.1, 0.1, heavy=True),
    "40 scales, 30 seeds, precise": Design(40, 30, 0.02, 0.02),
    "20 scales, 10 seeds, near an end": Design(20, 10, 0.05, 0.05, high=0.4),
}
BEYOND = Design(20, 10, 0.1, 0.05, high=-0.3)


@cache
def curve(shape: str, moving: float) -> tuple[Array, Array, float, float]:
    """A seed's curve and the mean over seeds on `FINE`, in units of the range, and the mean's peak: log x, height."""
    values = SHAPES[shape](FINE)
    inside = values[np.abs(FINE) <= HALF]
    values = (values - inside.min()) / max(float(np.ptp(inside)), 1e-9)
    z, weight = np.polynomial.hermite_e.hermegauss(21)
    shifted = [np.interp(FINE - moving * one, FINE, values) for one in z]
    mean = np.asarray(weight @ np.array(shifted) / weight.sum()) if moving else values
    at = int(np.where(np.abs(FINE) <= HALF, mean, -np.inf).argmax())
    return values, mean, float(FINE[at]), float(mean[at])


def world(shape: str, design: Design, rng: np.random.Generator) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """x, y and seed of the rows of one data set."""
    values, _, at, _ = curve(shape, design.moving)
    step = (design.high - design.low) / (design.scales - 1)
    t = at + np.linspace(design.low, design.high, design.scales) + step * (rng.random() - 0.5)
    size = (design.seeds, design.scales)
    mean = np.interp(t - design.moving * rng.standard_normal((design.seeds, 1)), FINE, values)
    error = rng.standard_t(3, size) / np.sqrt(3) if design.heavy else rng.standard_normal(size)
    spread = design.row * (1 - design.rising + design.rising * np.clip(mean, 0, 1))
    y = mean + spread * error + design.seed * rng.standard_normal((design.seeds, 1))
    return np.tile(np.exp(t), design.seeds), y.ravel(), np.repeat(np.arange(design.seeds), design.scales)


def covered(shape: str, design: Design, worlds: int, draws: int, seed: int = 0) -> dict[str, Any]:
    """Shares of worlds: with a peak inside, with an alarm; of those with a peak: coverage, width and bias."""
    rng = np.random.default_rng(seed)
    _, _, at, height = curve(shape, design.moving)
    alarms, rows = 0, []
    for i in range(worlds):
        try:
            found = find_peak(*world(shape, design, rng), draws=draws, seed=i)
        except FitError:
            continue
        alarms += found.prominence_interval[0] > 0
        low, high = np.log(found.location_interval)
        below, above = found.height_interval
        rows.append((low <= at <= high, below <= height <= above, high - low, np.log(found.location) - at, at < low))
    inside, tall, width, bias, right = np.array(rows, dtype=float).reshape(-1, 5).T
    result = {"found": len(rows) / worlds, "alarm": alarms / worlds}
    if shape in PEAKED and design.high > 0 and rows:
        misses = (1 - inside).sum()
        result |= {
            "location": inside.mean(),
            "height": tall.mean(),
            "width": np.median(width),
            "bias": np.median(bias),
            "rms": np.sqrt((bias**2).mean()),
            "missed_right": right.sum() / misses if misses else 0.0,
        }
    return {name: round(float(value), 4) for name, value in result.items()}


def cases() -> dict[str, tuple[str, Design]]:
    """Every shape in every design, by name; a falling one in those that are not about a peak."""
    out = {f"{s}: {name}": (s, design) for s in PEAKED for name, design in DESIGNS.items()}
    plain = {name: one for name, one in DESIGNS.items() if one.high == HALF and not one.moving}
    out |= {f"{s}: {name}": (s, design) for s in FALLING for name, design in plain.items()}
    return out | {f"{s}: a peak beyond the end": (s, BEYOND) for s in ("lorentzian", "divergence", "gamma")}


def _one(task: tuple[str, int, int]) -> tuple[str, dict[str, Any]]:
    name, worlds, draws = task
    return name, covered(*cases()[name], worlds, draws)


def main() -> None:
    """Simulate the designs, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=300)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--only", default="", help="cases whose name contains this; writes nothing")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    started, results = time.time(), {}
    tasks = [(name, args.worlds, args.draws) for name in cases() if args.only in name]
    with ProcessPoolExecutor(args.processes) as pool:
        for name, found in pool.map(_one, tasks):
            results[name] = found
            short = min(found.get("location", 1.0), found.get("height", 1.0)) < GOAL
            print(f"{name}: {found}{'   below the goal' if short else ''}", flush=True)
    print(f"{time.time() - started:.0f} s")
    for of in ("location", "height"):
        each = {name: one[of] for name, one in results.items() if of in one}
        fresh = [value for name, value in each.items() if name.split(":")[0] in FRESH]
        short = [name for name, value in each.items() if value < GOAL]
        if each:
            means = f"{np.mean(list(each.values())):.3f}" + (f", of fresh shapes {np.mean(fresh):.3f}" if fresh else "")
            print(f"{of}: mean coverage {means}; below {GOAL} in {short}")
    if not args.only:
        from packing_meter import where

        record = {
            **where("cpu"),
            "level": 0.95,
            "worlds": args.worlds,
            "draws": args.draws,
            "fresh": FRESH,
            "cases": results,
        }
        (HERE / "peaks-coverage.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
