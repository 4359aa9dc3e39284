"""How the exponent in N changes when the learning rate is chosen once, and not at every N, on the digits' world.

    (the three commands of analysis/oracle_rates.py with STORE=results/oracle_scaling)
    raysweep run sweeps/oracle_scaling_once.yaml
    python analysis/oracle_once.py [--results results] [--out results/oracle]

Rates were chosen on seeds 0 and 1; all numbers are of seeds 2 to 6, each run at the time that its selection sample
prefers. The exponent is that of a power without a floor through the means. Intervals draw whole seeds, all arms
together, so that differences are paired. They are not widened for the items that seeds share (5 % at N = 6,400).

Writes once.csv and once.png.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import polars as pl
from common import Array, arguments, over_seeds, save
from matplotlib import pyplot as plt
from oracle_curves import exponent

from raysweep.reports.style import COLOURS, MARKERS, STYLE
from raysweep.store import Store
from raysweep.sweep.current import cells

EVERY, SMALL, LARGE = "chosen at every N", "chosen at the smallest N", "chosen at the largest N"


def best(store: Path) -> pl.DataFrame:
    """One row per run of a store: its best time on the selection sample."""
    rows = pl.DataFrame(cells(Store(str(store)))[0]).filter(pl.col("status") == "ok")
    return rows.sort("epistemic_select", "steps").group_by("run", maintain_order=True).first()


def arms(every: pl.DataFrame, once: pl.DataFrame) -> dict[str, tuple[Array, dict[str, Array]]]:
    """{model: (sizes, {arm: [sizes, seeds] epistemic error})}."""
    found = {}
    for (model,), own in sorted(every.group_by(["model"])):
        sizes = own["n_train"].unique().sort()
        rate = dict(own.select("n_train", "lr").unique().iter_rows())
        fixed = once.filter(pl.col("model") == model)
        values = {
            EVERY: _values(own),
            SMALL: _values(fixed.filter(pl.col("lr") == rate[sizes[0]])),
            LARGE: _values(fixed.filter(pl.col("lr") == rate[sizes[-1]])),
        }
        found[str(model)] = (sizes.to_numpy().astype(float), values)
    return found


def _values(rows: pl.DataFrame) -> Array:
    wide = rows.sort("seed").group_by("n_train", maintain_order=True).agg("epistemic").sort("n_train")
    return np.array(wide["epistemic"].to_list(), dtype=float)


def table(found: dict[str, tuple[Array, dict[str, Array]]]) -> pl.DataFrame:
    """Exponents, and how they differ from those of rates chosen at every N."""
    rows = []
    for model, (sizes, values) in found.items():
        stack = np.stack(list(values.values()))  # [arms, sizes, seeds]
        for i, arm in enumerate(values):
            value, (low, high) = over_seeds(stack[i], lambda v, n=sizes: exponent(n, v))
            row = {"model": model, "rate": arm, "exponent": float(value), "low": float(low), "high": float(high)}
            less, (lo, hi) = over_seeds(stack[[i, 0]], lambda v, n=sizes: exponent(n, v[0]) - exponent(n, v[1]))
            row |= {"difference": float(less), "difference_low": float(lo), "difference_high": float(hi)}
            rows.append(row | {"seeds": stack.shape[2], "window": f"N {sizes[0]:,.0f} to {sizes[-1]:,.0f}"})
    return pl.DataFrame(rows)


def draw(found: dict[str, tuple[Array, dict[str, Array]]], file: Path) -> None:
    fig, axes = plt.subplots(1, len(found), figsize=(3.6 * len(found), 3.6), sharey=True, squeeze=False)
    for axis, (model, (sizes, values)) in zip(axes[0], found.items(), strict=True):
        for colour, marker, (arm, own) in zip(COLOURS, MARKERS, values.items(), strict=False):
            mean, ends = over_seeds(own, lambda v: v.mean(-1), log=True)
            label = f"{arm}: {exponent(sizes, own):.2f}"
            axis.errorbar(sizes, mean, np.abs(ends - mean), color=colour, marker=marker, ms=4, label=label)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(model)
        axis.set_xlabel("training items N")
        axis.legend(fontsize=7, title="rate, and exponent", title_fontsize=7)
    axes[0, 0].set_ylabel("epistemic error (nats)")
    save(fig, file)


def main() -> None:
    given = arguments(__doc__, Path("results/oracle"))
    found = arms(best(given.results / "oracle_scaling"), best(given.results / "oracle_scaling_once"))
    rows = table(found)
    rows.write_csv(given.out / "once.csv", float_precision=4)
    with mpl.rc_context(STYLE):
        draw(found, given.out / "once.png")
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=160, float_precision=3):
        print(rows)


if __name__ == "__main__":
    main()
