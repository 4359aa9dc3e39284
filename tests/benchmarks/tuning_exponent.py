"""Does an exponent in N change when the learning rate is tuned at every N rather than once?

    python tests/benchmarks/tuning_exponent.py FOLDER --device cuda     # the whole of it
    python tests/benchmarks/tuning_exponent.py FOLDER --size cpu        # an MLP, in minutes; draws a figure, too
    python tests/benchmarks/tuning_exponent.py FOLDER --size tiny       # a trial

A ResNet and a ViT learn the world of digits from N items. One sweep tunes the rate at every N (`each`). Others tune it
at the smallest N (`smallest`) or at the largest (`largest`) and take the winner to every N (`tuner.transfer`). All are
measured on the same fresh seeds. The epistemic error is that of the evaluation sample at the time that is best on
the selection sample. Exponents are slopes of least squares in logarithms, with percentiles of 2,000 bootstrap draws
over seeds, which all N and arms share; the difference from `each` is paired.

Widths have arms of their own: an MLP whose rate is tuned at every width (`each`), or at the narrowest one and taken to
the others, in the standard parameterisation (`smallest`) and by mu-P (`mup`: Yang et al. 2022, arXiv 2203.03466).

`candidates` and `flops` are what the search of an arm trained, without the winners. It writes
FOLDER/tuning_exponent.json, needs neither Polars, matplotlib nor Ray, and asserts nothing. Without Optuna the
sampler is qmc.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
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

SIZES = ("tiny", "cpu", "full")
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
SMALL: dict[str, dict[str, Any]] = {"mlp": {"model": "mlp", "width": 32, "depth": 2}}  # what a CPU trains in minutes
COLOURS = {"each": "C0", "smallest": "C1", "largest": "C2", "mup": "C3"}
RATES = {"log": [1e-5, 0.1]}
Rows = list[dict[str, Any]]


class Study:
    """Sweeps in one store, so that they share the world."""

    def __init__(self, folder: Path, size: str, device: str) -> None:
        self.store = Store(str(folder / "store"))
        self.world = read_yaml(WORLD)
        self.size = size
        tiny = size == "tiny"
        self.more = {"resources": {"gpus": 1.0 if device == "cuda" else 0.0}}
        sampler = "tpe" if find_spec("optuna") else "qmc"
        self.tuner = {"sampler": sampler, "candidates": 3 if tiny else 12, "rounds": 2 if tiny else 3, "seeds": FRESH}
        if size != "full":
            self.world = {"kind": "gaussian", "dim": 64, "classes": 10}

    def arm(self, name: str, grid: Mapping[str, Any], x: str, at: float | None = None) -> Arm:
        """A sweep over `grid` that tunes the rate at every value of x, or only at one."""
        raw: dict[str, Any] = {"name": name, "experiment": "classifier", "world": self.world, **self.more}
        raw |= {"grid": {**BASE, **grid}, "fit": [{"law": "power", "x": x, "y": "epistemic"}]}
        raw |= {"tune": {"lr": RATES}, "tuner": {**self.tuner, **({} if at is None else {"transfer": {x: at}})}}
        outcome = run(from_mapping(raw, name), self.store, make_executor("inline"))
        for line in outcome.tuned:
            print(line)
        rows = cells(self.store)[0].to_pylist()
        tried = {row["run"]: row["flops"] or 0.0 for row in sorted(rows, key=steps) if row["role"] == "candidate"}
        won = [row for row in rows if row["role"] == "selected"]
        return Arm(won, len({row["lr"] for row in rows if row["role"] == "candidate"}), sum(tried.values()))


@dataclass(frozen=True)
class Arm:
    """The rows on fresh seeds, and what the search trained."""

    rows: Rows
    candidates: int
    flops: float


def steps(row: Mapping[str, Any]) -> int:
    return int(row["steps"])


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


def compared(arms: Mapping[str, Arm], x: str) -> dict[str, Any]:
    draws = np.random.default_rng(0).integers(0, FRESH, (DRAWS, FRESH))
    base = slopes(scores(arms["each"].rows, x), draws)
    found = {}
    for name, arm in arms.items():
        by_x, slope = scores(arm.rows, x), slopes(scores(arm.rows, x), draws)
        apart = slope - base
        found[name] = {
            "candidates": arm.candidates,
            "flops": arm.flops,
            "lr": {str(at): next(row["lr"] for row in arm.rows if row[x] == at) for at in by_x},
            "epistemic": {str(at): float(np.mean([*values.values()])) for at, values in by_x.items()},
            "alpha": [float(slope[0]), *np.quantile(slope[1:], [0.025, 0.975]).tolist()],
            "alpha_minus_each": [float(apart[0]), *np.quantile(apart[1:], [0.025, 0.975]).tolist()],
        }
    return found


def sizes(study: Study) -> dict[str, Any]:
    n = {"tiny": [64, 256, 1024], "cpu": [2**i for i in range(6, 13)], "full": [2**i for i in range(6, 16)]}[study.size]
    read = {"tiny": [16, 32], "cpu": {"log2": [32, 512]}, "full": {"log2": [64, 2048]}}[study.size]
    found = {}
    for name, model in (SMALL if study.size == "cpu" else MODELS).items():
        grid = {**model, "n_train": n, "steps": read} | ({"width": 4} if study.size == "tiny" else {})
        at = {"each": None, "smallest": n[0], "largest": n[-1]}
        arms = {arm: study.arm(f"{name}-{arm}", grid, "n_train", one) for arm, one in at.items()}
        found[name] = compared(arms, "n_train")
    return found


def widths(study: Study) -> dict[str, Any]:
    width = {"tiny": [4, 8, 16], "cpu": [8, 16, 32, 64, 128], "full": [16, 32, 64, 128, 256, 512]}[study.size]
    read = {"tiny": [16, 32], "cpu": {"log2": [32, 512]}, "full": {"log2": [64, 1024]}}[study.size]
    grid = {"model": "mlp", "depth": 2, "width": width, "n_train": 4096, "steps": read}
    arms = {
        "each": study.arm("width-each", grid, "width"),
        "smallest": study.arm("width-smallest", grid, "width", width[0]),
        "mup": study.arm("width-mup", {**grid, "base_width": width[0]}, "width", width[0]),
    }
    return compared(arms, "width")


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Rate and error against x, for each arm."""
    from matplotlib.figure import Figure

    panels = {**{f"{name}, items": arms for name, arms in found["n_train"].items()}, "mlp, width": found["width"]}
    figure = Figure(figsize=(4.2 * len(panels), 6), layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False)
    for (what, arms), (above, below) in zip(panels.items(), axes.T, strict=True):
        for name, arm in arms.items():
            alpha = "{:.3f} [{:.3f}, {:.3f}]".format(*arm["alpha"])
            x = [float(at) for at in arm["lr"]]
            colour = COLOURS[name]
            above.loglog(x, [*arm["lr"].values()], "o-", color=colour)
            below.loglog(
                x, [*arm["epistemic"].values()], "o-", color=colour, label=f"{name}: {alpha}, {arm['flops']:.1e} FLOP"
            )
        above.set(title=what, ylabel="learning rate")
        below.set(xlabel=what.partition(", ")[2], ylabel="epistemic error (nats)")
        below.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=SIZES, default="full")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    began, study = time.monotonic(), Study(given.folder, given.size, given.device)
    device = platform.machine()
    if given.device == "cuda":
        import torch

        device = torch.cuda.get_device_name()
    found = {
        "date": datetime.now(UTC).date().isoformat(), "device": device, "size": given.size, "tuner": study.tuner,
        "n_train": sizes(study), "width": widths(study), "minutes": round((time.monotonic() - began) / 60, 1),
    }  # fmt: skip
    (given.folder / "tuning_exponent.json").write_text(json.dumps(found, indent=1) + "\n")
    if given.size == "cpu":
        draw(found, given.folder / "tuning_exponent.png")
    for what, arms in found["n_train"].items():
        print(what, {arm: one["alpha"] for arm, one in arms.items()})
    print("width", {arm: one["alpha"] for arm, one in found["width"].items()})


if __name__ == "__main__":
    main()
