"""Boolean mean dimension and double descent (arXiv 2401.12610): its claims on trained networks.

    raysweep run sweeps/bmd_networks.yaml      (and bmd_networks_data, bmd_adversarial, bmd_robustness, bmd_pixels)
    python analysis/bmd_networks.py [--results results] [--out docs/bmd]

Writes the table of claims analysis/claims/bmd_networks.csv (or --claims), which docs/papers.md shows, and figures, and
prints the tables of docs/bmd.md. Intervals draw whole seeds. A rise is the largest one of the mean curve over even
seeds, measured on odd seeds, so that noise alone does not make one. A curve's interpolation threshold is where what
is not fitted first falls below 1 %, interpolated in the logarithm: the mean training error; for the square loss, the
mean training loss over that of predicting 0. Peaks are those of `raysweep.laws.peak` from the
smallest error below that threshold on: networks that are too small to learn the task have larger errors than any peak.
A peak is located only if it stands out from the ends of its curve. Scales at which the network of some seed is constant
(all its units are dead), so that it has no mean dimension, are left out. The presets mnist, cifar_cnn and cifar_resnet
of bmd_networks are read from the stores bmd_networks_mnist and so on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import polars as pl
from bmd import STATEMENTS
from common import CLAIMS, Array, measured, over_seeds, save
from matplotlib import pyplot as plt

from raysweep.claims import Claim, Measured, Rule, markdown, summary, write_claims
from raysweep.data import images
from raysweep.errors import FitError
from raysweep.experiments.double_descent import COMPLEXITY
from raysweep.laws.maximum import Peak, find_peak, shift
from raysweep.laws.rank import RankCorrelation, rank_correlation, rank_correlation_of
from raysweep.reports.style import COLOURS, STYLE
from raysweep.store import Store
from raysweep.sweep.current import cells

MEASURED = ("unfitted", "train_error", "test_error", "bmd")
NEEDED = ("bmd", "test_error")
THRESHOLD = 0.01  # not fitted
STEP = 0.25  # distance of neighbouring widths, relative: how well a peak can be located
GPU = "needs a GPU: raysweep run sweeps/bmd_networks.yaml --preset {}"
KIND = ("task", "activation", "depth", "loss")
PRESETS = {
    "mnist": "two-layer ReLU, cross-entropy, MNIST",
    "cifar_cnn": "CNN, CIFAR-10",
    "cifar_resnet": "ResNet, CIFAR-10",
}


@dataclass(frozen=True)
class Curves:
    """Some metrics along a scale, of the seeds that have all of them.

    Attributes:
        name: The setting in words.
        x: [scales].
        of: Each metric, [scales, seeds].
    """

    name: str
    x: Array
    of: dict[str, Array]

    @staticmethod
    def along(frame: pl.DataFrame, x: str, metrics: Sequence[str], name: str = "") -> Curves:
        """Curves of a frame with one row per scale and seed."""
        full = frame.filter(pl.all_horizontal(pl.col(m).is_not_null().all().over(x) for m in metrics if m in NEEDED))
        wide = {m: full.pivot(on="seed", index=x, values=m).sort(x) for m in metrics}
        scales = next(iter(wide.values()))[x].to_numpy().astype(float)
        return Curves(name, scales, {m: one.drop(x).to_numpy().astype(float) for m, one in wide.items()})

    @property
    def seeds(self) -> int:
        return int(next(iter(self.of.values())).shape[1])

    @property
    def window(self) -> str:
        return f"{self.x[0]:g} to {self.x[-1]:g}"

    def beyond(self) -> Curves:
        """The curves from the smallest error below the threshold on; whole where there is none."""
        if "unfitted" not in self.of:
            return self
        below = np.flatnonzero(self.x < self.threshold(self.of["unfitted"]))
        start = int(self.of["test_error"].mean(1)[below].argmin()) if len(below) else 0
        return Curves(self.name, self.x[start:], {name: values[start:] for name, values in self.of.items()})

    def peak(self, metric: str) -> Peak | str:
        """The peak of the mean over seeds; or why there is none."""
        x, seed = np.repeat(self.x, self.seeds), np.tile(np.arange(self.seeds), len(self.x))
        try:
            found = find_peak(x, self.of[metric].ravel(), seed)
        except FitError:
            return f"its highest mean from {self.x[0]:g} on is at {self.x[self.of[metric].mean(1).argmax()]:g}, an end"
        if found.prominence_interval[0] <= 0:
            low, high = found.prominence_interval
            return f"it does not stand out: {found.prominence:.3g} [{low:.2g}, {high:.2g}] above the ends"
        return found

    def threshold(self, unfitted: Array) -> float:
        """The scale at which what is not fitted, [scales, seeds], first falls below THRESHOLD in the mean."""
        mean = np.maximum(unfitted.mean(1), 1e-6)
        below = np.flatnonzero(mean < THRESHOLD)
        if not len(below) or not below[0]:
            return float(self.x[below[0]]) if len(below) else np.nan
        i = int(below[0])
        share = np.log(mean[i - 1] / THRESHOLD) / np.log(mean[i - 1] / mean[i])
        return float(np.exp(np.log(self.x[i - 1]) + share * np.log(self.x[i] / self.x[i - 1])))

    def rise(self, metric: str) -> Measured:
        """The largest rise with the scale, chosen on even seeds and measured on odd ones."""
        values = self.of[metric]
        mean = values[:, ::2].mean(1)
        pairs = [(i, j) for i in range(len(mean)) for j in range(i + 1, len(mean))]
        i, j = max(pairs, key=lambda pair: mean[pair[1]] - mean[pair[0]])
        odd = values[j, 1::2] - values[i, 1::2]
        return measured(f"{self.x[i]:g} to {self.x[j]:g}", len(odd), *over_seeds(odd, np.mean))


def read(results: Path, name: str) -> pl.DataFrame:
    """The finished cells of one sweep."""
    folder = results / name
    if not (folder / "ledger").is_dir():
        raise SystemExit(f"{folder} does not exist: run `raysweep run sweeps/{name}.yaml` first")
    frame = pl.from_arrow(cells(Store(str(folder)))[0])
    assert isinstance(frame, pl.DataFrame)
    square = pl.col("loss") == "square"  # predicting 0 of one-hot or signed targets loses 1/2
    unfitted = pl.when(square).then(2 * pl.col("train_loss")).otherwise(pl.col("train_error"))
    return frame.filter(pl.col("status") == "ok").with_columns(unfitted=unfitted)


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
    """H5 or H6: whether error and BMD rise; where BMD peaks beside the threshold; H11: where beside the error."""
    for metric, what in (("test_error", "the test error"), ("bmd", "BMD")):
        setting = f"{one.name}: largest rise of {what} with {unit}"
        rows.append(_claim(id_, setting, "", one.rise(metric), Rule("above", 0.0), sweep))
    part = one if id_ == "H6" else one.beyond()
    bmd, error, window = part.peak("bmd"), part.peak("test_error"), f"{unit} {part.window}"
    if id_ == "H5" and not isinstance(bmd, str):
        threshold, ends = over_seeds(one.of["unfitted"], one.threshold)
        low, high = bmd.location_interval
        value = measured(window, one.seeds, bmd.location / threshold, (low / ends[1], high / ends[0]))
        setting = f"{one.name}: {unit} of the peak of BMD over the threshold, where 1 % is not fitted"
        rows.append(_claim(id_, setting, 1.0, value, Rule("near theory", STEP), sweep))
    setting = f"{one.name}: {unit} of the peak of BMD over that of the test error"
    if isinstance(bmd, str) or isinstance(error, str):
        top = part.x[part.of["bmd"].mean(1).argmax()]
        highest, ends = over_seeds(part.of["bmd"], lambda v: part.x[v.mean(1).argmax()])
        reasons = [f"{what}: {why}" for what, why in (("BMD", bmd), ("error", error)) if isinstance(why, str)]
        found = measured(window, one.seeds, highest, (min(ends[0], top), max(ends[1], top)))
        text = f"{one.name}: {unit} of the highest mean of BMD; a peak of both is needed"
        rows.append(_judged("H11", text, found, "; ".join(reasons), sweep))
        return
    apart = shift(bmd, error)
    why = f"BMD {_interval(bmd)}, error {_interval(error)}"
    value = measured(window, bmd.units, apart.ratio, apart.interval)
    rows.append(_claim("H11", setting, 1.0, value, Rule("near theory", STEP), sweep, why))


def _interval(peak: Peak) -> str:
    low, high = peak.location_interval
    return f"{peak.location:.3g} [{low:.3g}, {high:.3g}]"


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
                rows.append(_claim("H7", setting, "", found, Rule("above", 0.0), "bmd_adversarial"))
        out.append(table(one, "pretrain").with_columns(task=pl.lit(task)))
    return pl.concat(out, how="diagonal")


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
    """H8: rank correlations of BMD with errors under attacks and flips, axis by axis. Returns the table."""
    fig, panels = plt.subplots(1, 2, figsize=(9.6, 4))
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
            setting = f"digits, along {AXES[axis]}: rank correlation of BMD with the error under {what}"
            sweep = "bmd_adversarial" if axis == "pretrain" else "bmd_robustness"
            rows.append(_claim("H8", setting, "", value, Rule("above", 0.0), sweep))
            panel.plot(one.of["bmd"].mean(1), one.of[metric].mean(1), "o-", ms=4, color=COLOURS[i], label=AXES[axis])
            panel.set(xlabel="Boolean mean dimension", ylabel=f"error under {what}")
        out.append(table(one, "value").with_columns(axis=pl.lit(AXES[axis])))
    panels[1].legend(fontsize=8)
    save(fig, figure)
    return pl.concat(out, how="diagonal")


def ranked(a: Array, b: Array, window: str) -> Measured:
    """Spearman's rank correlation of [settings, seeds], all of them together; the unit of its interval is the seed."""
    seed = np.tile(np.arange(a.shape[1]), len(a))
    found = rank_correlation_of(a.ravel(), b.ravel(), seed, "spearman")
    return measured(window, found.units, found.value, found.interval)


def of_measures(frame: pl.DataFrame) -> pl.DataFrame:
    """Kendall's rank correlations of BMD and of other measures with the test error, over settings and seeds: the table.

    Rows of which a measure has no value (a margin that is not positive) do not count; the number of rows is given.
    """
    part = frame.filter(pl.col("eps") == 0)
    names = ("bmd", "md_uniform", "md_gaussian", "md_marginals", *COMPLEXITY)
    groups = {"all settings": part, "along the width": part.filter(n_train=300), "others": part.filter(n_train=400)}
    found = {
        group: rank_correlation(rows, x=names, y="test_error", kind="kendall")[0].each for group, rows in groups.items()
    }
    return pl.DataFrame(
        [{"measure": name, **{group: _ranked(each[name]) for group, each in found.items()}} for name in names]
    )


def _ranked(one: RankCorrelation | str) -> str:
    if isinstance(one, str):
        return one
    return f"{one.value:.2f} [{one.interval[0]:.2f}, {one.interval[1]:.2f}], {one.rows}"


def of_pixels(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """H9: the map of contributions before and after training. H10: other distributions of inputs."""
    data = images("digits")
    spread = data.x.astype(float).std(0)
    side = int(np.sqrt(len(spread)))
    column = np.arange(len(spread)) % side
    border = (column == 0) | (column == side - 1)
    fig, panels = plt.subplots(1, 3, figsize=(9.6, 3.2))
    last = int(frame["steps"].max())  # type: ignore[arg-type]
    maps = {}
    for panel, step, when in zip(panels, (0, last), ("before training", f"after {last} steps"), strict=False):
        one = Curves.along(
            frame.filter(pl.col("steps") == step, pl.col("pixel") >= 0), "pixel", ("contribution", "bmd")
        )
        values = maps[step] = one.of["contribution"]
        panel.set(title=f"contributions to BMD {when}", xticks=[], yticks=[])
        fig.colorbar(panel.imshow(values.mean(1).reshape(side, side), cmap="viridis", vmin=0), ax=panel, shrink=0.8)
        ratio = over_seeds(values, lambda v: v[border].mean() / v[~border].mean())
        found = measured(f"{side} x {side} pixels", one.seeds, *ratio)
        setting = f"digits, width 128, {when}: mean contribution of the two border columns over that of the others"
        rule = Rule("near theory", 0.1) if step == 0 else Rule("below", 1.0)
        rows.append(_claim("H9", setting, 1.0 if step == 0 else "", found, rule, "bmd_pixels"))
        setting = f"digits, width 128, {when}: rank correlation of a pixel's contribution with its standard deviation"
        some = np.repeat(spread[:, None], one.seeds, axis=1)
        value = ranked(values, some, f"{side} x {side} pixels")
        rule = Rule("near theory", 0.25) if step == 0 else Rule("above", 0.0)
        rows.append(_claim("H9", setting, 0.0 if step == 0 else "", value, rule, "bmd_pixels"))
    panels[2].set(title="standard deviation of pixels", xticks=[], yticks=[])
    fig.colorbar(panels[2].imshow(spread.reshape(side, side) / 8, cmap="viridis", vmin=0), ax=panels[2], shrink=0.8)
    save(fig, figure)
    after = frame.filter(pl.col("steps") == last, pl.col("pixel") == -1).sort("seed")
    for name, what in (("md_uniform", "uniform on [-1, 1]"), ("md_gaussian", "standard normal")):
        ratio = (after[name] / after["bmd"]).to_numpy()
        setting = f"digits, width 128: mean dimension under inputs that are {what} over BMD"
        value = measured("trained networks", len(ratio), *over_seeds(ratio, np.mean))
        rows.append(_claim("H10", setting, 1.0, value, Rule("near theory", 0.05), "bmd_pixels"))
    ratio = ((after["md_marginals"] - 1) / (after["bmd"] - 1)).to_numpy()
    setting = "digits, width 128: mean dimension - 1 under pixel marginals over BMD - 1"
    value = measured("trained networks", len(ratio), *over_seeds(ratio, np.mean))
    rows.append(_claim("H10", setting, "", value, Rule("below", 1.0), "bmd_pixels", "marginals differ, as pixels are"))


def of_measures_of_inputs(frame: pl.DataFrame, rows: list[Claim]) -> None:
    """H10: whether other distributions of inputs order networks as bits do."""
    setting = ("n_train", "width", "weight_decay", "init_scale", "attack", "pretrain")
    part = frame.filter(pl.col("eps") == 0).with_columns(setting=pl.concat_str(pl.col(setting), separator=" "))
    for name, what in (("md_uniform", "uniform"), ("md_gaussian", "normal"), ("md_marginals", "drawn as in images")):
        one, other = (
            part.pivot(on="seed", index="setting", values=n).drop("setting").to_numpy().astype(float)
            for n in ("bmd", name)
        )
        found = ranked(one, other, f"{len(one)} settings")
        text = f"digits, settings of bmd_robustness: rank correlation of BMD with the mean dimension of {what} inputs"
        rows.append(_claim("H10", text, "", found, Rule("above", 0.8), "bmd_robustness"))


def table(one: Curves, x: str) -> pl.DataFrame:
    """Means over seeds with intervals: a row per scale."""
    columns: dict[str, list[object]] = {x: [f"{v:g}" for v in one.x]}
    for name, values in one.of.items():
        if name == "unfitted":
            continue
        columns[name] = [_shown(*over_seeds(row, np.mean)) if np.isfinite(row).all() else "" for row in values]
    return pl.DataFrame(columns)


def draw(curves: Sequence[Curves], figure: Path) -> None:
    """Error and BMD against width, and the threshold."""
    fig, panels = plt.subplots(2, len(curves), figsize=(3.4 * len(curves), 6), sharex="col", squeeze=False)
    for column, one in zip(panels.T, curves, strict=True):
        threshold = one.threshold(one.of["unfitted"])
        shown = (("test_error", 0, "test error"), ("train_error", 0, "training error"), ("bmd", 1, "bits -1, 1"))
        for i, (metric, row, label) in enumerate((*shown, ("md_marginals", 1, "pixel marginals"))):
            if metric in one.of:
                values, axis = one.of[metric], column[row]
                low, high = over_seeds(values, lambda v: v.mean(-1))[1]
                axis.plot(one.x, values.mean(1), "o-", ms=3, color=COLOURS[i], label=label)
                axis.fill_between(one.x, low, high, color=COLOURS[i], alpha=0.25, lw=0)
        for axis in column:
            axis.axvline(threshold, color="0.6", ls=":")
            axis.legend(fontsize=8)
        column[0].set(title=one.name.replace(", ", ",\n", 1), ylabel="error")
        column[0].title.set_fontsize(8)
        column[1].set(xscale="log", xlabel="width", ylabel="mean dimension")
    save(fig, figure)


def _shown(value: Array, ends: Array) -> str:
    return f"{float(value):.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"


def _claim(id_: str, setting: str, theory: float | str, one: Measured, rule: Rule, sweep: str, why: str = "") -> Claim:
    return Claim(id_, STATEMENTS[id_], setting, theory, "", one, rule, why=why, source=_source(sweep))


def _judged(id_: str, setting: str, one: Measured, why: str, sweep: str) -> Claim:
    judged = {"judged": "not supported", "why": why, "source": _source(sweep)}
    return Claim(id_, STATEMENTS[id_], setting, "none", "", one, **judged)  # type: ignore[arg-type]


def _source(sweep: str) -> str:
    name, _, preset = sweep.partition(" ")
    how = f" --preset {preset} --store results/{name}_{preset}" if preset else ""
    return f"raysweep run sweeps/{name}.yaml{how}; python analysis/bmd_networks.py"


def printed(title: str, frame: pl.DataFrame) -> None:
    """A table as markdown."""
    print(f"\n{title}\n\n| " + " | ".join(frame.columns) + " |\n|" + "---|" * frame.width)
    for row in frame.rows():
        print("| " + " | ".join("" if cell is None else str(cell) for cell in row) + " |")


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
        for preset, name in PRESETS.items():
            of_preset(results, preset, name, rows, asked.out)
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
        printed("measures", of_measures(robust))
        of_measures_of_inputs(robust, rows)
        of_pixels(read(results, "bmd_pixels"), rows, asked.out / "pixels.png")
    rows.sort(key=lambda claim: int(claim.id[1:]))
    write_claims(asked.claims, rows)
    print(markdown(rows))
    print(summary(rows))


def of_preset(results: Path, preset: str, name: str, rows: list[Claim], out: Path) -> None:
    """H5 and H11 of a preset for GPUs, where it was run."""
    folder = f"bmd_networks_{preset}"
    if not (results / folder / "ledger").is_dir():
        rows += [Claim(id_, STATEMENTS[id_], name, why=GPU.format(preset)) for id_ in ("H5", "H11")]
        return
    frame = read(results, folder).filter(pl.col("eps") == 0)
    metrics = [*MEASURED, *(["md_marginals"] if preset == "mnist" else [])]
    one = Curves.along(frame, "width", metrics, f"{name}, {frame['n_train'][0]:,} images with 15 % random labels")
    of_curves(one, "H5", "width", f"bmd_networks {preset}", rows)
    printed(one.name, table(one, "width"))
    draw([one], out / f"networks_{preset}.png")


if __name__ == "__main__":
    main()
