"""Rounds of a sweep that stops itself: which runs of its grid were asked for so far, and why, from the ledger alone.

The coarse pass runs every setting of the grid at a few seeds; each later round adds the runs that `adaptive.look`
chooses from the rows of the rounds before it. A round is a barrier: the next one is computed when all of its runs have
ended. As nothing but the ledger decides, a sweep that was killed replays its rounds and continues in the same place.

Settings take their seeds in turn from different ends of the axis, so that few scales share a seed: errors are then
independent, which the intervals take for granted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep import adaptive
from raysweep.adaptive import Look, Seen, Slopes
from raysweep.errors import FitError, SweepError
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Runs, number
from raysweep.laws.request import FitRequest, Options
from raysweep.sweep.until import Target, Until
from raysweep.terminal import counted

if TYPE_CHECKING:
    from raysweep.laws.group import GroupFit

__all__ = ["Group", "Judged", "Settings", "State", "measured", "replay", "settings_of"]

Array = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
_FEW = 8  # settings of a group below which the coarse pass has two seeds of each
_MOST_ROUNDS = 100


@dataclass(frozen=True)
class Settings:
    """The runs of a grid by all axes but seeds.

    Attributes:
        of: [runs] the setting of each.
        turn: [runs] its turn within the setting: runs are taken in this order.
    """

    of: Whole
    turn: Whole

    @property
    def count(self) -> int:
        return int(self.of.max(initial=-1)) + 1

    def first(self, counts: Whole) -> npt.NDArray[np.bool_]:
        """[runs] whether each is among the first so many of its setting."""
        return np.asarray(self.turn < counts[self.of])

    @property
    def sizes(self) -> Whole:
        return np.bincount(self.of, minlength=self.count)


def settings_of(runs: Runs, axes: Mapping[str, Axis], least: int = 2) -> Settings:
    """The settings of a grid.

    Raises:
        SweepError: No setting has this many seeds.
    """
    names = [name for name in runs.codes if axes[name].role != "seed"]
    of = number([(runs.codes[name], len(runs.values[name])) for name in names], len(runs))
    sizes = np.bincount(of)
    if sizes.max(initial=0) < least:
        raise SweepError(
            f"until: the grid must have several seeds for each of its settings, from which rounds choose, but each of "
            f"its {len(sizes):,} settings has one run. Add an axis such as seed: {{range: 64}}"
        )
    order = np.argsort(of, kind="stable")
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    place = np.empty(len(of), dtype=np.int64)
    place[order] = np.arange(len(of)) - first[of[order]]
    shift = (np.arange(len(sizes)) * sizes) // len(sizes)  # the first seeds of settings lie evenly apart
    return Settings(of, (place - shift[of]) % sizes[of])


@dataclass(frozen=True)
class Group:
    """The settings of one fitted group, with what was measured there.

    Attributes:
        fit: The law at its estimate.
        settings: [points] their numbers; a point is a setting.
        x: [scales, points].
        seen: Runs with a usable y, by point.
        residual: [points] mean log residuals.
        cost: [points] of one run: FLOPs where rows report them, else seconds.
        seconds: [points] of one run.
        in_flops: Whether `cost` is in FLOPs.
    """

    fit: GroupFit
    settings: Whole
    x: Array
    seen: Seen
    residual: Array
    cost: Array
    seconds: Array
    in_flops: bool = True

    @property
    def u(self) -> Array:
        """[points] log scale; of several scales, the mean of their logs."""
        return np.asarray(np.log(self.x).mean(0))

    @property
    def name(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.fit.group.items())

    @property
    def free(self) -> list[int]:
        """The parameters that can move."""
        return [i for i, one in enumerate(self.fit.law.parameters) if one.low < one.high]

    def slopes(self, target: Target) -> Slopes:
        """The law linearised at its estimate, for what is wanted."""
        free = self.free
        if target.at is None:
            wanted = np.array([1.0 if name == target.name else 0.0 for name in self.fit.law.names])
        else:
            wanted = self.rows(np.log(np.array(target.at))[:, None])[0]
        return Slopes(self.rows(np.log(self.x))[:, free], wanted[free])

    def rows(self, u: Array) -> Array:
        """[points, parameters] derivatives of log y at log scales, [scales, points]."""
        values = np.array([self.fit.params[name] for name in self.fit.law.names])
        rows = self.fit.law.evaluate(u, values)[1]
        return np.stack([np.broadcast_to(row, u.shape[1:]) for row in rows], axis=-1)

    def estimate(self, target: Target) -> float:
        if target.at is None:
            return float(self.fit.params[target.name])
        return float(self.fit.predict(np.array(target.at)[:, None])[0])

    def interval(self, target: Target, half: float) -> tuple[float, float]:
        """Low and high around the estimate; that of y by its log."""
        value = self.estimate(target)
        if target.at is None:
            return value - half, value + half
        return value * math.exp(-half), value * math.exp(half)


@dataclass(frozen=True)
class Judged:
    """One wanted interval of one group after a round."""

    group: Group
    target: Target
    look: Look

    @property
    def done(self) -> bool:
        return bool(self.look.reached) or bool(self.look.bent)

    @property
    def brief(self) -> str:
        """Its interval in a few words."""
        low, high = self.group.interval(self.target, float(self.look.half))
        of = f" ({self.group.name})" if self.group.name else ""
        return f"{self.target.text}{of} = {self.group.estimate(self.target):.4g} [{low:.4g}, {high:.4g}]"

    def to_json(self) -> dict[str, Any]:
        low, high = self.group.interval(self.target, float(self.look.half))
        return {
            "group": dict(self.group.fit.group),
            "target": self.target.text,
            "wanted": self.target.width,
            "value": self.group.estimate(self.target),
            "ci_low": low,
            "ci_high": high,
            "unseen_bend": float(self.look.bend.unseen),
            "p_law": float(self.look.bend.p),
            "bent": bool(self.look.bent),
            "reached": bool(self.look.reached),
        }


@dataclass
class State:
    """Where a sweep that stops itself is.

    Attributes:
        rounds: Rounds asked for so far.
        chosen: [runs] whether each run of the grid was asked for.
        todo: [runs] those of them that have not ended; none where the sweep is over.
        judged: What the last complete round gave.
        over: Why no further round is asked for; empty while there is one.
        spent: Cost so far, in units of `Group.cost`; `hours` in hours of pack time.
    """

    rounds: int
    chosen: npt.NDArray[np.bool_]
    todo: npt.NDArray[np.bool_]
    judged: list[Judged] = field(default_factory=list)
    over: str = ""
    spent: float = 0.0
    hours: float = 0.0


def replay(
    until: Until,
    request: FitRequest,
    runs: Runs,
    axes: Mapping[str, Axis],
    table: pa.Table,
    pending: npt.NDArray[np.bool_],
    gpus: float,
) -> State:
    """The state of a sweep from its rows.

    Args:
        request: What is fitted.
        table: One row per cell, as `sweep.current.cells` gives them.
        pending: [runs] whether a run of the grid is still to be done.
        gpus: That a pack holds.

    Raises:
        SweepError: The sweep cannot be judged: no seeds, a target that the law does not have, or several rows per run.
    """
    settings = settings_of(runs, axes)
    counts = np.minimum(settings.sizes, until.coarse or (1 if settings.count >= _FEW else 2))
    confirmed: dict[tuple[str, str], int] = {}
    where = {key: i for i, key in enumerate(key.decode() for key in runs.keys.tolist())}
    place = np.array([where.get(key, -1) for key in table.column("run").to_pylist()], dtype=np.int64)
    state = State(0, np.zeros(len(runs), dtype=bool), np.zeros(len(runs), dtype=bool))
    while not state.over:
        chosen = settings.first(counts)
        state = State(state.rounds + 1, chosen, chosen & pending, state.judged, "", state.spent, state.hours)
        if state.todo.any():
            return state
        here = table.filter(pa.array((place >= 0) & chosen[place]))
        groups, cost, seconds = measured(here, request, runs, settings)
        state.spent = float((counts * cost).sum())
        state.hours = float((counts * seconds).sum()) / 3600
        wanted, state.judged, state.over = _judge(until, groups, settings, counts, cost, state, confirmed, gpus)
        if not state.over and not (wanted > counts).any():
            wanted = np.minimum(counts + 1, settings.sizes)  # what was not measured yet cannot be judged
        if not state.over and not (wanted > counts).any():
            state.over = "no run of the grid is left; add seeds or scales"
        if not state.over and state.rounds >= min(until.max_rounds or _MOST_ROUNDS, _MOST_ROUNDS):
            state.over = f"{counted(state.rounds, 'round')} were made"
        counts = np.maximum(counts, wanted)
    return state


def _judge(
    until: Until,
    groups: Sequence[Group],
    settings: Settings,
    counts: Whole,
    cost: Array,
    state: State,
    confirmed: dict[tuple[str, str], int],
    gpus: float,
) -> tuple[Whole, list[Judged], str]:
    """Runs wanted of each setting after the next round, what the last one gave, and why there is no next one."""
    wanted, judged = counts.copy(), []
    left = _left(until, state, gpus)
    for group in groups:
        for target in until.targets:
            at = group.settings
            key = (group.name, target.text)
            look = adaptive.look(
                group.u,
                group.slopes(target),
                group.seen,
                group.residual,
                (settings.sizes - counts)[at].astype(np.float64),
                group.cost,
                np.array(target.width / 2),
                state.rounds,
                np.array(float(confirmed.get(key, 0))),
                left / max(len(groups) * len(until.targets), 1),
            )
            if look.half <= target.width / 2 and state.rounds >= adaptive.LEAST_ROUNDS:
                confirmed[key] = confirmed.get(key, 0) + 1
            judged.append(Judged(group, target, look))
            wanted[at] = np.maximum(wanted[at], counts[at] + np.minimum(look.add, (settings.sizes - counts)[at]))
    if judged and all(one.done for one in judged):
        bent = [one for one in judged if one.look.bent]
        reached = "every interval is as narrow as wanted"
        return wanted, judged, reached if not bent else "the law does not hold over the grid"
    if left <= 0 or (judged and (wanted == counts).all() and left < cost[cost > 0].sum()):
        return wanted, judged, f"the budget ({until.limits}) allows no further round"
    return wanted, judged, ""


def _left(until: Until, state: State, gpus: float) -> float:
    """Cost that is left to spend."""
    left = math.inf if until.max_flops is None else until.max_flops - state.spent
    for most, hours in ((until.max_gpu_hours, state.hours * gpus), (until.max_hours, state.hours)):
        if most is not None:
            share = hours / most
            left = min(left, state.spent * (1 / share - 1) if share > 0 else math.inf)
    return left


def measured(table: pa.Table, request: FitRequest, runs: Runs, settings: Settings) -> tuple[list[Group], Array, Array]:
    """What some rows give: the groups that could be fitted; cost and seconds of a run of each setting, [settings].

    Raises:
        SweepError: A run has several rows in one group.
    """
    try:
        from raysweep.laws.points import points
        from raysweep.laws.table import fit_points
    except ModuleNotFoundError as error:
        raise SweepError(
            f"until: what was measured is fitted after every round, for which {error.name} must be installed where "
            "raysweep runs. Install it, or leave until out"
        ) from error

    cost, seconds, in_flops = _costs(table, runs, settings)
    plain = FitRequest(**{**vars(request), "options": Options(draws=0, holdout=0.0, huber=request.options.huber)})
    ok = table.filter(pc.equal(table.column("status"), "ok"))
    try:
        taken = points(ok, plain, keep=("run",))
        fits = fit_points(taken, plain)
    except FitError:  # nothing that a law could be fitted to yet
        return [], cost, seconds
    where = {key: i for i, key in enumerate(key.decode() for key in runs.keys.tolist())}
    groups = []
    for one in fits:
        if one.error is not None:
            continue
        frame = taken.of(one.group)
        run = np.array([where[key] for key in frame["run"].to_list()], dtype=np.int64)
        if len(np.unique(run)) < len(run):
            raise SweepError(
                f"until: each run must have one value of {request.y} in a fit, but some have several: x = "
                f"{', '.join(request.x)} is read along the way. Fit a scale that is trained for, or name the other "
                "axis in by"
            )
        at, point, count = np.unique(settings.of[run], return_inverse=True, return_counts=True)
        x = np.stack([np.exp(np.bincount(point, np.log(frame[name].to_numpy())) / count) for name in request.x])
        y = np.log(frame[request.y].to_numpy().astype(np.float64))
        mean = np.bincount(point, y) / count
        within = np.bincount(point, (y - mean[point]) ** 2)
        seen = Seen(count.astype(np.float64), mean, within.astype(np.float64))
        residual = seen.residual(np.log(one.predict(x)))
        groups.append(Group(one, at, x, seen, residual, cost[at], seconds[at], in_flops))
    return groups, cost, seconds


def _costs(table: pa.Table, runs: Runs, settings: Settings) -> tuple[Array, Array, bool]:
    """[settings] mean cost and seconds of a run: FLOPs where all report them, else seconds, else 1; whether FLOPs."""
    names = [name for name in ("flops", "flops_eval", "seconds") if name in table.schema.names]
    sums = {name: np.zeros(settings.count) for name in ("flops", "flops_eval", "seconds")}
    found = table.select(["run", *names]).group_by("run").aggregate([(name, "max") for name in names])
    where = {key: i for i, key in enumerate(key.decode() for key in runs.keys.tolist())}
    at = settings.of[[where[key] for key in found.column("run").to_pylist()]]
    count = np.maximum(np.bincount(at, minlength=settings.count), 1)
    for name in names:
        value = pc.fill_null(pc.cast(found.column(f"{name}_max"), pa.float64()), 0.0).to_numpy()
        sums[name] = np.bincount(at, np.nan_to_num(value), minlength=settings.count) / count
    work, seconds = sums["flops"] + sums["flops_eval"], sums["seconds"]
    there = np.bincount(at, minlength=settings.count) > 0
    cost = next((one for one in (work, seconds) if (one[there] > 0).all()), np.ones(settings.count))
    return np.where(there, cost, cost[there].mean() if there.any() else 1.0), seconds, cost is work
