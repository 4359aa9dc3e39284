"""What a sweep that stops itself costs up to a given interval of an exponent, and whether that interval holds.

Run: .venv/bin/python tests/benchmarks/adaptive.py [--worlds 500] [--quick]
(writes adaptive.json and adaptive.png beside itself; asserts nothing)

Simulated worlds: a power law and one with a floor, 4 scales per decade, runs that cost N over three decades or N^2 over
two, noise of 5 % per run. The wanted interval is the one that the full grid reaches with 16, 32 or 64 seeds of every
scale. The sweep pays for all it does not know: the coarse pass, the law, the noise, the passes over the whole grid, the
wider interval because it looks repeatedly. Its rivals know law and noise and look once. One of them, the oracle, makes
one run of every scale as the sweep does: no method that looks at every scale can be cheaper.

Bent worlds: the slope of log y changes in the middle of the grid by a multiple of the wanted half width. Their effect
is measured in three ways: `gap`, how far the law that was fitted is from the truth at the largest scale, in standard
deviations of a run there; `shift`, how far alpha is from what equally many runs at every scale would give, in half
widths; and `beyond`, the same in units of half width plus the bend that the sweep says it cannot exclude. `best` is
the power of the best test of the same runs, by who knows the bend's shape, looks once and rejects 2 % of right laws.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":  # before numpy is imported; a test that imports this leaves its process as it is
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402
from adaptive_worlds import World, adaptive, best_power, fitted, goal_of, rivals  # noqa: E402
from scipy.special import ndtr, ndtri  # noqa: E402

from raysweep.adaptive import Seen  # noqa: E402

SEEDS = (16, 32, 64)
BENDS = (1, 2, 4, 8, 10, 12, 14, 16, 20, 24, 32)
ORACLE_LEVEL = 0.02  # of the test that knows the bend's shape
GOALS = {"N": 1 / 6, "N^2": 1 / 12}
COSTS = {"N": (3, 1), "N^2": (2, 2)}


def coverage(world: World, seeds: int, worlds: int, rng: np.random.Generator, limit: float = 1e9) -> dict[str, Any]:
    """Cost and coverage of one kind of world."""
    goal = goal_of(world, seeds)
    ended, others = adaptive(world, goal, worlds, rng, limit), rivals(world, goal, rng)
    ok = ended.done & ~ended.bent
    hit = np.abs(ended.alpha - world.truth[world.alpha]) <= ended.half
    mean = float(ended.cost[ok].mean())
    return {
        "world": asdict(world),
        "seeds_of_full_grid": seeds,
        "wanted_width": 2 * goal,
        "coverage": float(hit[ok].mean()),
        "stopped": float(ok.mean()),
        "called_bent": float(ended.bent.mean()),
        "width_over_wanted": float((ended.half[ok] / goal).mean()),
        "rounds": float(ended.rounds.mean()),
        "runs": float(ended.count.sum(-1)[ok].mean()),
        "share_of_full_grid": mean / others["full grid"],
        "oracle_share_of_full_grid": others["oracle, one run of every scale"] / others["full grid"],
        "median_share_of_full_grid": float(np.median(ended.cost[ok])) / others["full grid"],
        "cost": {"adaptive": mean, **others},
    }


def bent(world: World, seeds: int, worlds: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """How often bent laws are noticed, by the size of their effect."""
    goal, found = goal_of(world, seeds), []
    for times in BENDS:
        one = replace(world, bend=times * goal)
        ended = adaptive(one, goal, worlds, rng)
        clean = fitted(one, Seen(ended.count, np.broadcast_to(one.log_y, ended.count.shape), 0 * ended.count))
        whole = fitted(one, Seen(np.ones((1, one.u.size)), one.log_y[None], np.zeros((1, one.u.size))))[0, 1]
        top = np.log(clean[:, 0]) - clean[:, 1] * one.u[-1] - one.log_y[-1]
        shift = np.abs(clean[:, 1] - whole)
        missed = ~ended.bent
        within = np.abs(ended.alpha - whole) <= ended.half + ended.unseen
        found.append(
            {
                "world": asdict(one),
                "seeds_of_full_grid": seeds,
                "bend_in_half_widths": times,
                "noticed": float(ended.bent.mean()),
                "best": float(best_power(one, ended.count, ORACLE_LEVEL).mean()),
                "cost_in_passes": float(ended.cost.mean() / one.cost.sum()),
                "gap": float(np.abs(top).mean() / one.sd[-1]),
                "shift": float(shift.mean() / goal),
                "beyond": float((shift / (ended.half + ended.unseen)).mean()),
                "unseen_in_half_widths": float((ended.unseen / goal).mean()),
                "covered_with_unseen_where_missed": float(within[missed].mean()) if missed.any() else None,
            }
        )
    return found


def at_two(found: list[dict[str, Any]]) -> dict[str, float]:
    """What is noticed, and what the best test would notice, where the gap is two standard deviations (by probits)."""
    gaps = np.array([one["gap"] for one in found])
    order = np.argsort(gaps)
    shares = {key: np.clip([one[key] for one in found], 1e-3, 1 - 1e-3)[order] for key in ("noticed", "best")}
    return {key: float(ndtr(np.interp(2.0, gaps[order], ndtri(share)))) for key, share in shares.items()}


def main() -> None:
    """Simulate, print, write the JSON and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=500)
    parser.add_argument("--quick", action="store_true", help="few worlds; writes nothing")
    args = parser.parse_args()
    worlds, started = 40 if args.quick else args.worlds, time.process_time()
    rng = np.random.default_rng(0)
    cases, bends, twos = [], [], []
    for law in ("power", "power+floor"):
        for cost, (decades, power) in COSTS.items():
            world = World(law, decades, power)
            kinds = [(world, seeds, 1e9) for seeds in SEEDS]
            if law == "power":
                kinds += [
                    (world, 32, 256.0),
                    (replace(world, growth=-0.15), 32, 1e9),
                    (replace(world, growth=0.1), 32, 1e9),
                ]
            for one, seeds, limit in kinds:
                found = {**coverage(one, seeds, worlds, rng, limit), "cost_as": cost, "seeds_in_grid": limit}
                cases.append(found)
                short = found["share_of_full_grid"] > GOALS[cost] or not 0.93 <= found["coverage"] <= 0.98
                name = f"{law} {cost} S={seeds} limit={limit:g} growth={one.growth}"
                saved = f"1/{1 / found['share_of_full_grid']:.2f} of the full grid"
                saved += f" (oracle: 1/{1 / found['oracle_share_of_full_grid']:.1f})"
                rest = ", ".join(f"{key} {found[key]:.3f}" for key in ("coverage", "called_bent", "rounds"))
                print(f"{name}: {saved}, {rest}{'   misses a goal' if short else ''}", flush=True)
    for cost, (decades, power) in COSTS.items():
        for seeds in SEEDS:
            bends += [{**one, "cost_as": cost} for one in bent(World("power", decades, power), seeds, worlds // 2, rng)]
            for one in bends[-len(BENDS) :]:
                print({k: round(v, 3) for k, v in one.items() if isinstance(v, float)}, flush=True)
            two = {"cost_as": cost, "seeds_of_full_grid": seeds, **at_two(bends[-len(BENDS) :])}
            twos.append(two)
            print(two, flush=True)
    print(f"{time.process_time() - started:.0f} CPU-seconds")
    if not args.quick:
        from adaptive_figure import draw
        from packing_meter import where

        record = {**where("cpu"), "worlds": worlds, "level": 0.95, "cases": cases, "bent": bends, "gap_of_two": twos}
        (HERE / "adaptive.json").write_text(json.dumps(record, indent=1) + "\n")
        draw(HERE / "adaptive.json")


if __name__ == "__main__":
    main()
