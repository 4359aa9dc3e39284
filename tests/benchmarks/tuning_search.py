"""Candidates of a user's function through Ray Tune's OptunaSearch, beside rounds of packs: wall time, regret, rows.

    python tests/benchmarks/tuning_search.py [--scales 5] [--out tests/benchmarks/tuning_search.json]

The function has the simulated loss of `tuning.py` and eight epochs of 50 ms. It is tuned on Ray at some scales with 48
candidates each, by `tpe` in rounds, through OptunaSearch, and with its ASHA scheduler. Regret is the loss without noise
at the winner over the least one, minus 1, a mean over scales, of one world. It asserts nothing.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tuning import CANDIDATES, NOISE, ROUNDS, TUNE, logs, surface

from raysweep.executors import make_executor
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import from_mapping
from raysweep.sweep.current import cells

WORLD = (-1.1, -2.0, 0.2, 0.2, 0.6, 1.5)  # of `surface`
EPOCH_SECONDS = 0.05  # so that a scheduler can stop a run
WAYS: dict[str, dict[str, Any]] = {
    "tpe": {"sampler": "tpe"},
    "optuna_search": {"sampler": "optuna_search"},
    "optuna_search, asha": {"sampler": "optuna_search", "scheduler": "asha"},
}


def learn(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The simulated loss of one world, which falls to its value over eight epochs."""
    point = np.log10(np.array([[config["lr"], config["weight_decay"]]]))
    loss = float(surface(point, config["scale"], np.array(WORLD))[0])
    noise = np.random.default_rng([config["scale"], config["seed"], int(1e9 * config["lr"])]).standard_normal()
    for epoch in config["epoch"]:
        time.sleep(EPOCH_SECONDS)
        yield {"epoch": epoch, "loss": loss * (1 + NOISE * noise) * (1 + 1 / epoch)}


def measured(way: dict[str, Any], store: Store, scales: int) -> dict[str, Any]:
    tuner = {**way, "rounds": ROUNDS, "candidates": CANDIDATES, "seeds": 1}
    raw = {
        "name": "searched",
        "experiment": learn,
        "observed": ["epoch"],
        "grid": {"scale": {"range": scales}, "seed": {"range": 2}, "epoch": {"range": [1, 9]}},
        "tune": TUNE,
        "tuner": tuner,
        "fit": [{"law": "power", "x": "scale", "y": "loss"}],
    }
    began = time.monotonic()
    run(from_mapping(raw), store, make_executor("ray"), stream=io.StringIO)
    seconds, rows = time.monotonic() - began, cells(store)[0].to_pylist()
    won = {row["scale"]: (row["lr"], row["weight_decay"]) for row in rows if row["role"] == "selected"}
    regret = [float(surface(logs([point]), scale, np.array(WORLD))[0]) - 1 for scale, point in won.items()]
    tried = [row["status"] == "ok" for row in rows if row["role"] == "candidate"]
    return {
        "wall_seconds": round(seconds, 1),
        "candidates": ROUNDS * CANDIDATES,
        "regret": round(float(np.mean(regret)), 4),
        "rows_measured": round(float(np.mean(tried)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": platform.processor() or platform.machine(),
        "load": [round(one, 1) for one in os.getloadavg()],
        "scales": given.scales,
        "versions": {name: version(name) for name in ("optuna", "ray")},
    }
    for name, way in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measured(way, Store(folder + "/store"), given.scales)
        print(name, found[name], flush=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
