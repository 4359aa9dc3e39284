"""Tables in, IsoFLOP frontiers out: the valleys of every group, and the compute-optimal size that follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raysweep.errors import FitError
from raysweep.laws.counts import below_one
from raysweep.laws.definition import Array
from raysweep.laws.isoflop import IsoFlop, Valley, isoflop
from raysweep.laws.points import Part, Points, points
from raysweep.laws.reach import check_reach
from raysweep.laws.request import FitRequest, Options
from raysweep.laws.source import Source, numbers

__all__ = ["GroupIsoFlop", "isoflops"]

_LARGE, _SMALL = 1e6, 1e3  # no loss lies above the one, and no size or budget below the other
_EQUAL = 1.02  # ratio of neighbouring measured budgets up to which they are one: counts of FLOPs are rarely round


@dataclass(frozen=True)
class GroupIsoFlop:
    """The IsoFLOP valleys of one group.

    Attributes:
        group: The by-columns' values that single the group out.
        n, flops, y: Columns of the size, of the budget and of the loss.
        level: Nominal coverage of the intervals.
        found: Its valleys and their frontier, or why there is none.
        details: What was dropped, reduced, split or left out, in one sentence per note code.
    """

    group: Mapping[str, Any]
    n: str
    flops: str
    y: str
    level: float
    found: IsoFlop | str
    details: Mapping[str, str]

    def to_json(self, budgets: Sequence[float] = ()) -> dict[str, Any]:
        """Plain data, as `raysweep isoflop --json` prints it.

        Args:
            budgets: FLOPs at which the frontier predicts, too.

        Raises:
            FitError: A budget lies so far outside those that were fitted that its unit must be another.
        """
        head = {"group": dict(self.group), "n": self.n, "flops": self.flops, "y": self.y}
        if isinstance(self.found, str):
            return {**head, "error": self.found, "notes": list(self.details), "details": dict(self.details)}
        line = self.found.frontier
        g = line.sample.interval_of(lambda values: line.line(values)[..., 0], self.level)
        pairs = (("a", line.a, line.interval(self.level)), ("G", line.g, np.exp(g)))
        check_reach("A budget", budgets, "budgets that were", line.window, "Check its unit, and that of the column.")
        best, details = [self.best(budget) for budget in budgets], dict(self.details)
        if beyond := [one for one in best if one["beyond"] > 1 + 1e-9]:
            far, (low, high) = max(beyond, key=lambda one: float(one["beyond"])), line.window
            details["extrapolated"] = (
                f"A budget of {far['flops']:.3g} is {far['beyond']:.3g} times outside those that were measured "
                f"({low:.3g} to {high:.3g}): intervals there take the frontier, a power of {self.flops}, to hold, and "
                "no measurement supports it."
            )
        return {
            **head,
            "params": [_named(name, value, ends) for name, value, ends in pairs],
            "level": self.level,
            "window": list(line.window),
            "valleys": [self._valley(one, line.c) for one in self.found.valleys],
            "budgets": best,
            "notes": list(details),
            "details": details,
        }

    def best(self, budget: float) -> dict[str, Any]:
        """N* and D* of the frontier at a budget, with intervals.

        Raises:
            FitError: There is no frontier.
        """
        if isinstance(self.found, str):
            raise FitError(self.found)
        line = self.found.frontier
        n, d = line.n_interval(budget, self.level), line.d_interval(budget, self.level)
        best = {"N*": float(line.n(budget)), "D*": float(line.d(budget))}
        valleys = self.found.valleys
        least = min(one.window[0] for one in valleys), min(one.budget / line.c / one.window[1] for one in valleys)
        small = below_one(best, dict(zip(best, least, strict=True)))
        return {
            "flops": budget,
            "params": [_named(*pair, ends) for pair, ends in zip(best.items(), (n, d), strict=True)],
            "beyond": max(1.0, budget / line.window[1], line.window[0] / budget),
            **({"below_one": small} if small else {}),
        }

    def _valley(self, one: Valley, c: float) -> dict[str, Any]:
        record: dict[str, Any] = {"flops": one.budget, "n_points": one.runs, "window": list(one.window)}
        if one.n is None:
            return {**record, "params": [], "loss": None}
        low, high = one.interval(self.level)
        per = one.budget / c
        best = [_named("N*", one.n, (low, high)), _named("D*", per / one.n, (per / high, per / low))]
        return {**record, "params": best, "loss": float(one.loss(one.n))}


def _named(name: str, value: float, ends: Sequence[float] | Array) -> dict[str, Any]:
    return {"name": name, "value": value, "ci_low": float(ends[0]), "ci_high": float(ends[1])}


def isoflops(
    data: Source,
    *,
    n: str,
    flops: str,
    y: str,
    by: str | Sequence[str] = (),
    where: str | None = None,
    at: str | float = "best",
    degree: int = 3,
    cost_per: float = 6.0,
    level: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
) -> tuple[GroupIsoFlop, ...]:
    """The IsoFLOP frontier of every group of a table, with intervals over its rows; see `laws.isoflop`.

    Args:
        data, by, where, at: As in `laws.fit`: rows, groups and snapshots are chosen alike.
        n: Column of the size, positive: parameters for N*, or tokens for D*.
        flops: Column of the budget, positive. Budgets within 2 % of the next are one, at their geometric mean.
        y: Column of the loss, positive.
        degree: 3, or 2 for the classical parabola.
        cost_per: FLOPs per unit of N D.
        level: Nominal coverage of the intervals.
        bootstrap: Draws, enough for the level.
        seed: Seed of the draws.

    Raises:
        FitError: As `laws.fit`; or no group has a frontier: then the reason of the first.
    """
    options = Options(level=level, draws=bootstrap, seed=seed)
    if not options.draws:
        raise FitError("isoflop: bootstrap must be > 0, since a frontier has intervals, but got 0. Take 1000.")
    if not 0 < cost_per < np.inf:
        raise FitError(
            f"isoflop: cost_per is FLOPs per unit of N D, positive and finite, but got {cost_per:g}. Take 6."
        )
    # Size and budget are two scales, so that an axis of either does not split the table.
    groups = (by,) if isinstance(by, str) else tuple(by)
    taken = points(data, FitRequest(x=(n, flops), y=y, law="chinchilla", by=groups, where=where, at=at))
    made = tuple(_of_part(taken, part, degree, cost_per, options) for part in taken.parts)
    if all(isinstance(one.found, str) for one in made):
        raise FitError(str(made[0].found))
    return made


def _of_part(taken: Points, part: Part, degree: int, cost_per: float, options: Options) -> GroupIsoFlop:
    rows, (n, flops) = taken.of(part.group), taken.x
    details = dict(part.details)
    found: IsoFlop | str
    asked = _swapped(numbers(rows, n), numbers(rows, flops), numbers(rows, taken.y))
    try:
        if asked and "`y=`" in asked:  # what could be fitted would mean nothing
            raise FitError("A frontier needs sizes, budgets and losses.")
        compute, merged = _merged(numbers(rows, flops))
        if merged:
            details["merged_budgets"] = f"{merged} measured budgets within 2 % of another were taken to be the same."
        found = isoflop(
            compute,
            numbers(rows, n),
            numbers(rows, taken.y),
            degree=degree,
            c=cost_per,
            draws=options.draws,
            seed=options.seed,
        )
        details |= found.frontier.details
    except FitError as error:
        found = f"{error} {asked}".rstrip()
    return GroupIsoFlop(part.group, n, flops, taken.y, options.level, found, details)


def _swapped(n: Array, flops: Array, y: Array) -> str:
    """The question whether two columns were swapped, where their values look like it; else empty."""
    if y.min() > _LARGE and flops.min() < _SMALL:
        return f"Are `flops=` and `y=` swapped? y is {y.min():.3g} or more, flops goes down to {flops.min():.3g}."
    if y.min() > _LARGE and n.min() < _SMALL:
        return f"Are `n=` and `y=` swapped? y is {y.min():.3g} or more, n goes down to {n.min():.3g}."
    if np.median(flops) < np.median(n):
        return f"Are `n=` and `flops=` swapped? The sizes ({np.median(n):.3g}) exceed the budgets."
    return ""


def _merged(compute: Array) -> tuple[Array, int]:
    """Budgets, [rows], of which those that nearly agree are equal, and how many distinct ones are gone."""
    values, at = np.unique(compute, return_inverse=True)
    if not (values > 0).all():  # refused later, with its place
        return compute, 0
    owner = np.concatenate([[0], np.cumsum(values[1:] > _EQUAL * values[:-1])])
    mean = np.exp(np.bincount(owner, np.log(values)) / np.bincount(owner))
    alone = np.bincount(owner) == 1
    return np.where(alone[owner], values, mean[owner])[at], int(values.size - mean.size)
