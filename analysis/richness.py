"""Networks in mean-field scaling, lazy and rich (arXiv 2409.17858, section 6): claims H8, H9 and H10, and figures.

    raysweep run sweeps/richness_circle.yaml          (a GPU; and richness_images, where there are images)
    python analysis/richness.py [--results results] [--out results/richness]

Writes the table of claims analysis/claims/richness.csv (or --claims), which docs/papers.md shows. An exponent is the
slope of log loss against log t over a window that its row states; intervals are from a bootstrap over seeds, which
resamples networks and batches together. A window is the same for every source exponent. The exponents of H8 belong to
t -> infinity, so each has a second row beside what the reduced flow gives in the very window: at infinite width, with
one richness per activation and gamma that is fitted to the loss for all source exponents together.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
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
PAPER = {"H9": (0.30, 0.46), "H10": (0.075, 0.14)}
SGD, ADAM = (30.0, 300.0), (1.0, 10.0)  # t of the circle's windows
IMAGES = (10.0, 100.0)  # and of images
LEAST = 4  # times in a window
NEAR, NEAR_FLOW, NEAR_IMAGES = 0.1, 0.05, 0.1
GROUP = ["method", "optimiser", "momentum", "activation", "depth", "harmonics", "beta", "gamma"]


@dataclass(frozen=True)
class Curve:
    """One setting's losses.

    Attributes:
        t: [times].
        loss: [times, seeds].
    """

    key: dict[str, object]
    t: Array
    loss: Array

    def within(self, window: tuple[float, float]) -> Curve | None:
        """The part in a window, if it holds enough times."""
        keep = (self.t >= window[0] * 0.999) & (self.t <= window[1] * 1.001)
        return Curve(self.key, self.t[keep], self.loss[keep]) if keep.sum() >= LEAST else None

    @property
    def mean(self) -> Array:
        """[times] geometric mean over seeds."""
        return np.asarray(np.exp(np.log(self.loss).mean(1)))


def curves(frame: pl.DataFrame, by: list[str]) -> Iterator[Curve]:
    """The curves of a sweep; seeds that diverged are left out."""
    for values, part in sorted(frame.group_by(by), key=lambda one: [str(v) for v in one[0]]):
        wide = part.pivot(on="seed", index="t", values="loss").sort("t")
        loss = wide.drop("t").to_numpy()
        whole = ~np.isnan(loss.astype(float)).any(0)
        if whole.any():
            yield Curve(dict(zip(by, values, strict=True)), wide["t"].to_numpy(), loss[:, whole].astype(float))


def falls(t: Array, loss: Array) -> float:
    """Least-squares exponent of a geometric mean over seeds, loss [times, seeds] ~ t^-e."""
    return -float(np.polyfit(np.log(t), np.log(loss).mean(1), 1)[0])


def exponent(part: Curve) -> Measured:
    """The exponent of a curve in its window."""
    window, seeds = f"t {part.t[0]:.3g} to {part.t[-1]:.3g}", part.loss.shape[1]
    if seeds < 2:
        return measured(window, seeds, falls(part.t, part.loss))
    return measured(window, seeds, *over_seeds(part.loss, lambda v: falls(part.t, v)))


def gained(rich: Curve, lazy: Curve, window: str = "") -> Measured:
    """The rich exponent minus the lazy one, seeds paired; over the seeds that both have."""
    seeds = min(rich.loss.shape[1], lazy.loss.shape[1])
    both = np.concatenate([np.log(rich.loss[:, :seeds]), np.log(lazy.loss[:, :seeds])])
    cut = len(rich.t)

    def gain(v: Array) -> float:
        return falls(rich.t, np.exp(v[:cut])) - falls(lazy.t, np.exp(v[cut:]))

    where = window or f"t {rich.t[0]:.3g} to {rich.t[-1]:.3g}"
    return measured(where, seeds, gain(both)) if seeds < 2 else measured(where, seeds, *over_seeds(both, gain))


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
    for name, group in families(every).items():
        window = ADAM if "Adam" in name else SGD
        inside = [part for curve in group if (part := curve.within(window)) is not None]
        sgd, rich = "Adam" not in name, not name.startswith("lazy")
        gamma = (fitted_richness(inside) if rich else 0.0) if sgd and inside else None
        for part in inside:
            beta, found = float(str(part.key["beta"])), exponent(part)
            setting = f"{name}, beta {beta:g}"
            rows.append(_claim("H8", setting, time_exponent(beta, rich), found, Rule("near theory", NEAR)))
            points.append((part, found.value))
            if gamma is not None:
                flows = falls(part.t, expected(part.key, gamma, part.t)[:, None])
                beside = f"{setting}; reduced flow in the window" + (f", richness {gamma:.2g}" if rich else "")
                rows.append(_claim("H8", beside, flows, found, Rule("near theory", NEAR_FLOW)))
            lazy = _lazy(every, part)
            if rich and sgd and beta < 1 and lazy is not None and (other := lazy.within(window)) is not None:
                setting = f"{name} minus lazy, beta {beta:g}"
                theory = time_exponent(beta, True) - time_exponent(beta, False)
                rows.append(_claim("H8", setting, theory, gained(part, other), Rule("above", 0.0)))
    draw_exponents(points, out / "circle.png")
    draw_curves(every, out / "circle_curves.png")


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
    """Exponents against the source exponent, one panel per activation."""
    kinds = sorted({str(part.key["activation"]) for part, _ in points})
    fig, axes = plt.subplots(1, max(1, len(kinds)), figsize=(4.8 * max(1, len(kinds)), 4), squeeze=False)
    grid = np.linspace(0.2, 1.6, 100)
    for axis, kind in zip(axes[0], kinds, strict=True):
        axis.plot(grid, grid, ":", color="0.5", label="beta")
        axis.plot(grid, [time_exponent(b, True) for b in grid], "--", color="0.5", label="beta max(1, 2 / (1 + beta))")
        own: dict[str, list[tuple[float, float]]] = {}
        for part, value in points:
            if part.key["activation"] == kind:
                own.setdefault(_named(part), []).append((float(str(part.key["beta"])), value))
        for i, (name, pairs) in enumerate(own.items()):
            x, y = zip(*sorted(pairs), strict=True)
            axis.plot(x, y, "ov^s<>D"[i % 7], ms=5, mfc="none", color=COLOURS[i % len(COLOURS)], label=name)
        axis.set(xlabel="source exponent beta", ylabel="exponent of the loss in time", title=kind)
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
            compare(f"{model} on {data}", STAND_IN[data], by_gamma, IMAGES, rows)
    save(fig, out / "images.png")


def compare(name: str, id_: str, by_gamma: dict[float, Curve], window: tuple[float, float], rows: list[Claim]) -> None:
    """Exponents of one network on one data set, and what richness adds to them."""
    inside = {gamma: part for gamma, curve in by_gamma.items() if (part := curve.within(window)) is not None}
    if len(inside) < 2:
        return
    least = min(inside)
    lazy, (paper_lazy, paper_rich) = exponent(inside[least]), PAPER[id_]
    theory = time_exponent(lazy.value, True) if lazy.value > 0 else ""
    for gamma, part in sorted(inside.items()):
        own, near = exponent(part), Rule("near paper", NEAR_IMAGES)
        kind = "lazy" if gamma == least else "rich"
        setting = f"stand-in, {name}, {kind}, gamma {gamma:g}"
        paper = paper_lazy if kind == "lazy" else paper_rich
        rows.append(Claim(id_, STATEMENTS[id_], setting, "", paper, own, near, source=_source("images")))
        if kind == "rich" and theory != "":
            beside = f"{setting}, beside 2 beta / (1 + beta) of its own lazy exponent"
            rule = Rule("near theory", NEAR_IMAGES)
            rows.append(Claim(id_, STATEMENTS[id_], beside, theory, "", own, rule, source=_source("images")))
            more = gained(part, inside[least])
            setting = f"stand-in, {name}, gamma {gamma:g} minus lazy"
            rows.append(
                Claim(id_, STATEMENTS[id_], setting, "", "", more, Rule("above", 0.0), source=_source("images"))
            )


def _claim(id_: str, setting: str, theory: float, found: Measured, rule: Rule) -> Claim:
    return Claim(id_, STATEMENTS[id_], setting, round(theory, 4), "", found, rule, source=_source("circle"))


def _source(sweep: str) -> str:
    return f"raysweep run sweeps/richness_{sweep}.yaml; python analysis/richness.py"


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
