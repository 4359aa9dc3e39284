"""IsoFLOP valleys by parabola (the usual way) and by cubic: how often 95 % intervals hold the truth, in 500 worlds."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from laws_data import ROOT

__all__ = ["run"]

# surface; sizes a budget, their range, where the optimum lies in it, standard deviation of log loss
SETTINGS = (
    ("skewed", 7, 64.0, 1.0, 0.002),
    ("skewed", 9, 16.0, 1.0, 0.002),
    ("skewed", 11, 32.0, 1.5, 0.004),
    ("hoffmann", 7, 64.0, 1.0, 0.002),
    ("hoffmann", 11, 32.0, 1.5, 0.004),
)


def run(args: argparse.Namespace) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "tests" / "laws"))
    from test_isoflop import coverage

    found = []
    print(
        f"{'surface':<10}{'sizes':>6}{'range':>7}{'centre':>8}{'sigma':>7}   degree   a, N* ahead, N* a valley   CPU-s"
    )
    for surface, sizes, width, centre, sigma in SETTINGS:
        for degree in (2, 3):
            begun = time.process_time()
            a, ahead, valley = map(float, coverage(args.worlds, degree, sizes, width, centre, sigma, surface))
            spent = time.process_time() - begun
            found.append({"surface": surface, "sizes": sizes, "range": width, "centre": centre, "sigma": sigma,
                          "degree": degree, "a": a, "n_ahead": ahead, "n_valley": valley, "cpu_s": spent})  # fmt: skip
            print(f"{surface:<10}{sizes:>6}{width:>7g}{centre:>8g}{sigma:>7g}{degree:>9}   "
                  f"{a:.3f}  {ahead:.3f}  {valley:.3f}{spent:>14.1f}")  # fmt: skip
    return {"worlds": args.worlds, "level": 0.95, "settings": found}
