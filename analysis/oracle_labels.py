"""Exact soft labels against hard ones (arXiv 2602.00315, section 4.2): claim H8 on the digits' world.

    raysweep run sweeps/oracle_labels.yaml
    python analysis/oracle_labels.py [--results results] [--out results/oracle]

Five kinds of labels: drawn from the posterior (`hard`), its most probable class (`argmax`), the posterior itself
(`soft`), drawn and smoothed to the posterior's mean entropy (`smoothed`), and the posterior tempered to r^(1/2)
(`tempered`). For each kind, size and difficulty the learning rate and the training time with the best mean on the
selection sample are taken: the highest accuracy where accuracy is reported, the smallest epistemic error for all else.
What is reported is measured on the evaluation sample. Seeds draw the
same items for every kind, so differences are paired, and intervals draw whole seeds.

Writes the claims analysis/claims/oracle_labels.csv (or --claims), labels.csv with every mean, and a figure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from common import Array, arguments, measured, over_seeds, save
from matplotlib import pyplot as plt

from raysweep.claims import Claim, Rule, summary, write_claims
from raysweep.reports.style import COLOURS, STYLE
from raysweep.store import Store
from raysweep.sweep.current import cells

SOURCE = "raysweep run sweeps/oracle_labels.yaml; python analysis/oracle_labels.py"
H8 = "soft labels beat hard labels"
KINDS = ("hard", "argmax", "smoothed", "soft", "tempered")
METRICS = ("accuracy", "epistemic", "ece", "posterior_gap")
Best = dict[tuple[float, str, int], dict[str, Array]]


def kind() -> pl.Expr:
    """The kind of labels of a row."""
    return (
        pl.when(pl.col("label_smoothing") > 0)
        .then(pl.lit("smoothed"))
        .when(pl.col("label_temperature") != 1)
        .then(pl.lit("tempered"))
        .otherwise(pl.col("labels"))
        .alias("kind")
    )


def best(frame: pl.DataFrame) -> Best:
    """{(temperature, kind, N): {metric: [seeds]}} at the learning rate and time that the selection sample prefers."""
    found: Best = {}
    for (temperature, name, n), part in frame.group_by(["temperature", "kind", "n_train"]):
        means = part.group_by("lr", "steps").agg(pl.col("epistemic_select", "accuracy_select").mean(), pl.len())
        means = means.filter(pl.col("len") == pl.col("len").max())
        at = (float(str(temperature)), str(name), int(str(n)))
        found[at] = {}
        for metric in METRICS:
            by = "accuracy_select" if metric == "accuracy" else "epistemic_select"
            # Accuracies tie: of equal ones the smaller rate, then the shorter time.
            order = means.sort(by, "lr", "steps", descending=[metric == "accuracy", False, False])
            chosen = order.row(0, named=True)
            own = part.filter((pl.col("lr") == chosen["lr"]) & (pl.col("steps") == chosen["steps"])).sort("seed")
            found[at][metric] = own[metric].to_numpy()
    return found


def gain(found: Best, temperature: float, sizes: list[int], metric: str, name: str = "soft") -> Array:
    """[sizes, seeds] a metric under a kind of labels minus that under hard ones."""
    return np.stack([found[temperature, name, n][metric] - found[temperature, "hard", n][metric] for n in sizes])


def claims(found: Best, aleatoric: dict[float, float]) -> list[Claim]:
    """H8 at each difficulty."""
    rows: list[Claim] = []
    sizes = sorted({n for _, _, n in found})
    for temperature, nats in aleatoric.items():
        seeds = len(found[temperature, "hard", sizes[0]]["accuracy"])
        world, window = f"digits' world, aleatoric {nats:.2f} nats", f"N {sizes[0]} to {sizes[-1]:,}"

        def add(
            setting: str,
            paper: float | str,
            values: Array,
            statistic: Any,
            rule: Rule,
            why: str = "",
            *,
            log: bool = False,
            world: str = world,
            window: str = window,
            seeds: int = seeds,
        ) -> None:
            value, ends = over_seeds(values, statistic, log=log)
            rows.append(
                Claim("H8", H8, f"{world}: {setting}", "", paper, measured(window, seeds, value, ends), rule, why=why,
                      source=SOURCE)
            )  # fmt: skip

        accuracy = gain(found, temperature, sizes, "accuracy")
        add("accuracy of soft minus hard labels, mean over sizes", "", accuracy, np.mean, Rule("above", 0.0))
        add(
            "the largest gain in accuracy over sizes, in points", 1.0, 100 * accuracy,
            lambda v: float(v.mean(1).max()), Rule("near paper", 0.5),
            "labels of this world are far more ambiguous than AFHQ's, at .012 nats",
        )  # fmt: skip
        ece = gain(found, temperature, sizes, "ece")
        add("calibration error of soft minus hard labels, mean over sizes", "", ece, np.mean, Rule("below", 0.0))
        gap = gain(found, temperature, sizes, "posterior_gap")
        what = "calibration without bins (E|max q - r|) of soft minus hard labels, mean over sizes"
        add(what, "", gap, np.mean, Rule("below", 0.0))
        argmax = accuracy - gain(found, temperature, sizes, "accuracy", "argmax")
        what = "accuracy of soft labels minus the most probable class, mean over sizes"
        add(what, "", argmax, np.mean, Rule("above", 0.0), "the paper's hard labels are the most probable class")
        ratios = np.stack(
            [
                np.log(found[temperature, "soft", n]["epistemic"]) - np.log(found[temperature, "hard", n]["epistemic"])
                for n in sizes
            ]
        )
        what = "epistemic error of soft over hard labels, geometric mean over sizes"
        add(what, "", ratios, lambda v: float(np.exp(v.mean())), Rule("below", 1.0), log=True)
        smooth = np.stack(
            [found[temperature, "soft", n]["accuracy"] - found[temperature, "smoothed", n]["accuracy"] for n in sizes]
        )
        what = "accuracy of soft labels minus smoothed hard ones of equal mean entropy, mean over sizes"
        add(what, "", smooth, np.mean, Rule("above", 0.0))
    return rows


def table(found: Best) -> pl.DataFrame:
    """Mean and interval of every metric."""
    rows = []
    for (temperature, name, n), values in sorted(found.items()):
        row: dict[str, object] = {"temperature": temperature, "labels": name, "n_train": n}
        for metric, own in values.items():
            value, (low, high) = over_seeds(own, np.mean)
            row |= {metric: float(value), f"{metric}_low": float(low), f"{metric}_high": float(high)}
        rows.append(row)
    return pl.DataFrame(rows)


def draw(found: Best, aleatoric: dict[float, float], file: Path) -> None:
    """Accuracy, epistemic error and calibration error against N, one column per difficulty."""
    fig, axes = plt.subplots(3, len(aleatoric), figsize=(3.4 * len(aleatoric), 8), sharex=True, squeeze=False)
    sizes = sorted({n for _, _, n in found})
    for column, (temperature, nats) in enumerate(aleatoric.items()):
        axes[0, column].set_title(f"aleatoric {nats:.2f} nats")
        for row, metric in enumerate(("accuracy", "epistemic", "ece")):
            axis = axes[row, column]
            for colour, name in zip(COLOURS, KINDS, strict=False):
                axis.plot(sizes, [found[temperature, name, n][metric].mean() for n in sizes], color=colour, label=name)
            axis.set_xscale("log")
            if row:
                axis.set_yscale("log")
        axes[2, column].set_xlabel("training items N")
    for row, label in enumerate(("accuracy", "epistemic error (nats)", "expected calibration error")):
        axes[row, 0].set_ylabel(label)
    axes[0, 0].legend(fontsize=7, title="labels", title_fontsize=7)
    save(fig, file)


def main() -> None:
    given = arguments(__doc__, Path("results/oracle"))
    frame = pl.DataFrame(cells(Store(str(given.results / "oracle_labels")))[0]).filter(pl.col("status") == "ok")
    frame = frame.with_columns(kind())
    last = frame.filter(pl.col("steps") == pl.col("steps").max())  # measured on the whole evaluation sample
    nats = last.group_by("temperature").agg(pl.col("aleatoric").mean()).sort("temperature")
    aleatoric = dict(zip(nats["temperature"].to_list(), nats["aleatoric"].to_list(), strict=True))
    found = best(frame)
    rows = claims(found, aleatoric)
    write_claims(given.claims / "oracle_labels.csv", rows)
    table(found).write_csv(given.out / "labels.csv", float_precision=5)
    with mpl.rc_context(STYLE):
        draw(found, aleatoric, given.out / "labels.png")
    print(summary(rows))


if __name__ == "__main__":
    main()
