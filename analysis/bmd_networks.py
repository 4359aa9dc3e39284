"""Boolean mean dimension and double descent (arXiv 2401.12610): its claims on trained networks.

    raysweep run sweeps/bmd_networks.yaml      (and bmd_networks_data, bmd_adversarial, bmd_robustness, bmd_pixels)
    python analysis/bmd_networks.py [--results results] [--out docs/bmd]

Writes the table of claims analysis/claims/bmd_networks.csv (or --claims), which docs/papers.md shows, and figures, and
prints the tables of docs/bmd.md. Intervals draw whole seeds; each is measured on inputs of its own. A rise is
the largest one of the mean curve over even seeds, measured on odd seeds, so that noise alone does not make one. A
curve's interpolation threshold is where what is not fitted first falls below 1 %, interpolated in the logarithm: the
mean training error; for the square loss, the mean training loss over that of predicting 0. Peaks are those of
`raysweep.laws.peak` from the smallest error below that threshold on: networks that are too small to learn the task have
larger errors than any peak. A peak is located only if it stands out from the ends of its curve. Scales at which the
network of some seed is constant (all its units are dead), so that it has no mean dimension, are left out. The presets
for GPUs of bmd_networks are read from the stores bmd_networks_mnist and so on.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from bmd import STATEMENTS
from bmd_common import Curves, claim_of, printed, read, table, unsupported
from bmd_robustness import axes_of, of_measures, of_measures_of_inputs, of_pixels, of_robustness
from common import CLAIMS, measured, over_seeds
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, NullLocator

from raysweep.claims import Claim, Measured, Rule, markdown, summary, write_claims
from raysweep.laws.maximum import Peak, shift
from raysweep.reports.style import COLOURS, STYLE

MEASURED = ("unfitted", "train_error", "test_error", "bmd")
STEP = 0.25  # distance of neighbouring widths, relative: how well a peak can be located
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of axes of widths
MISSING = "was not run: raysweep run sweeps/bmd_networks.yaml --preset {}"
KIND = ("task", "activation", "depth", "loss")
PRESETS = {
    "digits_resnet": "ResNet, cross-entropy, digits",
    "mnist": "two-layer ReLU, cross-entropy, MNIST",
    "mnist_square": "two-layer tanh, square loss, MNIST",
    "fashion": "two-layer tanh, square loss, Fashion-MNIST",
    "cifar_cnn": "CNN, CIFAR-10",
    "cifar_resnet": "ResNet, CIFAR-10",
}


def families(frame: pl.DataFrame) -> list[Curves]:
    """The curves against width of each kind of network."""
    names = {
        ("teacher", "tanh", 1, "square"): "two-layer tanh, square loss, teacher with 10 % flips",
        ("teacher", "relu", 1, "cross_entropy"): "two-layer ReLU, cross-entropy, teacher with 10 % flips",
        ("images", "relu", 1, "cross_entropy"): "two-layer ReLU, cross-entropy, digits with 20 % random labels",
        ("images", "relu", 3, "cross_entropy"): "four-layer ReLU, cross-entropy, digits with 20 % random labels",
        ("images", "relu", 1, "square"): "two-layer ReLU, square loss, digits with 40 % random labels",
    }
    found = []
    for (task, activation, depth, loss), name in names.items():
        own = [pl.col(k) == v for k, v in zip(KIND, (task, activation, depth, loss), strict=True)]
        metrics = [*MEASURED, *(["md_marginals"] if task == "images" else [])]
        found.append(Curves.along(frame.filter(*own, pl.col("eps") == 0), "width", metrics, name))
    return found


def of_curves(one: Curves, id_: str, unit: str, sweep: str, rows: list[Claim]) -> None:
    """H5: whether error and BMD rise, and where BMD peaks beside the threshold; H6: whether the peaks of error and BMD
    stand out from the ends of their curves; H11: where BMD peaks beside the error."""
    for metric, what in (("test_error", "the test error"), ("bmd", "BMD")):
        if id_ == "H6":
            top = one.summit(metric)
            setting = f"{one.name}: height of the peak of {what} against {unit} above the higher end"
            found = measured(f"{unit} {one.window}", top.units, top.prominence, top.prominence_interval)
        else:
            setting, found = f"{one.name}: largest rise of {what} with {unit}", one.rise(metric)
        rows.append(claim_of(id_, setting, "", found, Rule("above", 0.0), sweep))
    part = one if id_ == "H6" else one.beyond()
    bmd, error, window = part.peak("bmd"), part.peak("test_error"), f"{unit} {part.window}"
    if id_ == "H5" and not isinstance(bmd, str):
        by_loss = not np.array_equal(one.of["unfitted"], one.of["train_error"])
        kinds = {"unfitted": "1 % of the loss is left" if by_loss else "1 % is not fitted"}
        kinds |= {"train_error": "1 % of the labels are missed"} if by_loss else {}
        for metric, what in kinds.items():
            threshold, ends = over_seeds(one.of[metric], one.threshold, log=True)
            low, high = bmd.location_interval
            value = measured(window, one.seeds, bmd.location / threshold, (low / ends[1], high / ends[0]))
            setting = f"{one.name}: {unit} of the peak of BMD over the threshold, where {what}"
            rows.append(claim_of(id_, setting, 1.0, value, Rule("near theory", STEP), sweep, _broad(value)))
    setting = f"{one.name}: {unit} of the peak of BMD over that of the test error"
    if isinstance(bmd, str) or isinstance(error, str):
        highest, ends = over_seeds(
            part.of["bmd"], lambda v: part.x[v.mean(1).argmax()], log=True, bounds=(part.x[0], part.x[-1])
        )
        reasons = [f"{what}: {why}" for what, why in (("BMD", bmd), ("error", error)) if isinstance(why, str)]
        found = measured(window, one.seeds, highest, ends)
        text = f"{one.name}: {unit} of the highest mean of BMD; a peak of both is needed"
        rows.append(unsupported("H11", text, "none", found, "; ".join(reasons), sweep))
        return
    apart = shift(bmd, error)
    value = measured(window, bmd.units, apart.ratio, apart.interval)
    why = "; ".join(filter(None, [f"BMD {_interval(bmd)}, error {_interval(error)}", _broad(value)]))
    rows.append(claim_of("H11", setting, 1.0, value, Rule("near theory", STEP), sweep, why))


def _broad(value: Measured) -> str:
    """What an interval of more than a factor of two says of a place."""
    low, high = value.ends
    return f"the interval spans a factor of {high / low:.2g}: too broad to locate it" if high > 2 * low else ""


def _interval(peak: Peak) -> str:
    low, high = peak.location_interval
    return f"{peak.location:.3g} [{low:.3g}, {high:.3g}]"


def of_preset(results: Path, preset: str, name: str, rows: list[Claim]) -> Curves | None:
    """H5 and H11 of a preset for GPUs, and its curves, where it was run."""
    folder = f"bmd_networks_{preset}"
    if not (results / folder / "ledger").is_dir():
        rows += [Claim(id_, STATEMENTS[id_], name, why=MISSING.format(preset)) for id_ in ("H5", "H11")]
        return None
    frame = read(results, folder).filter(pl.col("eps") == 0)
    metrics = [*MEASURED, *(["md_marginals"] if frame["measures"][0] else [])]
    size, noise = frame["n_train"][0], frame["label_noise"][0]
    one = Curves.along(
        frame, "width", metrics, f"{name}, {size:,} images with {noise:.0%} random labels".replace("%", " %")
    )
    of_curves(one, "H5", "width", f"bmd_networks {preset}", rows)
    printed(one.name, table(one, "width"))
    return one


def of_adversarial(frame: pl.DataFrame, rows: list[Claim]) -> pl.DataFrame:
    """H7: what the longest pretraining adds. Returns the table."""
    out = []
    for task, metrics in (
        ("images", ("pretrain_error", "test_error", "bmd", "md_marginals", "fgsm_error", "flip_error")),
        ("teacher", ("pretrain_error", "test_error", "bmd")),
    ):
        part = frame.filter((pl.col("task") == task) & (pl.col("eps") == (0.1 if task == "images" else 0)))
        one = Curves.along(part, "pretrain", metrics)
        name = {"images": "digits, ReLU, width 128", "teacher": "teacher, tanh, width 50"}[task]
        for metric, what in (
            ("bmd", "BMD"),
            ("test_error", "test error"),
            ("fgsm_error", "error under FGSM of eps .1"),
        ):
            if metric in one.of:
                value = one.of[metric][-1] - one.of[metric][0]
                setting = f"{name}: {what} after {one.x[-1]:g} steps on random labels minus without"
                found = measured(f"steps 0 to {one.x[-1]:g}", one.seeds, *over_seeds(value, np.mean))
                rows.append(claim_of("H7", setting, "", found, Rule("above", 0.0), "bmd_adversarial"))
        out.append(table(one, "pretrain").with_columns(task=pl.lit(task)))
    return pl.concat(out, how="diagonal")


def draw(curves: Sequence[Curves], figure: Path) -> None:
    """Error, BMD and the mean dimension under pixel marginals against width, and the threshold."""
    panels_of = (  # each row of panels has its own axis, for pixel marginals of narrow networks are several times BMD
        ("error", {"test_error": "test error", "train_error": "training error"}),
        ("BMD", {"bmd": "BMD"}),
        ("mean dimension, pixel marginals", {"md_marginals": "mean dimension under pixel marginals"}),
    )
    lines = 3 if any("md_marginals" in one.of for one in curves) else 2
    size = (3.4 * len(curves), 2.7 * lines + 0.5)
    fig, panels = plt.subplots(lines, len(curves), figsize=size, sharex="col", squeeze=False, layout="constrained")
    colour = dict(zip((name for _, metrics in panels_of for name in metrics), COLOURS, strict=False))
    for column, one in zip(panels.T, curves, strict=True):
        column[0].set_title(textwrap.fill(one.name, 44), fontsize=8)
        for axis, (label, metrics) in zip(column, panels_of[:lines], strict=True):
            drawn = [name for name in metrics if name in one.of]
            axis.set_visible(bool(drawn))
            for name in drawn:
                measurable = np.isfinite(one.of[name]).all(1)  # a network that is constant under some inputs is not
                x, values = one.x[measurable], one.of[name][measurable]
                low, high = over_seeds(values, lambda v: v.mean(-1), bounds=(0, np.inf))[1]
                axis.plot(x, values.mean(1), "o-", ms=3, color=colour[name], label=metrics[name])
                axis.fill_between(x, low, high, color=colour[name], alpha=0.25, lw=0)
            axis.axvline(one.threshold(one.of["unfitted"]), color="0.6", ls=":", label="threshold")
            axis.set(xscale="log", ylabel=label)
            axis.xaxis.set_major_locator(FixedLocator([w for w in TICKS if one.x[0] <= w <= one.x[-1]]))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_locator(NullLocator())
        lowest = [axis for axis in column if axis.get_visible()][-1]
        lowest.set_xlabel("width")
        lowest.tick_params(labelbottom=True)
    named: dict[str, Any] = {}
    for axis in panels.flat:
        if axis.get_visible():
            named |= {text: line for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    fig.legend(named.values(), named, loc="outside lower center", ncols=len(named))
    fig.savefig(figure, dpi=150)
    plt.close(fig)


def main() -> None:
    """Read the sweeps, and write the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("docs/bmd"))
    parser.add_argument("--claims", type=Path, default=CLAIMS / "bmd_networks.csv")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    rows: list[Claim] = []
    results = asked.results
    with mpl.rc_context(STYLE):
        curves = families(read(results, "bmd_networks"))
        for one in curves:
            of_curves(one, "H5", "width", "bmd_networks", rows)
            printed(one.name, table(one, "width"))
        draw(curves, asked.out / "networks.png")
        large = [of_preset(results, preset, name, rows) for preset, name in PRESETS.items()]
        draw([one for one in large if one], asked.out / "networks_gpu.png")
        data = Curves.along(
            read(results, "bmd_networks_data"),
            "n_train",
            ("train_error", "test_error", "bmd"),
            "two-layer tanh of width 8, square loss, teacher with 10 % flips",
        )
        of_curves(data, "H6", "P", "bmd_networks_data", rows)
        printed(data.name, table(data, "n_train"))
        adversarial = read(results, "bmd_adversarial")
        printed("adversarial initialisation", of_adversarial(adversarial, rows))
        robust = read(results, "bmd_robustness")
        axes = axes_of(robust, adversarial)
        printed("robustness", of_robustness(axes, rows, asked.out / "robustness.png"))
        for title, measures in of_measures(robust).items():
            printed(title, measures)
        of_measures_of_inputs(robust, rows)
        of_pixels(read(results, "bmd_pixels"), rows, asked.out / "pixels.png")
    rows.sort(key=lambda claim: int(claim.id[1:]))
    write_claims(asked.claims, rows)
    print(markdown(rows))
    print(summary(rows))


if __name__ == "__main__":
    main()
