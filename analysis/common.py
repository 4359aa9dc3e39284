"""Shared by analyses: figures on disk, intervals over whole seeds, and the folder of the papers' claims."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from scipy.special import ndtri, stdtrit

from raysweep.claims import Measured
from raysweep.laws.window import Window
from raysweep.sweep import load_sweep

Array = npt.NDArray[np.float64]
CLAIMS = Path(__file__).parent / "claims"  # tables that are committed; docs/papers.md shows them
SWEEPS = Path(__file__).parent.parent / "sweeps"

DRAWS = 1000
_SEEDED = 7
_TAILS = (0.025, 0.975)
_ANY = (-np.inf, np.inf)


def over_seeds(
    values: Array, statistic: Callable[[Array], Any], *, log: bool = False, bounds: tuple[float, float] = _ANY
) -> tuple[Array, Array]:
    """A statistic of values [..., seeds] and its 95 % interval by drawing whole seeds; see `interval`."""
    rng = np.random.default_rng(_SEEDED)
    seeds = values.shape[-1]
    drawn = [statistic(values[..., rng.integers(0, seeds, seeds)]) for _ in range(DRAWS)]
    value = np.asarray(statistic(values))
    return value, interval(value, drawn, seeds, log=log, bounds=bounds)


def interval(
    value: npt.ArrayLike,
    drawn: npt.ArrayLike,
    seeds: int,
    *,
    log: bool = False,
    bounds: tuple[float, float] = _ANY,
) -> Array:
    """Low and high, [2, ...], of a value [...], from its values in draws of whole seeds with replacement [draws, ...].

    Quantiles of the draws are as narrow as if the spread between seeds were known, and by sqrt((n - 1) / n) narrower:
    with 3 seeds they cover a normal mean 72 % of the time, with 12 seeds 90 %. So their deviations from the value are
    enlarged by sqrt(n / (n - 1)) t / z, with the 97.5 % quantiles t of Student's distribution with n - 1 degrees of
    freedom and z of the normal one: for a mean of normal values that is Student's interval. Further percentiles
    instead (Hesterberg 2015, arXiv 1411.5279) do not reach far enough with a few seeds.

    Args:
        seeds: How many there are, at least 2.
        log: Deviations are those of the logarithm: for ratios, and for locations on a logarithmic scale.
        bounds: What the statistic cannot pass, such as 0 and 1 for a share.

    Draws in which the statistic has no value (NaN) do not count; an end is infinite where too many draws are.
    """
    if seeds < 2:
        raise ValueError(f"An interval needs at least 2 seeds, but there are {seeds}. Add seeds.")
    factor = np.sqrt(seeds / (seeds - 1)) * stdtrit(seeds - 1, _TAILS[1]) / ndtri(_TAILS[1])
    with np.errstate(divide="ignore", invalid="ignore"):  # values of 0, and infinite ones
        centre, around = (np.log(v) if log else np.asarray(v) for v in (value, drawn))
        away = np.nanquantile(around - centre, _TAILS, axis=0, method="inverted_cdf")  # never between two draws
        ends = centre + factor * away
    low, high = np.exp(ends) if log else ends
    return np.clip(np.stack([np.minimum(low, value), np.maximum(high, value)]), *bounds)


def arguments(description: str | None, out: Path) -> argparse.Namespace:
    """`--results` (where the stores are), `--out` (made if it is not there) and `--claims` of an analysis."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--claims", type=Path, default=CLAIMS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    return given


def measured(window: str, seeds: int, value: Any, ends: Any = (None, None)) -> Measured:
    """A measurement for a claim, to four significant digits, as a table of claims keeps it."""
    low, high = (None if end is None else float(f"{end:.4g}") for end in ends)
    return Measured(float(f"{value:.4g}"), window, seeds, low, high)


def window_of(sweep: str, fit: int = 0) -> Window:
    """The window of a fit of a sweep file, so that claims are fitted to the same rows as the report of the sweep."""
    return Window.of_mapping(load_sweep(SWEEPS / f"{sweep}.yaml").file.fit[fit].window)


def slope(k: Array, failure: Array) -> Array:
    """Least-squares exponent of failures [..., budgets] at k: -d log failure / d log k."""
    u = np.log(k) - np.log(k).mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(-(np.log(failure) @ u) / (u @ u))


def save(fig: Any, file: Path) -> None:
    fig.tight_layout()
    fig.savefig(file, dpi=150)
    plt.close(fig)
