"""Does training steepen pass@k on language models, and does the exponent then saturate (arXiv 2601.03764)?

    python analysis/lid_pythia.py [--table ../shared/data/pythia_gsm8k_math_counts.csv.gz] [--out results/lid_pythia]

Counts of successes of nine Pythia sizes at up to nine checkpoints, on 128 problems of GSM8K and of MATH (30 and 9 at
12B's first checkpoints). Every checkpoint's exponent is that of 1 - pass@k over the same window of k, with an interval
over problems. Beside it stand the exponent as k grows (a Beta distribution of success rates), and the exponent from
(c - 1) / (n - 1), which is unbiased where problems were tried until they succeeded and biased where all had the same
number of trials.
Writes checkpoints.csv, exponents.png and compute.png (pass@k against training FLOPs, as arXiv 2509.24012 has it).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from common import interval, save, slope
from matplotlib import pyplot as plt
from scipy.stats import spearmanr

from raysweep.laws.attempts import attempts, unbiased_failure
from raysweep.reports.style import STYLE

WINDOW = (10, 100)
BUDGETS = (1, 10, 100)
BENCHMARKS = ("gsm8k", "math")
FEW = 10  # solved problems; with fewer, an exponent means little


def checkpoints(table: pl.DataFrame, draws: int) -> pl.DataFrame:
    """One row per benchmark, size and checkpoint."""
    rows: list[dict[str, Any]] = []
    for (benchmark, n, d), group in table.group_by("benchmark", "N", "D", maintain_order=True):
        found = attempts(group["c"].to_numpy(), group["n"].to_numpy(), BUDGETS, WINDOW, draws)
        rows.append(
            {
                "benchmark": benchmark,
                "N": n,
                "D": d,
                "problems": found.problems,
                "unsolved": found.unsolved,
                "fewest_trials": found.trials[0],
                "exponent": found.exponent,
                "low": found.exponent_interval[0],
                "high": found.exponent_interval[1],
                "exponent_inverse": found.inverse_exponent,
                "tail": found.tail,
                "tail_low": found.tail_interval[0],
                "tail_high": found.tail_interval[1],
                "beta_rejected": "beta_rejected" in found.notes,
                **{f"pass_at_{k}": 1 - found.failure[j] for j, k in enumerate(BUDGETS)},
            }
        )
    return pl.DataFrame(rows).sort("benchmark", "N", "D")


def verdicts(table: pl.DataFrame, frame: pl.DataFrame, draws: int) -> pl.DataFrame:
    """How the exponent changes, by benchmark and size, with intervals over the problems that both checkpoints share.

    `since_first` is the last checkpoint's exponent minus that of the first at which FEW problems are solved,
    `at_the_end` minus that of the checkpoint before, `since_best` minus the highest.
    """
    rows = []
    for (benchmark, n), group in frame.group_by("benchmark", "N", maintain_order=True):
        counts = {
            d: part.select("problem_idx", "c", "n")
            for (d,), part in table.filter((pl.col("benchmark") == benchmark) & (pl.col("N") == n)).group_by("D")
        }
        solved = group.filter(pl.col("problems") - pl.col("unsolved") >= FEW).sort("D")
        row: dict[str, Any] = {"benchmark": benchmark, "N": n, "checkpoints": group.height, "compared": solved.height}
        if solved.height > 1:
            last, best = solved.row(-1, named=True), solved.sort("exponent").row(-1, named=True)
            others = {"since_first": solved["D"][0], "at_the_end": solved["D"][-2], "since_best": best["D"]}
            for name, other in others.items():
                value, low, high = change(counts[other], counts[last["D"]], draws)
                row[name] = f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" if other != last["D"] else "it is the best"
            row["rank_correlation"] = round(float(spearmanr(solved["D"], solved["exponent"]).statistic), 2)
        rows.append(row)
    return pl.DataFrame(rows)


def change(before: pl.DataFrame, after: pl.DataFrame, draws: int) -> tuple[float, float, float]:
    """How much the exponent grew on the problems that both hold, and its 95 % interval by resampling those."""
    both = before.join(after, on="problem_idx", suffix="_after")
    k = np.unique(np.round(np.geomspace(*WINDOW, 9)))
    failures = [unbiased_failure(both[f"c{s}"].to_numpy(), both[f"n{s}"].to_numpy(), k) for s in ("", "_after")]
    rng = np.random.default_rng(0)
    weights = rng.multinomial(both.height, np.full(both.height, 1 / both.height), size=draws)
    weights = np.concatenate([np.ones((1, both.height)), weights])
    value, *drawn = (slope(k, weights @ failures[1]) - slope(k, weights @ failures[0])).tolist()
    return value, *interval(value, drawn, both.height).tolist()


def draw_exponents(frame: pl.DataFrame, file: Path) -> None:
    sizes = frame["N"].unique().sort().to_list()
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.92, len(sizes)))
    fig, axes = plt.subplots(1, len(BENCHMARKS), figsize=(10.6, 4.2), sharey=True)
    for axis, benchmark in zip(axes, BENCHMARKS, strict=True):
        for colour, n in zip(colours, sizes, strict=True):
            one = frame.filter((pl.col("benchmark") == benchmark) & (pl.col("N") == n)).sort("D")
            y, low, high = (one[name].to_numpy() for name in ("exponent", "low", "high"))
            ends = np.maximum(np.stack([y - low, high - y]), 0.0)
            axis.errorbar(one["D"], y, yerr=ends, fmt="o-", ms=3.5, lw=1, elinewidth=0.7, color=colour, label=words(n))
        axis.set(xscale="log", xlabel="training tokens D", title=benchmark)
    axes[0].set_ylabel(f"exponent of 1 - pass@k, k = {WINDOW[0]} to {WINDOW[1]}")
    axes[0].legend(title="parameters", loc="upper left")
    save(fig, file)


def draw_compute(frame: pl.DataFrame, file: Path) -> None:
    fig, axes = plt.subplots(1, len(BENCHMARKS), figsize=(10.6, 4), sharey=True)
    for axis, benchmark in zip(axes, BENCHMARKS, strict=True):
        one = frame.filter(pl.col("benchmark") == benchmark)
        for k, colour in zip(BUDGETS, ("#0072b2", "#d55e00", "#009e73"), strict=True):
            found = one.filter(pl.col(f"pass_at_{k}") > 0)
            axis.plot(6 * found["N"] * found["D"], -np.log(found[f"pass_at_{k}"].to_numpy()), "o", ms=3.5, color=colour,
                      label=f"k = {k}")  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="training FLOPs, 6 N D", title=benchmark)
    axes[0].set_ylabel("-log pass@k")
    axes[0].legend()
    save(fig, file)


def words(n: float) -> str:
    """14M, 1.4B."""
    return f"{n / 1e9:g}B" if n >= 1e9 else f"{n / 1e6:g}M"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=Path("../shared/data/pythia_gsm8k_math_counts.csv.gz"))
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("results/lid_pythia"))
    given = parser.parse_args()
    mpl.use("Agg")
    mpl.rcParams.update(STYLE)
    table = pl.read_csv(given.table, infer_schema_length=None)
    frame = checkpoints(table, given.draws)
    given.out.mkdir(parents=True, exist_ok=True)
    frame.write_csv(given.out / "checkpoints.csv")
    draw_exponents(frame, given.out / "exponents.png")
    draw_compute(frame, given.out / "compute.png")
    with pl.Config(tbl_rows=-1, tbl_cols=-1, fmt_str_lengths=40, tbl_width_chars=220, tbl_hide_dataframe_shape=True):
        print(verdicts(table, frame, given.draws))


if __name__ == "__main__":
    main()
