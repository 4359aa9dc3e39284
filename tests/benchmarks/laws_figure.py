"""The figure of laws.json: accuracy against cost on the curves, the joint law's search, and the held-out budgets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from packing_figure import COLOURS, MARKERS

__all__ = ["draw"]

_OFFSETS = {"m4": (-20, 3), "broken": (-18, -14), "rival: BNSL procedure": (-40, -15)}  # of labels that would meet


def draw(path: Path) -> Path:
    """Draw what the JSON at `path` holds, beside it."""
    found = json.loads(path.read_text())
    panels = [(verb, panel) for verb, panel in _PANELS.items() if verb in found]
    figure, axes = plt.subplots(1, len(panels), figsize=(5.4 * len(panels), 4.6), layout="constrained", squeeze=False)
    for (verb, panel), ax in zip(panels, axes[0], strict=True):
        panel(ax, found[verb])
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    out = path.with_suffix(".png")
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return out


def _curves(ax: Axes, part: dict[str, Any]) -> None:
    """Each form's mean error on the largest domain against its cost."""
    for i, (name, one) in enumerate(part["results"].items()):
        x, y = one["cpu_s_mean"], one["domains"]["IC"]["mean"]
        chosen = name == "chosen"
        marker, colour = ("*", COLOURS[4]) if chosen else (MARKERS[i % 6], COLOURS[0] if "rival" not in name else "0.4")
        ax.plot(x, y, marker, color=colour, markersize=14 if chosen else 7, zorder=3)
        ax.annotate(
            name.removeprefix("rival: "), (x, y), _OFFSETS.get(name, (6, 5)), textcoords="offset points", fontsize=8.5
        )
    goal = part["references"]["reference shifted"]["IC"]
    ax.axhline(goal, color="0.5", linewidth=1, linestyle="--", zorder=1)
    ax.annotate("goals", (1, goal), (0, 3), ax.get_yaxis_transform(), "offset points", ha="right", color="0.4")
    ax.axvline(0.05, color="0.5", linewidth=1, linestyle="--", zorder=1)
    ax.set_xscale("log")
    ax.margins(x=0.2)
    ax.set_ylim(0, 1.1 * max(one["domains"]["IC"]["mean"] for one in part["results"].values()))
    ax.set_xlabel("CPU-seconds a fit (log scale)")
    ax.set_ylabel("mean RMSE of log loss beyond the fitted scales")
    ax.set_title("72 learning curves of images", fontsize=11, loc="left")


def _joint(ax: Axes, part: dict[str, Any]) -> None:
    """CPU-seconds to the optimum and for the draws."""
    rivals, starts = part["rivals"], part["starts_of_the_search"]
    bars = [
        ("raysweep", part["ours"]["cpu_s"], COLOURS[4]),
        (f"raysweep,\n{part['bootstrap']['draws']:,} draws", part["bootstrap"]["cpu_s"], COLOURS[1]),
        (f"{starts:,} starts,\nanalytic gradient", rivals["analytic"]["cpu_s_all_starts"], "0.6"),
        (f"{starts:,} starts,\nnumeric gradient", rivals["numeric"]["cpu_s_all_starts"], "0.4"),
    ]
    for i, (_, value, colour) in enumerate(bars):
        ax.barh(i, value, color=colour)
        ax.annotate(f"{value:,.3g} s", (value, i), (4, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set_xlim(right=max(b[1] for b in bars) * 12)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
    ax.set_xlabel("CPU-seconds of one core (log scale)")
    ax.set_title(f"Joint law, {part['runs']} runs: to the optimum", fontsize=11, loc="left")


def _tables(ax: Axes, part: dict[str, Any]) -> None:
    """Error at held-out budgets of each table, by loss."""
    names = list(part["results"])
    for i, (loss, label) in enumerate((("squares", "squared"), ("huber", "Huber, 1e-3"))):
        points = [(part["results"][n][loss].get("mean_relative_error"), k) for k, n in enumerate(names)]
        shown = [(100 * e, k) for e, k in points if e is not None]
        ax.plot(*zip(*shown, strict=True), MARKERS[i], color=COLOURS[i], label=label, markersize=6.5)
    ax.set_yticks(range(len(names)), [n.replace("__", " ").replace("_", " ") for n in names], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.grid(True, axis="y", color="0.92")
    ax.set_xlabel("mean relative error of the loss (%)")
    ax.legend(frameon=False, title="log residuals", fontsize=9)
    ax.set_title("Joint law without the largest 30 % of budgets,\nerror at those", fontsize=11, loc="left")


_PANELS = {"curves": _curves, "joint": _joint, "tables": _tables}
