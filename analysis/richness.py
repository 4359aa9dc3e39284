"""Networks in mean-field scaling, lazy and rich (arXiv 2409.17858, section 6): claims H8, H9 and H10, and figures.

    raysweep run sweeps/richness_circle.yaml          (a GPU; and richness_images with --preset real)
    python analysis/richness.py [--results results] [--out results/richness]

Writes the table of claims analysis/claims/richness.csv (or --claims), which docs/papers.md shows. An exponent is the
slope of log loss against log t over a window that its row states; intervals are from a bootstrap over seeds, which
resamples networks and batches together. A window is the same for every source exponent. The exponents of H8 belong to
t -> infinity, so a lazy exponent has a second row beside what infinite width gives in the very window. Trained networks
have no such row: how their gamma enters the reduced flow is not identified by these curves.

Verdicts on the circle: within .05 of the theory, or an interval that holds it, and only for a curve that has an
exponent: where the slopes in the two halves of the window differ by more than .1, the row is not supported, whatever
its value. Networks with gamma < 1 are taken to be before the crossover to rich learning, whatever they show, so they
have no row beside the rich exponent, only the difference from the lazy one. On images, which are stand-ins for the
paper's: within a quarter of the paper's value, and of 2 beta / (1 + beta) with the network's own lazy exponent for
beta. A positive difference has its whole interval above 0; a difference that should be 0 has it within .05.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import polars as pl
from common import CLAIMS, save, window_of
from matplotlib import pyplot as plt
from richness_curves import Curve, curves, exponent, falls, gained, halves, infinite

from raysweep.claims import Claim, Measured, Rule, markdown, summary, write_claims
from raysweep.reports.style import COLOURS, STYLE
from raysweep.store import Store
from raysweep.sweep.current import cells
from raysweep.theory.circle import POWERS
from raysweep.theory.exponents import time_exponent

STATEMENTS = {
    "H8": "an MLP on the circle follows t^(-beta max(1, 2 / (1 + beta))) when features are learned, and t^-beta lazily",
    "H9": "CNNs on MNIST-1M: the exponent in time rises from about .30 lazily to about .46",
    "H10": "CNNs on CIFAR-5M: the exponent in time rises from about .075 lazily to about .14",
}
STAND_IN = {"mnist": "H9", "fashion_mnist": "H9", "cifar10_jpeg_60k": "H10", "digits": "H9"}
STANDS_IN = "a stand-in for the paper's data: other images, each used more than once"
PAPER = {("cnn", "mnist"): (0.30, 0.46), ("cnn", "cifar10_jpeg_60k"): (0.075, 0.14)}  # lazy, rich
RICH = (1.0, 3.0)  # richness of the claims on images
SGD, ADAM = (window_of("richness_circle", i) for i in range(2))  # the sweep files say why
IMAGES = window_of("richness_images")
NEAR, SHARE = 0.05, 0.25  # tolerance on the circle; on images, as a share of the value
BENT = 0.1  # largest difference between the slopes in a window's halves of a curve that has an exponent
CROSSED = 1.0  # least gamma of a network whose window may lie past the crossover, by assumption
COLOUR = {0.0: COLOURS[6]} | dict(zip((0.03, 0.1, 0.3, 1.0, 3.0), COLOURS, strict=False))  # of each gamma; 0: lazy
ACTIVATION = {"relu": "ReLU", "tilted": "tilted absolute value", "relu2": "squared ReLU"}
GROUP = ["method", "optimiser", "momentum", "activation", "depth", "harmonics", "beta", "gamma"]


def circle(frame: pl.DataFrame, rows: list[Claim], out: Path) -> None:
    """H8."""
    every = list(curves(frame, GROUP))
    points: list[tuple[Curve, Measured]] = []
    for name, group in families(every).items():
        adam, rich = group[0].key["optimiser"] == "adam", group[0].key["method"] == "train"
        for whole in group:
            window = ADAM if adam else SGD
            part = whole.within(window)
            if part is None:
                continue
            beta, own = float(str(part.key["beta"])), exponent(part)
            points.append((part, own))
            crossed = not rich or float(str(part.key["gamma"])) >= CROSSED
            if crossed:
                near = Rule("near theory", NEAR)
                rows.append(_claim(f"{name}, beta {beta:g}", time_exponent(beta, rich), own, near, [part]))
            if not rich:
                setting = f"{name}, beta {beta:g}; infinite width in the window"
                wide = falls(part.t, infinite(part.key, part.t)[:, None])
                rows.append(_claim(setting, wide, own, Rule("near theory", NEAR)))
                continue
            other = _other(every, part, method="ntk")
            lazy = other.within(window) if other is not None and not adam else None
            if lazy is not None and (more := gained(part, lazy)) is not None:
                gain = time_exponent(beta, True) - beta
                theory = gain if crossed or not gain else ""  # the exponents' own gain is that past the crossover
                rule = Rule("above", 0.0) if gain else Rule("near theory", NEAR)
                rows.append(_claim(f"{name} minus lazy, beta {beta:g}", theory, more, rule, [part, lazy]))
            plain = _other(every, part, momentum=0.0) if part.key["momentum"] else None
            same = plain.within(window) if plain is not None else None
            if same is not None and (more := gained(part, same)) is not None:
                setting = f"{name} minus the same without momentum, beta {beta:g}"
                rows.append(_claim(setting, 0.0, more, Rule("near theory", NEAR), [part, same]))
            kinked = POWERS[str(part.key["activation"])] == POWERS["relu"] and part.key["activation"] != "relu"
            relu = _other(every, part, activation="relu", momentum=0.0) if kinked and crossed and not adam else None
            first = relu.within(window) if relu is not None else None
            if first is not None and (more := gained(part, first)) is not None:
                setting = f"{name} minus the same with ReLU, beta {beta:g}"
                rows.append(_claim(setting, 0.0, more, Rule("near theory", NEAR), [part, first]))
    rows += missing(every)
    draw_exponents(points, out / "circle.png")
    draw_curves(every, out / "circle_curves.png")


def missing(every: list[Curve]) -> Iterator[Claim]:
    """A row for each activation that was not trained by SGD, or whose lazy limit was not taken."""
    done = {(c.key["activation"], c.key["method"]) for c in every if c.key["optimiser"] == "sgd"}
    for activation, name in ACTIVATION.items():
        for method, how in (("ntk", "lazy"), ("train", "SGD")):
            if (activation, method) not in done:
                why = f"sweeps/richness_circle.yaml was not run with activation: {activation}, which takes a GPU"
                yield Claim("H8", STATEMENTS["H8"], f"{how}, {name}", why=why, source=_source("circle"))


def families(every: list[Curve]) -> dict[str, list[Curve]]:
    """Curves that differ in the source exponent only, by a name."""
    found: dict[str, list[Curve]] = {}
    for curve in every:
        found.setdefault(_named(curve), []).append(curve)
    return found


def _named(curve: Curve) -> str:
    key = curve.key
    activation = ACTIVATION[str(key["activation"])]
    if key["method"] == "ntk":
        return f"lazy, {activation}"
    how = "Adam" if key["optimiser"] == "adam" else "SGD"
    if key["momentum"]:
        how += f" with momentum {key['momentum']:g}"
    return f"{how}, {activation}, gamma {key['gamma']:g}"


def _other(every: list[Curve], one: Curve, **changed: object) -> Curve | None:
    """The curve of the same task and network with another method (its lazy limit has no gamma), momentum or
    activation."""
    same = ["activation", "depth", "beta", *([] if "method" in changed else ["method", "optimiser", "gamma"])]
    wanted = {name: one.key[name] for name in same} | changed
    return next((c for c in every if all(c.key[name] == value for name, value in wanted.items())), None)


def draw_exponents(points: list[tuple[Curve, Measured]], file: Path) -> None:
    """Exponents and intervals against the source exponent: a panel for each activation, and one for Adam."""
    panels: dict[str, dict[str, list[tuple[Curve, Measured]]]] = {}
    for part, own in points:
        adam = part.key["optimiser"] == "adam"
        title = "Adam" if adam else ACTIVATION[str(part.key["activation"])]
        name = _named(part) if adam else _named(part).replace(f", {title}", "")
        panels.setdefault(title, {}).setdefault(name, []).append((part, own))
    fig, axes = plt.subplots(1, max(1, len(panels)), figsize=(4.2 * max(1, len(panels)), 3.8), squeeze=False)
    grid = np.linspace(0.2, 1.6, 100)
    for axis, (title, named) in zip(axes[0], sorted(panels.items()), strict=False):
        axis.plot(grid, grid, ":", color="0.5", label="beta")
        axis.plot(grid, [time_exponent(b, True) for b in grid], "--", color="0.5", label="beta max(1, 2 / (1 + beta))")
        for name, pairs in named.items():
            key, x = pairs[0][0].key, [float(str(part.key["beta"])) for part, _ in pairs]
            gamma = 0.0 if key["method"] == "ntk" else float(str(key["gamma"]))
            ends = [(m.value - m.ends[0], m.ends[1] - m.value) for _, m in pairs]
            mark = "D" if key["momentum"] else "o" if key["activation"] == "relu" else "s"
            style = {"fmt": mark, "ms": 4.5, "mfc": "none", "color": _colour(gamma), "capsize": 2.5, "lw": 1.2}
            axis.errorbar(x, [m.value for _, m in pairs], yerr=np.transpose(ends), label=name, **style)
        axis.set(xlabel="source exponent beta", ylabel="exponent of the loss in time", title=title)
        axis.legend(fontsize=6.5)
    save(fig, file)


def _colour(gamma: float) -> str:
    return COLOUR.get(gamma, COLOURS[5])


def draw_curves(every: list[Curve], file: Path) -> None:
    """Loss against time for ReLU by SGD, with the lazy limit and its theory at infinite width."""
    fig, axis = plt.subplots(figsize=(5.6, 4.2))
    shown = [
        c for c in every if c.key["activation"] == "relu" and c.key["optimiser"] == "sgd" and not c.key["momentum"]
    ]
    for i, beta in enumerate(sorted({float(str(c.key["beta"])) for c in shown})):
        colour = COLOURS[i % len(COLOURS)]
        for curve in (c for c in shown if c.key["beta"] == beta):
            lazy = curve.key["method"] == "ntk"
            if lazy:
                axis.plot(curve.t, infinite(curve.key, curve.t), "-", color="0.75", lw=3, zorder=0)
            label = f"beta {beta:g}" if lazy else None
            style = "--" if lazy else "-" if curve.key["gamma"] == 1 else ":"
            axis.plot(curve.t, curve.mean, style, color=colour, lw=1.3, label=label)
    axis.set(
        xscale="log", yscale="log", xlabel="time t", ylabel="loss", title="dashed: lazy; solid: gamma 1; grey: theory"
    )
    axis.legend(fontsize=7)
    save(fig, file)


def real(frame: pl.DataFrame, rows: list[Claim], out: Path) -> None:
    """H9 and H10, on stand-ins."""
    sets = sorted(frame["data"].unique().to_list())
    models = sorted(frame["model"].unique().to_list())
    fig, axes = plt.subplots(len(models), len(sets), figsize=(3.6 * len(sets), 3.2 * len(models)), squeeze=False)
    for row, model in zip(axes, models, strict=True):
        for axis, data in zip(row, sets, strict=True):
            part = frame.filter((pl.col("data") == data) & (pl.col("model") == model))
            by_gamma = {float(str(c.key["gamma"])): c for c in curves(part, ["gamma"])}
            for gamma, curve in sorted(by_gamma.items()):
                axis.plot(curve.t, curve.mean, color=_colour(gamma), lw=1.3, label=f"gamma {gamma:g}")
            axis.set(xscale="log", yscale="log", title=f"{model}, {data}", xlabel="time t", ylabel="loss")
            axis.legend(fontsize=7)
            compare(model, data, by_gamma, rows)
    save(fig, out / "images.png")


def compare(model: str, data: str, by_gamma: dict[float, Curve], rows: list[Claim]) -> None:
    """Exponents of one network on one data set, and what richness adds to them."""
    inside = {gamma: part for gamma, curve in by_gamma.items() if (part := curve.within(IMAGES)) is not None}
    if len(inside) < 2:
        return
    id_, name, least = STAND_IN[data], f"{model} on {data}", min(inside)
    lazy = exponent(inside[least])

    def add(
        setting: str, theory: float | str, paper: float | str, found: Measured, rule: Rule, why: str = STANDS_IN
    ) -> None:
        rows.append(Claim(id_, STATEMENTS[id_], setting, theory, paper, found, rule, why=why, source=_source("images")))

    papers = PAPER.get((model, data))
    if papers:
        add(f"{name}, lazy (gamma {least:g})", "", papers[0], lazy, Rule("near paper", SHARE * papers[0]))
    for gamma, part in sorted(inside.items()):
        if gamma not in RICH:
            continue
        own = exponent(part)
        if papers:
            why = f"a quarter of the paper's value is allowed, and the lazy base is {lazy.value:.2g} for {papers[0]:g}"
            rule = Rule("near paper", SHARE * papers[1])
            add(f"{name}, gamma {gamma:g}", "", papers[1], own, rule, f"{why}; {STANDS_IN}")
        if lazy.value > 0:
            theory = round(time_exponent(lazy.value, True), 4)
            setting = f"{name}, gamma {gamma:g}, beside 2 beta / (1 + beta) of its lazy exponent"
            add(setting, theory, "", own, Rule("near theory", round(SHARE * theory, 4)))
        if (more := gained(part, inside[least])) is not None:
            add(f"{name}, gamma {gamma:g} minus lazy", "", "", more, Rule("above", 0.0))


def _claim(setting: str, theory: float | str, own: Measured, rule: Rule, straight: list[Curve] | None = None) -> Claim:
    """A claim of H8; `straight` are the curves that must have an exponent for the rule to apply."""
    why = ["t counts steps of Adam and is no time of a gradient flow"] if setting.startswith("Adam") else []
    if rule.kind == "above" and theory != "":
        why.append("its sign is judged, not its size")
    bent = [(first, second) for first, second in map(halves, straight or []) if abs(first - second) > BENT]
    for first, second in bent:
        why.append(
            f"no exponent: the slope is {first:.2f} in the first half of the window and {second:.2f} in the second"
        )
    value = round(theory, 4) if isinstance(theory, float) else theory
    made = Claim("H8", STATEMENTS["H8"], setting, value, "", own, rule, why="; ".join(why), source=_source("circle"))
    return replace(made, rule=None, judged="not supported") if bent else made


def _source(sweep: str) -> str:
    preset = " --preset real" if sweep == "images" else ""
    return f"raysweep run sweeps/richness_{sweep}.yaml{preset}; python analysis/richness.py"


def read(results: Path, name: str) -> pl.DataFrame | None:
    """The finished cells of a sweep, or None where it was not run."""
    folder = results / f"richness_{name}"
    if not (folder / "ledger").is_dir():
        return None
    frame = pl.from_arrow(cells(Store(str(folder)))[0])
    assert isinstance(frame, pl.DataFrame)
    return frame.filter(pl.col("status") == "ok")


def main() -> None:
    """Read the sweeps that are there, and write the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("results/richness"))
    parser.add_argument("--claims", type=Path, default=CLAIMS / "richness.csv")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    rows: list[Claim] = []
    with mpl.rc_context(STYLE):
        for name, analyse in (("circle", circle), ("images", real)):
            frame = read(asked.results, name)
            if frame is not None:
                analyse(frame, rows, asked.out)
    done = {claim.id for claim in rows}
    for id_, sweep in (("H8", "circle"), ("H9", "images"), ("H10", "images")):
        if id_ not in done:
            rows.append(Claim(id_, STATEMENTS[id_], why=f"sweeps/richness_{sweep}.yaml was not run"))
    rows.sort(key=lambda claim: (int(claim.id[1:]), claim.setting))
    write_claims(asked.claims, rows)
    print(markdown(rows))
    print(summary(rows))


if __name__ == "__main__":
    main()
