"""The features experiment: lanes of gradient descent side by side against one run after another, and a phase diagram.

    python tests/benchmarks/features.py steps [--device cuda] [--out DIR]     lanes x steps per second, both ways
    python tests/benchmarks/features.py phase [--out DIR]                     sweeps/features_phase.yaml, end to end

`steps`: rich lanes (each with its own B) of 256 and of 512 modes in float64, with the population gradient. The plain
way is the same arithmetic written for one run, in a Python loop without lanes or captured steps. Both start from the
same state and must end at the same losses. Writes features-<device>.json beside this file, or into DIR.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from raysweep.experiments.features_steps import Descent  # noqa: E402
from raysweep.theory.features import power_law_modes  # noqa: E402

ETA, ALPHA, BETA = 0.02, 2.0, 0.5
REPEATS = 5


def plain(modes: int, gamma: float, steps: int, device: str) -> float:
    """One run by itself: its loss after some steps."""
    own = power_law_modes(ALPHA, BETA, modes, modes)
    x, c = (torch.as_tensor(v, device=device) for v in (own.x, np.sqrt(own.mass / own.x)))
    u, b = torch.zeros_like(x), torch.eye(modes, dtype=x.dtype, device=device)
    for _ in range(steps):
        g = x * (c - b.T @ u)
        moved = b @ g
        b = b + ETA * gamma * torch.outer(u, g)
        u = u + ETA * moved
    return float((x * (c - b.T @ u) ** 2).sum())


def stack(modes: int, gammas: list[float], device: str) -> Descent:
    """The same runs as lanes."""
    own = power_law_modes(ALPHA, BETA, modes, modes)
    lanes = len(gammas)
    x, c = (torch.as_tensor(v, device=device).repeat(lanes, 1) for v in (own.x, np.sqrt(own.mass / own.x)))
    zeros = torch.zeros(lanes, dtype=x.dtype, device=device)
    seeds = torch.zeros(lanes, dtype=torch.int64, device=device)
    return Descent(x, c, zeros, torch.as_tensor(gammas, dtype=x.dtype, device=device), ETA, seeds)


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds that some work takes on the device."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def steps(device: str) -> list[dict[str, Any]]:
    """Lanes x steps per second of both ways, medians of repeated intervals."""
    rows = []
    for modes in (256, 512):
        for lanes in (16, 64) if device == "cpu" else (16, 64, 256):
            gammas = np.linspace(0.1, 2, lanes).tolist()
            count = 50 if device == "cpu" else 500
            plain(modes, 1.0, 20, device)
            alone = [lanes_per(timed(lambda m=modes, n=count: plain(m, 1.0, n, device), device), count, 1)
                     for _ in range(REPEATS)]  # fmt: skip
            one = stack(modes, gammas, device)
            one.advance(20)
            packed = []
            for _ in range(REPEATS):
                to = one.steps + count
                packed.append(lanes_per(timed(lambda s=one, t=to: s.advance(t), device), count, lanes))
            expected = plain(modes, gammas[-1], one.steps, device)
            found = float(one.loss[-1])
            assert abs(found / expected - 1) < 1e-8, (found, expected)
            row = {"modes": modes, "lanes": lanes, "plain": median(alone), "packed": median(packed)}
            row["bytes_per_second"] = row["packed"] * 4 * 8 * modes**2  # B is read three times and written once
            row["ratio"] = row["packed"] / row["plain"]
            rows.append(row)
            print(
                f"{modes} modes, {lanes} lanes: {row['plain']:,.0f} plain, {row['packed']:,.0f} packed per second, "
                f"{row['ratio']:.1f} x; {row['bytes_per_second'] / 1e9:,.0f} GB/s", flush=True,
            )  # fmt: skip
    return rows


def lanes_per(seconds: float, count: int, lanes: int) -> float:
    """Lanes x steps per second."""
    return lanes * count / seconds


def phase() -> dict[str, Any]:
    """The phase diagram from an empty store to its report."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "raysweep", "run", str(ROOT / "sweeps/features_phase.yaml"), "--store", folder]
        started = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        assert done.returncode == 0, done.stderr
    print(f"sweeps/features_phase.yaml: {seconds:.0f} s\n{done.stdout.splitlines()[0]}")
    return {"sweep": "features_phase", "seconds": seconds, "said": done.stdout.splitlines()[0]}


def main() -> None:
    """Measure one part, and keep it beside what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("steps", "phase"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    name = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu"
    file = asked.out / f"features-{name.lower().replace(' ', '-')}.json"
    kept = json.loads(file.read_text()) if file.is_file() else {}
    made = steps(asked.device) if asked.part == "steps" else phase()
    about = {"date": date.today().isoformat(), "device": name, "python": platform.python_version()}
    kept[asked.part] = {**about, "torch": torch.__version__, "result": made}
    file.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
