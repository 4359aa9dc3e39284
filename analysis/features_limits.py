"""What a finite width, a finite data set and minibatches cost (H3 to H6): plateaus, and the transients before them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from common import Array, save, window_of
from features_common import CLOCK, by_seed, claim, exponent, falls, sampled, span, within
from matplotlib import pyplot as plt

from raysweep.claims import Claim, Rule
from raysweep.laws.window import Window
from raysweep.reports.style import COLOURS
from raysweep.theory.exponents import (
    data_plateau_exponent,
    noise_exponent,
    phase,
    transient_exponent,
    width_plateau_exponent,
)
from raysweep.theory.features import power_law_modes
from raysweep.theory.kernel_limit import data_plateau, width_plateau

PLATEAUS = (  # method, axis, column, claim, sizes, exponent, formula
    ("exact", "width", "unreachable", "H3", window_of("features_plateaus", 0), width_plateau_exponent, width_plateau),
    ("steps", "n_train", "loss", "H4", window_of("features_plateaus", 1), data_plateau_exponent, data_plateau),
)
# Where 5 modes and more are learned, in less than half a per cent of the plateau's time.
BEFORE_PLATEAU = Window(f"5 ** {CLOCK}", f"0.005 * width ** {CLOCK}")
LATE = Window(1e4, 1e6)
SAMPLED = Window(25, 300)  # of descent on minibatches; before the last of the 200 modes
AT = (30.0, 100.0, 300.0)
BETA = 2.5  # of the tasks with noise


def of_size(frame: pl.DataFrame, rows: list[Claim]) -> None:
    """H3 and H4: exponents of plateaus."""
    for method, axis, value, id_, sizes, theory, formula in PLATEAUS:
        for (alpha, beta), part in sorted(frame.filter(pl.col("method") == method).group_by("alpha", "beta")):
            size, values = by_seed(within(part, sizes, axis), axis, value)
            name = "N" if id_ == "H3" else "P"
            one = sampled(span(name, size), values, lambda v, x=size: falls(x, np.exp(np.log(v).mean(1))))
            known = theory(float(alpha), float(beta))
            setting = f"alpha {alpha:g}, beta {beta:g}" + ("" if id_ == "H3" else ", at the last time")
            inputs = int(part["inputs"].max())
            modes = power_law_modes(alpha, beta, inputs, inputs) if inputs else power_law_modes(alpha, beta)
            own = float(falls(size, np.array([formula(modes, n) for n in size])))
            why = f"the formula for finite {name} gives {own:.3f} over these sizes"
            rows.append(claim(id_, setting, known, one, Rule("near theory", 0.1), "plateaus", why))


def of_transient(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """H5: what a width adds to the loss before its plateau, as N^-q t^-p."""
    tasks = sorted(frame.select("alpha", "beta").unique().rows())
    fig, axes = plt.subplots(1, len(tasks), figsize=(4.2 * len(tasks), 3.8))
    for axis, (alpha, beta) in zip(axes, tasks, strict=True):
        for colour, gamma in zip(COLOURS, (0.0, 1.0), strict=False):
            mine = frame.filter((pl.col("alpha") == alpha) & (pl.col("beta") == beta) & (pl.col("gamma") == gamma))
            alone = mine.filter(pl.col("width") == 0)
            sizes, times, excess = [], [], []
            for (width,), part in sorted(mine.filter(pl.col("width") > 0).group_by("width")):
                t, loss = by_seed(part, "t", "loss")
                extra = loss - alone["loss"].to_numpy()[:, None]
                axis.plot(t, extra.mean(1) * width, ":", lw=0.9, color=colour)
                keep = BEFORE_PLATEAU.mask(part.unique("t", maintain_order=True), "t")
                axis.plot(t[keep], extra.mean(1)[keep] * width, "-", lw=1.6, color=colour)
                sizes.append(np.full(keep.sum(), float(width)))
                times.append(t[keep])
                excess.append(extra[keep])
            n, at, all_of = np.concatenate(sizes), np.concatenate(times), np.concatenate(excess)
            known = transient_exponent(alpha, beta, rich=gamma > 0)
            design = np.stack([np.ones(len(n)), np.log(n / n.min()), np.log(at / at.min())], axis=1)
            design[:, 1:] -= design[:, 1:].mean(0)

            def fitted(v: Array, design: Array = design, scale: Array = n * at**known, known: float = known) -> Array:
                """Exponents of N and t: the excess over the theory's powers is nearly constant, and may be negative."""
                level, of_n, of_t = np.linalg.lstsq(design, v.mean(1) * scale, rcond=None)[0]
                return np.array([1 - of_n / level, known - of_t / level])

            how = f"{phase(alpha, beta)} task, {'rich (gamma 1)' if gamma else 'lazy'}, alpha {alpha:g}, beta {beta:g}"
            for i, (name, theory, near) in enumerate((("N", 1.0, 0.1), ("t", known, 0.05))):
                one = sampled(
                    f"N {n.min():g} to {n.max():g}, {span('t', at)}", all_of, lambda v, i=i, f=fitted: f(v)[i]
                )
                setting = f"exponent in {name} of L_N - L_inf; {how}"
                rows.append(claim("H5", setting, theory, one, Rule("near theory", near), "transient"))
            name = f"{'rich' if gamma else 'lazy'}: t^-{known:.3g}"
            middle = float(np.exp(np.log(at).mean()))
            height = float((all_of.mean(1) * n * (at / middle) ** known).mean())
            axis.plot(at, height * (at / middle) ** -known, "--", lw=1, color=colour, label=name)
        axis.set(
            xscale="log", yscale="log", xlabel="time t", title=f"alpha {alpha:g}, beta {beta:g}: {phase(alpha, beta)}"
        )
        axis.legend(fontsize=7)
    axes[0].set_ylabel("N (loss - loss without a bottleneck)")
    save(fig, figure)


def of_noise(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """H6: what minibatches add to the loss, by the Volterra form and by descent on fresh minibatches."""
    alphas = sorted(frame["alpha"].unique().to_list())
    fig, axes = plt.subplots(1, len(alphas), figsize=(4.8 * len(alphas), 3.8))
    for axis, alpha in zip(axes, alphas, strict=True):
        for colour, gamma in zip(COLOURS, (0.0, 1.0), strict=False):
            mine = frame.filter((pl.col("alpha") == alpha) & (pl.col("gamma") == gamma))
            how = f"{'rich (gamma 1)' if gamma else 'lazy'}, alpha {alpha:g}, beta {BETA:g}"
            unbounded = noise_exponent(alpha, BETA, rich=gamma > 0)
            of_volterra(mine.filter(pl.col("inputs") == 0), how, unbounded, rows)
            cut = mine.filter(pl.col("inputs") > 0)
            flow = cut.filter((pl.col("method") == "exact") & (pl.col("batch") == 0))["loss"].to_numpy()
            known = cut.filter((pl.col("method") == "exact") & (pl.col("batch") > 0))["loss"].to_numpy()
            t, loss = by_seed(cut.filter(pl.col("method") == "steps"), "t", "loss")
            batch = int(cut["batch"].max())
            for at in AT:
                i = int(np.argmin(np.abs(t - at)))
                one = sampled(f"t {at:g}", loss[i] / known[i], lambda v: v.mean(-1))
                setting = f"loss of descent on minibatches of {batch} over the Volterra form's; {how}"
                why = "the form assumes that features evolve as in the flow" if gamma else ""
                rows.append(claim("H6", setting, 1.0, one, Rule("near theory", 0.1), "noise", why))
            inside = SAMPLED.mask({"t": t}, "t")
            extra = (loss - flow[:, None])[inside]
            one = sampled(span("t", t[inside]), extra, lambda v, x=t[inside]: falls(x, v.mean(1)))
            expected = float(falls(t[inside], (known - flow)[inside]))
            setting = f"exponent in t of what minibatches of {batch} add, by descent; {how}"
            why = f"theory: the Volterra form over this window, with 200 modes; without a bound {unbounded:.3f}"
            rows.append(claim("H6", setting, expected, one, Rule("near theory", 0.1), "noise", why))
            name = "rich" if gamma else "lazy"
            axis.plot(t, flow, ":", lw=1, color=colour)
            axis.plot(t, known, "-", lw=1.2, color=colour, label=f"{name}: Volterra form (dotted: gradient flow)")
            axis.plot(t, loss.mean(1), "o", ms=4, mfc="none", color=colour, label=f"{name}: descent, 24 seeds")
        title = f"alpha {alpha:g}, beta {BETA:g}, batches of {batch}"
        axis.set(xscale="log", yscale="log", xlabel="time t", title=title)
        axis.legend(fontsize=7)
    axes[0].set_ylabel("loss")
    save(fig, figure)


def of_volterra(part: pl.DataFrame, how: str, theory: float, rows: list[Claim]) -> None:
    """Exponents in time, beside the theory's, and in eta / B of the Volterra form without a bottleneck."""
    inside = within(part, LATE)
    t = np.unique(inside["t"].to_numpy())
    flow = inside.filter(pl.col("batch") == 0)["loss"].to_numpy()
    batches = sorted(b for b in inside["batch"].unique().to_list() if b)
    extra = np.stack([inside.filter(pl.col("batch") == b)["loss"].to_numpy() - flow for b in batches])
    sizes = np.array(batches, dtype=float)
    in_time, in_batch = exponent("t", t, extra[-1]), exponent("B", sizes, extra[:, -1])
    for name, one, known, at, near in (
        ("t", in_time, theory, f"eta / B {0.05 / batches[-1]:.3g}", 0.02),
        ("B", in_batch, 1.0, f"t {t[-1]:g}", 0.05),
    ):
        setting = f"exponent in {name} of what minibatches add, by the Volterra form at {at}; {how}"
        rows.append(claim("H6", setting, known, one, Rule("near theory", near), "noise"))
