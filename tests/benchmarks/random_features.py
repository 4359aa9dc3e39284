"""Logistic random features: Newton's method for lanes side by side against one lane after another.

    python tests/benchmarks/random_features.py [--device cuda] [--out DIR]

The rival is the same method written for one lane, with plain matrices, in a loop. Lanes are ridges of one seed, or of
16 seeds, at 300 items; features and their decomposition are made before and not timed. Both ways must give the same
weights: `apart` is the largest relative distance. `share_of_run` is what Newton's method takes of a whole run with
10,000 inputs for the variance and all flips of 100 more. On CPUs, times are CPU times of one thread, as packs have it.
Writes random_features-<device>.json beside this file, or into DIR.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from raysweep.experiments.newton import logistic  # noqa: E402
from raysweep.experiments.random_features import Features, drawn  # noqa: E402

ITEMS, DIM = 300, 100
WIDTHS = (10, 30, 100, 300, 1000)
LANES = {"8 ridges of 1 seed": (1, 8), "2 ridges of 16 seeds": (16, 2), "8 ridges of 16 seeds": (16, 8)}


def plain(basis: Tensor, y: Tensor, ridge: float) -> Tensor:
    """One lane: coordinates at the minimum."""

    def objective(v: Tensor) -> tuple[Tensor, Tensor]:
        margin = y * (basis @ v)
        return torch.nn.functional.softplus(-margin).sum() + ridge / 2 * (v @ v), margin

    v, start = basis.new_zeros(basis.shape[1]), 0.0
    value, margin = objective(v)
    for _ in range(100):
        force = torch.sigmoid(-margin)
        gradient = ridge * v - basis.T @ (y * force)
        size = gradient.norm().item()
        start = start or size
        if size <= 1e-11 * start:
            break
        hessian = basis.T @ ((force * (1 - force))[:, None] * basis)
        hessian.diagonal().add_(ridge)
        step = torch.cholesky_solve(gradient[:, None], torch.linalg.cholesky(hessian))[:, 0]
        share = 1.0
        while share > 1e-6:
            after, seen = objective(v - share * step)
            if after <= value - 1e-4 * share * (gradient @ step) + 1e-12 * value.abs():
                break
            share /= 2
        v, value, margin = v - share * step, after, seen
    return v


def timed(works: Sequence[Callable[[], Any]], device: str, repeats: int) -> list[float]:
    """The shortest of some runs of each, in turn, in seconds."""
    best = [float("inf")] * len(works)
    clock = time.perf_counter if device == "cuda" else time.process_time
    for _ in range(repeats):
        for i, work in enumerate(works):
            if device == "cuda":
                torch.cuda.synchronize()
            started = clock()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            best[i] = min(best[i], clock() - started)
    return best


def measure(width: int, name: str, device: str, repeats: int) -> dict[str, Any]:
    """Both ways at one width."""
    seeds, each = LANES[name]
    own = [Features(drawn(seed, width, ITEMS, DIM, 10_000, 100), "tanh", device) for seed in range(seeds)]
    features = [one for one in own for _ in range(each)]
    labels = [one.draws.labels(False, 0.1, 0.0) for one in features]
    ridges = [10 ** (-4 + 3 * i / each) for _ in own for i in range(each)]
    targets = [torch.as_tensor(y, device=device) for y in labels]

    def ours() -> list[Tensor]:
        return [fit.weights[:, 0] for fit in logistic(features, labels, ridges)]

    def loop() -> list[Tensor]:
        bases = {id(one): one.basis for one in own}
        lanes = zip(features, targets, ridges, strict=True)
        return [one.from_basis(plain(bases[id(one)], y, ridge)) for one, y, ridge in lanes]

    apart = max(float((a - b).norm() / b.norm()) for a, b in zip(ours(), loop(), strict=True))
    weights = torch.stack(ours()[:each], dim=1)

    def others() -> None:
        Features(drawn(0, width, ITEMS, DIM, 10_000, 100), "tanh", device).measured(weights)

    seconds, rival, rest = timed((ours, loop, others), device, repeats)
    return {
        "width": width,
        "lanes": name,
        "seconds": seconds,
        "rival_seconds": rival,
        "ratio": rival / seconds,
        "apart": apart,
        "share_of_run": seconds / seeds / (seconds / seeds + rest),
    }


def main() -> None:
    """Measure all widths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for width in asked.widths:
        for name in LANES:
            rows.append(measure(width, name, asked.device, asked.repeats))
            print({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    device = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu"
    about = {"date": date.today().isoformat(), "device": device, "python": platform.python_version()}
    about |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / f"random_features-{device.lower().replace(' ', '-')}.json"
    file.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
