"""Real experiments, by a full grid and by sweeps that stop themselves: FLOPs up to the same interval of an exponent.

Run: .venv/bin/python tests/benchmarks/adaptive_real.py [--seeds 16] [--only NAME]
(writes adaptive-real.json beside itself; asserts nothing)

`neighbours`: regression by nearest neighbours of a smooth function of three variables, a user's function, 128 to 131072
examples, cost ~ N; in a cube, whose boundary bends the law, and on a torus, from 1024 examples. `classifier`: networks
in a Gaussian world with an exact posterior, 64 to 4096 examples, four epochs each, cost ~ N. The full grid has
`--seeds` seeds of every scale; its interval, by the same formula, is what the sweep is asked for. The sweep may take 40
times as many seeds of a scale.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402

from raysweep import adaptive  # noqa: E402
from raysweep.executors import make_executor  # noqa: E402
from raysweep.groups import measured, settings_of  # noqa: E402
from raysweep.run import run  # noqa: E402
from raysweep.store import Store  # noqa: E402
from raysweep.sweep import Sweep, from_mapping  # noqa: E402
from raysweep.sweep.current import cells  # noqa: E402
from raysweep.sweep.until import read_target  # noqa: E402
from raysweep.verdict import record  # noqa: E402

MORE = 40  # times as many seeds as the full grid's


def neighbours(config: dict[str, Any]) -> dict[str, Any]:
    """Mean squared error of the mean of the two nearest examples."""
    from scipy.spatial import cKDTree

    rng = np.random.default_rng([config["items"], config["seed"]])
    x, test = rng.random((config["items"], 3)), rng.random((2000, 3))
    near = cKDTree(x, boxsize=1.0 if config["torus"] else None).query(test, k=2)[1]
    return {"loss": float(((_target(x)[near].mean(1) - _target(test)) ** 2).mean()), "flops": 1e3 * config["items"]}


def _target(x: Any) -> Any:
    turn = 2 * np.pi * x
    return np.sin(turn[:, 0]) + np.cos(turn[:, 1]) * np.sin(turn[:, 2])


SWEEPS: dict[str, dict[str, Any]] = {
    "neighbours": {
        "name": "neighbours",
        "experiment": "adaptive_real:neighbours",
        "grid": {"items": {"geom": [128, 131072, 11]}, "torus": False},
        "fit": [{"law": "power", "x": "items", "y": "loss"}],
    },
    "neighbours on a torus": {
        "name": "torus",
        "experiment": "adaptive_real:neighbours",
        "grid": {"items": {"geom": [1024, 131072, 8]}, "torus": True},
        "fit": [{"law": "power", "x": "items", "y": "loss"}],
    },
    "classifier": {
        "name": "classifier",
        "experiment": "classifier",
        "world": {"kind": "gaussian", "dim": 8, "classes": 4},
        "grid": {
            "n_train": {"geom": [64, 4096, 7]},
            "width": 16,
            "batch": 16,
            "steps": "n_train * 4 // 16",
            "lr": 0.02,
            "pool": 8192,
            "eval_items": 2048,
            "select_items": 256,
        },
        "fit": [{"law": "power", "x": "n_train", "y": "epistemic"}],
    },
}


def _sweep(name: str, seeds: int, **more: Any) -> Sweep:
    raw = SWEEPS[name]
    return from_mapping({**raw, "grid": {**raw["grid"], "seed": {"range": seeds}}, **more}, "sweep.yaml", [HERE])


def compared(name: str, seeds: int, folder: Path) -> dict[str, Any]:
    """The full grid, then a sweep that stops at its interval."""
    started = time.time()
    full, store = _sweep(name, seeds), Store(str(folder / "full"))
    run(full, store, make_executor("inline"))
    settings = settings_of(full.runs, full.axes)
    groups, cost, _ = measured(cells(store)[0], full.file.fit[0].request, full.runs, settings)
    (group,) = groups
    target = read_target("alpha", 1.0)
    slopes = group.slopes(target)
    per_run = adaptive.noise(group.u, group.seen, group.residual, 2)
    half = float(adaptive.half_width(slopes, group.seen, per_run))
    bend = adaptive.bend(group.u, slopes, group.seen, group.residual, per_run)
    one = _sweep(name, MORE * seeds, until={"ci95": {"alpha": 2 * half}})
    state = run(one, Store(str(folder / "adaptive")), make_executor("inline")).state
    assert state is not None
    total = float((settings.sizes * cost).sum())
    return {
        "full": {"flops": total, "alpha": group.estimate(target), "half": half, "p_law": float(bend.p)},
        "adaptive": record(state),
        "share_of_full_grid": state.spent / total,
        "seconds": time.time() - started,
    }


def main() -> None:
    """Run both, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--only", choices=[*SWEEPS], help="writes nothing")
    args = parser.parse_args()
    found = {}
    for name in [args.only] if args.only else SWEEPS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = compared(name, args.seeds, Path(folder))
        print(json.dumps(found[name], indent=1), flush=True)
    if not args.only:
        from packing_meter import where

        out = {**where("cpu"), "seeds": args.seeds, "experiments": found}
        (HERE / "adaptive-real.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
