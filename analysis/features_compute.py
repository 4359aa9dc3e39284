"""The compute-optimal laws (H7): least loss and its width against compute C = N t, from the mean curves of one sweep.

Two ways are side by side, over the same budgets: the envelope of the curves, and IsoFLOP valleys as `laws.isoflop` has
them, cubics in log N over all widths that reach a budget.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from common import DRAWS, Array, interval, measured, save
from features_common import by_seed, claim
from matplotlib import pyplot as plt

from raysweep.claims import Claim, Rule
from raysweep.laws.isoflop import IsoFlop, isoflop
from raysweep.reports.style import COLOURS
from raysweep.theory.exponents import compute_optimal, phase
from raysweep.theory.features import flow, power_law_modes
from raysweep.theory.kernel_limit import lazy_curve

DECADES = 2.0  # of compute, the last whose best width lies within the grid
GRID = np.linspace(1.5, 9, 301)  # log10 of compute
PER_DECADE = 4  # budgets of IsoFLOP
WAYS = ("envelope", "IsoFLOP")
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


def valleys(curves: Curves, t: Array, window: tuple[float, float], draws: int = 1) -> tuple[Array, IsoFlop]:
    """Exponents of L* and N* by IsoFLOP over a window of log10 C, and the valleys that they follow from."""
    first, last = (round(PER_DECADE * end, 6) for end in window)
    budgets = np.arange(np.ceil(first), np.floor(last) + 1) / PER_DECADE
    rows = []
    for width, loss in curves.items():
        c = np.log10(t * width)
        inside = budgets[(c[0] <= budgets) & (budgets <= c[-1])]
        at = 10 ** np.interp(inside, c, np.log10(loss))
        rows.append(np.stack([10**inside, np.full(len(inside), float(width)), at]))
    found = isoflop(*np.concatenate(rows, axis=1), c=1.0, draws=draws)
    least = np.array([(v.budget, v.loss(v.n)) for v in found.valleys if v.n is not None])
    return np.array([-np.polyfit(*np.log(least.T), 1)[0], found.frontier.a]), found


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


def both(curves: Curves, t: Array, window: tuple[float, float]) -> Array:
    """[envelope and IsoFLOP, L* and N*] exponents."""
    return np.stack([exponents(curves, t, window)[0], valleys(curves, t, window)[0]])


def of_compute(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """Exponents of the least loss and of its width, by envelope and by IsoFLOP, for every task, lazy and rich."""
    fig, axes = plt.subplots(1, 4, figsize=(17, 4))
    tasks = sorted(frame.select("alpha", "beta").unique().rows())
    for colour, (alpha, beta) in zip(COLOURS, tasks, strict=False):
        for gamma in (0.0, 1.0):
            part = frame.filter((pl.col("alpha") == alpha) & (pl.col("beta") == beta) & (pl.col("gamma") == gamma))
            curves = {}
            for (width,), one in sorted(part.group_by("width")):
                t, curves[int(width)] = by_seed(one, "t", "loss")
            window = exponents(mean(curves), t)[1]
            found = both(mean(curves), t, window)
            rng = np.random.default_rng(7)
            seeds = min(loss.shape[1] for loss in curves.values())  # the widest have the fewest
            low, high = interval(found, [both(mean(curves, rng), t, window) for _ in range(DRAWS)], seeds)
            seen = valleys(mean(curves), t, window, DRAWS)[1]
            expected = None if gamma else both(of_theory(part, sorted(curves), t), t, window)
            known = compute_optimal(alpha, beta, rich=gamma > 0)
            how = f"{phase(alpha, beta)} task, {'rich (gamma 1)' if gamma else 'lazy'}, alpha {alpha:g}, beta {beta:g}"
            for j, (name, near) in enumerate((("L*", 0.04), ("N*", 0.08))):
                for i, way in enumerate(WAYS):
                    at = f"C 10^{window[0]:.1f} to 10^{window[1]:.1f}"
                    one = measured(at, seeds, found[i, j], (low[i, j], high[i, j]))
                    of = "" if expected is None else f"random-matrix theory of these widths gives {expected[i, j]:.3f}"
                    why = "; ".join(filter(None, (of, _own(seen) if (way, name) == ("IsoFLOP", "N*") else "")))
                    setting = f"exponent of {name}; {how}; by {way}"
                    rows.append(claim("H7", setting, known[j], one, Rule("near theory", near), "frontier", why))
                    error = np.abs(np.array([one.ends]).T - one.value)
                    axes[2 + j].errorbar(
                        known[j] + (0.003, -0.003)[i], one.value, error, fmt="s" if gamma else "o", ms=5,
                        mfc=("none", colour)[i], color=colour, lw=1,
                    )  # fmt: skip
            style = "-" if gamma else ":"
            label = f"alpha {alpha:g}, beta {beta:g}, {'rich' if gamma else 'lazy'}"
            c, log_loss, log_width = envelope(mean(curves), t)
            axes[0].plot(10**c, 10**log_loss, style, color=colour, lw=1.4, label=label)
            axes[1].plot(10**c, 10**log_width, style, color=colour, lw=1.4)
            least = np.array([(v.budget, v.n) for v in seen.valleys if v.n is not None])
            axes[1].plot(*least.T, "s" if gamma else "o", ms=3, color=colour)
    axes[0].set(xscale="log", yscale="log", ylim=(3e-7, 1), xlabel="compute C = N t", ylabel="least loss")
    axes[1].set(xscale="log", yscale="log", xlabel="compute C = N t", ylabel="its width")
    axes[1].set_title("lines: envelope; points: IsoFLOP")
    for axis, name, ends in zip(axes[2:], ("L*", "N*"), ([0.25, 0.8], [0.25, 0.6]), strict=True):
        axis.plot(ends, ends, color="0.7", lw=0.8)
        axis.set(xlabel=f"exponent of {name}, theory", ylabel="measured", title="hollow: envelope; full: IsoFLOP")
    axes[0].legend(fontsize=6.5, ncol=2, loc="lower left")
    save(fig, figure)


def _own(found: IsoFlop) -> str:
    """What IsoFLOP says of itself: its interval from the scatter of the widths of a budget, and budgets left out."""
    low, high = found.frontier.interval()
    without = sum(valley.n is None for valley in found.valleys)
    left = f"; {without} of {len(found.valleys)} budgets have no minimum within the widths" if without else ""
    return f"the interval over the widths of each budget is [{low:.3f}, {high:.3f}]{left}"
