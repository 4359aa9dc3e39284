"""Feature learning and scaling exponents (arXiv 2409.17858): its claims on the solvable model, with the theory beside.

    raysweep run sweeps/features_exponents.yaml          (and features_plateaus, features_frontier)
    python analysis/features_paper.py [--results results] [--out results/features]

Writes the table of claims analysis/claims/features.csv (or --claims), which docs/papers.md shows, and two figures. The
exact flow without a width, and gradient descent without noise, have no seeds: their exponents are computed, not
sampled. Others have intervals from a bootstrap over seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from common import CLAIMS, Array, measured, over_seeds, save
from matplotlib import pyplot as plt

from raysweep.claims import Claim, Measured, Rule, markdown, summary, write_claims
from raysweep.reports.style import COLOURS, STYLE
from raysweep.theory.features import compute_optimal, phase, time_exponent

SWEEPS = ("exponents", "plateaus", "frontier")
STATEMENTS = {
    "H1": "hard tasks (beta < 1): loss falls faster in time when features are learned",
    "H2": "easy tasks (beta > 1): the same exponent in time",
    "H3": "plateau against model size",
    "H4": "plateau against data that are used again",
    "H5": "transient of finite N",
    "H6": "transient of SGD",
    "H7": "the compute-optimal exponent improves for hard tasks only",
    "H8": "an MLP on the circle follows the law of H1",
    "H9": "CNNs on MNIST-1M",
    "H10": "CNNs on CIFAR-5M",
}
NOT_RUN = {
    "H5": "measured only through the easy row of H7",
    "H6": "no sweep of minibatch noise yet, but the super-easy row of H7",
    "H8": "the training of networks in mean-field scaling is not built yet",
    "H9": "the training of networks in mean-field scaling is not built yet",
    "H10": "the training of networks in mean-field scaling is not built yet",
}
LATE = (1e4, 1e6)  # past the crossover gamma^(-1 / (1 - beta)) at gamma = 1, and where the first modes no longer matter
OF_STEPS = (10.0, 100.0)  # before the last of the 800 modes is learned
DECADES = 2.0  # of compute, the last whose best width lies within the grid


def read(results: Path, name: str) -> pl.DataFrame:
    """The finished cells of one sweep."""
    file = results / f"features_{name}" / "cells.parquet"
    if not file.is_file():
        raise SystemExit(f"{file} does not exist: run `raysweep run sweeps/features_{name}.yaml` first")
    return pl.read_parquet(file).filter(pl.col("status") == "ok")


def falls(x: Array, y: Array) -> Any:
    """Least-squares exponent of y ~ x^-e along the first axis of y [x, ...]."""
    u = np.log(x) - np.log(x).mean()
    return -np.tensordot(u, np.log(y), axes=(0, 0)) / (u @ u)


def of_time(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """H1 and H2: exponents in time."""
    points = []
    for (method, alpha, beta, gamma), part in frame.sort("t").group_by("method", "alpha", "beta", "gamma"):
        window = LATE if method == "exact" else OF_STEPS
        cut = part.filter(pl.col("t").is_between(window[0] * 0.999, window[1] * 1.001))
        if gamma in (0.0, 1.0):
            found = float(falls(cut["t"].to_numpy(), cut["loss"].to_numpy()))
            points.append((str(method), float(alpha), float(beta), float(gamma), found, window))
    for method, alpha, beta, gamma, found, window in sorted(points):
        rich = gamma > 0
        one = Measured(found, f"t {window[0]:g} to {window[1]:g}", 0)
        setting = f"{method}, {'rich (gamma 1)' if rich else 'lazy'}, alpha {alpha:g}, beta {beta:g}"
        near = Rule("near theory", 0.02 if method == "exact" else 0.05)
        rows.append(_claim("H1" if beta < 1 else "H2", setting, time_exponent(beta, rich), one, near, "exponents"))
    fig, axis = plt.subplots(figsize=(5.6, 4))
    grid = np.linspace(0.2, 1.55, 100)
    for colour, rich in zip(COLOURS, (False, True), strict=False):
        name = "rich, gamma = 1" if rich else "lazy"
        axis.plot(grid, [time_exponent(b, rich) for b in grid], "--", color=colour, lw=1, label=f"theory, {name}")
        for method, marker in (("exact", "o"), ("steps", "^")):
            mine = [p for p in points if p[0] == method and (p[3] > 0) == rich]
            label = f"{'exact flow' if method == 'exact' else 'gradient descent'}, {name}"
            axis.plot([p[2] for p in mine], [p[4] for p in mine], marker, ms=5, mfc="none", color=colour, label=label)
    axis.set(xlabel="difficulty beta", ylabel="exponent of loss in time")
    axis.legend(fontsize=7)
    save(fig, figure)


def of_size(frame: pl.DataFrame, rows: list[Claim]) -> None:
    """H3 and H4: exponents of plateaus."""
    for method, axis, value, id_, most in (
        ("exact", "width", "unreachable", "H3", 1.0),
        ("steps", "n_train", "loss", "H4", 2.0),
    ):
        for (alpha, beta), part in frame.filter(pl.col("method") == method).group_by("alpha", "beta"):
            wide = part.pivot(on="seed", index=axis, values=value).sort(axis)
            size, values = wide[axis].to_numpy().astype(float), wide.drop(axis).to_numpy()
            keep = size >= (64 if id_ == "H3" else 8)
            fit = over_seeds(values[keep], lambda v, x=size[keep]: falls(x, np.exp(np.log(v).mean(1))))
            window = f"{'N' if id_ == 'H3' else 'P'} {size[keep][0]:g} to {size[-1]:g}"
            one = measured(window, values.shape[1], *fit)
            known = float(alpha) * min(most, float(beta))
            setting = f"alpha {alpha:g}, beta {beta:g}" + ("" if id_ == "H3" else ", at t = 10,000")
            rows.append(_claim(id_, setting, known, one, Rule("near theory", 0.1), "plateaus"))


def envelope(part: pl.DataFrame) -> tuple[Array, Array, Array]:
    """log10 of compute C = N t, of the least loss of any width, and of the width that has it (a parabola's minimum)."""
    widths = sorted(part["width"].unique().to_list())
    grid = np.linspace(1.5, 9, 301)
    loss = np.full((len(widths), len(grid)), np.nan)
    for i, width in enumerate(widths):
        one = part.filter(pl.col("width") == width).sort("t")
        c = np.log10(one["t"].to_numpy() * width)
        inside = (grid >= c[0]) & (grid <= c[-1])
        loss[i, inside] = np.interp(grid[inside], c, np.log10(one["loss"].to_numpy()))
    known = np.isfinite(loss).any(0)
    best = np.where(known, np.nanargmin(np.where(np.isfinite(loss), loss, np.inf), axis=0), 0)
    good = known & (best > 0) & (best < len(widths) - 1)
    c, log_loss, log_width = [], [], []
    for j in np.flatnonzero(good):
        around = loss[best[j] - 1 : best[j] + 2, j]
        if np.isfinite(around).all():
            x = np.log10(widths[best[j] - 1 : best[j] + 2])
            a, b, at = np.polyfit(x - x[1], around, 2)
            if a > 0:
                c.append(grid[j])
                log_width.append(x[1] - b / (2 * a))
                log_loss.append(at - b**2 / (4 * a))
    return np.array(c), np.array(log_loss), np.array(log_width)


def of_compute(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """H7: compute-optimal loss and width."""
    fig, axes = plt.subplots(1, 2, figsize=(9.6, 4))
    tasks = sorted(frame.select("alpha", "beta").unique().rows())
    for colour, (alpha, beta) in zip(COLOURS, tasks, strict=False):
        for gamma in (0.0, 1.0):
            part = frame.filter((pl.col("alpha") == alpha) & (pl.col("beta") == beta) & (pl.col("gamma") == gamma))
            curves = [envelope(one) for _, one in sorted(part.group_by("seed"))]
            last = min(c[-1] for c, _, _ in curves)
            grid = np.linspace(last - DECADES, last, 40)
            lost, wide = (np.stack([np.interp(grid, c[0], c[i]) for c in curves], axis=1) for i in (1, 2))
            known = compute_optimal(alpha, beta, rich=gamma > 0)
            window = f"C 10^{grid[0]:.1f} to 10^{grid[-1]:.1f}"
            for name, values, sign, exponent, near in (
                ("L*", lost, -1, known[0], 0.04),
                ("N*", wide, 1, known[1], 0.08),
            ):
                fit = over_seeds(values, lambda v, c=grid, s=sign: s * np.polyfit(c, v.mean(1), 1)[0])
                how = f"{'rich (gamma 1)' if gamma else 'lazy'}, alpha {alpha:g}, beta {beta:g}"
                one = measured(window, values.shape[1], *fit)
                setting = f"exponent of {name}; {phase(alpha, beta)} task, {how}"
                rows.append(_claim("H7", setting, round(exponent, 3), one, Rule("near theory", near), "frontier"))
            style = "-" if gamma else ":"
            label = f"alpha {alpha:g}, beta {beta:g}, {'rich' if gamma else 'lazy'}"
            for axis, index in zip(axes, (1, 2), strict=True):
                axis.plot(10 ** curves[0][0], 10 ** curves[0][index], style, color=colour, lw=1.4, label=label)
    axes[0].set(xscale="log", yscale="log", xlabel="compute C = N t", ylabel="least loss")
    axes[1].set(xscale="log", yscale="log", xlabel="compute C = N t", ylabel="its width")
    axes[0].legend(fontsize=6.5)
    save(fig, figure)


def _claim(id_: str, setting: str, theory: float, one: Measured, rule: Rule, sweep: str) -> Claim:
    source = f"raysweep run sweeps/features_{sweep}.yaml; python analysis/features_paper.py"
    return Claim(id_, STATEMENTS[id_], setting, round(theory, 4), "", one, rule, source=source)


def main() -> None:
    """Read the sweeps that are there, and write the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("results/features"))
    parser.add_argument("--claims", type=Path, default=CLAIMS / "features.csv")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    rows: list[Claim] = []
    with mpl.rc_context(STYLE):
        of_time(read(asked.results, "exponents"), rows, asked.out / "exponents.png")
        of_size(read(asked.results, "plateaus"), rows)
        of_compute(read(asked.results, "frontier"), rows, asked.out / "frontier.png")
    rows += [Claim(id_, STATEMENTS[id_], why=why) for id_, why in NOT_RUN.items()]
    rows.sort(key=lambda claim: (int(claim.id[1:]), claim.setting))
    write_claims(asked.claims, rows)
    print(markdown(rows))
    print(summary(rows))


if __name__ == "__main__":
    main()
