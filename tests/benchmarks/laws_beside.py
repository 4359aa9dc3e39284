"""The same tasks by raysweep and by simple-scaling-laws 0.2.0, in one run: CPU-seconds, and errors against the truth.

Run: .venv/bin/python tests/benchmarks/laws_beside.py --rival PYTHON
(writes laws-beside.json beside itself; asserts nothing; about 2 minutes)

PYTHON is an interpreter, 3.12 or later, of an environment of its own that has `simple-scaling-laws==0.2.0`. Both sides
make the tables from the same seeds, one row for each run, and draw 1,000 times. Times are CPU-seconds of one thread,
without imports and the making of tables; each task is done once before, on other noise, so that nothing is first. A
task that a side cannot do is missing there. `error` is |log(estimate / truth)| of the quantity named in the task, and
`width` the log ratio of the ends of its 95 % interval. `held`: in how many of `worlds` the interval held the truth.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":  # before numpy is imported; a test that imports this leaves its process as it is
    os.environ.update(
        dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    )
sys.path[:0] = [str(HERE.parents[1])]

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402

Found: TypeAlias = "tuple[float, float, float]"  # an estimate, and the ends of its interval
SURFACE = (1.7, 400.0, 410.0, 0.34, 0.28)
FAR = {"n": 1e10, "d": 1e12}
BUDGET = 1e23
DRAWS = 1000


def loss(n: np.ndarray | float, d: np.ndarray | float) -> np.ndarray:
    e, a, b, alpha, beta = SURFACE
    return np.asarray(e + a * np.asarray(n) ** -alpha + b * np.asarray(d) ** -beta)


def best_size(budget: float) -> float:
    _, a, b, alpha, beta = SURFACE
    return float((alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (budget / 6) ** (beta / (alpha + beta)))


def surface(seed: int, factor: float = 1.0) -> pl.DataFrame:
    """36 points of size and data, 2 runs each."""
    n, d = (np.tile(g.ravel(), 2) for g in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6)))
    y = factor * loss(n, d) * np.exp(0.005 * np.random.default_rng(seed).standard_normal(n.size))
    return pl.DataFrame({"n": n, "d": d, "y": y})


def valleys(seed: int) -> pl.DataFrame:
    """Five budgets, nine sizes each."""
    c = np.repeat(np.geomspace(1e18, 1e20, 5), 9)
    centre = np.array([best_size(one) for one in c])
    n = centre * np.tile(np.geomspace(1 / 6, 6, 9), 5)
    y = loss(n, c / 6 / n) * np.exp(0.002 * np.random.default_rng(seed).standard_normal(n.size))
    return pl.DataFrame({"n": n, "d": c / 6 / n, "c": c, "y": y})


def rising(seed: int) -> pl.DataFrame:
    """An accuracy, .95 - 2 n^-.25."""
    n = np.tile(np.geomspace(1e4, 1e7, 10), 2)
    y = 0.95 - 2 * n**-0.25 + 0.003 * np.random.default_rng(seed).standard_normal(n.size)
    return pl.DataFrame({"n": n, "y": y})


def product(seed: int) -> pl.DataFrame:
    frame = surface(seed)
    n, d = frame["n"].to_numpy(), frame["d"].to_numpy()
    y = 1.2 + 300 * n**-0.15 * d**-0.1 * np.exp(0.02 * np.random.default_rng(seed).standard_normal(n.size))
    return frame.with_columns(y=pl.Series(y))


def curve(kind: str) -> Callable[[int], pl.DataFrame]:
    def make(seed: int) -> pl.DataFrame:
        n = np.tile(np.geomspace(1e3, 1e8, 14), 2)
        y = bent(n) if kind == "broken" else shifted(n)
        return pl.DataFrame({"n": n, "y": y * np.exp(0.005 * np.random.default_rng(seed).standard_normal(n.size))})

    return make


def bent(n: np.ndarray | float) -> np.ndarray:
    return np.asarray(0.5 + 20 * np.asarray(n) ** -0.1 * (1 + (np.asarray(n) / 1e5) ** 2) ** -0.15)


def shifted(n: np.ndarray | float) -> np.ndarray:
    return np.asarray(0.5 + 60 * (np.asarray(n) + 2e4) ** -0.4)


TABLES: dict[str, Callable[[int], Any]] = {
    "joint law, loss at 100 times the largest run": surface,
    "predict from a saved fit": surface,
    "compute-optimal size by the joint law": surface,
    "compute-optimal size by IsoFLOP valleys": valleys,
    "ratio of two arms at 100 times": lambda seed: (surface(seed), surface(seed + 1000, 0.97)),
    "rising metric, what is missing at 10 times": rising,
    "product of powers, loss at 100 times": product,
    "shifted power, loss at 10 times": curve("shifted"),
    "broken power, loss at 10 times": curve("broken"),
}
TRUTH = {
    "joint law, loss at 100 times the largest run": float(loss(FAR["n"], FAR["d"])),
    "predict from a saved fit": float(loss(FAR["n"], FAR["d"])),
    "compute-optimal size by the joint law": best_size(BUDGET),
    "compute-optimal size by IsoFLOP valleys": best_size(BUDGET),
    "ratio of two arms at 100 times": 1 / 0.97,
    "rising metric, what is missing at 10 times": 0.05 + 2 * 1e8**-0.25,
    "product of powers, loss at 100 times": 1.2 + 300 * FAR["n"] ** -0.15 * FAR["d"] ** -0.1,
    "shifted power, loss at 10 times": float(shifted(1e9)),
    "broken power, loss at 10 times": float(bent(1e9)),
}


def ours() -> dict[str, Callable[[Any], Found]]:
    from raysweep.laws import fit
    from raysweep.laws.allocate import Cost, allocate
    from raysweep.laws.differences import differences
    from raysweep.laws.saved import load_fits, save_fits
    from raysweep.laws.valleys import isoflops

    def at(fitted: Any, **x: float) -> Found:
        scales = np.array([[x[name]] for name in fitted.x])
        return (float(fitted.only.predict(scales)[0]), *map(float, fitted.only.band(scales)[0]))

    def joint(frame: pl.DataFrame) -> Any:
        return fit(frame, "chinchilla", x=["n", "d"], y="y", bootstrap=DRAWS)

    def saved(frame: pl.DataFrame) -> Found:
        with tempfile.TemporaryDirectory() as folder:
            save_fits(Path(folder) / "fit.json", [joint(frame)])
            return at(load_fits(Path(folder) / "fit.json")[0], **FAR)

    def allocated(frame: pl.DataFrame) -> Found:
        group = joint(frame).only
        made = allocate(group.law, group.draws, [BUDGET], Cost(6.0))
        return (float(made.x[0]), *map(float, made.intervals["x"][0]))

    def isoflop(frame: pl.DataFrame) -> Found:
        best = isoflops(frame, n="n", flops="c", y="y", bootstrap=DRAWS)[0].best(BUDGET)["params"][0]
        return best["value"], best["ci_low"], best["ci_high"]

    def arms(frames: tuple[pl.DataFrame, pl.DataFrame]) -> Found:
        one, other = (joint(frame).only for frame in frames)
        scales = np.array([[FAR["n"]], [FAR["d"]]])

        def log(values: np.ndarray) -> np.ndarray:
            return np.log(one.law.predict(scales, values))

        found = differences(one.draws, other.draws, (log, log))
        low, high = found.interval(0.95)[0]
        return math.exp(found.centre[0]), math.exp(low), math.exp(high)

    def missing(frame: pl.DataFrame) -> Found:
        fitted = fit(frame, formula="T - A*n**-a", positive=["A", "a"], x="n", y="y", bootstrap=DRAWS)
        value, low, high = at(fitted, n=1e8)
        return 1 - value, 1 - high, 1 - low

    def of_one(law: str) -> Callable[[pl.DataFrame], Found]:
        return lambda frame: at(fit(frame, law, x="n", y="y", bootstrap=DRAWS), n=1e9)

    def of_product(frame: pl.DataFrame) -> Found:
        return at(fit(frame, "product+floor", x=["n", "d"], y="y", bootstrap=DRAWS), **FAR)

    tasks = [lambda f: at(joint(f), **FAR), saved, allocated, isoflop, arms, missing, of_product]
    return dict(zip(TABLES, [*tasks, of_one("shifted"), of_one("broken")], strict=True))


def rivals() -> dict[str, Callable[[Any], Found]]:
    import simple_scaling_laws as ssl

    quantiles = [0.025, 0.5, 0.975]
    names = {"n": "model_size__n", "d": "dataset_size__d"}

    def table(frame: pl.DataFrame, y: str = "test_loss__y") -> pl.DataFrame:
        frame = frame.rename({k: v for k, v in {**names, "y": y, "c": "compute__c"}.items() if k in frame.columns})
        return frame.with_columns(training_run_id=pl.Series([f"r{i}" for i in range(frame.height)]))

    def fitted(frame: pl.DataFrame, law: str = "separable-power", y: str = "test_loss__y") -> Any:
        return ssl.fit(table(frame, y), law=law, n_draws=DRAWS, seed=0)

    def at(model: Any, y: str = "test_loss__y", **x: float) -> Found:
        row = model.predict({names[k]: [v] for k, v in x.items()}, quantiles=quantiles).row(0, named=True)
        return row[f"{y}__median"], row[f"{y}__q025"], row[f"{y}__q975"]

    def saved(frame: pl.DataFrame) -> Found:
        with tempfile.TemporaryDirectory() as folder:
            return at(ssl.load(fitted(frame).save(Path(folder) / "a.slaw")), **FAR)

    cost = ssl.cost_model("power", k=6.0, a=1.0, b=1.0)

    def named(row: dict[str, Any], of: str) -> Found:
        each = {key: value for key, value in row.items() if key.startswith(of)}
        pick = [next(v for k, v in each.items() if k.endswith(end)) for end in ("median", "q025", "q975")]
        return pick[0], pick[1], pick[2]

    def allocated(frame: pl.DataFrame) -> Found:
        made = fitted(frame).optimal_allocation([BUDGET], cost, quantiles=quantiles)
        return named(made.row(0, named=True), "model_size__n")

    def isoflop(frame: pl.DataFrame) -> Found:
        found = ssl.fit_isoflop(table(frame), cost=cost, n_draws=DRAWS)
        return named(found.predict([BUDGET], quantiles=quantiles).row(0, named=True), "model_size__n")

    def arms(frames: tuple[pl.DataFrame, pl.DataFrame]) -> Found:
        models = dict(zip(("a", "b"), map(fitted, frames), strict=True))
        rows = ssl.compare(models, {names[k]: [v] for k, v in FAR.items()}, reference="b", quantiles=quantiles)
        row = rows.filter(pl.col("system") == "a").row(0, named=True)
        base = at(models["b"], **FAR)[0]  # it compares differences alone
        value, low, high = (1 + each / base for each in named(row, "difference"))
        return value, low, high

    def missing(frame: pl.DataFrame) -> Found:
        y = "test_metric__accuracy"
        value, low, high = at(fitted(frame, y=y), y, n=1e8)
        return 1 - value, 1 - high, 1 - low

    def of_one(law: str) -> Callable[[pl.DataFrame], Found]:
        return lambda frame: at(fitted(frame, law), n=1e9)

    tasks = [lambda f: at(fitted(f), **FAR), saved, allocated, isoflop, arms, missing]
    more = [lambda f: at(fitted(f, "multiplicative-power"), **FAR)]
    return dict(zip(TABLES, [*tasks, *more, of_one("shifted-separable-power"), of_one("broken-power")], strict=True))


def run(tasks: dict[str, Callable[[Any], Found]], worlds: int) -> dict[str, Any]:
    """Each task on the tables of so many seeds, after once on another."""
    out: dict[str, Any] = {}
    for name, task in tasks.items():
        task(TABLES[name](10_000))
        cpu, found = 0.0, []
        for seed in range(worlds):
            frame, begin = TABLES[name](seed), time.process_time()
            found.append(task(frame))
            cpu += time.process_time() - begin
        value, low, high = np.array(found).T
        truth = TRUTH[name]
        with np.errstate(invalid="ignore", divide="ignore"):
            width, error = np.log(high / low), np.abs(np.log(value / truth))
        out[name] = {
            "cpu_s": round(cpu / worlds, 3),
            "error": round(float(np.median(error)), 4),
            "width": round(float(np.median(width)), 4) if np.isfinite(width).all() else None,
            "held": int(((low <= truth) & (truth <= high)).sum()),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", metavar="PYTHON", help="an interpreter that has simple-scaling-laws 0.2.0")
    parser.add_argument("--worlds", type=int, default=10)
    parser.add_argument("--side", choices=("ours", "rival"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.side:
        print(json.dumps(run(ours() if args.side == "ours" else rivals(), args.worlds)))
        return
    if args.rival is None:
        parser.error("--rival must name the interpreter of an environment that has simple-scaling-laws==0.2.0")
    from laws_data import here  # the rival's interpreter lacks what it imports

    record: dict[str, Any] = {"where": here(), "worlds": args.worlds, "draws": DRAWS}
    for side, python in (("raysweep", sys.executable), ("simple-scaling-laws 0.2.0", args.rival)):
        which = "ours" if side == "raysweep" else "rival"
        command = [python, __file__, "--side", which, "--worlds", str(args.worlds)]
        record[side] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        for name, row in record[side].items():
            print(f"{side:28s}{name:48s}", json.dumps(row), flush=True)
    (HERE / "laws-beside.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
