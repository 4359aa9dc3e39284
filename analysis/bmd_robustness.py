"""Robustness, pixels, distributions of inputs, and other measures: the parts of `bmd_networks.py` on trained networks
that are not about peaks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from bmd_common import Curves, claim_of, table, unsupported
from common import Array, measured, over_seeds, save
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from raysweep.claims import Claim, Measured, Rule
from raysweep.data import images
from raysweep.experiments.double_descent import COMPLEXITY
from raysweep.laws.rank import RankCorrelation, difference, rank_correlation, rank_correlation_of
from raysweep.reports.style import COLOURS


def axes_of(frame: pl.DataFrame, adversarial: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The settings along each axis, in a column `value`."""
    plain = {"weight_decay": 0.0, "init_scale": 1.0, "attack": 0.0, "pretrain": 0}
    found = {"width": frame.filter(pl.col("n_train") == 300).with_columns(value=pl.col("width").cast(float))}
    for name in plain:
        source = adversarial.filter(pl.col("task") == "images") if name == "pretrain" else frame
        others = [pl.col(other) == at for other, at in plain.items() if other != name]
        found[name] = source.filter(pl.col("n_train") == 400, *others).with_columns(value=pl.col(name).cast(float))
    return found


AXES = {
    "width": "width",
    "weight_decay": "weight decay",
    "init_scale": "scale of the initial weights",
    "pretrain": "adversarial initialisation",
    "attack": "adversarial training",
}


def of_robustness(axes: dict[str, pl.DataFrame], rows: list[Claim], figure: Path) -> pl.DataFrame:
    """H8: Spearman's rank correlations of BMD with errors under attacks and flips, axis by axis. Returns the table.

    Where the correlation is not above 0 without one of the settings, that one point decides, and nothing is supported.
    """
    fig, panels = plt.subplots(1, 2, figsize=(11, 5))
    out = []
    for i, (axis, frame) in enumerate(axes.items()):
        part = frame.filter(pl.col("eps") == 0.1)
        one = Curves.along(
            part, "value", ("bmd", "md_marginals", "test_error", "fgsm_error", "pgd_error", "flip_error")
        )
        for panel, metric, what in zip(
            panels, ("fgsm_error", "flip_error"), ("FGSM of eps .1", "flips of 10 % of the signs"), strict=True
        ):
            value = ranked(one.of["bmd"], one.of[metric], f"{AXES[axis]} {one.window}")
            setting = f"digits, along {AXES[axis]}: Spearman's correlation of BMD with the error under {what}"
            sweep = "bmd_adversarial" if axis == "pretrain" else "bmd_robustness"
            claim = claim_of("H8", setting, "", value, Rule("above", 0.0), sweep)
            for left, at in enumerate(one.x):
                rest = ranked(*(np.delete(one.of[name], left, 0) for name in ("bmd", metric)), f"without {at:g}")
                if claim.verdict == "reproduced" and Rule("above", 0.0).judge(rest, 0.0) != "reproduced":
                    why = f"one point decides: without {at:g} it is {rest}"
                    claim = unsupported("H8", setting, "", value, why, sweep)
            rows.append(claim)
            _drawn(panel, one, metric, COLOURS[i], AXES[axis])
            panel.set(xlabel="Boolean mean dimension", ylabel=f"error under {what}")
        out.append(table(one, "value").with_columns(axis=pl.lit(AXES[axis])))
    panels[1].legend(fontsize=8)
    save(fig, figure)
    return pl.concat(out, how="diagonal")


def _drawn(panel: Axes, one: Curves, metric: str, colour: str, label: str) -> None:
    """Means over seeds with their intervals, and the value of the axis beside each."""
    (x, across), (y, up) = (over_seeds(one.of[name], lambda v: v.mean(-1)) for name in ("bmd", metric))
    bars = {"xerr": np.abs(across - x), "yerr": np.abs(up - y)}
    panel.errorbar(x, y, **bars, fmt="o-", ms=3.5, lw=1, elinewidth=0.8, color=colour, label=label)
    for value, at in zip(one.x, zip(x, y, strict=True), strict=True):
        panel.annotate(f"{value:g}", at, xytext=(3, 3), textcoords="offset points", fontsize=6.5, color=colour)


def ranked(a: Array, b: Array, window: str) -> Measured:
    """Spearman's rank correlation of [settings, seeds], all of them together; the unit of its interval is the seed."""
    seed = np.tile(np.arange(a.shape[1]), len(a))
    found = rank_correlation_of(a.ravel(), b.ravel(), seed, "spearman")
    return measured(window, found.units, found.value, found.interval)


def of_measures(frame: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Kendall's rank correlations of BMD and of other measures with the test error, over settings and seeds: a table,
    and another of how much larger BMD's is in size than that of each other measure, from paired draws.

    Rows of which a measure has no value (a margin that is not positive) do not count; the number of rows is given.
    """
    part = frame.filter(pl.col("eps") == 0)
    names = ("bmd", "md_uniform", "md_gaussian", "md_marginals", *COMPLEXITY)
    others = part.filter(n_train=400)
    groups = {
        "all settings": part,
        "along the width": part.filter(n_train=300),
        "others": others,
        "others without adversarial training": others.filter(attack=0),
    }
    found = {
        group: rank_correlation(rows, x=names, y="test_error", kind="kendall")[0].each for group, rows in groups.items()
    }
    return {
        "Kendall's correlation with the test error": pl.DataFrame(
            [{"measure": name, **{group: _ranked(each[name]) for group, each in found.items()}} for name in names]
        ),
        "size of BMD's minus size of the measure's": pl.DataFrame(
            [{"measure": name, **{group: _larger(each, name) for group, each in found.items()}} for name in names[1:]]
        ),
    }


def _ranked(one: RankCorrelation | str) -> str:
    if isinstance(one, str):
        return one
    return f"{one.value:.2f} [{one.interval[0]:.2f}, {one.interval[1]:.2f}], {one.rows}"


def _larger(each: Mapping[str, RankCorrelation | str], name: str) -> str:
    bmd, other = each["bmd"], each[name]
    if isinstance(bmd, str) or isinstance(other, str) or bmd.rows != other.rows:
        return ""  # a measure that some networks lack is not compared on the same rows
    value, (low, high) = difference(bmd, other)
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def of_pixels(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """H9: the map of contributions before and after training. H10: other distributions of inputs."""
    data = images("digits")
    spread = data.x.astype(float).std(0)
    side = int(np.sqrt(len(spread)))
    column = np.arange(len(spread)) % side
    border = (column == 0) | (column == side - 1)
    fig, panels = plt.subplots(1, 3, figsize=(10.5, 3.2))
    last = int(frame["steps"].max())  # type: ignore[arg-type]
    drawn = frame.filter(pl.col("pixel") >= 0).group_by("steps", "pixel").agg(pl.col("contribution").mean())
    scale = {"cmap": "viridis", "vmin": 0, "vmax": drawn["contribution"].max()}  # that of both maps
    for panel, step, when in zip(panels, (0, last), ("before training", f"after {last} steps"), strict=False):
        one = Curves.along(
            frame.filter(pl.col("steps") == step, pl.col("pixel") >= 0), "pixel", ("contribution", "bmd")
        )
        values = one.of["contribution"]
        panel.set(title=when, xticks=[], yticks=[])
        shown = panel.imshow(values.mean(1).reshape(side, side), **scale)
        fig.colorbar(shown, ax=panel, shrink=0.8, label="contribution to BMD")
        ratio = over_seeds(values, lambda v: v[border].mean() / v[~border].mean(), log=True)
        found = measured(f"{side} x {side} pixels", one.seeds, *ratio)
        setting = f"digits, width 128, {when}: mean contribution of the two border columns over that of the others"
        rule = Rule("near theory", 0.1) if step == 0 else Rule("below", 1.0)
        rows.append(claim_of("H9", setting, 1.0 if step == 0 else "", found, rule, "bmd_pixels"))
        setting = (
            f"digits, width 128, {when}: Spearman's correlation of a pixel's contribution with its standard deviation"
        )
        some = np.repeat(spread[:, None], one.seeds, axis=1)
        value = ranked(values, some, f"{side} x {side} pixels")
        rule = Rule("near theory", 0.25) if step == 0 else Rule("above", 0.0)
        rows.append(claim_of("H9", setting, 0.0 if step == 0 else "", value, rule, "bmd_pixels"))
    panels[2].set(title="images", xticks=[], yticks=[])
    shown = panels[2].imshow(spread.reshape(side, side) / 8, cmap="viridis", vmin=0)
    fig.colorbar(shown, ax=panels[2], shrink=0.8, label="standard deviation of the pixel")
    save(fig, figure)
    of_ratios(frame.filter(pl.col("steps") == last, pl.col("pixel") == -1).sort("seed"), rows)


def of_ratios(after: pl.DataFrame, rows: list[Claim]) -> None:
    """H10: the mean dimension of trained networks under other inputs over BMD."""
    bmd = after["bmd"].to_numpy()
    for name, what in (("md_uniform", "uniform on [-1, 1]"), ("md_gaussian", "standard normal")):
        value = measured("trained networks", len(bmd), *over_seeds(after[name].to_numpy() / bmd, np.mean))
        setting = f"digits, width 128: mean dimension under inputs that are {what} over BMD"
        rows.append(claim_of("H10", setting, 1.0, value, Rule("near theory", 0.05), "bmd_pixels"))
    ratio = (after["md_marginals"].to_numpy() - 1) / (bmd - 1)
    value = measured("trained networks", len(bmd), *over_seeds(ratio, np.mean))
    setting = "digits, width 128: mean dimension - 1 under pixel marginals over BMD - 1"
    rows.append(claim_of("H10", setting, "", value, Rule("below", 1.0), "bmd_pixels", "pixels differ in their spread"))


def of_measures_of_inputs(frame: pl.DataFrame, rows: list[Claim]) -> None:
    """H10: whether other distributions of inputs order networks as bits do."""
    setting = ("n_train", "width", "weight_decay", "init_scale", "attack", "pretrain")
    part = frame.filter(pl.col("eps") == 0).with_columns(setting=pl.concat_str(pl.col(setting), separator=" "))
    for name, what in (
        ("md_uniform", "uniform"),
        ("md_gaussian", "standard normal"),
        ("md_marginals", "drawn as in images"),
    ):
        one, other = (
            part.pivot(on="seed", index="setting", values=n).drop("setting").to_numpy().astype(float)
            for n in ("bmd", name)
        )
        found = ranked(one, other, f"{len(one)} settings")
        text = (
            f"digits, all settings: Spearman's correlation of BMD with the mean dimension under inputs that are {what}"
        )
        rows.append(claim_of("H10", text, "", found, Rule("above", 0.8), "bmd_robustness"))
