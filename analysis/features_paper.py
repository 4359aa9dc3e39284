"""Feature learning and scaling exponents (arXiv 2409.17858): its claims on the solvable model, with the theory beside.

    raysweep run sweeps/features_exponents.yaml          (and the other sweeps/features_*.yaml)
    python analysis/features_paper.py [--results results] [--out results/features] [--only targets]

Writes the table of claims analysis/claims/features.csv (or --claims), which docs/papers.md shows, and a figure per
question; with --only, those of one sweep, which alone are printed, and the rest of the table stays. The exact flow of a
power-law target without a width, and gradient descent on the population, have no seeds: their exponents are computed,
not sampled, and come with their range over parts of the window. Others have intervals from a bootstrap over seeds.
Networks have a table of their own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
from common import CLAIMS
from features_common import read
from features_compute import of_compute
from features_limits import of_noise, of_size, of_transient
from features_phase import of_phase
from features_time import of_crossover, of_step_size, of_targets, of_time

from raysweep.claims import Claim, markdown, read_claims, summary, write_claims
from raysweep.reports.style import STYLE

DRAWN = {
    "exponents": of_time,
    "targets": of_targets,
    "phase": of_phase,
    "crossover": of_crossover,
    "step_size": of_step_size,
    "transient": of_transient,
    "noise": of_noise,
    "frontier": of_compute,
}


def main() -> None:
    """Read the sweeps, and write the claims and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("results/features"))
    parser.add_argument("--claims", type=Path, default=CLAIMS / "features.csv")
    parser.add_argument("--only", choices=[*DRAWN, "plateaus"], help="one sweep")
    asked = parser.parse_args()
    swept = [asked.only] if asked.only else [*DRAWN, "plateaus"]
    asked.out.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    others = [
        claim
        for claim in (read_claims(asked.claims) if asked.only else [])
        if f"features_{asked.only}.yaml" not in claim.source
    ]
    rows: list[Claim] = []
    with mpl.rc_context(STYLE):
        for name in swept:
            frame = read(asked.results, name)
            if name in DRAWN:
                DRAWN[name](frame, rows, asked.out / f"{name}.png")
            else:
                of_size(frame, rows)
    rows, every = sorted(rows, key=_place), sorted([*others, *rows], key=_place)
    write_claims(asked.claims, every)
    print(markdown(rows))
    print(summary(rows))
    if others:
        print(f"{asked.claims}, with the other sweeps: {summary(every)}")


def _place(claim: Claim) -> tuple[int, str]:
    return int(claim.id[1:]), claim.setting


if __name__ == "__main__":
    main()
