"""How often the bands of a comparison of two arms hold the truth, and the sets of crossings the true crossing.

Run: .venv/bin/python tests/benchmarks/laws_compare.py [--worlds 300] [--draws 200]
(writes laws-compare.json beside itself; asserts nothing; a few minutes on one core)

A world is a data set of two arms: the truth times exp(noise), or counts of successes. Each row of the table is a
design, with the share of worlds in which: the pointwise band holds the true ratio, averaged over x (`pointwise`); the
simultaneous band holds all of it (`simultaneous`), also to ten times the largest x (`beyond`); the pointwise band holds
all of it, which it does not promise (`pointwise, all x`); the interval of the difference of exponents holds the true
one (`alpha`); the set by the simultaneous and by the pointwise band holds the true crossing (`crossing`, `crossing,
pointwise`), is bounded on both sides (`bounded`), and where the arms never cross, says that they do (`false crossing`)
or that they do not (`none`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":  # before numpy is imported; a test that imports this leaves its process as it is
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from laws_data import here  # noqa: E402
from scipy.special import betaincinv, betaln  # noqa: E402

from raysweep.laws import law  # noqa: E402
from raysweep.laws.attempt_arms import compare_attempts  # noqa: E402
from raysweep.laws.comparison import contrasted  # noqa: E402
from raysweep.laws.contrast import Contrast  # noqa: E402
from raysweep.laws.differences import differences, paired  # noqa: E402
from raysweep.laws.fitting import fit_groups  # noqa: E402
from raysweep.laws.group import Data  # noqa: E402
from raysweep.laws.request import Options  # noqa: E402

Array = npt.NDArray[np.float64]
FORM = "power+floor"
LOW, HIGH = 1e6, 1e9
# E, y - E at x = 1e6, alpha: arms that cross near 4e6, are 2 % apart, or are equal.
CROSSING = ((1.7, 1.6, 0.35), (1.6, 1.8, 0.37))
APART = ((1.7, 1.6, 0.35), (1.7 / 0.98, 1.6 / 0.98, 0.35))
EQUAL = ((1.7, 1.6, 0.35), (1.7, 1.6, 0.35))


@dataclass(frozen=True)
class Design:
    """Two arms.

    Attributes:
        arms: E, the part above it at the lowest x, and alpha of each.
        points, seeds: Scales, and runs at each.
        shared, own: Noise of log y that both arms share, and that each has by itself; the shared part is the same at
            all scales of a seed.
        pair: Whether seeds pair the arms.
    """

    arms: tuple[tuple[float, float, float], tuple[float, float, float]]
    points: int
    seeds: int
    shared: float
    own: float
    pair: bool


@dataclass(frozen=True)
class Counts:
    """pass@k of two models whose success rates are Beta(a, b), and correlated between the models where paired."""

    arms: tuple[tuple[float, float], tuple[float, float]]
    problems: int
    trials: int
    pair: bool


def values(arm: tuple[float, float, float]) -> Array:
    floor, above, alpha = arm
    return np.array([floor, above * LOW**alpha, alpha])


def truth(design: Design, x: Array) -> Array:
    one, other = (law(FORM).predict(x, values(arm)) for arm in design.arms)
    return np.log(one / other)


def worlds(design: Design, count: int, rng: np.random.Generator) -> list[tuple[Data, Data]]:
    x = np.tile(np.geomspace(LOW, HIGH, design.points), design.seeds)
    seed = np.repeat(np.arange(design.seeds), design.points)
    clean = [law(FORM).predict(x, values(arm)) for arm in design.arms]
    out = []
    for _ in range(count):
        shared = design.shared * rng.standard_normal(design.seeds)[seed]
        sides = [y * np.exp(shared + design.own * rng.standard_normal(x.size)) for y in clean]
        run = seed if design.pair else None
        first, second = (Data(x[None], y, run=run, cluster="seed" if design.pair else "run") for y in sides)
        out.append((first, second))
    return out


def crossed(grid: Array, true: Array) -> list[float]:
    at = np.flatnonzero(np.sign(true[1:]) * np.sign(true[:-1]) < 0)
    share = true[at] / (true[at] - true[at + 1])
    return (grid[at] * (grid[at + 1] / grid[at]) ** share).tolist()


def judged(found: Contrast, true: Array, places: Sequence[float]) -> dict[str, float]:
    """What one world shows, as numbers whose means are taken; NaN where it shows nothing."""
    nan = math.nan
    inside = (found.pointwise[:, 0] <= true) & (true <= found.pointwise[:, 1])
    held = (found.simultaneous[:, 0] <= true) & (true <= found.simultaneous[:, 1])
    sets, narrow = found.crossings(), found.crossings(False)
    out = {
        "pointwise": float(inside.mean()),
        "pointwise, all x": float(inside.all()),
        "simultaneous": float(held.all()),
        "width": float(np.ptp(found.simultaneous, axis=1).mean()),
        "stretch": found.stretch,
        "none": float(not sets.sets),
        "bounded": float(all(low > 0 and high < math.inf for low, high in sets.sets) and bool(sets.sets)),
    }
    if places:
        for name, one in (("crossing", sets), ("crossing, pointwise", narrow)):
            out[name] = float(all(any(low <= at <= high for low, high in one.sets) for at in places))
        out["false crossing"] = nan
    else:
        out["false crossing"] = float(sets.before * sets.after < 0)
        out["crossing"] = out["crossing, pointwise"] = nan
    return out


def of_laws(design: Design, count: int, draws: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    pairs = worlds(design, count, rng)
    options = Options(draws=draws, holdout=0)
    made = fit_groups(law(FORM), [one for pair in pairs for one in pair], ["x"], "y", options)
    grid, far = np.geomspace(LOW, HIGH, 100), np.geomspace(LOW, 10 * HIGH, 100)
    true, beyond = truth(design, grid), truth(design, far)
    shift = design.arms[0][2] - design.arms[1][2]
    out = []
    for one, other in zip(made[::2], made[1::2], strict=True):
        assert one.draws is not None
        assert other.draws is not None
        assert paired(one.draws, other.draws) == design.pair
        found = judged(contrasted(one, other, grid), true, crossed(grid, true))
        wide = contrasted(one, other, far).simultaneous
        found["beyond"] = float(((wide[:, 0] <= beyond) & (beyond <= wide[:, 1])).all())
        alpha = differences(one.draws, other.draws, (_alpha, _alpha)).interval(0.95)
        found["alpha"] = float(alpha[0] <= shift <= alpha[1])
        found["alpha width"] = float(np.ptp(alpha))
        out.append(found)
    return out


def _alpha(v: Array) -> Array:
    return np.asarray(v[..., 2])


def of_counts(design: Counts, count: int, draws: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    out = []
    trials = np.full(design.problems, design.trials)
    for _ in range(count):
        rank = rng.random(design.problems)
        ranks = [rank, rank if design.pair else rng.random(design.problems)]
        counts = [
            rng.binomial(design.trials, betaincinv(a, b, r)) for (a, b), r in zip(design.arms, ranks, strict=True)
        ]
        sides = [(c, trials) for c in counts]
        found = compare_attempts(sides[0], sides[1], together=design.pair, draws=draws)
        rates = [1 - np.exp(betaln(a, b + found.x) - betaln(a, b)) for a, b in design.arms]
        true = rates[0] - rates[1]
        out.append(judged(found, true, crossed(found.x, true)))
    return out


def designs() -> dict[str, Design | Counts]:
    return {
        "crossing, 5 pairs x 8 scales": Design(CROSSING, 8, 5, 0.01, 0.01, True),
        "crossing, 3 pairs x 8 scales": Design(CROSSING, 8, 3, 0.01, 0.01, True),
        "crossing, 10 pairs x 8 scales": Design(CROSSING, 8, 10, 0.01, 0.01, True),
        "crossing, the same as if unpaired": Design(CROSSING, 8, 5, 0.0, 0.014, False),
        "crossing, 40 pairs x 8 scales": Design(CROSSING, 8, 40, 0.02, 0.02, True),
        "crossing, 10 scales, one run each": Design(CROSSING, 10, 1, 0.0, 0.01, False),
        "2 % apart, 5 pairs x 8 scales": Design(APART, 8, 5, 0.03, 0.005, True),
        "2 % apart, 8 scales x 3": Design(APART, 8, 3, 0.0, 0.01, False),
        "equal, 5 pairs x 8 scales": Design(EQUAL, 8, 5, 0.03, 0.01, True),
        "equal, 10 scales, one run each": Design(EQUAL, 10, 1, 0.0, 0.01, False),
        "pass@k crossing, 200 paired problems": Counts(((0.3, 2.0), (0.6, 6.0)), 200, 128, True),
        "pass@k crossing, 200 and 200 problems": Counts(((0.3, 2.0), (0.6, 6.0)), 200, 128, False),
        "pass@k apart, 200 paired problems": Counts(((0.5, 2.0), (0.5, 4.0)), 200, 128, True),
    }


def summary(found: Sequence[dict[str, float]]) -> dict[str, float]:
    out = {}
    for name in found[0]:
        each = np.array([one[name] for one in found])
        if np.isfinite(each).any():
            take = np.median if "width" in name or name == "stretch" else np.mean
            out[name] = round(float(take(each[np.isfinite(each)])), 4)
    return out


def run(design: Design | Counts, count: int, draws: int) -> dict[str, float]:
    return summary(of_laws(design, count, draws) if isinstance(design, Design) else of_counts(design, count, draws))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=300)
    parser.add_argument("--draws", type=int, default=200)
    args = parser.parse_args()
    begun, table = time.process_time(), {}
    for name, design in designs().items():
        table[name] = run(design, args.worlds, args.draws)
        print(f"{name:40s}", json.dumps(table[name]), flush=True)
    seconds = round(time.process_time() - begun, 1)
    record = {"where": here(), "worlds": args.worlds, "draws": args.draws, "cpu_s": seconds, "designs": table}
    (HERE / "laws-compare.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
