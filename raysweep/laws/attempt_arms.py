"""pass@k of two arms compared over k, from counts of successes: with draws of whole problems, shared where both arms
tried the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import ndtri, stdtrit

from raysweep.errors import FitError
from raysweep.laws.arms import Arm, Comparison
from raysweep.laws.attempts import checked, unbiased_failure
from raysweep.laws.contrast import Contrast, contrast
from raysweep.laws.definition import Array
from raysweep.laws.differences import Deviations
from raysweep.laws.source import numbers

__all__ = ["compare_attempts", "compare_counts"]

_GRID = 100  # budgets at most
_FEWEST = 2


def compare_counts(
    frame: pl.DataFrame,
    successes: str,
    trials: str,
    arm: Arm,
    pair: str | None = None,
    by: Sequence[str] = (),
    k: Sequence[float] | None = None,
    ratio: bool = False,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """pass@k of two arms of a table with one row for each problem of each arm, for each group that both have.

    Args:
        successes, trials: Columns of counts, numbers.
        pair: The column that names the problem; problems of one arm only are left out. If not given, the arms are taken
            to be independent.
        by: Columns whose every combination of values is compared separately.

    Raises:
        FitError: As `compare_attempts`; or the arms have no group or problem in common, or a problem has two rows.
    """
    out = []
    sides = [frame.filter(pl.col(arm.column) == value) for value in arm.values]
    groups: list[list[dict[str, Any]]] = [
        side.select(by).unique().sort(by).to_dicts() if by else [{}] for side in sides
    ]
    for group in [one for one in groups[0] if one in groups[1]]:
        same = [pl.col(name).eq_missing(pl.lit(value)) for name, value in group.items()]
        rows = [side.filter(pl.all_horizontal(pl.lit(True), *same)) for side in sides]
        details = {}
        if pair is not None:
            rows, left = _joined(rows, pair, arm)
            if left:
                details["unpaired_left_out"] = f"{left:,} problems are in one arm only: they were left out."
        else:
            details["independent_arms"] = (
                "Nothing pairs the arms, so they are taken to be independent. Where both tried the same problems, name "
                "the problem's column with `pair=`: the comparison is then sharper."
            )
        counts = [(numbers(own, successes), numbers(own, trials)) for own in rows]
        found = compare_attempts(
            counts[0], counts[1], k, ratio, together=pair is not None, draws=draws, level=level, seed=seed
        )
        fewest = min(float(n.min()) for _, n in counts)
        made: dict[str, Any] = {"level": level, "contrast": found, "details": details, "least": 1.0}
        if found.x[-1] < fewest and k is None:
            made["details"]["never_fails"] = (
                f"From k = {found.x[-1]:,.0f} on an arm never fails within its trials, and there is no ratio."
            )
        units = (rows[0].height, rows[1].height)
        y = "1 - pass@k" if ratio else "pass@k"
        out.append(Comparison(arm, group, "k", y, ratio, pair is not None, pair or "problem", units, **made))
    if not out:
        raise FitError(f"The arms have no group in common: {', '.join(by)} never agree. Choose rows with `where=`.")
    return tuple(out)


def _groups(side: pl.DataFrame, by: Sequence[str]) -> list[dict[str, Any]]:
    return side.select(by).unique().sort(by).to_dicts() if by else [{}]


def _joined(rows: Sequence[pl.DataFrame], pair: str, arm: Arm) -> tuple[list[pl.DataFrame], int]:
    """The rows of problems that both arms have, in one order, and how many problems were left out."""
    for side, name in zip(rows, arm.names, strict=True):
        if side[pair].n_unique() < side.height:
            raise FitError(
                f"A pair must be one problem, with one row in each arm, but {side.height:,} rows of {arm.column} = "
                f"{name} have {side[pair].n_unique():,} values of {pair!r}. Choose rows with `where=`, or name `by=`."
            )
    both = rows[0].select(pair).join(rows[1].select(pair), on=pair)
    if both.height < _FEWEST:
        raise FitError(
            f"Pairs need {_FEWEST} values of {pair!r} that both arms have, but there are {both.height}. Add problems, "
            "or leave pair out to take the arms as independent."
        )
    kept = [side.join(both, on=pair, how="semi").sort(pair) for side in rows]
    return kept, sum(side.height for side in rows) - 2 * both.height


def compare_attempts(
    one: tuple[npt.ArrayLike, npt.ArrayLike],
    other: tuple[npt.ArrayLike, npt.ArrayLike],
    k: npt.ArrayLike | None = None,
    ratio: bool = False,
    together: bool = False,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Contrast:
    """The first arm's pass@k minus the second's at each k, or the ratio of what they fail, 1 - pass@k.

    Args:
        one, other: Successes and trials of each problem, [problems] each.
        k: Budgets, whole numbers up to the fewest trials of a problem; all, or about 100 spaced by factors, if not
            given. For a ratio, those at which both arms fail sometimes.
        together: The arms' problems are the same, in the same order, and are drawn together.

    Raises:
        FitError: The counts are invalid; k is out of range; an arm has fewer than two problems; or a ratio is asked for
            where an arm never fails.
    """
    counts = [checked(*one), checked(*other)]
    if together and counts[0][0].size != counts[1][0].size:
        sizes = " and ".join(str(c.size) for c, _ in counts)
        raise FitError(
            f"Arms whose problems are drawn together must have the same ones, but have {sizes}. Keep those that both "
            "have, or set together=False."
        )
    for c, _ in counts:
        if c.size < _FEWEST:
            raise FitError(f"The unit of an interval is the problem, but an arm has only {c.size}. Add problems.")
    fewest = int(min(n.min() for _, n in counts))
    grid = np.unique(np.round(np.geomspace(1, fewest, _GRID))) if k is None else np.unique(np.asarray(k, np.float64))
    if not ((grid >= 1) & (grid <= fewest) & (grid == np.floor(grid))).all():
        raise FitError(
            f"k must be whole numbers from 1 to {fewest}, the fewest trials of a problem in both arms, but got "
            f"{', '.join(f'{value:g}' for value in grid[:8])}. Beyond, use `raysweep passk` for each arm."
        )
    each = [unbiased_failure(c, n, grid) for c, n in counts]
    if ratio:
        some = np.all([mean.mean(axis=0) > 0 for mean in each], axis=0)
        if not some.any():
            raise FitError("A ratio of 1 - pass@k needs a k at which both arms fail sometimes. Compare the difference.")
        grid, each = grid[some], [mean[:, some] for mean in each]
    rng = np.random.default_rng(seed)
    centre, away = np.zeros(grid.size), np.zeros((draws, grid.size))
    weights: Array = np.zeros(0)
    for sign, failure in zip((1.0, -1.0), each, strict=True):
        count = len(failure)
        if sign > 0 or not together:
            weights = rng.multinomial(count, np.full(count, 1 / count), size=draws) / count
        tail = (1 + level) / 2
        # As for a mean of few problems: the spread's own degrees of freedom, and Student's t.
        factor = np.sqrt(count / (count - 1)) * stdtrit(count - 1, tail) / ndtri(tail)
        mean, drawn = failure.mean(axis=0), weights @ failure
        if ratio:
            with np.errstate(divide="ignore"):
                mean, drawn = np.log(mean), np.log(drawn)
        else:
            mean, drawn = 1 - mean, 1 - drawn
        centre += sign * mean
        with np.errstate(invalid="ignore"):  # a draw of problems that never fail has no ratio
            away += sign * factor * (drawn - mean)
    return contrast(grid, Deviations(centre, away), level, min(len(failure) for failure in each) - 1)
