"""How well and how fast laws are fitted: on real curves and tables, on noise-free data, and at scale.

Run: .venv/bin/python tests/benchmarks/laws.py all   (or one of the sub-commands; each replaces its part of laws.json)

    curves    the 92 learning curves of Alabdulmohsin et al. 2022: extrapolation error of every one-axis form
    joint     the joint law on 261 real runs: time to the optimum and for 4,000 draws, against the classical search
    recovery  noise-free data of every form: the worst relative error of a parameter
    tables    real tables: the joint law without the largest budgets predicts them
    isoflop   coverage of intervals of compute-optimal sizes by parabola and by cubic
    scale     10^5 groups; a table of 10^8 rows in a child process
    speed     auto on 10^6 rows, and Huber's loss of kaplan on 10^3 points, against SciPy
    figure    laws.png from laws.json

Times are CPU-seconds of this process with one thread, but for `scale`, which says what it used. Real data is found at
RAYSWEEP_DATA, or at ../shared/data beside the repository. It asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
VERBS = ("curves", "joint", "recovery", "tables", "isoflop", "scale", "speed")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "laws.json", help="the JSON; the figure goes beside it")
    commands = parser.add_subparsers(dest="verb", required=True)
    for verb in (*VERBS, "figure", "all"):
        p = commands.add_parser(verb)
        if verb in ("curves", "all"):
            p.add_argument("--every", type=int, default=1, help="take every so many-th curve: a quick look")
            p.add_argument("--no-rivals", action="store_true", help="leave out the slow rival of the curves")
        if verb in ("joint", "all"):
            p.add_argument("--numeric", type=int, default=40, help="starts timed with numeric gradients")
            p.add_argument("--analytic", type=int, default=200, help="starts timed with analytic gradients")
        if verb in ("isoflop", "all"):
            p.add_argument("--worlds", type=int, default=500)
        if verb in ("scale", "all"):
            p.add_argument("--groups", type=int, default=100_000)
            p.add_argument("--rows", type=int, default=100_000_000, help="of the parquet table; less if disk is short")
        if verb in ("speed", "all"):
            p.add_argument("--auto-rows", type=int, default=1_000_000)
            p.add_argument("--naive-rows", type=int, default=50_000, help="of SciPy's fits, which are extrapolated")
            p.add_argument("--naive-draws", type=int, default=3, help="of SciPy's fits, which are extrapolated")
    return parser.parse_args(argv)


def main() -> None:
    args = parse()
    # Before numpy is imported: a BLAS that helps itself to a second core would make CPU-seconds incomparable.
    os.environ.update(dict.fromkeys(THREADS, "1"))
    sys.path[:0] = [str(HERE), str(ROOT)]
    import laws_curves
    import laws_figure
    import laws_isoflop
    import laws_joint
    import laws_scale
    import laws_speed
    import laws_worlds
    from laws_data import MissingData, save

    verbs = {
        "curves": laws_curves.run,
        "joint": laws_joint.run,
        "recovery": laws_worlds.run,
        "tables": laws_joint.run_tables,
        "isoflop": laws_isoflop.run,
        "scale": laws_scale.run,
        "speed": laws_speed.run,
    }
    missing = 0
    for verb in VERBS if args.verb == "all" else [args.verb] if args.verb in verbs else []:
        print(f"\n== {verb}", flush=True)
        try:
            save(args.out, verb, verbs[verb](args))
        except MissingData as error:
            print(f"{verb} is left out: {error}", file=sys.stderr)
            missing = 2
    if args.verb in ("figure", "all"):
        print(f"wrote {laws_figure.draw(args.out)}")
    sys.exit(missing)


if __name__ == "__main__":
    main()
