"""Networks in mean-field scaling, lazy and rich (arXiv 2409.17858, section 6): claims H8, H9 and H10, and figures.

    raysweep run sweeps/richness_circle.yaml          (a GPU; and richness_images with --preset real)
    python analysis/richness.py [--results results] [--out results/richness]

Writes the table of claims analysis/claims/richness.csv (or --claims), which docs/papers.md shows. An exponent is the
slope of log loss against log t over a window that its row states; intervals are from a bootstrap over seeds, which
resamples networks and batches together. A window is the same for every source exponent. The exponents of H8 belong to
t -> infinity, so each has a second row beside what the reduced flow gives in the very window: at infinite width, with
one richness per activation and gamma that is fitted to the loss for all source exponents together.

Verdicts: on the circle within .05 of the theory, or an interval that holds it. On images, which are stand-ins for the
paper's, within a quarter of its value, and of 2 beta / (1 + beta) with the network's own lazy exponent for beta; an
exponent that richness raises has its whole interval above 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import polars as pl
from common import CLAIMS, Array, measured, over_seeds, save
from matplotlib import pyplot as plt
from scipy.optimize import minimize_scalar

from raysweep.claims import Claim, Measured, Rule, markdown, summary, write_claims
from raysweep.reports.style import COLOURS, STYLE
from raysweep.store import Store
from raysweep.sweep.current import cells
from raysweep.theory.circle import modes
from raysweep.theory.features import flow, time_exponent

STATEMENTS = {
    "H8": "an MLP on the circle follows t^(-beta max(1, 2 / (1 + beta))) when features are learned, and t^-beta lazily",
    "H9": "CNNs on MNIST-1M: the exponent in time rises from about .30 lazily to about .46",
    "H10": "CNNs on CIFAR-5M: the exponent in time rises from about .075 lazily to about .14",
}
STAND_IN = {"mnist": "H9", "fashion_mnist": "H9", "cifar10_jpeg_60k": "H10", "digits": "H9"}
PAPER = {("cnn", "mnist"): (0.30, 0.46), ("cnn", "cifar10_jpeg_60k"): (0.075, 0.14)}  # lazy, rich
RICH = (1.0, 3.0)  # richness of the claims on images
SGD, ADAM = (30.0, 300.0), (1.0, 10.0)  # t of the circle's windows
IMAGES = (10.0, 100.0)  # and of images
LEAST = 4  # times in a window
NEAR, SHARE = 0.05, 0.25  # tolerance on the circle; on images, as a share of the value
GROUP = ["method", "optimiser", "momentum", "activation", "depth", "harmonics", "beta", "gamma"]


@dataclass(frozen=True)
class Curve:
    """One setting's losses.

    Attributes:
        key: The setting.
        t: [times].
        loss: [times, seeds].
        seeds: The seeds that did not diverge.
    """

    key: dict[str, object]
    t: Array
    loss: Array
    seeds: tuple[str, ...]

    def within(self, window: tuple[float, float]) -> Curve | None:
        """The part in a window, if it holds enough times."""
        keep = (self.t >= window[0] * 0.999) & (self.t <= window[1] * 1.001)
        return replace(self, t=self.t[keep], loss=self.loss[keep]) if keep.sum() >= LEAST else None

    def of(self, seeds: tuple[str, ...]) -> Array:
        """[times, seeds] losses of some of the seeds."""
        return self.loss[:, [self.seeds.index(seed) for seed in seeds]]

    @property
    def mean(self) -> Array:
        """[times] geometric mean over seeds."""
        return np.asarray(np.exp(np.log(self.loss).mean(1)))


def curves(frame: pl.DataFrame, by: list[str]) -> Iterator[Curve]:
    """The curves of a sweep; seeds that diverged are left out."""
    for values, part in sorted(frame.group_by(by), key=lambda one: [str(v) for v in one[0]]):
        wide = part.pivot(on="seed", index="t", values="loss").sort("t")
        whole = [seed for seed in wide.columns if seed != "t" and wide[seed].null_count() == 0]
        if whole:
            loss = wide.select(whole).to_numpy().astype(float)
            yield Curve(dict(zip(by, values, strict=True)), wide["t"].to_numpy(), loss, tuple(whole))


def falls(t: Array, loss: Array) -> float:
    """Least-squares exponent of a geometric mean over seeds, loss [times, seeds] ~ t^-e."""
    return -float(np.polyfit(np.log(t), np.log(loss).mean(1), 1)[0])


def exponent(part: Curve) -> Measured:
    """The exponent of a curve in its window."""
    window, seeds = f"t {part.t[0]:.3g} to {part.t[-1]:.3g}", part.loss.shape[1]
    if seeds < 2:
        return measured(window, seeds, falls(part.t, part.loss))
    return measured(window, seeds, *over_seeds(part.loss, lambda v: falls(part.t, v)))


def gained(rich: Curve, lazy: Curve) -> Measured | None:
    """The rich exponent minus the lazy one, over the seeds that both have, which start from the same weights."""
    seeds = tuple(seed for seed in rich.seeds if seed in lazy.seeds)
    if not seeds:
        return None
    both, cut = np.concatenate([rich.of(seeds), lazy.of(seeds)]), len(rich.t)

    def gain(v: Array) -> float:
        return falls(rich.t, v[:cut]) - falls(lazy.t, v[cut:])

    window = f"t {rich.t[0]:.3g} to {rich.t[-1]:.3g}"
    if len(seeds) < 2:
        return measured(window, len(seeds), gain(both))
    return measured(window, len(seeds), *over_seeds(both, gain))


def expected(key: dict[str, object], gamma: float, t: Array) -> Array:
    """The loss of the reduced flow at infinite width."""
    own = modes(str(key["activation"]), int(key["depth"]), float(key["beta"]), int(key["harmonics"]))  # type: ignore[call-overload, arg-type]
    return np.asarray(flow([own], gamma, t).loss[0])


def fitted_richness(group: list[Curve]) -> float:
    """The richness of the reduced flow whose losses are nearest, in log, to all of the curves together."""

    def apart(log_gamma: float) -> float:
        each = [np.log(c.mean) - np.log(expected(c.key, float(np.exp(log_gamma)), c.t)) for c in group]
        return sum(float(((e - e.mean()) ** 2).mean()) for e in each)

    return float(np.exp(minimize_scalar(apart, bounds=(-7, 5), method="bounded", options={"xatol": 0.02}).x))


def circle(frame: pl.DataFrame, rows: list[Claim], out: Path) -> None:
    """H8."""
    every = list(curves(frame, GROUP))
    points: list[tuple[Curve, float]] = []
    richness: dict[tuple[object, object], float] = {}
    for name, group in families(every).items():
        adam, rich = "Adam" in name, not name.startswith("lazy")
        window = ADAM if adam else SGD
        inside = [part for curve in group if (part := curve.within(window)) is not None]
        for part in inside:
            beta, found = float(str(part.key["beta"])), exponent(part)
            theory, near = time_exponent(beta, rich), Rule("near theory", NEAR)
            rows.append(_claim("H8", f"{name}, beta {beta:g}", theory, found, near, _why(part)))
            points.append((part, found.value))
            if adam:
                continue
            which = (part.key["activation"], part.key["gamma"])
            if rich and which not in richness:  # momentum comes after plain SGD, and takes its richness
                richness[which] = fitted_richness(inside)
            gamma = richness[which] if rich else 0.0
            flows = falls(part.t, expected(part.key, gamma, part.t)[:, None])
            beside = f"{name}, beta {beta:g}; reduced flow in the window" + (f", richness {gamma:.2g}" if rich else "")
            rows.append(_claim("H8", beside, flows, found, near))
            lazy = _lazy(every, part)
            other = lazy.within(window) if rich and beta < 1 and lazy is not None else None
            if other is not None and (more := gained(part, other)) is not None:
                setting, gain = f"{name} minus lazy, beta {beta:g}", time_exponent(beta, True) - beta
                rows.append(_claim("H8", setting, gain, more, Rule("above", 0.0)))
    draw_exponents(points, out / "circle.png")
    draw_curves(every, out / "circle_curves.png")


def _why(part: Curve) -> str:
    """What a reader must know about an exponent on the circle."""
    if part.key["optimiser"] == "adam":
        return "t counts steps of Adam and is no time of a gradient flow"
    if part.key["activation"] == "relu2":
        return "alpha = 4: the window holds two or three modes, too few for an exponent"
    if part.key["method"] == "train" and float(str(part.key["gamma"])) < 1:
        return "the window lies before the crossover to rich learning"
    return ""


def families(every: list[Curve]) -> dict[str, list[Curve]]:
    """Curves that differ in the source exponent only, by a name."""
    found: dict[str, list[Curve]] = {}
    for curve in every:
        found.setdefault(_named(curve), []).append(curve)
    return found


def _named(curve: Curve) -> str:
    key = curve.key
    activation = {"relu": "ReLU", "relu2": "squared ReLU"}[str(key["activation"])]
    if key["method"] == "ntk":
        return f"lazy, {activation}"
    how = "Adam" if key["optimiser"] == "adam" else "SGD"
    if key["momentum"]:
        how += f" with momentum {key['momentum']:g}"
    return f"{how}, {activation}, gamma {key['gamma']:g}"


def _lazy(every: list[Curve], one: Curve) -> Curve | None:
    """The lazy limit of a curve's network."""
    same = ("activation", "depth", "beta")
    for curve in every:
        if curve.key["method"] == "ntk" and all(curve.key[n] == one.key[n] for n in same):
            return curve
    return None


def draw_exponents(points: list[tuple[Curve, float]], file: Path) -> None:
    """Exponents against the source exponent: a panel for each activation, and one for Adam."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for part, value in points:
        adam = part.key["optimiser"] == "adam"
        title = "Adam" if adam else {"relu": "ReLU", "relu2": "squared ReLU"}[str(part.key["activation"])]
        name = _named(part) if adam else _named(part).replace(f", {title}", "")
        panels.setdefault(title, {}).setdefault(name, []).append((float(str(part.key["beta"])), value))
    fig, axes = plt.subplots(1, max(1, len(panels)), figsize=(4.2 * max(1, len(panels)), 3.8), squeeze=False)
    grid = np.linspace(0.2, 1.6, 100)
    for axis, (title, own) in zip(axes[0], sorted(panels.items()), strict=False):
        axis.plot(grid, grid, ":", color="0.5", label="beta")
        axis.plot(grid, [time_exponent(b, True) for b in grid], "--", color="0.5", label="beta max(1, 2 / (1 + beta))")
        for i, (name, pairs) in enumerate(own.items()):
            x, y = zip(*sorted(pairs), strict=True)
            axis.plot(x, y, "ov^s<>D"[i % 7], ms=5, mfc="none", color=COLOURS[i % len(COLOURS)], label=name)
        axis.set(xlabel="source exponent beta", ylabel="exponent of the loss in time", title=title)
        axis.legend(fontsize=6.5)
    save(fig, file)


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
                axis.plot(curve.t, expected(curve.key, 0.0, curve.t), "-", color="0.75", lw=3, zorder=0)
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
            for i, (gamma, curve) in enumerate(sorted(by_gamma.items())):
                axis.plot(curve.t, curve.mean, color=COLOURS[i % len(COLOURS)], lw=1.3, label=f"gamma {gamma:g}")
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

    def add(setting: str, theory: float | str, paper: float | str, found: Measured, rule: Rule) -> None:
        why = "a stand-in: other images, which come back"
        rows.append(Claim(id_, STATEMENTS[id_], setting, theory, paper, found, rule, why=why, source=_source("images")))

    papers = PAPER.get((model, data))
    if papers:
        add(f"{name}, lazy (gamma {least:g})", "", papers[0], lazy, Rule("near paper", SHARE * papers[0]))
    for gamma, part in sorted(inside.items()):
        if gamma not in RICH:
            continue
        own = exponent(part)
        if papers:
            add(f"{name}, gamma {gamma:g}", "", papers[1], own, Rule("near paper", SHARE * papers[1]))
        if lazy.value > 0:
            theory = round(time_exponent(lazy.value, True), 4)
            setting = f"{name}, gamma {gamma:g}, beside 2 beta / (1 + beta) of its lazy exponent"
            add(setting, theory, "", own, Rule("near theory", round(SHARE * theory, 4)))
        if (more := gained(part, inside[least])) is not None:
            add(f"{name}, gamma {gamma:g} minus lazy", "", "", more, Rule("above", 0.0))


def _claim(id_: str, setting: str, theory: float, found: Measured, rule: Rule, why: str = "") -> Claim:
    return Claim(id_, STATEMENTS[id_], setting, round(theory, 4), "", found, rule, why=why, source=_source("circle"))


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
