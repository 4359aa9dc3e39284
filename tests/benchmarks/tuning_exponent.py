"""Does an exponent in N change when the learning rate is tuned at every N rather than once?

    python tests/benchmarks/tuning_exponent.py FOLDER --device cuda     # the whole of it
    python tests/benchmarks/tuning_exponent.py FOLDER --tiny            # a trial on a CPU

A ResNet and a ViT learn the world of digits from N items. One sweep tunes the rate at every N (`each`). A second one
trains at the fresh seeds of the first with the rate that won at the smallest N (`smallest`) and with the one that won
at the largest (`largest`), at every N. The epistemic error is that of the evaluation sample at the time that is best on
the selection sample. Exponents are slopes of least squares in logarithms, with percentiles of 2,000 bootstrap draws
over seeds, which all N and arms share; the difference from `each` is paired.

Widths have an arm of their own: an MLP whose rate is tuned at every width, or at the narrowest one and carried over, in
the standard parameterisation (`smallest`) and by mu-P (`mup`).

It writes FOLDER/tuning_exponent.json, needs neither Polars, matplotlib nor Ray, and asserts nothing. Without Optuna the
sampler is qmc.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from raysweep.executors import make_executor
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import from_mapping
from raysweep.sweep.current import cells
from raysweep.yamlfile import read_yaml

WORLD = Path(__file__).resolve().parents[2] / "sweeps/worlds/digits.yaml"
FRESH, DRAWS = 5, 2000
BASE: dict[str, Any] = {
    "temperature": 1.25, "optimiser": "adamw", "weight_decay": 0.01, "warmup": 20, "schedule": "wsd",
    "seed": {"range": 2}, "pool": 131072, "eval_share": 0,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "resnet": {"model": "resnet", "width": 8, "depth": 1},
    "vit": {"model": "vit", "width": 32, "depth": 2, "patch": 2, "heads": 4, "activation": "gelu"},
}
RATES = {"log": [1e-5, 0.1]}
Rows = list[dict[str, Any]]


class Study:
    """Sweeps in one store, so that they share the world."""

    def __init__(self, folder: Path, tiny: bool, device: str) -> None:
        self.store = Store(str(folder / "store"))
        self.world = read_yaml(WORLD)
        self.tiny = tiny
        self.more = {"resources": {"gpus": 1.0 if device == "cuda" else 0.0}}
        sampler = "tpe" if find_spec("optuna") else "qmc"
        self.tuner = {"sampler": sampler, "candidates": 3 if tiny else 12, "rounds": 2 if tiny else 3, "seeds": FRESH}
        if tiny:
            self.world = {"kind": "gaussian", "dim": 64, "classes": 10}

    def rows(self, name: str, grid: Mapping[str, Any], tune: bool) -> Rows:
        """The rows that count of a sweep over `grid`."""
        raw: dict[str, Any] = {"name": name, "experiment": "classifier", "world": self.world, **self.more}
        raw |= {"grid": {**BASE, **grid}, "fit": [{"law": "power", "x": "n_train", "y": "epistemic"}]}
        if tune:
            raw |= {"tune": {"lr": RATES}, "tuner": self.tuner}
        outcome = run(from_mapping(raw, name), self.store, make_executor("inline"))
        for line in outcome.tuned:
            print(line)
        return [row for row in cells(self.store)[0].to_pylist() if row["role"] != "candidate"]


def scores(rows: Rows, x: str) -> dict[float, dict[int, float]]:
    """{x: {seed: epistemic error at the best time}}."""
    best: dict[tuple[float, int], tuple[float, float]] = {}
    for row in rows:
        key = row[x], row["seed"]
        value = (row["epistemic_select"], row["epistemic"]) if row["status"] == "ok" else (np.inf, np.nan)
        best[key] = min(best.get(key, (np.inf, np.nan)), value)
    found: dict[float, dict[int, float]] = {}
    for (at, seed), (_, value) in sorted(best.items()):
        found.setdefault(at, {})[seed] = value
    return found


def slopes(found: Mapping[float, Mapping[int, float]], draws: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[draws + 1] the exponent over all seeds, then over each draw of them."""
    table = np.array([[by_seed[seed] for seed in sorted(by_seed)] for by_seed in found.values()])
    x = np.log(np.array([*found], dtype=float))
    x -= x.mean()
    means = np.concatenate([table.mean(1)[None], table[:, draws].mean(2).T])
    return np.asarray(-(np.log(means) @ x) / (x @ x))


def compared(arms: Mapping[str, Rows], x: str) -> dict[str, Any]:
    draws = np.random.default_rng(0).integers(0, FRESH, (DRAWS, FRESH))
    base = slopes(scores(arms["each"], x), draws)
    found = {}
    for name, rows in arms.items():
        by_x, slope = scores(rows, x), slopes(scores(rows, x), draws)
        apart = slope - base
        found[name] = {
            "lr": {str(at): next(row["lr"] for row in rows if row[x] == at) for at in by_x},
            "epistemic": {str(at): float(np.mean([*values.values()])) for at, values in by_x.items()},
            "alpha": [float(slope[0]), *np.quantile(slope[1:], [0.025, 0.975]).tolist()],
            "alpha_minus_each": [float(apart[0]), *np.quantile(apart[1:], [0.025, 0.975]).tolist()],
        }
    return found


def sizes(study: Study) -> dict[str, Any]:
    n = [64, 256, 1024] if study.tiny else [2**i for i in range(6, 16)]
    steps = [16, 32] if study.tiny else {"log2": [64, 2048]}
    found = {}
    for name, model in MODELS.items():
        grid = {**model, "n_train": n, "steps": steps} | ({"width": 4} if study.tiny else {})
        each = study.rows(f"{name}-each", grid, tune=True)
        found[name] = compared({"each": each} | fixed(study, name, grid, each, "n_train", [n[0], n[-1]]), "n_train")
    return found


def fixed(study: Study, name: str, grid: Mapping[str, Any], each: Rows, x: str, at: Sequence[float]) -> dict[str, Rows]:
    """The arms whose rate won at one value of x."""
    seeds = {"range": [2, 2 + FRESH]}
    rates = {arm: next(row["lr"] for row in each if row[x] == value) for arm, value in zip(ARMS, at, strict=False)}
    return {
        arm: study.rows(f"{name}-{arm}", {**grid, "lr": lr, "seed": seeds}, tune=False) for arm, lr in rates.items()
    }


ARMS = ("smallest", "largest")


def widths(study: Study) -> dict[str, Any]:
    width = [4, 8, 16] if study.tiny else [16, 32, 64, 128, 256, 512]
    steps = [16, 32] if study.tiny else {"log2": [64, 1024]}
    grid = {"model": "mlp", "depth": 2, "width": width, "n_train": 4096, "steps": steps}
    each = study.rows("mlp-each", grid, tune=True)
    arms = {"each": each} | fixed(study, "mlp", grid, each, "width", width[:1])
    scaled = {**grid, "base_width": width[0]}
    first = study.rows("mlp-base", {**scaled, "width": width[0]}, tune=True)
    arms["mup"] = fixed(study, "mlp-mup", scaled, first, "width", width[:1])["smallest"]
    return compared(arms, "width")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    began, study = time.monotonic(), Study(given.folder, given.tiny, given.device)
    device = platform.machine()
    if given.device == "cuda":
        import torch

        device = torch.cuda.get_device_name()
    found = {
        "date": datetime.now(UTC).date().isoformat(), "device": device, "tiny": given.tiny, "tuner": study.tuner,
        "n_train": sizes(study), "width": widths(study), "minutes": round((time.monotonic() - began) / 60, 1),
    }  # fmt: skip
    (given.folder / "tuning_exponent.json").write_text(json.dumps(found, indent=1) + "\n")
    for what in ("resnet", "vit"):
        print(what, {arm: one["alpha"] for arm, one in found["n_train"][what].items()})
    print("width", {arm: one["alpha"] for arm, one in found["width"].items()})


if __name__ == "__main__":
    main()
