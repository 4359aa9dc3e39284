"""Latent difficulty in sequence models: does a student of a noisy teacher steepen pass@k, and does it then saturate?

    python analysis/students.py --device cuda        (a minute and a half on an H200)
    python analysis/lid_gsm8k.py [--results results/lid_gsm8k]

Stands in for the GSM8K experiment of arXiv 2601.03764 (Flan-T5, whose weights are not available): `students.py` says
what it keeps. An attempt is a fresh answer of the teacher and succeeds if it equals the student's greedy one. Given the
student's error e on a problem, an attempt succeeds with the chance `theory.difficulty.success` at b = e / sigma and D =
1 / (2 sigma), so pass@k is exact over the teacher: an integral over tau, a mean over held-out problems. Beside it
stands the estimate that a user has: 200 answers are drawn and successes counted. Medians over 8 seeds with 95 %
intervals over seeds. Writes exponents.csv and gsm8k.png, and the table of claims analysis/claims/lid_gsm8k.csv (or
--claims).
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import polars as pl
from common import CLAIMS, Array, measured, over_seeds, save, slope
from matplotlib import pyplot as plt
from students import BETAS, SIGMA, SIZES

from raysweep.claims import Claim, Rule, markdown, write_claims
from raysweep.laws.attempts import unbiased_failure
from raysweep.reports.style import COLOURS, STYLE
from raysweep.theory.difficulty import log_precision_density, rates, success

K = np.unique(np.geomspace(1, 1000, 31).round())
WINDOW = (10, 100)
TRIALS = 200
SOURCE = "python analysis/students.py --device cuda; python analysis/lid_gsm8k.py"
HALF = 0.5  # unit: errors below it round to the right answer
_STEP = 0.05  # step in log tau


def failures(error: npt.NDArray[np.int16], beta: float) -> Array:
    """[k] chance that k answers of the teacher all miss the student's."""
    off, counts = np.unique(np.abs(error.astype(float)), return_counts=True)
    u = np.arange(-75.0, 5.0, _STEP)
    hit = success(np.exp(u), off[:, None] / SIGMA, HALF / SIGMA)
    miss = np.log1p(-np.minimum(hit, 1 - 1e-16))
    mass = _STEP * np.exp(log_precision_density(u, beta, "gamma"))
    return np.array([counts @ (np.exp(k * miss) @ mass) / counts.sum() for k in K])


def counted(error: npt.NDArray[np.int16], beta: float, rng: np.random.Generator) -> Array:
    """[k] the same from TRIALS answers per problem, without bias; NaN beyond."""
    scatter = SIGMA / np.sqrt(rng.gamma(beta / 2, size=len(error)))
    hits = (np.rint(rng.standard_normal((TRIALS, len(error))) * scatter) == error).sum(0)
    return np.asarray(unbiased_failure(hits, np.full(len(hits), TRIALS), K).mean(0))


def claims(found: dict[str, Any], exponent: Array) -> list[Claim]:
    """H10 from the students' exponents [students]: how much they rise over N, and whether they rise at the end."""
    steepens = "students of a noisy teacher: the exponent of 1 - pass@k rises with N"
    flattens = "students of a noisy teacher: the exponent saturates"
    rows = []
    for beta in BETAS:
        each = np.array([exponent[(found["beta"] == beta) & (found["n_train"] == n)] for n in SIZES])  # [sizes, seeds]
        which = f"small transformers on word problems, beta {beta}"
        rise = over_seeds(each, lambda e: np.median(e[-1] - e[0]))
        late = over_seeds(each, lambda e: np.median(e[-1] - e[-2]) / np.median(e[-1] - e[0]))
        for name, statement, setting, paper, value, rule in (
            ("H10", steepens, f"rise from N = {SIZES[0]} to {SIZES[-1]:,}", "> 0", rise, Rule("above", 0.0)),
            ("H10-2", flattens, f"share of that rise beyond N = {SIZES[-2]:,}", 0.0, late, Rule("below", 0.1)),
        ):
            one = measured(f"k = {WINDOW[0]} to {WINDOW[1]}", each.shape[1], *value)
            rows.append(Claim(name, statement, f"{setting}, {which}", "", paper, one, rule, source=SOURCE))
    why = "the models' weights are not available; the students above keep the structure and change the models"
    rows.append(Claim("H10-3", "the same for Flan-T5 on GSM8K", "Flan-T5-XL teaches Flan-T5-small", why=why))
    return sorted(rows, key=lambda row: row.id)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results/lid_gsm8k"))
    parser.add_argument("--claims", type=Path, default=CLAIMS / "lid_gsm8k.csv")
    given = parser.parse_args()
    mpl.use("Agg")
    mpl.rcParams.update(STYLE)
    file = given.results / "students.npz"
    if not file.is_file():
        raise SystemExit(f"{file} does not exist: run `python analysis/students.py` first")
    found = np.load(file)
    columns = (found[name].tolist() for name in ("beta", "seed", "n_train"))
    each = list(zip(found["error"], *columns, strict=True))
    exact = np.array([failures(error, beta) for error, beta, *_ in each])
    drawn = np.array([counted(e, beta, np.random.default_rng([seed, n])) for e, beta, seed, n in each])
    few = np.flatnonzero(K <= TRIALS)
    apart = np.abs(drawn[:, few] / exact[:, few] - 1)
    print(f"{len(each)} students, {found['error'].shape[1]} held-out problems")
    print(f"exact 1 - pass@k and {TRIALS} trials per problem: {np.median(apart):.1%} apart, {apart.max():.1%} at most")
    inside = (WINDOW[0] <= K) & (WINDOW[1] >= K)
    answer = found["answer"].astype(float)
    frame = {
        "right": (found["error"] == 0).mean(1),
        "l_gen": ((np.log1p(answer + found["error"]) - np.log1p(answer)) ** 2).mean(1),
        "exponent": slope(K[inside], exact[:, inside]),
        "counted": slope(K[inside], drawn[:, inside]),
    }
    rows = []
    for beta, n in itertools.product(BETAS, SIZES):
        cut = (found["beta"] == beta) & (found["n_train"] == n)
        mid = {name: float(np.median(values[cut])) for name, values in frame.items()}
        _, (low, high) = over_seeds(frame["exponent"][cut], np.median)
        rows.append({"beta": beta, "n_train": n, **mid, "low": low, "high": high})
    table = pl.DataFrame(rows)
    table.write_csv(given.results / "exponents.csv")
    said = claims(found, frame["exponent"])
    write_claims(given.claims, said)
    print(markdown(said))
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(13.2, 4))
    for n, colour in zip([10, 371, 759, 1555, 3182, 6309], COLOURS, strict=False):
        cut = (found["beta"] == BETAS[0]) & (found["n_train"] == n)
        left.plot(K, np.median(exact[cut], axis=0), color=colour, lw=1.3, label=f"N = {n}")
        left.plot(K[few], np.median(drawn[cut][:, few], axis=0), ".", color=colour, ms=4)
    for beta, colour in zip(BETAS, COLOURS, strict=False):
        perfect = rates(beta, HALF / SIGMA, 0.0, most=float(K[-1])).failure(K)
        if beta == BETAS[0]:
            left.plot(K, perfect, "k--", lw=1, label="perfect student")
        cut = table.filter(pl.col("beta") == beta)
        middle.plot(SIZES, cut["l_gen"], "o-", ms=3.5, color=colour, label=rf"$\beta$ = {beta}")
        right.plot(SIZES, cut["exponent"], "o-", ms=3.5, color=colour, label=rf"$\beta$ = {beta}")
        right.fill_between(SIZES, cut["low"], cut["high"], color=colour, alpha=0.2, lw=0)
        whole = float(slope(K[inside], perfect[inside]))
        right.axhline(whole, color=colour, lw=1, ls="--")
        print(f"beta {beta}: a perfect student's exponent over k = {WINDOW[0]} to {WINDOW[1]} is {whole:.2f}")
        print(cut.select("n_train", "right", "l_gen", "exponent", "low", "high", "counted"))
    left.set(xscale="log", yscale="log", xlabel="attempts k", ylabel="1 - pass@k (median of seeds)", ylim=(1e-4, 1.2))
    left.set_title(rf"$\beta$ = {BETAS[0]}; dots: {TRIALS} trials counted")
    left.legend(loc="lower left")
    middle.set(xscale="log", yscale="log", xlabel="problems N", ylabel="mean squared error of log(1 + answer)")
    middle.legend()
    right.set(xscale="log", yscale="log", xlabel="problems N", ylabel=f"exponent over k = {WINDOW[0]} to {WINDOW[1]}")
    right.legend(title="dashes: perfect student", loc="center left")
    save(fig, given.results / "gsm8k.png")


if __name__ == "__main__":
    main()
