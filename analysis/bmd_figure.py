"""The figure and the tables of analysis/bmd.py: error and mean dimension of random features, with the theory beside.

    python analysis/bmd_figure.py [--out docs/bmd]    draws twin_peaks.png from twin_peaks.csv in that folder

twin_peaks.csv has one row per curve and scale: means over seeds with 95 % intervals, and what the theory expects.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import polars as pl
from common import over_seeds
from matplotlib import pyplot as plt

from raysweep.reports.style import COLOURS, STYLE

if TYPE_CHECKING:
    from bmd import Curves

METRICS = ("test_error", "bmd", "bmd_formula")
ENDS = ("", "_low", "_high", "_theory")
WIDTH, ITEMS = "N / P", "P / N"
NOISE = "label noise "
_RIDGES = ("no ridge", "ridge 0.01", "best ridge")
_NOISES = ("label noise 0", "label noise 0.1", "label noise 0.2", "label noise 0.1, ridge 0.01")
DRAWN = (  # title, what is varied, activation, settings
    ("tanh, N features for 300 items", WIDTH, "tanh", _RIDGES),
    ("relu, N features for 300 items", WIDTH, "relu", _RIDGES),
    ("tanh, 300 features for P items", ITEMS, "tanh", _NOISES),
)
SHOWN = (  # what is varied, loss, setting, ratios: the tables of docs/bmd.md
    (WIDTH, "square", "no ridge", (0.1, 0.5, 0.8, 0.9, 1, 1.1, 1.5, 3, 10)),
    (WIDTH, "square", "best ridge", (0.05, 0.1, 0.3, 0.5, 0.7, 1, 3, 10)),
    (WIDTH, "square", "ridge 0.01", (0.05, 0.1, 0.3, 0.5, 0.7, 1, 3, 10)),
    (WIDTH, "logistic", "ridge 0.001", (0.1, 0.3, 0.5, 1, 3)),
    (ITEMS, "square", "label noise 0.1", (0.1, 0.5, 0.9, 1, 1.1, 1.5, 2, 5, 10)),
    (ITEMS, "square", "label noise 0.1, ridge 0.01", (0.1, 0.5, 0.9, 1, 1.1, 1.5, 2, 5, 10)),
)


def rows_of(one: Curves, along: str, loss: str, activation: str, setting: str, unit: float) -> pl.DataFrame:
    """A curve's rows of twin_peaks.csv; scales are in units of the threshold N = P."""
    out = []
    for i, x in enumerate(one.x):
        row: dict[str, float | str] = {"along": along, "loss": loss, "activation": activation, "setting": setting}
        row |= {"ratio": x / unit, "ridge": float(one.ridge[i]), "seeds": float(one.seeds)}
        for metric in METRICS:
            mean, (low, high) = over_seeds(one.of[metric][i], np.mean, bounds=(0, np.inf))
            row |= {metric: float(mean), f"{metric}_low": float(low), f"{metric}_high": float(high)}
            row[f"{metric}_theory"] = float(one.theory[metric][i])
        out.append(row)
    rounded = pl.col("ratio", f"^({'|'.join(METRICS)}).*$").round(4)
    return pl.DataFrame(out).with_columns(rounded, pl.col("seeds").cast(pl.Int64))


def tables(table: pl.DataFrame) -> Iterator[str]:
    """The tables of docs/bmd.md as markdown: mean [95 % interval] / theory."""
    for along, loss, setting, ratios in SHOWN:
        part = table.filter(along=along, loss=loss, setting=setting).filter(pl.col("ratio").is_in(ratios))
        names = ["activation", along, *(["ridge"] if part["ridge"].n_unique() > 1 else [])]
        lines = [[*names, "test error", "BMD by flips", "BMD by the formula on the trained weights"]]
        for row in part.sort(pl.col("activation") == "relu", "ratio").iter_rows(named=True):
            cells = [_cell(*(row[f"{metric}{end}"] for end in ENDS)) for metric in METRICS]
            known = {"activation": row["activation"], along: f"{row['ratio']:g}", "ridge": f"{row['ridge']:g}"}
            lines.append([*(known[name] for name in names), *cells])
        lines.insert(1, ["---"] * len(lines[0]))
        yield "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- ", "|---").replace("--- |", "---|")


def _cell(mean: float, low: float, high: float, theory: float) -> str:
    return f"{mean:.3f} [{low:.3f}, {high:.3f}] / {theory:.3f}"


def draw(table: pl.DataFrame) -> plt.Figure:
    """Test error above, mean dimension below: against the width of two activations, and against the training set."""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(2, len(DRAWN), figsize=(3.6 * len(DRAWN), 5.6), sharex="col", layout="constrained")
        for (above, below), (title, along, activation, settings) in zip(axes.T, DRAWN, strict=True):
            for colour, setting in zip(COLOURS, settings, strict=False):
                own = table.filter(along=along, loss="square", activation=activation, setting=setting).sort("ratio")
                for axis, metric in ((above, "test_error"), (below, "bmd")):
                    mean, low, high, theory = (own[f"{metric}{end}"] for end in ENDS)
                    axis.plot(own["ratio"], theory, color=colour, lw=1)
                    marks = {"fmt": "o", "ms": 2.5, "lw": 1, "color": colour, "label": setting.removeprefix(NOISE)}
                    axis.errorbar(own["ratio"], mean, (mean - low, high - mean), **marks)
            for axis in (above, below):
                axis.axvline(1, color="0.7", lw=0.8, ls=":", zorder=0)
            above.set(title=title, xscale="log")
            below.set(xlabel=along)
            if along == ITEMS:
                below.legend(title=f"{NOISE}\n(lines: theory)", title_fontsize=8, fontsize=8, loc="upper left")
            else:
                above.legend(title="lines: theory", title_fontsize=8, fontsize=8, loc="upper right")
        axes[0, 0].set_ylabel("test error")
        axes[1, 0].set_ylabel("Boolean mean dimension")
    return figure


def save(table: pl.DataFrame, out: Path) -> None:
    """Write twin_peaks.csv and twin_peaks.png; the picture names the hash of its table."""
    file = out / "twin_peaks.csv"
    table.write_csv(file)
    figure = draw(table)
    figure.savefig(file.with_suffix(".png"), dpi=90, metadata={"Description": hash_of(file)})
    plt.close(figure)


def hash_of(file: Path) -> str:
    return f"SHA-256 of {file.name}: {hashlib.sha256(file.read_bytes()).hexdigest()}"


def main() -> None:
    """Draw the figure from its table, and print the tables of docs/bmd.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/bmd"))
    out = parser.parse_args().out
    mpl.use("Agg")
    table = pl.read_csv(out / "twin_peaks.csv")
    save(table, out)
    print(*tables(table), sep="\n\n")


if __name__ == "__main__":
    main()
