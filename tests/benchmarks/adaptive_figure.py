"""The figure of adaptive.json: cost up to one width by design, coverage, and how often a bent law is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from packing_figure import COLOURS, MARKERS

__all__ = ["draw"]

_DESIGNS = (
    "full grid",
    "random subset",
    "without two top scales",
    "V-optimal",
    "adaptive",
    "oracle, one run of every scale",
    "c-optimal, a bound",
)


def draw(path: Path) -> Path:
    """Draw what the JSON at `path` holds, beside it."""
    found = json.loads(path.read_text())
    figure, axes = plt.subplots(1, 3, figsize=(15.5, 4.4), layout="constrained")
    plain = [c for c in found["cases"] if c["seeds_of_full_grid"] == 32 and c["seeds_in_grid"] > 1e6]
    _costs(axes[0], [c for c in plain if not c["world"]["growth"]])
    _covered(axes[1], found["cases"])
    _bent(axes[2], found["bent"])
    for ax in axes:
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    out = path.with_suffix(".png")
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return out


def _costs(ax: Axes, cases: list[dict[str, Any]]) -> None:
    wide = 0.8 / len(cases)
    for i, case in enumerate(cases):
        shares = [case["cost"][name] / case["cost"]["full grid"] for name in _DESIGNS]
        label = f"{case['world']['law']}, cost ~ {case['cost_as']}"
        ax.bar(np.arange(len(_DESIGNS)) + i * wide, shares, wide, color=COLOURS[i], label=label)
    ax.set_yscale("log")
    ax.set_xticks(np.arange(len(_DESIGNS)) + 0.4 - wide / 2, [name.replace(" ", "\n") for name in _DESIGNS], fontsize=8)
    ax.set_ylabel("FLOPs up to the same interval, full grid = 1")
    ax.set_title("Cost of one interval of alpha (32 seeds on the full grid)", fontsize=11, loc="left")
    ax.legend(frameon=False, fontsize=8)


def _covered(ax: Axes, cases: list[dict[str, Any]]) -> None:
    ax.axhspan(0.93, 0.98, color="0.92", zorder=0)
    for i, law in enumerate(("power", "power+floor")):
        mine = [c for c in cases if c["world"]["law"] == law]
        x, y = [1 / c["share_of_full_grid"] for c in mine], [c["coverage"] for c in mine]
        ax.plot(x, y, MARKERS[i], color=COLOURS[i], label=law)
    ax.axhline(0.95, color="0.5", linewidth=1, linestyle="--")
    ax.set_ylim(0.88, 1.0)
    ax.set_xlabel("full grid's FLOPs / adaptive FLOPs")
    ax.set_ylabel("coverage of the final interval")
    ax.set_title("Coverage when the sweep stops itself", fontsize=11, loc="left")
    ax.legend(frameon=False, fontsize=8)


def _bent(ax: Axes, bends: list[dict[str, Any]]) -> None:
    kinds = sorted({(b["cost_as"], b["seeds_of_full_grid"]) for b in bends})
    for i, (cost, seeds) in enumerate(kinds):
        mine = [b for b in bends if (b["cost_as"], b["seeds_of_full_grid"]) == (cost, seeds)]
        x, y = [b["gap"] for b in mine], [b["noticed"] for b in mine]
        ax.plot(
            x, y, f"{MARKERS[i]}-", color=COLOURS[i % len(COLOURS)], label=f"cost ~ {cost}, {seeds} seeds", markersize=4
        )
    ax.axhline(0.9, color="0.5", linewidth=1, linestyle="--")
    ax.axvline(1.96, color="0.7", linewidth=1)
    ax.axvline(3.92, color="0.7", linewidth=1)
    ax.set_xlim(0, 8)
    ax.set_xlabel("error of the straight law at the largest scale (sd of a run)")
    ax.set_ylabel("share of worlds in which the bend is noticed")
    ax.set_title("Bent laws", fontsize=11, loc="left")
    ax.legend(frameon=False, fontsize=8)
