"""A user's own network: every run of a grid by itself, as a plain loop in torch trains it, beside one packed program.

    python tests/benchmarks/packed_module.py [--seeds 15] [--steps 200] [--device cpu] [--out DIR]

The network and the data are those of docs/packing.md, with widths 16 and 64, two learning rates and so many seeds; both
ways train on batches of 64 items, by AdamW in float32, and measure the loss on the test items at the end. The plain
loop is what a careful user writes: data on the device, no synchronisation inside; once with the threads that torch
takes by itself, once with one thread, which suits small networks better. Each way runs once to warm up and then three
times, in turn.

Prints and writes packed_module-<device>.json: runs per second, medians of three, their ratios, and the largest
difference between mean test losses of the two ways in standard errors (batches are drawn by other generators).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from sklearn.datasets import load_digits
from torch import nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from raysweep.executors import Inline  # noqa: E402
from raysweep.experiments.packed_module import PackedModule  # noqa: E402
from raysweep.run import run  # noqa: E402
from raysweep.store import Store  # noqa: E402
from raysweep.sweep import from_mapping  # noqa: E402

WIDTHS, RATES, BATCH = (16, 64), (1e-3, 1e-2), 64


def network(width: int = 64, depth: int = 2) -> nn.Module:
    sizes = [64, *[width] * depth]
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.GELU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.LayerNorm(width), nn.Linear(width, 10))


def digits() -> dict[str, Any]:
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    return {"train": (x[:1200], y[:1200]), "test": (x[1200:], y[1200:])}


def plain(seeds: int, steps: int, device: str) -> dict[tuple[int, float], list[float]]:
    """Test losses, run by run."""
    data = digits()
    (x, y), (test_x, test_y) = ((a.to(device), b.to(device)) for a, b in (data["train"], data["test"]))
    found: dict[tuple[int, float], list[float]] = {}
    for width in WIDTHS:
        for rate in RATES:
            for seed in range(seeds):
                torch.manual_seed(seed)
                net = network(width).to(device)
                optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.0)
                for chosen in torch.randint(len(x), (steps, BATCH), device=device):
                    optimiser.zero_grad(set_to_none=True)
                    nn.functional.cross_entropy(net(x[chosen]), y[chosen]).backward()
                    optimiser.step()
                with torch.no_grad():
                    loss = nn.functional.cross_entropy(net(test_x), test_y).item()
                found.setdefault((width, rate), []).append(loss)
    return found


def packed(seeds: int, steps: int, device: str) -> dict[tuple[int, float], list[float]]:
    """The same of one sweep, its planning and its ledger included."""
    grid = {"width": list(WIDTHS), "lr": list(RATES), "seed": {"range": seeds}, "steps": steps, "batch": BATCH}
    resources = {"cpus": os.cpu_count() or 1, "gpus": int(device != "cpu")}
    declared = {"name": "own", "experiment": PackedModule(network, digits), "grid": grid, "fit": []}
    with tempfile.TemporaryDirectory() as folder:
        run(from_mapping({**declared, "resources": resources}), Store(folder), Inline())
        rows = pl.read_parquet(Path(folder) / "cells.parquet")
    return {
        (width, rate): rows.filter((pl.col("width") == width) & (pl.col("lr") == rate))["loss"].to_list()
        for width in WIDTHS
        for rate in RATES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    threads, runs = torch.get_num_threads(), len(WIDTHS) * len(RATES) * given.seeds
    ways = {"plain": (plain, threads), "plain_one_thread": (plain, 1), "packed": (packed, threads)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, dict[tuple[int, float], list[float]]] = {}
    for turn in range(4):
        for name, (way, own) in ways.items():
            torch.set_num_threads(own)
            began = time.perf_counter()
            losses[name] = way(given.seeds, given.steps, given.device)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    apart = max(
        abs(np.mean(losses["plain"][key]) - np.mean(losses["packed"][key]))
        / math.hypot(*(np.std(losses[way][key], ddof=1) / given.seeds**0.5 for way in ("plain", "packed")))
        for key in losses["plain"]
    )
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    cuda = given.device.startswith("cuda")
    found = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "runs": runs,
        "steps": given.steps,
        "seconds": seconds,
        "runs_per_second": {name: runs / taken for name, taken in median.items()},
        "ratio": {name: taken / median["packed"] for name, taken in median.items() if name != "packed"},
        "largest_difference_in_standard_errors": float(apart),
    }
    print(json.dumps(found, indent=1))
    name = found["device"].lower().replace(" ", "-") if cuda else "cpu"
    (given.out / f"packed_module-{name}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
