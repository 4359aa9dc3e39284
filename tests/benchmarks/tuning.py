"""Tuning at every scale: regret against a dense grid, candidates used, and packed against one trial per candidate.

    python tests/benchmarks/tuning.py [--worlds 10] [--only halved] [--out tests/benchmarks/tuning.json]

* `simulated`: a made-up loss over a learning rate and a weight decay, whose optimum drifts with the scale, with noise
  from the seed. Each sampler has 3 rounds of 16 candidates at each of 5 scales; the dense grid has 33 x 9 candidates.
  Regret is the loss without noise at the winner over the least one, minus 1; the dense grid has a regret, too, because
  it chooses by noisy scores.
* `trained`: MLPs in an analytic world (the experiment `classifier`), whose epistemic error is compared on fresh seeds:
  that of a sampler's winner over that of the dense grid's, minus 1, at each number of training items.
* `packed`: the same tuned sweep with all candidates of a round as lanes of one program, and with one lane per program,
  as a trial per candidate would have (without the cost of a trial, so the rival looks better than it is).
* `halved`: regret and training FLOPs with and without successive halving, simulated and trained: `tuning_halved.py`.

With `--only` the other parts of the JSON stay as they are.

Seconds are CPU time of this process. It asserts nothing.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import numpy.typing as npt
import tuning_halved

from raysweep.executors import make_executor
from raysweep.grid.axes import Axis
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import from_mapping
from raysweep.sweep.current import cells
from raysweep.tuning import Point, Space, design, parse_space, propose

SAMPLERS = ("tpe", "cmaes", "qmc")
ROUNDS, CANDIDATES = 3, 16
TUNE = {"lr": {"log": [1e-3, 1.0]}, "weight_decay": {"log": [1e-4, 1.0]}}
DENSE = (33, 9)  # values of the learning rate and of the weight decay
NOISE = 0.02  # of a loss, by its seed
SCALES = 5
TRAINED: dict[str, Any] = {
    "experiment": "classifier",
    "world": {"kind": "gaussian", "dim": 8, "classes": 4},
    "grid": {
        "n_train": [128, 512, 2048],
        "width": 16,
        "seed": {"range": 2},
        "steps": [64, 256],
        "optimiser": "adamw",
        "batch": 32,
        "pool": 8192,
        "eval_items": 2048,
        "select_items": 1024,
        "eval_share": 0,
    },
    "fit": [{"law": "power", "x": "n_train", "y": "epistemic"}],
}
FRESH = 5


# --- simulated --------------------------------------------------------------------------------------------


def surface(points: npt.NDArray[np.float64], scale: int, world: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[points] the loss at log10 of rate and decay: a bowl that is steeper towards large rates and tilted; at rates
    beyond an edge a training diverges.

    Args:
        world: Optimal rate and decay at the smallest scale, drift of the rate, tilt, widths.
    """
    rate, decay, drift, tilt, wide, flat = world
    x, y = points[:, 0] - (rate - drift * scale), points[:, 1] - decay
    loss = 1 + (x / wide) ** 2 * np.where(x > 0, 3.0, 1.0) + (y / flat) ** 2 + tilt * x * y / (wide * flat)
    return np.where(x > 2 * wide, np.inf, loss)


def drawn(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A world."""
    return np.array([rng.uniform(-1.5, -0.7), rng.uniform(-3, -1), 0.2, rng.uniform(-0.5, 0.5), 0.6, 1.5])


def logs(points: list[Point]) -> npt.NDArray[np.float64]:
    return np.log10(np.array(points, dtype=float))


def simulated(worlds: int) -> dict[str, Any]:
    axes = {name: Axis(name, float, "lane", 0.0) for name in TUNE}
    space = parse_space(TUNE, axes)
    grid = np.stack(np.meshgrid(np.linspace(-3, 0, DENSE[0]), np.linspace(-4, 0, DENSE[1])), -1).reshape(-1, 2)
    regret: dict[str, list[list[float]]] = {name: [] for name in (*SAMPLERS, "dense")}
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        world = drawn(rng)
        picked = [noisy(surface(grid, scale, world), rng).argmin() for scale in range(SCALES)]
        regret["dense"].append([float(surface(grid[[i]], scale, world)[0]) - 1 for scale, i in enumerate(picked)])
        for name in SAMPLERS:
            regret[name].append(search(name, space, world, seed))
    count = dict.fromkeys(SAMPLERS, ROUNDS * CANDIDATES) | {"dense": len(grid)}
    return {
        name: {
            "candidates": count[name],
            "regret_by_scale": np.mean(rows, 0).round(5).tolist(),
            "regret": round(float(np.mean(rows)), 5),
            "regret_90": round(float(np.quantile(rows, 0.9)), 5),
        }
        for name, rows in regret.items()
    }


def noisy(loss: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """The mean over two seeds."""
    return np.asarray(loss * (1 + NOISE * rng.standard_normal((2, len(loss))).mean(0)))


def search(sampler: str, space: Space, world: npt.NDArray[np.float64], seed: int) -> list[float]:
    """The regret at each scale, all of which advance in the same rounds."""
    rng = np.random.default_rng([seed, 1])
    studies: list[list[list[tuple[Point, float]]]] = [[] for _ in range(SCALES)]
    for round_ in range(ROUNDS):
        before = [list(study) for study in studies]
        for scale, study in enumerate(studies):
            own = seed * SCALES + scale
            near = [before[s] for s in (scale - 1, scale + 1) if 0 <= s < SCALES]
            points = propose(space, sampler, CANDIDATES, own, study, near) if round_ else design(space, CANDIDATES, own)
            scores = noisy(surface(logs(points), scale, world), rng)
            study.append(list(zip(points, scores.tolist(), strict=True)))
    best = [min((s, p) for asked in study for p, s in asked)[1] for study in studies]
    return [float(surface(logs([point]), scale, world)[0]) - 1 for scale, point in enumerate(best)]


# --- trained ----------------------------------------------------------------------------------------------


def execute(raw: Mapping[str, Any], folder: str, name: str) -> tuple[list[dict[str, Any]], float]:
    """The rows of a sweep, and the CPU time that it took."""
    store, began = Store(f"{folder}/{name}"), time.process_time()
    run(from_mapping({"name": name, **raw}), store, make_executor("inline"), stream=io.StringIO)
    return cells(store)[0].to_pylist(), time.process_time() - began


def means(rows: list[dict[str, Any]], metric: str) -> dict[tuple[int, float, float], float]:
    """By items, rate and decay: the mean over seeds of the metric at the time that is best on the selection sample."""
    best: dict[tuple[Any, ...], tuple[float, float]] = {}
    for row in rows:
        if row["status"] == "ok":
            run_ = row["n_train"], row["lr"], row["weight_decay"], row["seed"]
            best[run_] = min(best.get(run_, (np.inf, np.inf)), (row["epistemic_select"], row[metric]))
    found: dict[tuple[int, float, float], list[float]] = {}
    for (n, lr, decay, _), values in best.items():
        found.setdefault((n, lr, decay), []).append(values[1])
    return {key: float(np.mean(values)) for key, values in found.items()}


def trained(folder: str) -> dict[str, Any]:
    rates, decays = np.geomspace(1e-3, 1, DENSE[0]).tolist(), np.geomspace(1e-4, 1, DENSE[1]).tolist()
    base, sizes = TRAINED["grid"], TRAINED["grid"]["n_train"]
    rows, seconds = execute({**TRAINED, "grid": {**base, "lr": rates, "weight_decay": decays}}, folder, "dense")
    scores = means(rows, "epistemic_select")
    winners = {n: min((s, key) for key, s in scores.items() if key[0] == n)[1] for n in sizes}
    zipped = {"n_train": sizes, "lr": [winners[n][1] for n in sizes], "weight_decay": [winners[n][2] for n in sizes]}
    again = {k: v for k, v in base.items() if k != "n_train"} | {"zip": zipped, "seed": {"range": [2, 2 + FRESH]}}
    fresh = {
        key[0]: v for key, v in means(execute({**TRAINED, "grid": again}, folder, "again")[0], "epistemic").items()
    }
    found: dict[str, Any] = {
        "dense": {
            "candidates": len(rates) * len(decays),
            "cpu_seconds": round(seconds, 1),
            "lr": {n: winners[n][1] for n in sizes},
            "epistemic": fresh,
        }
    }
    for name in SAMPLERS:
        tuner = {"sampler": name, "rounds": ROUNDS, "candidates": CANDIDATES, "seeds": FRESH}
        rows, seconds = execute({**TRAINED, "tune": TUNE, "tuner": tuner}, folder, name)
        won = [row for row in rows if row["role"] == "selected"]
        mine = {key[0]: value for key, value in means(won, "epistemic").items()}
        found[name] = {
            "candidates": ROUNDS * CANDIDATES,
            "cpu_seconds": round(seconds, 1),
            "lr": {n: next(row["lr"] for row in won if row["n_train"] == n) for n in sizes},
            "epistemic": mine,
            "regret": {n: round(mine[n] / fresh[n] - 1, 4) for n in sizes},
        }
    return found


def packed(folder: str) -> dict[str, Any]:
    tuner = {"sampler": "qmc", "rounds": ROUNDS, "candidates": CANDIDATES, "seeds": FRESH}
    raw = {**TRAINED, "tune": TUNE, "tuner": tuner}
    took = {name: execute({**raw, "resources": r}, folder, name) for name, r in (("lanes", {}), ("one", {"lanes": 1}))}
    return {
        "runs": len({row["run"] for row in took["lanes"][0]}),
        "packs": {name: len({row["pack"] for row in rows}) for name, (rows, _) in took.items()},
        "cpu_seconds": {name: round(seconds, 1) for name, (_, seconds) in took.items()},
        "times_faster": round(took["one"][1] / took["lanes"][1], 1),
    }


def halved(worlds: int, folder: str) -> dict[str, Any]:
    """With and without successive halving, in ten times as many worlds."""
    space = parse_space(TUNE, {name: Axis(name, float, "lane", 0.0) for name in TUNE})
    made = [drawn(np.random.default_rng(seed)) for seed in range(10 * worlds)]
    dense = {
        "lr": np.geomspace(1e-3, 1, DENSE[0]).tolist(),
        "weight_decay": np.geomspace(1e-4, 1, DENSE[1]).tolist(),
    }
    return {
        "simulated": tuning_halved.simulated(space, made, SCALES, surface),
        "trained": tuning_halved.trained(TRAINED, TUNE, dense, folder, execute),
        "wide": tuning_halved.wide(TRAINED, TUNE, folder, execute),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parts: dict[str, Callable[[int, str], Any]] = {
        "simulated": lambda worlds, folder: simulated(worlds),
        "trained": lambda worlds, folder: trained(folder),
        "packed": lambda worlds, folder: packed(folder),
        "halved": halved,
    }
    parser.add_argument("--only", choices=parts, help="run one part")
    given = parser.parse_args()
    found = json.loads(given.out.read_text()) if given.only else {}
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("optuna", "cmaes", "scipy", "torch")},
        "worlds": given.worlds,
    }
    for name in [given.only] if given.only else parts:
        with tempfile.TemporaryDirectory() as folder:
            found = {**about, **found, name: parts[name](given.worlds, folder)}
        print(json.dumps({name: found[name]}, indent=1))
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
