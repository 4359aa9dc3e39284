"""The figure of a forecast: the spectrum with the target's power beyond it, and the learning curves they predict."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from raysweep.forecast import Forecast
from raysweep.reports.style import COLOURS, PANEL, STYLE

__all__ = ["forecast_figure"]


def forecast_figure(made: Forecast) -> Figure:
    """C(k) against lambda_k with the window of the fit on the left, loss against time on the right."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(2 * PANEL[0], PANEL[1]), layout="constrained")
        values, beyond = made.spectrum.values / made.first, made.spectrum.beyond
        good = (values > 0) & (beyond > 0)
        left.loglog(values[good], beyond[good], ".", color=COLOURS[0], markersize=3, label="measured")
        low, high = made.window
        ends = values[[low - 1, high - 1]]
        middle = np.sqrt(ends.prod())
        level = np.interp(np.log(middle), np.log(values[good][::-1]), np.log(beyond[good][::-1]))
        left.loglog(
            ends, np.exp(level) * (ends / middle) ** made.beta.value,
            color=COLOURS[1], label=f"beta = {made.beta.value:.3g}, k = {low} to {high}",
        )  # fmt: skip
        left.set(xlabel="eigenvalue over the largest", ylabel="target's power in it and smaller ones")
        for loss, colour, name in ((made.lazy, COLOURS[0], "lazy"), (made.rich, COLOURS[1], "rich")):
            known = made.times <= made.measured_to
            right.loglog(made.times[known], loss[known], color=colour, label=name)
            right.loglog(made.times, loss, ":", color=colour)
        right.set(xlabel="lambda_1 t", ylabel="predicted loss", title="dotted: extrapolated")
        left.set_title(f"{made.task}, {made.architecture.kind}, {made.items:,} items")
        for axes in (left, right):
            axes.legend()
    return figure
