"""The figure of laws-misfit.json: coverage and width of both intervals, and how often a note spoke, by design."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter
from packing_figure import COLOURS

__all__ = ["draw"]


def draw(path: Path) -> Path:
    """Draw what the JSON at `path` holds, beside it."""
    table = json.loads(path.read_text())["worlds"]["designs"]
    names = list(table)
    rows = np.arange(len(names))
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13, 0.26 * len(names) + 1.4), layout="constrained", sharey=True, width_ratios=(1.2, 1.2, 0.7)
    )
    for kind, colour, label in (("plain", COLOURS[0], "the law's own"), ("bent", COLOURS[4], "if the law may bend")):
        left.plot([table[n][kind]["coverage"] for n in names], rows, "o", color=colour, label=label, markersize=6)
        middle.plot([100 * table[n][kind]["width"] for n in names], rows, "o", color=colour, markersize=6)
    middle.plot([200 * table[n]["distance"] for n in names], rows, "|", color="0.3", markersize=11, mew=1.6)
    left.axvline(0.95, color="0.6", linewidth=1, linestyle="--", zorder=0)
    left.set(xlabel="share of worlds whose truth is inside", xlim=(-0.03, 1.03))
    left.legend(frameon=False, loc="upper left", title="95 % interval of y(10x)")
    middle.set(xlabel="median width, log(high / low), in %\n(bar: twice the distance from law to truth)", xscale="log")
    middle.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    right.barh(rows, [table[n]["fired"]["extrapolation_untrusted"] for n in names], color=COLOURS[1], height=0.6)
    right.set(xlabel="share of worlds with\nextrapolation_untrusted", xlim=(0, 1))
    left.set_yticks(rows, names, fontsize=8.5)
    left.set_ylim(len(names) - 0.4, -0.6)
    border = sum(table[n]["right"] for n in names) - 0.5
    for axis in (left, middle, right):
        axis.axhline(border, color="0.4", linewidth=0.8)
        axis.grid(True, axis="y", color="0.93")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    out = path.with_suffix(".png")
    figure.savefig(out, dpi=130)
    plt.close(figure)
    return out
