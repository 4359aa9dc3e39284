"""The figure of analysis/oracle.py: losses, and the distance from the Bayes classifier, against N in every world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from common import save
from matplotlib import pyplot as plt

from raysweep.reports.style import COLOURS, MARKERS, STYLE

if TYPE_CHECKING:
    from oracle_curves import Curves


def draw(found: Sequence[Curves], names: Mapping[str, str], file: Path) -> None:
    """A column per world: losses above; below, accuracy under the Bayes classifier's."""
    worlds, models = (
        list(dict.fromkeys(each)) for each in zip(*((one.world, one.model) for one in found), strict=True)
    )
    looks = dict(zip(sorted(models), zip(COLOURS, MARKERS, strict=False), strict=False))  # the same in every world
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(2, len(worlds), figsize=(4.6 * len(worlds), 6.4), sharex="col", squeeze=False)
        for column, world in enumerate(worlds):
            above, below = axes[:, column]
            own = [one for one in found if one.world == world]
            for one in own:
                colour, marker = looks[one.model]
                line = {"color": colour, "marker": marker, "ms": 4}
                epistemic, total = (one.values[m].mean(1) for m in ("epistemic", "total"))
                above.errorbar(one.sizes, epistemic, _bars(one, one.values["epistemic"]), label=one.model, **line)
                above.plot(one.sizes, total, ls="--", mfc="white", **line)
                gap = 100 * one.values["excess_error"]
                below.errorbar(one.sizes, gap.mean(1), _bars(one, gap), **line)
            above.axhline(own[0].values["aleatoric"].mean(), color="0.4", ls=":")
            above.set_yscale("log")
            above.set_title(names[world])
            below.axhline(0, color="0.6", lw=0.8)
            below.set_xscale("log")
            below.set_xlabel("training items N")
        axes[0, 0].set_ylabel("nats")
        axes[1, 0].set_ylabel("accuracy below Bayes (points)")
        lines = axes[0, -1].get_legend_handles_labels()
        axes[1, -1].legend(*lines, title="filled: epistemic; hollow: total;\ndotted: aleatoric", title_fontsize=7)
        save(fig, file)


def _bars(one: Curves, values: np.ndarray) -> np.ndarray:
    """[2, sizes] lengths of error bars of means."""
    found = []
    for n, own in zip(one.sizes, values, strict=True):
        value, ends = one.over_seeds(own, np.mean, float(n))
        found.append(np.abs(ends - value))
    return np.array(found).T
