"""The features experiment: lanes of gradient descent side by side against one run after another, and a phase diagram.

    python tests/benchmarks/features.py steps [--device cuda] [--out DIR]     lanes x steps per second, both ways
    OMP_NUM_THREADS=1 python tests/benchmarks/features.py phase [--out DIR]   sweeps/features_phase.yaml, end to end
    OMP_NUM_THREADS=1 python tests/benchmarks/features.py packs [--out DIR]   CPU seconds of a third of it
    python tests/benchmarks/features.py draws [--out DIR]      eigendecompositions, if packs had lanes of every width

`phase`: the wall time of the whole process, from an empty store to its report. Beside it, a sample of the same runs one
at a time: each draws its own model and solves its equations with scipy's LSODA (lazy ones in closed form, as here); the
time of all is extrapolated from the sample. Both must give the same losses.

`steps`: rich lanes (each with its own B) of 256 and of 512 modes in float64, with the population gradient. The plain
way is the same arithmetic written for one run, in a Python loop without lanes or captured steps. Both start from the
same state and must end at the same losses. Writes features-<device>.json beside this file, or into DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from scipy.integrate import solve_ivp

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from raysweep.experiment import Context  # noqa: E402
from raysweep.experiments.features import EXPERIMENT, size  # noqa: E402
from raysweep.experiments.features_steps import Descent  # noqa: E402
from raysweep.grid.axes import KindBy, index_axes  # noqa: E402
from raysweep.plan import make_plan  # noqa: E402
from raysweep.store import Store  # noqa: E402
from raysweep.sweep import load_sweep  # noqa: E402
from raysweep.theory.features import modes_of_width, power_law_modes  # noqa: E402

Array = npt.NDArray[np.float64]
ETA, ALPHA, BETA = 0.02, 2.0, 0.5
REPEATS = 5
MEMORY = 4.0  # GiB of a pack, where packs are counted
MIDDLE = 5  # place of the sample's alpha and beta among theirs


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
        rows = pq.read_table(f"{folder}/cells.parquet").to_pylist()
    said = next(line for line in done.stdout.splitlines() if " ok of " in line)
    print(f"{said}; {seconds:.0f} s in all", flush=True)
    points = {(row["alpha"], row["beta"], row["gamma"]) for row in rows}
    runs = {run_of(row) for row in rows}
    alpha, beta = (sorted({point[i] for point in points})[MIDDLE] for i in (0, 1))
    taken = {}
    for run in sorted(run for run in runs if run[:2] == (alpha, beta)):
        expected = {row["t"]: row["loss"] for row in rows if run_of(row) == run}
        started = time.perf_counter()
        found = by_itself(*run, np.array(sorted(expected)))
        taken[run] = time.perf_counter() - started
        np.testing.assert_allclose(found, [expected[t] for t in sorted(expected)], rtol=1e-3)
        print(f"one at a time: width {run[3]}, gamma {run[2]:g}: {taken[run]:.1f} s", flush=True)
    alone = len(runs) * sum(taken.values()) / len(taken)
    print(f"{len(runs):,} runs one at a time: {alone:,.0f} s, {alone / seconds:.0f} x as long")
    return {
        "sweep": "features_phase", "said": said, "seconds": seconds, "points": len(points), "runs": len(runs),
        "cells": len(rows), "one_at_a_time_seconds": alone, "ratio": alone / seconds,
        "sample": [{"width": run[3], "gamma": run[2], "seconds": s} for run, s in taken.items()],
    }  # fmt: skip


def packs() -> dict[str, Any]:
    """The packs of four alphas of the phase diagram, one after another in this process: without workers or a report."""
    sweep = load_sweep(ROOT / "sweeps/features_phase.yaml", ["alpha=linear(1.25, 4, 4)"])
    with tempfile.TemporaryDirectory() as folder:
        planned = list(make_plan(sweep, Store(folder), slots=2).packs())
    seconds = []
    for pack in planned:
        started = time.process_time()
        rows = sum(len(batch) for batch in sweep.experiment.run(pack.runs, Context()))
        seconds.append(time.process_time() - started)
        widths = sorted({pack.runs.row(lane)["width"] for lane in range(len(pack))})
        print(f"{len(pack)} runs, {rows:,} rows, widths {widths}: {seconds[-1]:.1f} s of CPU", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{len(planned)} packs: {sum(seconds):.1f} s of CPU, {peak:,.0f} MiB at most")
    return {"sweep": "features_phase", "cpu_seconds": seconds, "runs": [len(p) for p in planned], "peak_mib": peak}


def draws() -> dict[str, Any]:
    """The eigendecompositions of sweeps whose widths are shapes, as they are, and if they were lanes of `exact`."""
    either = KindBy("method", {"exact": "lane"}, "shape")
    axes = [replace(axis, kind=either) if axis.name in ("width", "inputs") else axis for axis in EXPERIMENT.axes]
    made: dict[str, Any] = {"memory_gib": MEMORY}
    for name in ("features_phase", "features_frontier", "features_exponents"):
        for kind, of in (("shape", EXPERIMENT.axes), ("lane", axes)):
            sweep = load_sweep(ROOT / f"sweeps/{name}.yaml")
            sweep = replace(
                sweep,
                experiment=replace(EXPERIMENT, axes=of),
                axes=index_axes(of),
                file=sweep.file.model_copy(
                    update={"resources": sweep.file.resources.model_copy(update={"memory_gib": MEMORY})}
                ),
            )
            with tempfile.TemporaryDirectory() as folder:
                planned = list(make_plan(sweep, Store(folder), slots=2).packs())
            exact = [pack.runs for pack in planned if pack.runs.value("method") == "exact"]
            rows = [{drawn_by(runs.row(lane)) for lane in range(len(runs))} - {None} for runs in exact]
            sizes = [(one[0], one[1]) for own in rows for one in own if one]
            work = sum(2.0 * n**2 * m + 9.0 * n**3 for n, m in sizes) / 1e9
            made[f"{name}, {kind}"] = {"packs": len(exact), "decompositions": len(sizes), "gigaflop": work}
            print(f"{name}, width a {kind}: {len(exact)} packs, {len(sizes)} decompositions, {work:,.0f} GFLOP")
    return made


def drawn_by(row: dict[str, Any]) -> tuple[Any, ...] | None:
    """What an eigendecomposition is of, its sizes first; None where a run has none."""
    return (*size(row), row["alpha"], row["target"], row["seed"]) if row["width"] else None


def run_of(row: dict[str, Any]) -> tuple[float, float, float, int]:
    """What a run is of, in the order of by_itself's arguments."""
    return row["alpha"], row["beta"], row["gamma"], row["width"]


def by_itself(alpha: float, beta: float, gamma: float, width: int, times: Array) -> Array:
    """The losses of one run, without anything shared."""
    if width:
        rng = np.random.Generator(np.random.Philox(key=[0, 0]))  # the draws of seed 0
        (modes,) = modes_of_width(alpha, [beta], width, 8 * width, rng)
    else:
        modes = power_law_modes(alpha, beta)
    x, mass = modes.x, modes.mass
    if gamma == 0:
        return np.asarray(modes.unreachable + (mass * np.exp(-2 * x * times[:, None])).sum(1))

    def slope(log_t: float, state: Array) -> Array:
        r, rho = state[:-1], state[-1]
        growth, s = (mass * r * (1 - r)).sum(), 1 + gamma * rho
        moved = -s * x * r - gamma * growth / s * (1 - r)
        return np.asarray(np.exp(log_t) * np.append(moved, 2 * growth))

    first = 1e-4
    start = np.append(np.exp(-x * first), (mass * x).sum() * first**2)
    solved = solve_ivp(
        slope, np.log([first, times[-1]]), start, "LSODA", np.log(times), rtol=1e-7, atol=1e-12,
    )  # fmt: skip
    return np.asarray(modes.unreachable + (mass[:, None] * solved.y[:-1] ** 2).sum(0))


def processor() -> str:
    """The name that the kernel gives the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Measure one part, and keep it beside what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("steps", "phase", "packs", "draws"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    name = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu"
    file = asked.out / f"features-{name.lower().replace(' ', '-')}.json"
    kept = json.loads(file.read_text()) if file.is_file() else {}
    load = round(os.getloadavg()[0], 2)
    made = (
        steps(asked.device) if asked.part == "steps" else {"phase": phase, "packs": packs, "draws": draws}[asked.part]()
    )
    about = {"date": date.today().isoformat(), "device": name, "python": platform.python_version()}
    host = {"cores": os.cpu_count(), "processor": processor(), "load_before": load, "torch": torch.__version__}
    kept[asked.part] = {**about, **host, "numpy": np.__version__, "result": made}
    file.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
