"""The figure of packing.py: how much faster packs are than processes side by side, against lanes and width."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

# Okabe & Ito's palette: distinct under every common colour blindness; markers tell the lines apart once more.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")


def _sweep(path: Path, found: dict[str, Any]) -> Path:
    """Speed-up against lanes, a line a width; points that were not measured are absent."""
    entry = found["sweep"]
    rival = {int(w): r for w, r in entry["rival_steps_per_s"].items()}
    figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    measured: set[int] = set()
    for i, width in enumerate(w for w in entry["widths"] if rival.get(w)):
        own = {p["lanes"]: p["steps_per_s"] for p in entry["steady"] if p["width"] == width and p.get("steps_per_s")}
        if not own:
            continue
        measured |= own.keys()
        lanes = sorted(own)
        look = {"color": COLOURS[i % 6], "marker": MARKERS[i % 6], "markersize": 6.5}
        axes.plot(lanes, [own[n] / rival[width] for n in lanes], label=f"{width}", **look)
    axes.axhline(1.0, color="0.4", linewidth=1, linestyle="--", zorder=1)
    axes.annotate("equal speed", (1, 1), (0, 3), axes.get_yaxis_transform(), "offset points", ha="right", color="0.4")
    axes.set_axisbelow(True)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(measured)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
    axes.set_xlabel("lanes in a pack (models trained together, log scale)")
    axes.set_ylabel("speed-up at steady state\n(ratio of model-steps/s, log scale)")
    axes.grid(True, which="major", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(title="width (units)", frameon=False, loc="outside right center")
    case, packs = entry["case"], max((p.get("packs") or 1 for p in entry["steady"]), default=1)
    ours = "one raysweep pack" if packs == 1 else f"{packs} raysweep packs"
    shape = "-".join([f"{case['inputs']}", *["width"] * case["depth"], "10"])
    axes.set_title(
        f"Speed-up of {ours} over processes side by side, {entry['device']}", fontsize=11, loc="left", pad=34
    )
    told = (
        f"MLP {shape}, batch {case['batch']}, {case['precision']}. Processes: one model in each,\n"
        "as many at once as plain Ray Tune has slots, without Ray Tune's own cost"
    )
    axes.annotate(told, (0, 1), (0, 7), "axes fraction", "offset points", fontsize=8.5, color="0.3", va="bottom")
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=160)
    plt.close(figure)
    return target


def draw(path: Path) -> list[Path]:
    """Every figure that a result has the numbers for."""
    found = json.loads(path.read_text())
    entry = found.get("sweep", {})
    measured = any(p.get("steps_per_s") for p in entry.get("steady", ())) and any(entry["rival_steps_per_s"].values())
    return [_sweep(path, found)] if measured else []
