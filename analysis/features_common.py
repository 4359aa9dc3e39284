"""Shared by the parts of features_paper.py: what the paper says, its sweeps' rows, exponents, and rows of claims."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from common import Array, measured, over_seeds

from raysweep.claims import Claim, Measured, Rule
from raysweep.laws.window import Window

STATEMENTS = {
    "H1": "hard tasks (beta < 1): loss falls faster in time when features are learned",
    "H2": "easy tasks (beta >= 1): the same exponent in time",
    "H3": "plateau against model size",
    "H4": "plateau against data that are used again",
    "H5": "transient of finite N",
    "H6": "transient of SGD",
    "H7": "the compute-optimal exponent improves for hard tasks only",
}

# Mode k is learned at t = k^CLOCK, as the clock is t, or t^(2 / (1 + beta)) on rich hard tasks.
CLOCK = "(alpha * (1 + beta) / 2 if gamma > 0 and beta < 1 else alpha)"


def read(results: Path, name: str) -> pl.DataFrame:
    """The finished cells of one sweep, in the order of time and seed."""
    file = results / f"features_{name}" / "cells.parquet"
    if not file.is_file():
        raise SystemExit(f"{file} does not exist: run `raysweep run sweeps/features_{name}.yaml` first")
    return pl.read_parquet(file).filter(pl.col("status") == "ok").sort("t", "seed")


def falls(x: Array, y: Array) -> Any:
    """Least-squares exponent of y ~ x^-e along the first axis of y [x, ...]."""
    u = np.log(x) - np.log(x).mean()
    return -np.tensordot(u, np.log(y), axes=(0, 0)) / (u @ u)


def slopes(x: Array, y: Array) -> tuple[Array, Array]:
    """Local exponents of y ~ x^-e between neighbouring points, and the geometric middles that they belong to."""
    return np.sqrt(x[1:] * x[:-1]), -np.diff(np.log(y)) / np.diff(np.log(x))


def by_seed(part: pl.DataFrame, index: str, value: str) -> tuple[Array, Array]:
    """Sorted values of a column, and another [values, seeds]."""
    wide = part.pivot(on="seed", index=index, values=value).sort(index)
    return wide[index].to_numpy().astype(float), wide.drop(index).to_numpy()


def within(part: pl.DataFrame, window: Window, x: str = "t") -> pl.DataFrame:
    """The rows whose x lies in a window."""
    return part.filter(pl.Series(window.mask(part, x)))


def span(name: str, x: Array) -> str:
    """A window as a claim prints it."""
    return f"{name} {x.min():.3g} to {x.max():.3g}"


def parts(x: Array) -> list[slice]:
    """Every run of neighbouring values of x, sorted, that spans at least half of its logarithm; the first is all."""
    u = np.log(x)
    least = (u[-1] - u[0]) / 2 - 1e-9
    ends = [(i, j) for i in range(len(u)) for j in range(len(u) - 1, i, -1) if u[j] - u[i] >= least]
    return [slice(i, j + 1) for i, j in ends]


def computed(name: str, x: Array, statistic: Callable[[slice], float]) -> Measured:
    """A statistic of a curve without seeds over a window of sorted x, and its range over the window's parts.

    The range says how far the number depends on where in the window it is taken, not how it would scatter.
    """
    values = [float(statistic(part)) for part in parts(x)]
    return measured(f"{span(name, x)}; interval over parts of it", 0, values[0], (min(values), max(values)))


def exponent(name: str, x: Array, y: Array) -> Measured:
    """The exponent of y ~ x^-e of a curve without seeds; see `computed`."""
    return computed(name, x, lambda part: falls(x[part], y[part]))


def sampled(window: str, values: Array, statistic: Callable[[Array], Any]) -> Measured:
    """A statistic of values [..., seeds] with its interval over seeds."""
    return measured(window, values.shape[-1], *over_seeds(values, statistic))


def claim(id_: str, setting: str, theory: float, one: Measured, rule: Rule, sweep: str, why: str = "") -> Claim:
    """One row of the table of claims."""
    source = f"raysweep run sweeps/features_{sweep}.yaml; python analysis/features_paper.py"
    return Claim(id_, STATEMENTS[id_], setting, round(float(theory), 4), "", one, rule, why=why, source=source)
