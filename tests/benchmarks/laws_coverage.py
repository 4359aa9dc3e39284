"""How often a nominal 95 % interval of a law holds the truth, over simulated worlds of many designs.

Run: .venv/bin/python tests/benchmarks/laws_coverage.py [--worlds 500] [--draws 500] [--only TEXT]
(writes laws-coverage.json beside itself unless only some designs are run; asserts nothing)

A world is one data set: the truth times exp(noise). Runs are independent unless a design says otherwise; in `nested`
ones a seed's runs at all N share their draw of data, so errors at neighbouring N are correlated. `ahead` is the mean
law, and `new run` a further run's measurement, beyond the largest scales (4 times on every axis).
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
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":  # before numpy is imported; a test that imports this leaves its process as it is
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from raysweep.laws import law  # noqa: E402
from raysweep.laws.bootstrap import Bootstrap, resample  # noqa: E402
from raysweep.laws.definition import Law  # noqa: E402
from raysweep.laws.differences import compare  # noqa: E402
from raysweep.laws.estimate import Status, solve  # noqa: E402

Array = npt.NDArray[np.float64]
CHINCHILLA, POWER, FLOOR = law("chinchilla"), law("power"), law("power+floor")
GOAL = (0.92, 0.98)
AHEAD = 4.0  # times the largest scale
_TOGETHER = 20_000  # draws solved at a time

# (E, A, B, alpha, beta) and the ranges of N and D, two decades each.
SURFACES = {
    "chinchilla": ([1.7, 400.0, 410.0, 0.34, 0.28], (1e8, 1e10), (1e9, 1e11)),
    "symmetric": ([1.7, 400.0, 400.0, 0.31, 0.31], (1e8, 1e10), (1e9, 1e11)),
    "3:1": ([1.7, 400.0, 40.0, 0.465, 0.155], (1e6, 1e8), (1e8, 1e10)),
}
LINES = {"power": [3.0, 0.5], "power+floor": [0.2, 3.0, 0.5]}
RANGE = (1e2, 1e5)


@dataclass(frozen=True)
class Design:
    """Where a world is measured, and how its noise falls.

    Attributes:
        form: The law, true and fitted.
        truth: Its parameters.
        x: Scales, [axes, points].
        noise: An rng and a number of worlds to noise of log y, [worlds, points].
        sigma: Standard deviation of log y between runs (at the middle, where it varies).
        run: The run of each point; None where each is one of its own.
        goal: Whether the intervals claim to cover; not where the design breaks what they assume.
    """

    form: Law
    truth: Array
    x: Array
    noise: Callable[[np.random.Generator, int], Array]
    sigma: float
    run: npt.NDArray[np.int64] | None = None
    goal: bool = True


def independent(form: Law, truth: list[float], x: Array, sigma: float, seeds: int, ratio: float = 1.0) -> Design:
    """`seeds` independent runs at each scale; the noise at the smallest is `ratio` times that at the largest."""
    x = np.repeat(np.atleast_2d(x), seeds, axis=1)
    u = np.log(x).sum(axis=0)
    each = sigma * ratio ** (0.5 - (u - u.min()) / np.ptp(u))
    return Design(
        form,
        np.array(truth),
        x,
        lambda rng, worlds: each * rng.standard_normal((worlds, u.size)),
        sigma,
        goal=ratio == 1,
    )


def square(surface: str, levels: int, sigma: float, seeds: int) -> Design:
    truth, n, d = SURFACES[surface]
    mesh = np.meshgrid(np.geomspace(*n, levels), np.geomspace(*d, levels), indexing="ij")
    return independent(CHINCHILLA, truth, np.stack([m.ravel() for m in mesh]), sigma, seeds)


def line(form: Law, scales: int, sigma: float, seeds: int, floor: float | None = None, ratio: float = 1.0) -> Design:
    truth = list(LINES[form.name])
    if floor is not None:
        truth[0] = floor
    return independent(form, truth, np.geomspace(*RANGE, scales), sigma, seeds, ratio)


def nested(form: Law, sigma: float, correlation: float, clustered: bool, seeds: int = 5, scales: int = 8) -> Design:
    """A ledger's own: each seed has all N, its smaller sets contained in its larger ones (AR(1) errors in log N)."""
    x = np.tile(np.geomspace(64, 65536, scales), seeds)[None]
    root = np.linalg.cholesky(correlation ** np.abs(np.subtract.outer(np.arange(scales), np.arange(scales))))
    run = np.repeat(np.arange(seeds), scales) if clustered else None

    def noise(rng: np.random.Generator, worlds: int) -> Array:
        return sigma * (rng.standard_normal((worlds, seeds, scales)) @ root.T).reshape(worlds, -1)

    honest = clustered or correlation == 0
    return Design(form, np.array(LINES[form.name]), x, noise, sigma, run, goal=honest)


def checkpoints(widths: int, seeds: int, sigma: float) -> Design:
    """Runs at several widths, each measured along its training: a run's luck shifts and tilts its whole curve."""
    truth, n, d = SURFACES["chinchilla"]
    each_n, each_d = np.repeat(np.geomspace(*n, widths), seeds), np.geomspace(*d, 6)
    x = np.stack([np.repeat(each_n, each_d.size), np.tile(each_d, each_n.size)])
    tilt = np.linspace(-1, 1, each_d.size)

    def noise(rng: np.random.Generator, worlds: int) -> Array:
        shift, lean = sigma * rng.standard_normal((2, worlds, each_n.size, 1))
        loose = 0.3 * sigma * rng.standard_normal((worlds, each_n.size, each_d.size))
        return np.asarray((shift + 0.5 * lean * tilt + loose).reshape(worlds, -1))

    run = np.repeat(np.arange(each_n.size), each_d.size)
    return Design(CHINCHILLA, np.array(truth), x, noise, sigma * np.hypot(1, 0.5), run)


def designs() -> dict[str, Design]:
    out = {}
    for levels in (3, 4):
        for surface in SURFACES:
            for sigma in (0.005, 0.01):
                for seeds in (1, 3):
                    out[f"{surface} {levels}x{levels}, {sigma:.1%}, {seeds}"] = square(surface, levels, sigma, seeds)
    for form in (POWER, FLOOR):
        for scales in (6, 9):
            for sigma in (0.01, 0.05):
                for seeds in (1, 3):
                    out[f"{form.name} {scales}, {sigma:.0%}, {seeds}"] = line(form, scales, sigma, seeds)
        out[f"{form.name} 9, 2%, 5"] = line(form, 9, 0.02, 5)
    for floor in (0.0, 0.02):
        for seeds in (1, 3):
            out[f"power+floor 6, E={floor:g}, 3%, {seeds}"] = line(FLOOR, 6, 0.03, seeds, floor)
    for form in (POWER, FLOOR):
        for correlation in (0.5, 0.8):
            out[f"nested {form.name}, rho={correlation}, run=seed"] = nested(form, 0.03, correlation, True)
        out[f"nested {form.name}, rho=0, runs"] = nested(form, 0.03, 0.0, False)
    out["nested power+floor, rho=0.8, runs (said to be independent)"] = nested(FLOOR, 0.03, 0.8, False)
    for widths, seeds in ((5, 2), (6, 4)):
        out[f"chinchilla, {widths} widths, 6 checkpoints, 0.5%, {seeds}"] = checkpoints(widths, seeds, 0.005)
    for seeds in (1, 3):
        out[f"power+floor 9, 2%, {seeds}, noise falls 3-fold"] = line(FLOOR, 9, 0.02, seeds, ratio=3.0)
    return out


def samples(design: Design, worlds: int, draws: int, seed: int) -> tuple[list[Bootstrap], float, Array]:
    """The bootstrap of each world, the share of estimates at a bound, and noise of one more run ahead, [worlds]."""
    form, rng, u = design.form, np.random.default_rng(seed), np.log(design.x)
    t = form.evaluate(u, design.truth)[0] + design.noise(rng, worlds)
    found = solve(form, u[None], t, np.ones_like(t))
    out: list[Bootstrap] = []
    block = max(1, _TOGETHER // draws)
    for first in range(0, worlds, block):
        index = range(first, min(worlds, first + block))
        parts = [
            resample(form, design.x, np.exp(t[i]), found.values[i], design.run, draws=draws, seed=1000 + i)
            for i in index
        ]
        counts = [draws - part.discarded for part in parts]
        y, w, start = [], [], []
        for i, part, count in zip(index, parts, counts, strict=True):
            shape = (count, t.shape[1])
            y.append(np.broadcast_to(t[i] if part.y is None else np.log(part.y), shape))
            w.append(np.ones(shape) if part.weights is None else part.weights)
            start.append(np.broadcast_to(found.values[i], (count, found.values.shape[1])))
        drawn = solve(form, u[None], *map(np.concatenate, (y, w)), None, np.concatenate(start), 1e-7).values
        ends = np.cumsum(counts)[:-1]
        out += [
            part.solved(form, found.values[i], one)
            for i, part, one in zip(index, parts, np.split(drawn, ends), strict=True)
        ]
    bound = float((found.status == Status.BOUND_HIT).mean())
    return out, bound, design.sigma * rng.standard_normal(worlds)


def covered(design: Design, worlds: int, draws: int, seed: int = 0, level: float = 0.95) -> dict[str, Any]:
    """Coverage, median width and the share of misses on each side, of each parameter and derived quantity."""
    start = time.process_time()
    form, truth = design.form, design.truth
    found, bound, extra = samples(design, worlds, draws, seed)
    ahead = design.x.max(axis=1, keepdims=True) * AHEAD
    mean = float(np.log(form.predict(ahead, truth))[0])
    ends: dict[str, tuple[Any, Array]] = {}
    each = np.array([sample.interval(level) for sample in found])
    for j, name in enumerate(form.names):
        ends[name] = (truth[j], each[:, j])
    for derived in form.derived[:1]:
        ends[derived.name] = (derived.of(truth), np.array([s.interval_of(derived.of, level) for s in found]))
    ends["ahead"] = (mean, np.log([s.band(ahead, level)[0] for s in found]))
    ends["new run"] = (mean + extra, np.log([s.prediction(ahead, level)[0] for s in found]))
    result = {}
    for name, (true, pair) in ends.items():
        below, above = true < pair[:, 0], true > pair[:, 1]
        result[name] = {
            "coverage": round(float(1 - (below | above).mean()), 4),
            "width": float(f"{np.median(np.diff(pair, axis=1)):.4g}"),
            "missed": [round(float(below.mean()), 4), round(float(above.mean()), 4)],
        }
    return {
        "runs": found[0].runs,
        "kind": found[0].kind,
        "freedom": found[0].freedom,
        "goal": design.goal,
        "at_bound": bound,
        "cpu_s": round(time.process_time() - start, 1),
        "of": result,
    }


def paired(worlds: int, draws: int, share: float, level: float = 0.95) -> dict[str, Any]:
    """Two arms whose runs share `share` of their noise's variance: the difference of alpha, paired and not."""
    design = line(POWER, 6, 0.05, 3)
    form, u = design.form, np.log(design.x)
    rng, t0 = np.random.default_rng(0), form.evaluate(u, design.truth)[0]
    found: dict[str, list[tuple[bool, float]]] = {"paired": [], "independent": []}
    labels = np.arange(t0.size)
    for _ in range(worlds):
        common = np.sqrt(share) * rng.standard_normal(t0.size)
        own = np.sqrt(1 - share) * rng.standard_normal((2, t0.size))
        t = t0 + design.sigma * (common + own)
        values = solve(form, u[None], t, np.ones_like(t)).values
        for name, run in (("paired", labels), ("independent", None)):
            arms = []
            for one, value in zip(t, values, strict=True):
                part = resample(form, design.x, np.exp(one), value, run, draws=draws, seed=1)
                assert part.y is not None
                start = np.broadcast_to(value, (draws, value.size))
                drawn = solve(form, u[None], np.log(part.y), np.ones_like(part.y), None, start, 1e-7)
                arms.append(part.solved(form, value, drawn.values))
            d = compare(arms[0], arms[1], lambda v: v[..., 1], level)
            found[name].append((d.low <= 0 <= d.high, d.high - d.low))
    return {
        name: {
            "coverage": round(float(np.mean([hit for hit, _ in rows])), 4),
            "width": float(f"{np.median([width for _, width in rows]):.4g}"),
        }
        for name, rows in found.items()
    }


def _one(task: tuple[str, int, int]) -> tuple[str, dict[str, Any]]:
    name, worlds, draws = task
    with np.errstate(all="ignore"):
        return name, covered(designs()[name], worlds, draws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=500)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--only", default="", help="designs whose name contains this; writes nothing")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    results, outside = {}, []
    tasks = [(name, args.worlds, args.draws) for name in designs() if args.only in name]
    with ProcessPoolExecutor(args.processes) as pool:
        for name, found in pool.map(_one, tasks):
            results[name] = found
            print(
                f"{name}: {found['runs']} runs, {found['kind']}, {found['freedom']} degrees of freedom, "
                f"{found['at_bound']:.1%} at a bound, {found['cpu_s']:.0f} CPU-s",
                flush=True,
            )
            for of, one in found["of"].items():
                low, high = one["missed"]
                inside = GOAL[0] <= one["coverage"] <= GOAL[1]
                mark = "" if inside else "   outside the goal" if found["goal"] else "   (claims nothing)"
                print(
                    f"    {of:8} {one['coverage']:.3f}  width {one['width']:<10.4g} missed {low:.3f} {high:.3f}{mark}"
                )
                if found["goal"] and not inside:
                    outside.append(f"{name}: {of}")
    pairs = {f"{share:g}": paired(args.worlds, args.draws, share) for share in (0.0, 0.5, 0.9)}
    for share, both in pairs.items():
        print(f"difference of two arms that share {share} of the variance: {both}")
    print(f"outside {GOAL}: {outside}")
    if not args.only:
        from packing_meter import where

        record = {**where("cpu"), "level": 0.95, "worlds": args.worlds, "draws": args.draws, "designs": results}
        record |= {"paired": pairs, "outside": outside}
        (HERE / "laws-coverage.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
