"""The README's picture, docs/demo.png, from docs/demo.csv: one row per run of sweeps/demo.yaml, at its best snapshot.

Run: .venv/bin/python docs/figures.py [STORE]   (`make figures`; with a store, e.g. results/demo after `make demo`, the
table is made from it first)
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from raysweep.laws import Fit, fit

HERE = Path(__file__).parent
TABLE, PICTURE = HERE / "demo.csv", HERE / "demo.png"
RUN = ["labels", "width", "n_train", "seed"]
COLOURS, SHAPES = {32: "#0072b2", 64: "#d55e00"}, {32: "o", 64: "s"}
STYLE = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
}


def table_of(store: Path) -> pl.DataFrame:
    """One row per run: its snapshot of the lowest epistemic error on `_select`, as the fits of a store take it."""
    cells = pl.read_parquet(store / "cells.parquet").filter(status="ok")
    best = cells.sort("epistemic_select", "steps").unique(RUN, keep="first").sort(RUN)
    return best.select(*RUN, "steps", pl.col("epistemic", "epistemic_se", "total", "aleatoric").round_sig_figs(7))


def law_of(table: pl.DataFrame) -> Fit:
    """The first fit of sweeps/demo.yaml: seeds are the independent clusters, as in a store."""
    return fit(table, "power", x="n_train", y="epistemic", by=["width", "labels"], run="seed", se="epistemic_se")


def draw(table: pl.DataFrame, law: Fit) -> Figure:
    """Epistemic error against training items with the fitted laws, one panel for each kind of label."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
        for axis, labels in zip(axes, ("hard", "soft"), strict=True):
            for width in COLOURS:
                rows, (group,) = table.filter(labels=labels, width=width), law.group(width=width, labels=labels)
                colour, shape = COLOURS[width], SHAPES[width]
                x = np.geomspace(*group.window[0], 100)
                low, high = group.interval("alpha")
                name = f"width {width}: alpha = {group.params['alpha']:.3f} [{low:.3f}, {high:.3f}]"
                axis.plot(x, group.predict(x), color=colour, lw=1.8, label=name)
                axis.fill_between(x, *group.band(x).T, color=colour, alpha=0.15, lw=0)
                axis.plot(rows["n_train"], rows["epistemic"], shape, color=colour, ms=3.5, alpha=0.45, mew=0)
                mean = rows.group_by("n_train").agg(pl.col("total").mean()).sort("n_train")
                axis.plot(mean["n_train"], mean["total"], shape, ls="-", color=colour, mfc="white", ms=4.5, lw=0.8)
            floor = table.filter(labels=labels).group_by("n_train").agg(pl.col("aleatoric").mean()).sort("n_train")
            axis.plot(floor["n_train"], floor["aleatoric"], ":", color="#888888", lw=1.2, label="aleatoric")
            axis.set(title=f"{labels} labels", xlabel="training items N", xscale="log", yscale="log")
            axis.legend(fontsize=8.5)
        axes[0].set_ylabel("epistemic error (hollow: total loss), nats")
    return figure


def words(figure: Figure) -> list[str]:
    """What the legends say; the picture carries it, too, so that its numbers can be read back."""
    return [text.get_text() for axis in figure.axes for text in axis.get_legend().get_texts()]


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=150, metadata={"Description": "\n".join(words(figure))})


if __name__ == "__main__":
    if sys.argv[1:]:
        table_of(Path(sys.argv[1])).write_csv(TABLE)
    cells = pl.read_csv(TABLE)
    picture = draw(cells, law_of(cells))
    save(picture, PICTURE)
    print("\n".join(words(picture)))
