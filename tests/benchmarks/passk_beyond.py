"""Do intervals of pass@k beyond the trials hold when success rates follow no Beta distribution? Before and after.

    python tests/benchmarks/passk_beyond.py [worlds=100] [--out tests/benchmarks/passk_beyond.json]

A world draws problems' success rates from a distribution whose pass@k is known, and 100 trials of each. Before: a Beta
fitted to draws of the problems with replacement, as raysweep did. Shapes: from the least to the largest of the profile
intervals of the shapes that the counts do not contradict. After: the bounds that raysweep prints.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from raysweep.laws.attempts import unbiased_failure
from raysweep.laws.beyond import beyond
from raysweep.laws.definition import Array
from raysweep.laws.draws import Draws
from raysweep.laws.proportion import mean_interval
from raysweep.laws.tail import Tail

TRIALS = 100
K = np.array([100.0, 1000.0, 10_000.0])
PROBLEMS = (50, 150, 500)
DRAWS = 300
LEVEL = 0.95
WAYS = ("before", "shapes", "after")
LOG_MEAN, LOG_SPREAD = np.log(0.02), 1.5
DISCRETE = np.array([0.002, 0.02, 0.2, 0.6])
HARD = 5e-4


def beta(a: float, b: float) -> Array:
    """1 - pass@k of a Beta at K."""
    return Tail(np.array([a]), np.array([b]), np.array([True])).failure(K)[0]


def lognormal() -> Array:
    z = np.linspace(-9, 9, 200_001)
    weight = np.exp(-(z**2) / 2)
    rate = np.minimum(1.0, np.exp(LOG_MEAN + LOG_SPREAD * z))
    return np.array([weight @ (1 - rate) ** k for k in K]) / weight.sum()


@dataclass(frozen=True)
class Design:
    """A distribution of success rates: draws of a number of them, and its 1 - pass@k at K."""

    name: str
    rates: Callable[[np.random.Generator, int], Array]
    failure: Array


DESIGNS = (
    Design("Beta(.8, 8)", lambda r, m: r.beta(0.8, 8, m), beta(0.8, 8.0)),
    Design("Beta(.1, 5)", lambda r, m: r.beta(0.1, 5, m), beta(0.1, 5.0)),
    Design("20 % impossible, else Beta(.8, 8)", lambda r, m: r.beta(0.8, 8, m) * (r.random(m) > 0.2),
           0.2 + 0.8 * beta(0.8, 8.0)),
    Design("20 % at 1 / 2,000, else Beta(.8, 8)", lambda r, m: np.where(r.random(m) < 0.2, HARD, r.beta(0.8, 8, m)),
           0.2 * (1 - HARD) ** K + 0.8 * beta(0.8, 8.0)),
    Design("lognormal, median .02, log sd 1.5, at most 1",
           lambda r, m: np.minimum(1.0, np.exp(LOG_MEAN + LOG_SPREAD * r.standard_normal(m))), lognormal()),
    Design("half Beta(8, 2), half Beta(.5, 50)",
           lambda r, m: np.where(r.random(m) < 0.5, r.beta(8, 2, m), r.beta(0.5, 50, m)),
           (beta(8.0, 2.0) + beta(0.5, 50.0)) / 2),
    Design("one of .002, .02, .2, .6", lambda r, m: r.choice(DISCRETE, m),
           np.mean((1 - DISCRETE) ** K[:, None], axis=1)),
)  # fmt: skip


def before(c: Array, n: Array, seed: int) -> Array:
    """The intervals, [budgets, 2], of a Beta fitted to draws of the problems."""
    m = c.size
    weights = np.random.default_rng(seed).multinomial(m, np.full(m, 1 / m), size=DRAWS).astype(float)
    failure = Tail.fitted(c, n, np.concatenate([np.ones((1, m)), weights])).failure(K[1:])
    sample = Draws(failure[0], failure[1:], m - 1, np.sqrt(m / (m - 1)))
    return np.clip(sample.interval_of(lambda v: v, LEVEL), 0, 1)


def world(design: Design, problems: int, seed: int) -> tuple[dict[str, Array], dict[str, bool]]:
    """Intervals by each way, [budgets, 2], and which notes there are."""
    rng = np.random.default_rng([seed, problems])
    c = rng.binomial(TRIALS, design.rates(rng, problems)).astype(float)
    n = np.full(problems, float(TRIALS))
    within = np.array([mean_interval(unbiased_failure(c, n, K[:1])[:, 0], LEVEL)])
    found = beyond(c, n, K[1:], LEVEL)
    left = np.array([one.interval for one in found.shapes if found.supports(one)])
    shapes = np.stack([left[..., 0].min(axis=0), left[..., 1].max(axis=0)], axis=1) if left.size else found.interval
    ways = {"before": before(c, n, seed), "shapes": shapes, "after": found.interval}
    notes = {code: code in found.notes for code in ("beta_rejected", "no_shape")}
    return {way: np.concatenate([within, ends]) for way, ends in ways.items()}, notes


def rows_of(design: Design, problems: int, worlds: int) -> list[dict[str, Any]]:
    found = [world(design, problems, seed) for seed in range(worlds)]
    rows: list[dict[str, Any]] = [
        {
            "design": design.name,
            "problems": problems,
            "k": int(k),
            "failure": round(float(design.failure[j]), 5),
            "worlds": worlds,
        }
        for j, k in enumerate(K)
    ]
    for way in WAYS:
        ends = np.stack([ways[way] for ways, _ in found])
        held = (ends[..., 0] <= design.failure) & (design.failure <= ends[..., 1])
        width = np.median(ends[..., 1] - ends[..., 0], axis=0)
        for j, row in enumerate(rows):
            row[way] = {"covered": round(float(held[:, j].mean()), 4), "width": round(float(width[j]), 4)}
    for row in rows:
        row["notes"] = {code: round(float(np.mean([notes[code] for _, notes in found])), 4) for code in found[0][1]}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("worlds", type=int, nargs="?", default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    begin, rows = time.process_time(), []
    for design in DESIGNS:
        for problems in PROBLEMS:
            for row in rows_of(design, problems, given.worlds):
                ways = "  ".join(f"{way} {row[way]['covered']:.2f} ({row[way]['width']:.3f})" for way in WAYS)
                print(f"{design.name}, {problems} problems, k = {row['k']:,}: {ways}  {row['notes']}", flush=True)
                rows.append(row)
    further = [row for row in rows if row["k"] > TRIALS]
    found = {
        "date": datetime.now(UTC).date().isoformat(), "command": "python tests/benchmarks/passk_beyond.py",
        "python": platform.python_version(), "cpus": os.cpu_count(),
        "versions": {name: version(name) for name in ("raysweep", "numpy", "scipy")},
        "trials": TRIALS, "level": LEVEL, "cpu_seconds": round(time.process_time() - begin, 1),
        "least_coverage": {way: min(row[way]["covered"] for row in further) for way in WAYS},
        "designs": rows,
    }  # fmt: skip
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
