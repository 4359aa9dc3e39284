"""The figure of packing.py: how much faster packs are than models one at a time, against lanes and width."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

# Okabe & Ito's palette: distinct under every common colour blindness; markers tell the lines apart once more.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")


def _sweep(path: Path, found: dict[str, Any]) -> Path:
    """Speed-up against lanes, a line a width."""
    entry = found["sweep"]
    rival = {int(w): r for w, r in entry["rival_steps_per_s"].items()}
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0, 0.98, 1))  # type: ignore[union-attr, call-arg]
    for i, width in enumerate(w for w in entry["widths"] if rival.get(w)):
        own = [(p["lanes"], p["steps_per_s"]) for p in entry["steady"] if p["width"] == width and p.get("steps_per_s")]
        if not own:
            continue
        lanes, rates = zip(*sorted(own), strict=True)
        axes.plot(
            lanes, [r / rival[width] for r in rates], color=COLOURS[i % 6], marker=MARKERS[i % 6], label=f"{width}"
        )
    axes.axhline(1.0, color="0.4", linewidth=1, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(entry["lanes"]))
    axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("lanes a pack (models trained together)")
    axes.set_ylabel("model-steps/s over Ray Tune's, steady state")
    axes.grid(True, which="major", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="width", frameon=False)
    case, packs = entry["case"], max((p.get("packs") or 1 for p in entry["steady"]), default=1)
    many = f", {packs} packs side by side" if packs > 1 else ""
    axes.set_title(
        f"MLP {case['inputs']}-w-w-10, batch {case['batch']}, {case['precision']}, {entry['device']}{many}\n"
        "Ray Tune: a process for each of plain Tune's slots, one model each; Tune's own cost left out",
        fontsize=8,
        loc="left",
    )
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=160)
    plt.close(figure)
    return target


def draw(path: Path) -> list[Path]:
    """Every figure that a result has the numbers for."""
    found = json.loads(path.read_text())
    return [_sweep(path, found)] if found.get("sweep", {}).get("steady") else []
