"""Latent instance difficulty (arXiv 2601.03764): its claims, measured, with the theory drawn over the measurement.

    raysweep run sweeps/lid_exponent.yaml          (and lid_generalisation, lid_spectrum, lid_prior)
    python analysis/lid.py [--results results] [--out results/lid]

Writes the table of claims analysis/claims/lid.csv (or --claims), which docs/papers.md shows, and a figure per question.
Medians are over 16 seeds, with intervals over seeds; every exponent is stated with its window of k.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import polars as pl
from common import CLAIMS, Array, measured, over_seeds, save
from matplotlib import pyplot as plt
from scipy.optimize import least_squares

from raysweep.claims import Claim, Rule, markdown, summary, write_claims
from raysweep.laws.split import Tradeoff, split
from raysweep.reports.style import COLOURS, STYLE
from raysweep.theory import lid as theory
from raysweep.theory.difficulty import rates

SWEEPS = ("generalisation", "spectrum", "exponent", "prior")
D, WIDE = 50, 1000
RIDGE = 1e-9
WINDOWS = ((10, 100), (10, 1000), (100, 1000), (100, 10_000))
PAPER = (100, 1000)  # the window of k for all other exponents
SEEDS = 16
MEASURED_IN = {  # the sweep of each claim; the others are computed
    "H1": "generalisation", "H2": "spectrum", "H3": "generalisation", "H1-3": "generalisation",
    "H5": "exponent", "H6": "exponent", "H7": "prior",
}  # fmt: skip
GROWS: dict[str, Any] = {"beta": 2.5, "delta": 2.4, "n0": 1000 ** (1 / 1.62), "gamma": 1.62}
STATEMENTS = {
    "H1": "L_gen falls as N^-1 for N much larger than d",
    "H2": "L_gen falls as N^-alpha for N much smaller than d",
    "H3": "L_gen peaks at N = d (double descent)",
    "H1-3": "one closed form holds at every N: the deterministic equivalent of ridge regression (our theory)",
    "H4": "1 - pass@k of a perfect predictor falls as k^-beta",
    "H5": "the exponent of 1 - pass@k grows with N and saturates at beta",
    "H6": "the exponent follows beta - Delta / (1 + c N^nu) with nu = 1.62",
    "H7": "the exponent is min(beta, gamma) with gamma ~ 1 / L_gen",
    "H8": "an exponent that grows with N moves the best split of a budget to training",
    "H8-2": "train until the exponent saturates, then buy attempts",
}


def read(results: Path, name: str) -> pl.DataFrame:
    """The finished cells of one sweep."""
    file = results / name / "cells.parquet"
    if not file.is_file():
        raise SystemExit(f"{file} does not exist: run `raysweep run sweeps/{name}.yaml` first")
    return pl.read_parquet(file).filter(pl.col("status") == "ok")


def slopes(frame: pl.DataFrame, window: tuple[int, int]) -> pl.DataFrame:
    """Least-squares exponents of failure over a window of k, one per run."""
    u, v = pl.col("k").log(), pl.col("failure").log()
    cut = frame.filter(pl.col("k").is_between(*window))
    return cut.group_by("n_train", "seed").agg(slope=-pl.cov(u, v) / u.var()).sort("n_train", "seed")


def by_seed(frame: pl.DataFrame, value: str) -> tuple[Array, Array]:
    """Sizes, and values [sizes, seeds]."""
    wide = frame.pivot(on="seed", index="n_train", values=value).sort("n_train")
    return wide["n_train"].to_numpy().astype(float), wide.drop("n_train").to_numpy()


def saturating(n: Array, slope: Array) -> Array:
    """(beta, Delta, c, nu) of beta - Delta / (1 + c N^nu), least squares."""

    def miss(q: Array) -> Array:
        beta, drop, log_half, nu = q
        return beta - drop / (1 + (n / np.exp(log_half)) ** nu) - slope

    best = None
    for half in (100.0, 300.0, 1000.0):
        top = float(slope[-1])
        found = least_squares(miss, [top, top, np.log(half), 2.0], bounds=([0, 0, 0, 0.1], [9, 9, 12, 12]))
        best = found if best is None or found.cost < best.cost else best
    assert best is not None
    beta, drop, log_half, nu = best.x
    return np.array([beta, drop, np.exp(-nu * log_half), nu])


def claims_of_training(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """H1 to H3: the regimes of the excess risk."""
    off: list[tuple[float, float, float, Any, Any]] = []
    fig, axes = plt.subplots(1, 3, figsize=(12.6, 3.8), sharey=True)
    for axis, alpha in zip(axes, (0.5, 1.0, 2.0), strict=True):
        for colour, sigma in zip(COLOURS, (1e-3, 1e-2, 1e-1), strict=False):
            cut = frame.filter((pl.col("alpha") == alpha) & (pl.col("sigma_eta") == sigma))
            n, risk = by_seed(cut, "l_gen")
            low, mid, high = np.quantile(risk, [0.25, 0.5, 0.75], axis=1)
            axis.plot(n, mid, "o", ms=3.5, color=colour, label=rf"$\sigma_\eta$ = {sigma:g}")
            axis.fill_between(n, low, high, color=colour, alpha=0.2, lw=0)
            expected = [theory.excess_risk(size, D, alpha, theory.noise_variance(4.5, sigma), RIDGE) for size in n]
            axis.plot(n, expected, "-", color=colour, lw=1)
            for size, one in zip(n, risk / np.array(expected)[:, None], strict=True):
                off.append((alpha, sigma, size, *over_seeds(one, np.median, log=True)))
            far = n >= 400
            fit = over_seeds(risk[far], partial(falls, n[far]))
            setting = f"exponent of L_gen (alpha {alpha:g}, sigma {sigma:g}, beta 4.5)"
            known = round(float(-np.polyfit(np.log(n[far]), np.log(D / (n[far] - D - 1)), 1)[0]), 2)
            rows.append(claim("H1", setting, known, 1.0, "N >= 8 d", fit, "near paper 0.08"))
            at = [list(n).index(size) for size in (50, 28)]
            ratio = over_seeds(risk[at], lambda r: np.median(r[0]) / np.median(r[1]), log=True)
            setting = f"L_gen at d over L_gen at 0.56 d (alpha {alpha:g}, sigma {sigma:g})"
            known = float(f"{expected[at[0]] / expected[at[1]]:.3g}")
            rows.append(claim("H3", setting, known, "a peak", "N = 50 and 28", ratio, "above 1"))
        axis.axvline(D, color="0.7", lw=0.8)
        axis.set(xscale="log", yscale="log", xlabel="training items N", title=rf"$\alpha$ = {alpha:g}")
    axes[0].set_ylabel("excess risk $L_{gen}$ (median, quartiles of 16 seeds)")
    axes[0].legend(loc="lower left", title="lines: expected")
    save(fig, figure)
    for where, near_d in (("N not within a fifth of d", False), ("N within a fifth of d", True)):
        here = [one for one in off if (abs(one[2] - D) < D / 5) == near_d]
        for end, pick in (("least", min), ("greatest", max)):
            alpha, sigma, size, middle, ends = pick(here, key=lambda one: float(one[3]))
            setting = f"{end} median of L_gen / expected, {where} (alpha {alpha:g}, sigma {sigma:g})"
            found = middle, ends
            rows.append(
                claim(
                    "H1-3", setting, 1.0, "", f"N = {size:g}", found, "near theory 0.1", "the value 1 is that of means"
                )
            )


def claims_of_spectrum(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """H2: far below d the excess risk falls as the tail of the spectrum beyond N."""
    fig, axis = plt.subplots(figsize=(4.8, 3.8))
    for colour, alpha in zip(COLOURS, (0.5, 1.0, 1.5), strict=False):
        n, risk = by_seed(frame.filter(pl.col("alpha") == alpha), "l_gen")
        low, mid, high = np.quantile(risk, [0.25, 0.5, 0.75], axis=1)
        axis.plot(n, mid, "o", ms=3.5, color=colour, label=rf"$\alpha$ = {alpha:g}")
        axis.fill_between(n, low, high, color=colour, alpha=0.2, lw=0)
        noise = theory.noise_variance(2.5, 1e-3)
        expected = np.array([theory.excess_risk(size, WIDE, alpha, noise, RIDGE) for size in n])
        axis.plot(n, expected, "-", color=colour, lw=1)
        far = n >= 20
        slope_expected = float(-np.polyfit(np.log(n[far]), np.log(expected[far]), 1)[0])
        setting = f"exponent of L_gen, d = {WIDE} (alpha {alpha:g})"
        found = over_seeds(risk[far], partial(falls, n[far]))
        rule = f"near paper {alpha / 10:g}"
        rows.append(claim("H2", setting, round(slope_expected, 2), alpha, "N = 20 to 80", found, rule))
    axis.set(xscale="log", yscale="log", xlabel="training items N", ylabel="excess risk (median, quartiles)")
    axis.legend(title="lines: expected")
    save(fig, figure)


def claims_of_exponents(frame: pl.DataFrame, rows: list[Claim], out: Path) -> None:
    """H4 to H6: the exponent of attempts against training, and what it depends on."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4))
    one = frame.filter((pl.col("beta") == 2.5) & (pl.col("tolerance") == 1.0))
    for colour, size in zip(COLOURS, (25, 60, 100, 200, 400, 800, 6400), strict=True):
        curve = one.filter(pl.col("n_train") == size).group_by("k").agg(pl.col("failure").median()).sort("k")
        left.plot(curve["k"], curve["failure"], "-", color=colour, label=f"N = {size}", lw=1.3)
    claims_of_perfection(rows)
    k = np.geomspace(1, 1e4, 60)
    left.plot(k, theory.perfect_failure(k, 2.5, 1.0), "k--", lw=1, label="perfect predictor, closed form")
    left.set(xscale="log", yscale="log", xlabel="attempts k", ylabel="1 - pass@k (median of 16 seeds)", ylim=(1e-11, 2))
    left.legend(loc="lower left")
    for colour, beta in zip(COLOURS, (2.5, 4.5), strict=False):
        cut = frame.filter((pl.col("beta") == beta) & (pl.col("tolerance") == 1.0))
        n, found = by_seed(slopes(cut, PAPER), "slope")
        low, mid, high = np.quantile(found, [0.25, 0.5, 0.75], axis=1)
        right.plot(n, mid, "o", ms=4, color=colour, label=rf"$\beta$ = {beta:g}")
        right.fill_between(n, low, high, color=colour, alpha=0.2, lw=0)
        fitted = saturating(n, mid)
        mesh = np.geomspace(10, 6400, 200)
        right.plot(mesh, fitted[0] - fitted[1] / (1 + fitted[2] * mesh ** fitted[3]), "-", color=colour, lw=1)
        right.axhline(beta, color=colour, lw=0.8, ls=":")
        right.axvline(theory.saturation(PAPER[1], beta, 1.0, D), color=colour, lw=0.8, ls="--")
        top = over_seeds(found[-1], np.median)
        window = f"k = {PAPER[0]} to {PAPER[1]:,}"
        setting = f"exponent at N = 128 d, D = 1, beta {beta:g}"
        rows.append(claim("H5", setting, beta, beta, window, top, "near paper 0.05"))
        rise = over_seeds(found, lambda s: np.diff(np.median(s, 1)).min())
        setting = f"least rise of the exponent from one N to the next, D = 1, beta {beta:g}"
        rows.append(claim("H5", setting, ">= 0", "grows, then flat", window, rise, "above -0.03"))
    right.set(xscale="log", xlabel="training items N", ylabel=f"exponent over k = {PAPER[0]} to {PAPER[1]}")
    right.legend(loc="upper left")
    save(fig, out / "exponent.png")

    fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.9), sharey=True)
    for axis, tolerance in zip(axes, (0.1, 1.0), strict=True):
        cut = frame.filter((pl.col("beta") == 2.5) & (pl.col("tolerance") == tolerance))
        for colour, window in zip(COLOURS, WINDOWS, strict=False):
            n, found = by_seed(slopes(cut, window), "slope")
            nu, ends = over_seeds(found, lambda s, n=n: saturating(n, np.median(s, 1))[[0, 3]])
            said = f"k = {window[0]} to {window[1]:,}"
            found_nu = nu[1], ends[:, 1]
            setting = f"nu of the saturating fit, D = {tolerance:g}"
            rows.append(claim("H6", setting, "depends on D and window", 1.62, said, found_nu, "near paper 0"))
            axis.plot(n, np.median(found, 1), "o-", ms=3.5, lw=1, color=colour,
                      label=rf"k {window[0]} to {window[1]}: $\nu$ = {nu[1]:.2f}, $\beta$ = {nu[0]:.2f}")  # fmt: skip
        axis.axhline(2.5, color="0.6", lw=0.8, ls=":")
        axis.set(xscale="log", xlabel="training items N", title=rf"tolerance $\delta / \sigma_\eta$ = {tolerance:g}")
        axis.legend(loc="upper left")
    axes[0].set_ylabel("exponent (median of 16 seeds)")
    save(fig, out / "sensitivity.png")


def claims_of_perfection(rows: list[Claim]) -> None:
    """H4: nothing is sampled here, so there is no interval."""
    k = np.geomspace(1e3, 1e4, 9)
    for beta in (2.5, 4.5):
        at = float(-np.polyfit(np.log(k), np.log(rates(beta, 1.0, 0.0, most=1e4).failure(k)), 1)[0])
        setting = f"exponent of a perfect predictor, D = 1, beta {beta:g}"
        rows.append(claim("H4", setting, beta, beta, "k = 1,000 to 10,000", at, "near paper 0.05"))


def claims_of_priors(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """H7: the theorem, for bounded precisions and for the Gamma prior."""
    fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.9), sharey=True)
    windows = ((100, 1000), (10**7, 10**8), (10**11, 10**12))
    for axis, prior in zip(axes, ("bounded", "gamma"), strict=True):
        cut = frame.filter(pl.col("prior") == prior)
        for colour, window in zip(COLOURS, windows, strict=False):
            u, v = pl.col("k").log(), pl.col("failure").log()
            seen = cut.filter(pl.col("k").is_between(*window)).group_by("n_train", "seed")
            found = seen.agg(slope=-pl.cov(u, v) / u.var(), risk=pl.col("risk").first()).sort("risk")
            axis.plot(
                found["risk"],
                found["slope"],
                "o",
                ms=2.5,
                color=colour,
                alpha=0.7,
                label=f"k {window[0]:.0e} to {window[1]:.0e}",
            )
            if prior == "gamma":
                mesh = np.geomspace(0.02, 100, 200)
                middle = np.sqrt(float(window[0]) * window[1])
                axis.plot(mesh, np.minimum(2.5, theory.gamma_exponent(middle, mesh, 0.1)), "-", lw=1, color=colour)
            low = found.filter(pl.col("risk").is_between(0.6, 20.0))  # below saturation, above the floor of the window
            parts = low.sort("seed", "risk").partition_by("seed")
            runs = [np.log(part.select("risk", "slope").to_numpy()) for part in parts]

            def power_of(seeds: npt.NDArray[np.int64], runs: list[Array] = runs) -> float:
                return -float(np.polyfit(*np.concatenate([runs[seed] for seed in seeds]).T, 1)[0])

            power = over_seeds(np.arange(len(runs)), power_of)
            known = 1.0 if prior == "bounded" else 0.5
            setting, said = (
                f"power of 1 / L_gen in the exponent, {prior} prior",
                f"k = {window[0]:.0e} to {window[1]:.0e}",
            )
            rows.append(claim("H7", setting, known, 1.0, said, power, "near paper 0.1", "theory: as k grows"))
        if prior == "bounded":
            mesh = np.geomspace(0.02, 100, 200)
            axis.plot(mesh, theory.bounded_exponent(mesh, 2.5), "k-", lw=1, label="theorem: min(beta, 1 / r)")
        axis.set(xscale="log", yscale="log", xlabel=r"$r = L_{gen} / \sigma_\eta^2$", title=f"{prior} precision")
        axis.legend(loc="lower left")
    axes[0].set_ylabel("exponent of 1 - pass@k")
    save(fig, figure)


def draw_allocation(figure: Path) -> None:
    """Where a budget goes, for an exponent that grows with training and for fixed ones."""
    fig, axes = plt.subplots(1, 2, figsize=(9.6, 4))
    n, k = np.geomspace(3, 3000, 160), np.geomspace(1, 3000, 160)
    loss = Tradeoff(train=1.0, attempts=1.0, **GROWS).loss(n[None], k[:, None])
    shown = axes[0].contour(n, k, np.log10(loss), levels=14, cmap="viridis", linewidths=0.9)
    axes[0].clabel(shown, fontsize=7)
    budgets = np.geomspace(10, 3000, 60)
    for label, style, law in (
        ("exponent that grows", "-", GROWS),
        ("fixed at 2.5", "--", {"beta": 2.5}),
        ("fixed at 0.27", ":", {"beta": 0.27}),
    ):
        best = split(Tradeoff(train=1.0, attempts=1.0, **law), budgets)
        axes[0].plot(best.n, best.k, style, color="k", lw=1.4, label=label)
    axes[0].set(xscale="log", yscale="log", xlabel="training items N", ylabel="attempts k", title="log10 of total loss")
    axes[0].legend(loc="upper left")
    for colour, weight in zip(COLOURS, (1.0, 0.1, 0.01), strict=False):
        for style, law in (("-", GROWS), ("--", {"beta": 2.5})):
            best = split(Tradeoff(train=weight, attempts=1.0, **law), budgets)
            axes[1].plot(budgets, best.share, style, color=colour, label=f"R = {weight:g}" if style == "-" else None)
    axes[1].set(xscale="log", xlabel="budget C", ylabel="share of training", title="solid: grows; dashed: fixed at 2.5")
    axes[1].legend(loc="lower right")
    save(fig, figure)


def claims_of_split(rows: list[Claim]) -> None:
    """H8 in numbers, and the limits of "train until the exponent saturates, then buy attempts"."""
    for weight in (1.0, 0.1, 0.01):
        own = split(Tradeoff(train=weight, attempts=1.0, **GROWS), [100.0])
        local = split(Tradeoff(train=weight, attempts=1.0, beta=float(own.exponent[0])), [100.0])
        late = split(Tradeoff(train=weight, attempts=1.0, beta=2.5), [100.0])
        for name, other in (("its own value at the optimum", local), ("2.5", late)):
            ratio = float(own.n[0] / other.n[0])
            setting = f"N* over N* of an exponent fixed at {name} (R = {weight:g})"
            rows.append(claim("H8", setting, "", "> 1", "C = 100", ratio, "above 1"))
    far = 1e8
    for beta, known in ((0.27, 0.0), (1.0, 0.5), (2.5, 1.0)):
        share = float(split(Tradeoff(train=1.0, attempts=1.0, beta=beta), [far]).share[0])
        setting = f"share of training, exponent saturated at {beta:g}, R = 1"
        rows.append(claim("H8-2", setting, known, 0.0, "C = 1e8", share, "near paper 0.01"))
    alone = split(Tradeoff(train=0.0, attempts=1.0, **GROWS), [1e3, far])
    setting = "share of training, exponent that grows to 2.5, R = 0"
    rows.append(claim("H8-2", setting, 0.0, 0.0, "C = 1e8", float(alone.share[1]), "near paper 0.01"))
    setting = "exponent over its limit at the best split, R = 0"
    reached = float(alone.exponent[0]) / GROWS["beta"]
    rows.append(claim("H8-2", setting, "near 1", 1.0, "C = 1,000", reached, "near paper 0.1"))


def falls(n: Array, values: Array) -> float:
    """The exponent at which the median over seeds, of values [sizes, seeds], falls with n."""
    return -float(np.polyfit(np.log(n), np.log(np.median(values, 1)), 1)[0])


def claim(
    name: str, setting: str, theory: float | str, paper: float | str, window: str, found: Any, rule: str, why: str = ""
) -> Claim:
    """One row of the table; `found` is a number, or a number and its interval over seeds."""
    run = f"raysweep run sweeps/lid_{MEASURED_IN[name]}.yaml; " if name in MEASURED_IN else ""
    value, ends, seeds = (*found, SEEDS) if isinstance(found, tuple) else (found, (None, None), 0)
    return Claim(
        name,
        STATEMENTS[name],
        setting,
        theory,
        paper,
        measured(window, seeds, value, ends),
        Rule.parse(rule),
        why=why,
        source=f"{run}python analysis/lid.py",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("results/lid"), help="where figures go")
    parser.add_argument("--claims", type=Path, default=CLAIMS / "lid.csv")
    given = parser.parse_args()
    mpl.use("Agg")
    mpl.rcParams.update(STYLE)
    rows: list[Claim] = []
    frames = {name: read(given.results, f"lid_{name}") for name in SWEEPS}
    given.out.mkdir(parents=True, exist_ok=True)
    claims_of_training(frames["generalisation"], rows, given.out / "generalisation.png")
    claims_of_spectrum(frames["spectrum"], rows, given.out / "spectrum.png")
    claims_of_exponents(frames["exponent"], rows, given.out)
    claims_of_priors(frames["prior"], rows, given.out / "prior.png")
    claims_of_split(rows)
    draw_allocation(given.out / "allocation.png")
    rows.sort(key=lambda row: list(STATEMENTS).index(row.id))
    write_claims(given.claims, rows)
    print(markdown(rows) + summary(rows))


if __name__ == "__main__":
    main()
