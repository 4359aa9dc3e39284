"""Settings of a grid, and what was measured in them: the fitted groups that rounds are chosen for.

Settings take their seeds in turn from different ends of the axis, so that few scales share a seed: errors are then
independent, which the intervals take for granted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.adaptive import Seen, Slopes
from raysweep.errors import FitError, SweepError, nearest
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Runs, number
from raysweep.laws.request import FitRequest, Options
from raysweep.sweep.until import Target

if TYPE_CHECKING:
    from raysweep.laws.group import GroupFit

__all__ = ["Array", "Group", "Settings", "Whole", "measured", "settings_of"]

Array = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]


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


def measured(table: pa.Table, request: FitRequest, runs: Runs, settings: Settings) -> tuple[list[Group], Array, Array]:
    """What some rows give: the groups that could be fitted; cost and seconds of a run of each setting, [settings].

    Raises:
        SweepError: No row has y, or a run has several rows in one group.
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
    plain = replace(request, options=Options(draws=0, holdout=request.options.holdout, huber=request.options.huber))
    ok = table.filter(pc.equal(table.column("status"), "ok"))
    names = {field.name for field in ok.schema if (field.metadata or {}).get(b"role") == b"metric"}
    if len(ok) and request.y not in ok.schema.names:
        raise SweepError(
            f"fit.y: must be a metric that runs report, but got {request.y!r}, which none of {len(ok):,} finished "
            f"cells has. {nearest(request.y, names)}"
        )
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
    table = table.filter(pc.equal(table.column("status"), "ok"))  # a run that failed reports no FLOPs
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
