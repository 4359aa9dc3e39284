"""Exponents of loss in time (H1, H2): of the exact flow, of random models of a width, of gradient descent; figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from common import Array, save, window_of
from features_common import by_seed, claim, exponent, falls, sampled, slopes, span, within
from matplotlib import pyplot as plt

from raysweep.claims import Claim, Measured, Rule
from raysweep.laws.window import Window
from raysweep.reports.style import COLOURS
from raysweep.theory.exponents import crossover_exponent, time_exponent
from raysweep.theory.features import power_law_modes
from raysweep.theory.kernel_limit import lazy_curve, width_plateau

# The sweep files say why.
UNBOUNDED, BEFORE_PLATEAU, BEFORE_LAST = (window_of("features_exponents", i) for i in range(3))
RANDOM_TARGETS = window_of("features_targets")
ABOVE = 5.0  # times the plateau; of means over seeds, where the sweep's own fit takes row by row
EXACT = 0.02  # tolerance of an exponent that has no bottleneck
EARLY = 30.0  # before it the first modes make the local exponent
WEAK = Window(high=0.01)  # of gamma: rho = A t^(1 - beta) - B is 1 / gamma at t_c, so that B matters by B gamma
HORIZONS = Window("20 * gamma ** (-1 / (1 - beta))")  # past the crossover
KINDS = (  # method, whether of a width, whether on minibatches, marker, label
    ("exact", False, False, "o", "exact flow"),
    ("exact", True, False, "s", "exact flow, width 2,048"),
    ("steps", False, False, "^", "gradient descent"),
    ("steps", False, True, "v", "descent, batches of 32"),
)


def of_time(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """One exponent for every setting with gamma 0 or 1."""
    points = []
    cut = frame.filter(pl.col("gamma").is_in([0.0, 1.0]))
    for (method, width, batch, alpha, beta, gamma), part in sorted(
        cut.group_by("method", "width", "batch", "alpha", "beta", "gamma"), key=lambda group: group[0]
    ):
        rich, wide = gamma > 0, width > 0
        known, why = time_exponent(beta, rich), ""
        if wide:
            one, why = of_width(part)
        else:
            t, loss = by_seed(within(part, UNBOUNDED if method == "exact" else BEFORE_LAST), "t", "loss")
            if batch:
                one = sampled(span("t", t), loss, lambda v, t=t: falls(t, v.mean(1)))
            else:
                one = exponent("t", t, loss[:, 0])
            if method == "exact":
                known, why = in_window(beta, rich, t)
        how = method + (f", width {width:,}" if wide else "") + (f", batches of {batch}" if batch else "")
        setting = f"{how}, {'rich (gamma 1)' if rich else 'lazy'}, alpha {alpha:g}, beta {beta:g}"
        rule = Rule("near theory", EXACT if method == "exact" and not wide else 0.05)
        rows.append(claim("H1" if beta < 1 else "H2", setting, known, one, rule, "exponents", why))
        points.append(((method, wide, batch > 0), beta, rich, one))
    fig, axis = plt.subplots(figsize=(5.6, 4))
    grid = np.linspace(0.2, 1.55, 100)
    for colour, rich in zip(COLOURS, (False, True), strict=False):
        name = "rich, gamma = 1" if rich else "lazy"
        axis.plot(grid, [time_exponent(b, rich) for b in grid], "--", color=colour, lw=1, label=f"theory, {name}")
        for *kind, marker, label in KINDS:
            mine = [p for p in points if p[0] == tuple(kind) and p[2] == rich]
            values = np.array([(p[1], p[3].value, *p[3].ends) for p in mine]).T
            error = np.abs(values[2:] - values[1])
            axis.errorbar(
                values[0], values[1], error, fmt=marker, ms=5, mfc="none", color=colour, lw=1, label=f"{label}, {name}"
            )
    axis.set(xlabel="source beta", ylabel="exponent of loss in time")
    axis.legend(fontsize=6.5)
    save(fig, figure)


def of_width(part: pl.DataFrame) -> tuple[Measured, str]:
    """The exponent above the plateau of random models of a width, from the mean over seeds; what to know about it."""
    inside = within(part, BEFORE_PLATEAU)
    t, loss = by_seed(inside, "t", "loss")
    floor = by_seed(inside, "t", "unreachable")[1]
    above = loss.mean(1) > ABOVE * floor.mean(1)
    t, reducible = t[above], (loss - floor)[above]
    one = sampled(span("t", t), reducible, lambda v: falls(t, v.mean(1)))
    alpha, beta, gamma, width = part.select("alpha", "beta", "gamma", "width").row(0)
    if gamma:
        return one, ""
    modes = power_law_modes(alpha, beta)
    expected = float(falls(t, lazy_curve(modes, t, width) - width_plateau(modes, width)))
    return one, f"random-matrix theory of this width gives {expected:.3f}"


def in_window(beta: float, rich: bool, t: Array) -> tuple[float, str]:
    """The exponent that theory gives without a bottleneck over times t, sorted; what to know about it."""
    known = time_exponent(beta, rich)
    if beta != 1 or not rich:
        return known, ""
    known += float(np.log(np.log(t[-1]) / np.log(t[0])) / np.log(t[-1] / t[0]) / 2)
    return known, "at the edge the loss falls as 1 / (t sqrt(log t)); the theory is its exponent over this window"


def of_targets(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """The exponents of the exact flow for targets with Gaussian coefficients, with intervals over targets."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    inside = within(frame, RANDOM_TARGETS)
    for axis, rich in zip(axes, (False, True), strict=True):
        mine = inside.filter((pl.col("gamma") > 0) == rich)
        name = "rich (gamma 1)" if rich else "lazy"
        for i, alpha in enumerate(sorted(mine["alpha"].unique().to_list())):
            points = []
            for (beta,), part in sorted(mine.filter(pl.col("alpha") == alpha).group_by("beta")):
                t, loss = by_seed(part, "t", "loss")
                one = sampled(span("t", t), loss, lambda v, t=t: falls(t, v.mean(1)))
                known, why = in_window(float(beta), rich, t)
                setting = f"exact, {loss.shape[1]} random targets, {name}, alpha {alpha:g}, beta {beta:g}"
                id_ = "H1" if beta < 1 else "H2"
                rows.append(claim(id_, setting, known, one, Rule("near theory", EXACT), "targets", why))
                points.append((float(beta) + 0.012 * (2 * i - 1), *(v - known for v in (one.value, *one.ends))))
            x, middle, *ends = np.array(points).T
            axis.errorbar(
                x, middle, np.abs(ends - middle), fmt="os"[i], ms=4, mfc="none", lw=1, capsize=2.5,
                color=COLOURS[i], label=f"alpha = {alpha:g}",
            )  # fmt: skip
        axis.axhspan(-EXACT, EXACT, color="0.92", zorder=0)
        axis.axhline(0, color="0.6", lw=0.8)
        axis.set(xlabel="source beta", title=name, ylim=(-0.03, 0.03))
        axis.legend(fontsize=7)
    axes[0].set_ylabel("exponent minus theory")
    save(fig, figure)


def of_crossover(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """When gamma rho = 1, against gamma; and the local exponent between its lazy and its rich value, in t / t_c."""
    betas = sorted(frame["beta"].unique().to_list())
    fig, axes = plt.subplots(1, len(betas) + 1, figsize=(13.2, 3.6))
    for axis, colour, beta in zip(axes[1:], COLOURS, betas, strict=False):
        lazy, rich = time_exponent(beta, rich=False), time_exponent(beta, rich=True)
        gammas, crossed = [], []
        for (gamma,), part in sorted(frame.filter(pl.col("beta") == beta).group_by("gamma")):
            t, rho, loss = (part[name].to_numpy() for name in ("t", "rho", "loss"))
            gammas.append(float(gamma))
            crossed.append(float(np.exp(np.interp(0.0, np.log(gamma * rho), np.log(t)))))
            middle, local = slopes(t, loss)
            keep = middle > EARLY
            axis.plot(middle[keep] / crossed[-1], (local[keep] - lazy) / (rich - lazy), lw=1.1, color=_shade(gamma))
        axis.set(xscale="log", ylim=(-0.3, 1.4), xlabel="t / t_c", title=f"beta = {beta:g}")
        axis.axhline(0, color="0.7", lw=0.8)
        axis.axhline(1, color="0.7", lw=0.8)
        g, c = np.array(gammas), np.array(crossed)
        late = WEAK.mask({"gamma": g}, "gamma")
        found = exponent("gamma", g[late], c[late])
        setting = f"exponent of 1/gamma in the crossover time, where gamma rho = 1; alpha 1.5, beta {beta:g}"
        rows.append(claim("H1", setting, crossover_exponent(beta), found, Rule("near theory", 0.1), "crossover"))
        axes[0].plot(g, c, "o", ms=4, mfc="none", color=colour, label=f"beta = {beta:g}")
        axes[0].plot(g, c[0] * (g / g[0]) ** -crossover_exponent(beta), "--", lw=1, color=colour)
    axes[0].set(xscale="log", yscale="log", xlabel="richness gamma", ylabel="crossover time t_c")
    axes[0].legend(fontsize=7)
    axes[1].set_ylabel("local exponent: 0 lazy, 1 rich")
    save(fig, figure)


def _shade(gamma: float) -> tuple[float, float, float, float]:
    return plt.get_cmap("viridis")(1 + np.log10(gamma) / 3.3)


def of_step_size(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """The rich exponent in time at a small step size, and in steps at the largest stable one."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    frame = frame.with_columns((pl.col("t") / pl.col("eta")).alias("n"))
    small = frame["eta"].min()
    for colour, beta in zip(COLOURS, sorted(frame["beta"].unique().to_list()), strict=False):
        mine = frame.filter(pl.col("beta") == beta)
        for axis, x, part, rich, name in (
            (axes[0], "t", mine.filter(pl.col("eta") == small), True, f"time, at step size {small:g}"),
            (axes[1], "n", mine.filter(pl.col("eta") != small), False, "steps, each horizon at 0.9 of its stable size"),
        ):
            at, loss, keep = part[x].to_numpy(), part["loss"].to_numpy(), HORIZONS.mask(part, "t")
            one = exponent(x, at[keep], loss[keep])
            known = time_exponent(beta, rich)
            setting = f"exponent in {name}; steps, gamma 1, alpha 2, beta {beta:g}"
            rows.append(claim("H1", setting, known, one, Rule("near theory", 0.05), "step_size"))
            axis.plot(at, loss, "o", ms=4, mfc="none", color=colour, label=f"beta = {beta:g}: {one.value:.2f}")
            axis.plot(at, loss[-1] * (at / at[-1]) ** -known, "--", lw=1, color=colour)
    axes[0].set(xscale="log", yscale="log", xlabel="time t, small steps", ylabel="loss", title="2 beta / (1 + beta)")
    axes[1].set(xscale="log", xlabel="steps n, largest stable", title="beta")
    for axis in axes:
        axis.legend(fontsize=7)
    save(fig, figure)
