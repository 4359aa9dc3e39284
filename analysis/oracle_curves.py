"""Curves of a scaling sweep's second stage, one model in one world each, and what analysis/oracle.py reads off them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from common import Array, over_seeds

METRICS = ("total", "aleatoric", "epistemic", "accuracy", "bayes_accuracy", "excess_error")
FLAT = 0.02  # local slope below which a curve counts as flat
Ends = tuple[float, float]
Statistic = Callable[[Array], Any]


@dataclass(frozen=True)
class Curves:
    """The runs of one model in one world.

    Attributes:
        values: {metric: [sizes, seeds]}.
        rates, steps: [sizes] learning rates, and mean times of the chosen snapshots.
        horizon: The last time that was read.
        pool: Items that all seeds draw from.
        frame: One row per run, for fits.
    """

    world: str
    model: str
    sizes: Array
    values: dict[str, Array]
    rates: Array
    steps: Array
    horizon: int
    pool: int
    frame: pl.DataFrame

    @property
    def seeds(self) -> int:
        return int(self.values["total"].shape[1])

    @property
    def still_falls(self) -> bool:
        """Whether every seed of the largest N is best at the last time: more training would lower its error."""
        return bool(self.steps[-1] == self.horizon)

    def widening(self, n: float) -> float:
        """By how much intervals up to a size must be widened, because seeds share items."""
        shared = n / self.pool
        return math.sqrt(1 + self.seeds * shared / (1 - shared))

    def over_seeds(
        self, values: Array, statistic: Statistic, n: float, *, log: bool = False, within: Ends | None = None
    ) -> tuple[Any, Array]:
        """As `common.over_seeds`, widened for sizes up to n."""
        value, ends = over_seeds(values, statistic, log=log)
        return value, widened(value, ends, self.widening(n), log=log, within=within)


def widened(value: Any, ends: Any, factor: float, *, log: bool = False, within: Ends | None = None) -> Array:
    """An interval [2, ...] whose ends are `factor` times as far from the value."""
    centre, around = (np.log(v) if log else np.asarray(v) for v in (value, ends))
    found = centre + factor * (around - centre)
    found = np.exp(found) if log else found
    return found if within is None else np.clip(found, *within)


def curves(world: str, rows: pl.DataFrame) -> list[Curves]:
    """The second stage's runs, at their best times on the selection sample.

    Raises:
        ValueError: there are several learning rates for one model and size: it is the first stage.
    """
    best = rows.sort("epistemic_select", "steps").group_by("run", maintain_order=True).first()
    found = []
    for (model,), own in sorted(best.group_by(["model"])):
        if own.select("n_train", "lr").unique().height > own["n_train"].n_unique():
            raise ValueError(
                f"{world}: must hold one rate per size of {model}. Run the second stage, STORE/chosen.yaml"
            )
        seeds = own.group_by("seed").len().filter(pl.col("len") == own["n_train"].n_unique())["seed"].sort()
        own = own.filter(pl.col("seed").is_in(seeds.implode())).sort("n_train", "seed")
        shape = own["n_train"].n_unique(), len(seeds)
        values = {name: own[name].cast(pl.Float64).to_numpy().reshape(shape) for name in METRICS}
        sizes, rates, steps = (
            own[name].cast(pl.Float64).to_numpy().reshape(shape) for name in ("n_train", "lr", "steps")
        )
        frame = own.select(pl.col("n_train", "epistemic", "seed").cast(pl.Float64))
        horizon, pool = rows.filter(model=model)["steps"].max(), int(own["pool"][0])
        found.append(
            Curves(world, str(model), sizes[:, 0], values, rates[:, 0], steps.mean(1), int(horizon), pool, frame)  # type: ignore[arg-type]
        )
    return found


def exponent(sizes: Array, values: Array) -> Array:
    """Least-squares exponent -d log y / d log N of values [sizes, seeds], with no floor."""
    u = np.log(sizes) - np.log(sizes).mean()
    return np.asarray(-(u @ np.log(values).mean(-1)) / (u @ u))


def missed(sizes: Array, values: Array) -> float:
    """Log of the measured over the predicted value at the largest N, by a power fitted to the smaller ones."""
    y, x = np.log(values).mean(-1), np.log(sizes)
    line = np.polyfit(x[:-1], y[:-1], 1)
    return float(y[-1] - np.polyval(line, x[-1]))


def local_slopes(sizes: Array, values: Array) -> Array:
    """[sizes - 1] -d log y / d log N between neighbouring sizes, of means over seeds."""
    return np.asarray(-np.diff(np.log(values.mean(-1))) / np.diff(np.log(sizes)))


def crossing(sizes: Array, above: Array, below: Array) -> float | None:
    """The N at which one curve [sizes] falls below another, linearly in logarithms; None where it does not."""
    gap = np.log(above) - np.log(below)
    down = np.flatnonzero((gap[:-1] > 0) & (gap[1:] <= 0))
    if not len(down):
        return None
    i = int(down[-1])
    share = gap[i] / (gap[i] - gap[i + 1])
    return float(np.exp(np.log(sizes[i]) + share * np.log(sizes[i + 1] / sizes[i])))


def flat_from(sizes: Array, values: Array) -> int | None:
    """The first interval between sizes in which the local slope is below FLAT; None where there is none."""
    flat = np.flatnonzero(local_slopes(sizes, values) < FLAT)
    return int(flat[0]) if len(flat) else None
