"""Shared by analyses: figures on disk, intervals over whole seeds, and the folder of the papers' claims."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt

from raysweep.claims import Measured

Array = npt.NDArray[np.float64]
CLAIMS = Path(__file__).parent / "claims"  # tables that are committed; docs/papers.md shows them

DRAWS = 200
_SEEDED = 7


def over_seeds(values: Array, statistic: Callable[[Array], Any]) -> tuple[Array, Array]:
    """A statistic of values [..., seeds] and its 95 % interval by drawing whole seeds with replacement."""
    rng = np.random.default_rng(_SEEDED)
    seeds = values.shape[-1]
    drawn = [np.asarray(statistic(values[..., rng.integers(0, seeds, seeds)])) for _ in range(DRAWS)]
    return np.asarray(statistic(values)), np.nanquantile(drawn, [0.025, 0.975], axis=0)


def measured(window: str, seeds: int, value: Any, ends: Any = (None, None)) -> Measured:
    """A measurement for a claim, to four significant digits, as a table of claims keeps it."""
    low, high = (None if end is None else float(f"{end:.4g}") for end in ends)
    return Measured(float(f"{value:.4g}"), window, seeds, low, high)


def slope(k: Array, failure: Array) -> Array:
    """Least-squares exponent of failures [..., budgets] at k: -d log failure / d log k."""
    u = np.log(k) - np.log(k).mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(-(np.log(failure) @ u) / (u @ u))


def save(fig: Any, file: Path) -> None:
    fig.tight_layout()
    fig.savefig(file, dpi=150)
    plt.close(fig)
