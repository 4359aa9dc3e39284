"""Which runs would make an interval narrow enough: one answer for the rows that a store has now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from raysweep import adaptive
from raysweep.errors import LedgerError, SweepError
from raysweep.grid.lineage import CANDIDATE
from raysweep.groups import measured, settings_of
from raysweep.prices import Machine
from raysweep.store import Store
from raysweep.sweep.current import cells
from raysweep.sweep.stored import stored_declaration, stored_runs, stored_sweep
from raysweep.sweep.until import Target, check_targets

__all__ = ["Row", "Suggestion", "suggestion"]

_HOPELESS = 1e4  # times what was spent so far: an interval a hundredth as wide as it is
_LOOKS = 40  # rounds of one design: each may double the cost


@dataclass(frozen=True)
class Row:
    """Runs to add in one setting.

    Attributes:
        values: Of the axes of `Suggestion.axes`.
        so_far: Runs with a usable y.
        add: Runs to add; `left` of them are in the grid.
        cost, seconds: Of all runs to add.
    """

    values: tuple[Any, ...]
    so_far: int
    add: int
    left: int
    cost: float
    seconds: float


@dataclass(frozen=True)
class Suggestion:
    """Runs to add, and what they cost.

    Attributes:
        axes: Names of the axes that vary between settings.
        now: The intervals as they are, in one sentence each.
        spent: What the rows so far cost; in FLOPs, where `in_flops`, else in seconds.
        slots: CPUs and GPUs of a pack.
    """

    axes: tuple[str, ...]
    rows: tuple[Row, ...]
    now: tuple[str, ...]
    spent: float
    in_flops: bool
    cpus: float
    gpus: float

    @property
    def cost(self) -> float:
        return sum(row.cost for row in self.rows)

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows)

    @property
    def hopeless(self) -> str:
        """A sentence where what is wanted costs out of all proportion; else empty."""
        times = self.cost / self.spent if self.spent else 0.0
        if times < _HOPELESS:
            return ""
        runs = sum(row.add for row in self.rows)
        return (
            f"out of reach: it would take {runs:,} runs, {times:.1g} times what was spent so far. An interval narrows "
            "with the root of the cost, ten times of it to about a third: ask for a wider one, or measure scales "
            "further apart"
        )

    def dollars(self, machine: Machine) -> dict[str, Any]:
        """The price of the pack time on a machine whose slots are all in use, at the speed measured so far.

        Raises:
            SweepError: No pack fits on the machine.
        """
        each = int(machine.cpus / self.cpus)
        each = min(each, int(machine.gpus / self.gpus)) if self.gpus else each
        if not each:
            raise SweepError(
                f"--price: a pack must fit on the machine, but needs ({self.cpus:g} CPUs, {self.gpus:g} GPUs), and "
                f"{machine.key} has ({machine.cpus}, {machine.gpus}). Take a larger one"
            )
        hours = self.seconds / each / 3600
        spot = None if machine.spot is None else hours * machine.spot
        return {"machine": machine.key, "hours": hours, "on_demand": hours * machine.on_demand, "spot": spot}

    def to_json(self) -> dict[str, Any]:
        rows = [{**asdict(row), "values": dict(zip(self.axes, row.values, strict=True))} for row in self.rows]
        return {
            "now": list(self.now),
            "add": rows,
            "cost": self.cost,
            "cost_in": "flops" if self.in_flops else "seconds",
            "seconds": self.seconds,
            "spent": self.spent,
            "hopeless": self.hopeless or None,
        }


def _width(target: Target, half: float) -> str:
    """How wide an interval is, and how wide it should be; that of y relative to y."""
    if target.at is None:
        return f"{2 * half:.3g} wide; wanted: {target.width:g}"
    return f"{2 * half:.3g} of {target.name} wide; wanted: {target.width:g}"


def suggestion(store: Store, targets: Sequence[Target], fit: int = 0) -> Suggestion:
    """The cheapest runs that are expected to make intervals as narrow as wanted, from the rows of a store.

    Args:
        fit: Which of the sweep's fits, counted from 0.

    Raises:
        LedgerError: It is no store, or does not record its axes.
        SweepError: The sweep has no such fit, its law lacks what is wanted, or the rows do not determine the law.
    """
    file, _ = stored_sweep(store)
    runs, declaration = stored_runs(store), stored_declaration(store)
    if runs is None or declaration is None:
        raise LedgerError(
            f"store {store.uri}: must record the axes of its sweep, but does not. Run the sweep once more"
        )
    if fit >= len(file.fit):
        raise SweepError(
            f"suggest: --fit must be one of the sweep's fits, counted from 0, but got (fit={fit}, "
            f"fits={len(file.fit)}). Add one to the sweep file and run it once more"
        )
    request = file.fit[fit].request
    check_targets(targets, request, "suggest: --ci95")
    table, _ = cells(store)
    if file.tune:  # a candidate's run is on the seeds that it was chosen by, and stands for nothing
        candidate = pc.equal(table.column("role"), CANDIDATE)
        tried = table.column("run").filter(candidate).to_numpy().astype("S")
        table, runs = table.filter(pc.invert(candidate)), runs.take(~np.isin(runs.keys, tried))
    settings = settings_of(runs, declaration.axes, least=1)
    groups, cost, seconds = measured(table, request, runs, settings)
    if not groups:
        raise SweepError(
            f"suggest: the rows must determine the law {request.law} of {request.y}, but do not yet. Run every setting "
            "once; `raysweep fit` says what is missing"
        )
    add, so_far, now = np.zeros(settings.count), np.zeros(settings.count), []
    for group in groups:
        so_far[group.settings] = np.maximum(so_far[group.settings], group.seen.count)  # groups may share runs
        for target in targets:
            slopes = group.slopes(target)
            per_run = adaptive.noise(group.u, group.seen, group.residual, len(group.free))
            half = float(adaptive.half_width(slopes, group.seen, per_run))
            low, high = group.interval(target, half)
            of = f" ({group.name})" if group.name else ""
            interval = f"{group.estimate(target):.4g} [{low:.4g}, {high:.4g}] so far"
            now.append(f"{target.text}{of} = {interval}, {_width(target, half)}")
            found = adaptive.bend(group.u, slopes, group.seen, group.residual, per_run)
            if found.p < adaptive.BENT:
                now.append(f"  but the law {group.fit.law.name} does not hold over the grid (p = {found.p:.1g})")
            more = np.zeros_like(group.seen.count)
            plenty = np.full_like(more, 1e9)
            for _ in range(_LOOKS if half > target.width / 2 else 0):
                step = adaptive.next_round(
                    slopes, per_run, group.seen.count + more, plenty, group.cost, np.array(target.width / 2)
                )
                more = more + step
                if not step.any():
                    break
            add[group.settings] = np.maximum(add[group.settings], more)
    names = tuple(name for name in runs.codes if len(runs.values[name]) > 1 and declaration.axes[name].role != "seed")
    first = {int(of): i for i, of in reversed(list(enumerate(settings.of.tolist())))}
    rows = tuple(
        Row(
            tuple(runs.row(first[i]).get(name) for name in names),
            int(so_far[i]),
            int(add[i]),
            max(0, int(settings.sizes[i] - so_far[i])),
            float(add[i] * cost[i]),
            float(add[i] * seconds[i]),
        )
        for i in np.flatnonzero(add).tolist()
    )
    resources = file.resources
    workers = resources.workers_per_run
    spent = math.fsum((so_far * cost).tolist())
    return Suggestion(
        names, rows, tuple(now), spent, groups[0].in_flops, resources.cpus * workers, resources.gpus * workers
    )
