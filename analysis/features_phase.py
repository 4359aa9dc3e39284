"""The phase diagram in capacity alpha and source beta: exponents in time beside the theory, lazy and rich."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from common import save, window_of
from features_common import claim, computed, falls, within
from matplotlib import pyplot as plt

from raysweep.claims import Claim, Rule
from raysweep.theory.exponents import time_exponent

LATE = window_of("features_phase")


def of_phase(frame: pl.DataFrame, rows: list[Claim], figure: Path) -> None:
    """The largest deviation from the theory over the plane, and its maps."""
    alone = within(frame.filter((pl.col("width") == 0) & pl.col("gamma").is_in([0.0, 1.0])), LATE)
    t = np.unique(alone["t"].to_numpy())
    alphas, betas = (np.sort(alone[name].unique().to_numpy()) for name in ("alpha", "beta"))
    fig, axes = plt.subplots(2, 3, figsize=(11, 6.4), sharex=True, sharey=True)
    for row, gamma in zip(axes, (0.0, 1.0), strict=True):
        loss = np.empty((len(t), len(betas), len(alphas)))
        for (alpha, beta), part in alone.filter(pl.col("gamma") == gamma).group_by("alpha", "beta"):
            loss[:, np.searchsorted(betas, beta), np.searchsorted(alphas, alpha)] = part.sort("t")["loss"].to_numpy()
        rich = gamma > 0
        found = falls(t, loss)
        known = np.array([time_exponent(b, rich) for b in betas])[:, None] + 0 * found
        name = "rich (gamma 1)" if rich else "lazy"
        one = computed("t", t, lambda part, y=loss, e=known: np.abs(falls(t[part], y[part]) - e).max())
        setting = f"largest deviation from the theory over {found.size} points of (alpha, beta); exact, {name}"
        rows.append(claim("H1", setting, 0.0, one, Rule("below", 0.03), "phase"))
        for axis, values, title in zip(
            row, (found, known, found - known), (f"measured, {name}", f"theory, {name}", "difference"), strict=True
        ):
            limits = {"vmin": 0.0, "vmax": 1.8} if title != "difference" else {"vmin": -0.1, "vmax": 0.1}
            cmap = "viridis" if title != "difference" else "RdBu_r"
            drawn = axis.pcolormesh(alphas, betas, values, shading="nearest", cmap=cmap, **limits)
            axis.axhline(1, color="w" if title != "difference" else "k", lw=0.8, ls="--")
            fig.colorbar(drawn, ax=axis)
            axis.set_title(title, fontsize=9)
            axis.grid(False)
        row[0].set_ylabel("source beta")
    for axis in axes[1]:
        axis.set_xlabel("capacity alpha")
    save(fig, figure)
