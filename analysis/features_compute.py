"""The compute-optimal laws (H7): least loss and its width against compute C = N t, from envelopes of mean curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from common import DRAWS, Array, interval, measured, save
from features_common import by_seed, claim
from matplotlib import pyplot as plt

from raysweep.claims import Claim, Rule
from raysweep.reports.style import COLOURS
from raysweep.theory.features import compute_optimal, flow, phase, power_law_modes
from raysweep.theory.kernel_limit import lazy_curve

DECADES = 2.0  # of compute, the last whose best width lies within the grid
GRID = np.linspace(1.5, 9, 301)  # log10 of compute
Curves = dict[int, Array]  # width -> loss [times], or [times, seeds]


def envelope(curves: Curves, t: Array) -> tuple[Array, Array, Array]:
    """log10 of compute, of the least loss of any width, and of the width that has it (a parabola's minimum)."""
    widths = np.array(sorted(curves))
    loss = np.full((len(widths), len(GRID)), np.inf)
    for i, width in enumerate(widths.tolist()):
        c = np.log10(t * width)
        inside = (c[0] <= GRID) & (c[-1] >= GRID)
        loss[i, inside] = np.interp(GRID[inside], c, np.log10(curves[width]))
    best = loss.argmin(0)
    found = []
    for j in np.flatnonzero((best > 0) & (best < len(widths) - 1)):
        around = loss[best[j] - 1 : best[j] + 2, j]
        if np.isfinite(around).all():
            x = np.log10(widths[best[j] - 1 : best[j] + 2])
            a, b, at = np.polyfit(x - x[1], around, 2)
            if a > 0:
                found.append((GRID[j], at - b**2 / (4 * a), x[1] - b / (2 * a)))
    c, log_loss, log_width = np.array(found).T
    return c, log_loss, log_width


def exponents(curves: Curves, t: Array, window: tuple[float, float] | None = None) -> tuple[Array, tuple[float, float]]:
    """Exponents of L* and N* over a window of log10 C; by default the last decades of the envelope."""
    c, log_loss, log_width = envelope(curves, t)
    low, high = window or (c[-1] - DECADES, c[-1])
    inside = (c >= low - 1e-9) & (c <= high + 1e-9)
    return np.array([-np.polyfit(c[inside], log_loss[inside], 1)[0], np.polyfit(c[inside], log_width[inside], 1)[0]]), (
        low,
        high,
    )


def mean(curves: Curves, rng: np.random.Generator | None = None) -> Curves:
    """Means over the seeds of each width, or over as many drawn from them."""
    out = {}
    for width, loss in curves.items():
        seeds = loss.shape[1]
        out[width] = (loss if rng is None else loss[:, rng.integers(0, seeds, seeds)]).mean(1)
    return out


def of_theory(part: pl.DataFrame, widths: list[int], t: Array) -> Curves:
    """The lazy curves that random-matrix theory expects of some widths; the noise is that of no bottleneck."""
    alpha, beta, eta, batch = part.select("alpha", "beta", "eta", "batch").row(0)
    modes = power_law_modes(alpha, beta)
    noise = 0.0
    if batch:
        still, noisy = flow([modes, modes], 0.0, t, [0.0, eta / batch]).loss
        noise = noisy - still
    return {width: lazy_curve(modes, t, width) + noise for width in widths}


def of_compute(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """One exponent of the least loss and one of its width for every task, lazy and rich."""
    fig, axes = plt.subplots(1, 3, figsize=(13.2, 4))
    tasks = sorted(frame.select("alpha", "beta").unique().rows())
    for colour, (alpha, beta) in zip(COLOURS, tasks, strict=False):
        for gamma in (0.0, 1.0):
            part = frame.filter((pl.col("alpha") == alpha) & (pl.col("beta") == beta) & (pl.col("gamma") == gamma))
            curves = {}
            for (width,), one in sorted(part.group_by("width")):
                t, curves[int(width)] = by_seed(one, "t", "loss")
            found, window = exponents(mean(curves), t)
            rng = np.random.default_rng(7)
            drawn = [exponents(mean(curves, rng), t, window)[0] for _ in range(DRAWS)]
            seeds = min(loss.shape[1] for loss in curves.values())  # the widest have the fewest
            low, high = interval(found, drawn, seeds)
            known = compute_optimal(alpha, beta, rich=gamma > 0)
            how = f"{'rich (gamma 1)' if gamma else 'lazy'}, alpha {alpha:g}, beta {beta:g}"
            at_size = None if gamma else exponents(of_theory(part, sorted(curves), t), t, window)[0]
            for i, (name, near) in enumerate((("L*", 0.04), ("N*", 0.08))):
                one = measured(f"C 10^{window[0]:.1f} to 10^{window[1]:.1f}", seeds, found[i], (low[i], high[i]))
                why = "" if at_size is None else f"random-matrix theory of these widths gives {at_size[i]:.3f}"
                setting = f"exponent of {name}; {phase(alpha, beta)} task, {how}"
                rows.append(claim("H7", setting, known[i], one, Rule("near theory", near), "frontier", why))
            style = "-" if gamma else ":"
            label = f"alpha {alpha:g}, beta {beta:g}, {'rich' if gamma else 'lazy'}"
            c, log_loss, log_width = envelope(mean(curves), t)
            axes[0].plot(10**c, 10**log_loss, style, color=colour, lw=1.4, label=label)
            axes[1].plot(10**c, 10**log_width, style, color=colour, lw=1.4)
            axes[2].errorbar(
                known[0], found[0], [[found[0] - low[0]], [high[0] - found[0]]], fmt="s" if gamma else "o", ms=5,
                mfc="none", color=colour, lw=1,
            )  # fmt: skip
            axes[2].errorbar(
                known[1], found[1], [[found[1] - low[1]], [high[1] - found[1]]], fmt="D" if gamma else "^", ms=4,
                color=colour, lw=1, alpha=0.5,
            )  # fmt: skip
    axes[0].set(xscale="log", yscale="log", ylim=(3e-7, 1), xlabel="compute C = N t", ylabel="least loss")
    axes[1].set(xscale="log", yscale="log", xlabel="compute C = N t", ylabel="its width")
    axes[2].plot([0.25, 0.8], [0.25, 0.8], color="0.7", lw=0.8)
    axes[2].set(xlabel="exponent, theory", ylabel="exponent, measured", title="hollow: of the loss; full: of the width")
    axes[0].legend(fontsize=6.5, ncol=2, loc="lower left")
    save(fig, figure)
