"""How often intervals of shared parameters, of fits with priors and of envelopes cover, and how often their notes fire.

Run: OMP_NUM_THREADS=1 python tests/benchmarks/laws_coupled.py   (about four CPU-minutes; laws-coupled.json)

Worlds are `power+floor` at 8 scales of four decades with 5 % noise. It asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from laws_data import here

from raysweep.laws import GroupFit, law
from raysweep.laws.coupled import fit_coupled
from raysweep.laws.fitting import fit_groups
from raysweep.laws.group import Data
from raysweep.laws.prior import Prior
from raysweep.laws.request import Options

HERE = Path(__file__).resolve().parent
FORM, X, NOISE = law("power+floor"), np.geomspace(1e2, 1e6, 8), 0.05
ARMS = ((0.3, 5.0, 0.4), (0.5, 8.0, 0.4), (0.8, 3.0, 0.4))
APART = ((0.3, 5.0, 0.4), (0.5, 8.0, 0.6), (0.8, 3.0, 0.4))
EXPECTILES = {0.1: -0.8616, 0.5: 0.0}  # of the standard normal distribution
World = Callable[[np.random.Generator, int], tuple[Sequence[Sequence[float]], Sequence[GroupFit]]]


def points(rng: np.random.Generator, truth: Sequence[float], runs: int, x: np.ndarray = X) -> Data:
    scales = np.repeat(x, runs)[None]
    return Data(scales, FORM.predict(scales, np.array(truth)) * np.exp(NOISE * rng.standard_normal(scales.size)))


def shared(runs: int, arms: Sequence[Sequence[float]], options: Options) -> World:
    def world(rng: np.random.Generator, _: int) -> tuple[Sequence[Sequence[float]], Sequence[GroupFit]]:
        data = [points(rng, truth, runs) for truth in arms]
        return arms, fit_coupled(FORM, data, ["x"], "y", options, ("alpha",))

    return world


def prior(runs: int, x: np.ndarray, options: Options, shift: float = 0.0) -> World:
    def world(rng: np.random.Generator, _: int) -> tuple[Sequence[Sequence[float]], Sequence[GroupFit]]:
        truth = (0.3, 5.0, 0.4 + shift + 0.05 * rng.standard_normal())
        known = (Prior("alpha", 0.4, 0.05),)
        return [truth], fit_coupled(FORM, [points(rng, truth, runs, x)], ["x"], "y", options, (), known)

    return world


def envelope(tau: float, options: Options) -> World:
    def world(rng: np.random.Generator, _: int) -> tuple[Sequence[Sequence[float]], Sequence[GroupFit]]:
        data, low = [points(rng, ARMS[0], 3)], np.exp(EXPECTILES[tau] * NOISE)
        floor, size, alpha = ARMS[0]
        return [(floor * low, size * low, alpha)], fit_groups(FORM, data, ["x"], "y", options)

    return world


def judged(world: World, worlds: int) -> dict[str, Any]:
    """The coverage of each parameter's intervals over all groups, their median width, and how often notes fired."""
    rng, inside, widths, notes, p_values = np.random.default_rng(0), [], [], [], []
    for i in range(worlds):
        truths, fits = world(rng, i)
        for truth, group in zip(truths, fits, strict=True):
            ends = np.array([group.intervals.get(name, (np.nan, np.nan)) for name in FORM.names])
            inside.append((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
            widths.append(np.ptp(ends, axis=1))
        notes.append({*fits[0].notes})
        p_values += [one.p_value for one in fits[0].rivals if one.law.endswith("nothing shared")]
    coverage, width = np.mean(inside, axis=0), np.nanmedian(widths, axis=0)
    fired = {
        name: float(np.mean([name in own for own in notes])) for name in ("shared_contradicted", "prior_contradicted")
    }
    record = {
        "worlds": worlds,
        "coverage": dict(zip(FORM.names, coverage.round(3).tolist(), strict=True)),
        "width": dict(zip(FORM.names, width.round(4).tolist(), strict=True)),
        "fired": {name: share for name, share in fired.items() if share},
    }
    return record | ({"p below .05": float(np.mean(np.array(p_values) < 0.05))} if p_values else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--draws", type=int, default=200)
    args = parser.parse_args()
    options = Options(draws=args.draws, holdout=0)
    three = X[[0, 3, 7]]
    designs = {
        "shared alpha, three groups, one run per scale": shared(1, ARMS, options),
        "shared alpha, three groups, three runs per scale": shared(3, ARMS, options),
        "shared alpha, which is .6 in one of three groups": shared(3, APART, options),
        "prior, from which alpha is drawn, one run per scale": prior(1, X, options),
        "prior, from which alpha is drawn, three runs per scale": prior(3, X, options),
        "prior, from which alpha is drawn, three scales of two runs": prior(2, three, options),
        "prior that is off by .4, three runs per scale": prior(3, X, options, shift=0.4),
        "prior that is off by .4, thirty runs per scale": prior(30, X, options, shift=0.4),
        **{
            f"envelope {tau:g}, three runs per scale": envelope(tau, Options(draws=args.draws, holdout=0, envelope=tau))
            for tau in EXPECTILES
        },
    }
    begun, table = time.process_time(), {}
    for name, world in designs.items():
        table[name] = judged(world, args.worlds)
        print(f"{name:60s}", json.dumps(table[name]), flush=True)
    record = {"where": here(), "draws": args.draws, "cpu_seconds": round(time.process_time() - begun), "designs": table}
    (HERE / "laws-coupled.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
