"""The plan: how a sweep collapses (cells -> runs -> packs) and what it will cost, before anything is spent."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.capacity import Probe, fit_to_device
from raysweep.cost import Rate, divided_cost, host_memory, measured_rate
from raysweep.errors import SweepError
from raysweep.executors.place import has_checkpoint
from raysweep.experiments.function import FunctionExperiment
from raysweep.grid.runs import Runs
from raysweep.ledger.log import Ledger
from raysweep.ledger.scan import Scan
from raysweep.pack import Group, Pace, Pack, build_packs, lanes_per_pack, serial_groups, serial_packs, shape_groups
from raysweep.spread import spread
from raysweep.store import Store
from raysweep.sweep import Sweep
from raysweep.sweep.current import ledger_of, own_rows
from raysweep.sweep.provenance import equal_codes
from raysweep.terminal import counted

__all__ = ["Again", "Plan", "make_plan", "pending", "whole"]

_MEMORY_SHARE = 0.5  # share of free memory, divided among concurrent packs
_SAMPLE = 200  # parts of the ledger from which throughput is computed


@dataclass(frozen=True)
class Again:
    """Runs of a plain function that have finished cells and lack others.

    Attributes:
        restarted: Those that are trained once more from their start.
        resumed: Those that resume from a checkpoint.
    """

    restarted: int = 0
    resumed: int = 0


@dataclass(frozen=True)
class Plan:
    """The work to do.

    Attributes:
        runs: The pending ones, each asked only for pending cells.
        groups: Pending runs by shape.
        most: Lanes per pack, by group.
        workers: Workers that train a pack together, by group.
        rate: FLOPs per second of one pack.
        slots: Packs at a time.
        memory: Bytes of its device that a pack, or each of its workers, may use.
        attempts: [runs] attempts so far.
        pace: Durations of a plain function's runs.
        again: The runs that were partly trained before.
        lacking: Number of cells without a row, where runs are asked for all of theirs; None where `runs` gives it.
    """

    sweep: Sweep
    runs: Runs
    groups: tuple[Group, ...]
    most: tuple[int, ...]
    workers: tuple[int, ...]
    rate: Rate
    slots: int
    memory: float
    attempts: npt.NDArray[np.int32]
    pace: Pace | None = None
    again: Again = Again()
    lacking: int | None = None

    def packs(self, workers: int | None = None) -> Iterator[Pack]:
        """The packs, most expensive first; each is made on demand.

        Args:
            workers: Only those that this many workers train together.
        """
        if self.pace is not None:
            return serial_packs(self.runs, self.groups, self.attempts, self.pace)
        own = [i for i, count in enumerate(self.workers) if workers in (None, count)]
        return build_packs(self.runs, [self.groups[i] for i in own], [self.most[i] for i in own], self.attempts)

    @property
    def spread(self) -> dict[int, list[Group]]:
        """The groups a lane of which does not fit on one worker's device, by the number of workers that they need."""
        found: dict[int, list[Group]] = {}
        for group, count in zip(self.groups, self.workers, strict=True):
            if count > self.sweep.file.resources.workers_per_run:
                found.setdefault(count, []).append(group)
        return dict(sorted(found.items()))

    @property
    def pack_count(self) -> int:
        """Number of packs; an upper bound for a plain function's runs."""
        return sum(math.ceil(len(g.index) / most) for g, most in zip(self.groups, self.most, strict=True))

    @property
    def missing(self) -> int:
        """Cells that have no finished row."""
        return self.runs.cells if self.lacking is None else self.lacking

    @property
    def flops(self) -> float:
        return sum(len(g.index) * (g.cost.flops + g.cost.flops_eval) for g in self.groups)

    @property
    def seconds(self) -> float | None:
        """Estimated wall time of the packs; None where it is unknown."""
        if self.pace is not None:
            return None if self.pace.seconds is None else self.pace.seconds * len(self.runs) / self.slots
        return self.flops / self.rate.flops / self.slots if self.flops else None

    def to_json(self) -> dict[str, Any]:
        """Totals and one row per shape."""
        shapes = [
            {
                "shape": dict(g.shape),
                "runs": len(g.index),
                "cells": len(g.index) * g.observed.count,
                "packs": math.ceil(len(g.index) / most),
                "lanes": most,
                "workers": workers,
                "parameters": g.cost.parameters,
                "flops": len(g.index) * g.cost.flops,
                "flops_eval": len(g.index) * g.cost.flops_eval,
                "bytes": most * g.cost.bytes,
            }
            for g, most, workers in zip(self.groups, self.most, self.workers, strict=True)
        ]
        total = self.sweep.runs
        return {
            "sweep": self.sweep.name,
            "experiment": f"{self.sweep.experiment.name}/{self.sweep.experiment.version}",
            "cells": total.cells,
            "runs": len(total),
            "done_cells": total.cells - self.missing,
            "pending_cells": self.missing,
            "pending_runs": len(self.runs),
            "packs": self.pack_count,
            "flops": sum(s["flops"] for s in shapes),
            "flops_eval": sum(s["flops_eval"] for s in shapes),
            "slots": self.slots,
            "workers": self.sweep.file.resources.workers_per_run,
            "memory": self.memory,
            "seconds": self.seconds,
            "trained_again": self.again.restarted,
            "resumed": self.again.resumed,
            "rate": {"flops_per_second": self.rate.flops, "source": self.rate.source, "measured": self.rate.measured},
            "shapes": shapes,
        }


def make_plan(
    sweep: Sweep,
    store: Store,
    slots: int,
    skip_failed: bool = False,
    retry_diverged: bool = False,
    probe: Probe | None = None,
) -> Plan:
    """The pending runs of a store, grouped into packs.

    Args:
        probe: Asks the GPUs that packs will run on.

    Raises:
        SweepError: the plan exceeds the sweep's budget.
        PackError: a lane does not fit in memory, or a cost is not finite.
    """
    ledger = ledger_of(store, sweep.runs, dict(sweep.axes), sweep.identity)
    scan = ledger.states()
    runs = pending(scan, sweep, skip_failed, retry_diverged)
    if isinstance(sweep.experiment, FunctionExperiment):
        left = scan.pending(sweep.runs, skip_failed, retry_diverged).cells
        return _checked(_of_function(sweep, store, scan, runs, slots, left))
    world = sweep.file.world.shape if sweep.file.world else None
    resources = sweep.file.resources
    workers = resources.workers_per_run
    groups = shape_groups(runs, sweep.axes, partial(divided_cost, sweep.experiment, world=world, workers=workers))
    if resources.memory_gib:
        memory = resources.memory_gib * 2**30
    elif resources.gpus:
        groups, memory = fit_to_device(runs, groups, sweep.experiment, resources.gpus, probe, workers)
    else:
        here = max(1, int((os.cpu_count() or 1) / resources.cpus))  # a cluster's slots are also on other hosts
        memory = _MEMORY_SHARE * host_memory() / min(slots * workers, here)
    groups, counts = spread(sweep, runs, groups, world, memory)
    most = [0] * len(groups)
    for count in set(counts):  # they run one after another
        own = [i for i, other in enumerate(counts) if other == count]
        at_a_time = max(1, slots * workers // count)
        for i, lanes in zip(
            own, lanes_per_pack([groups[i] for i in own], memory, at_a_time, resources.lanes), strict=True
        ):
            most[i] = lanes
    attempts = scan.attempts(runs)
    del scan
    some = ledger.scan(["flops", "flops_eval", "seconds"], _SAMPLE).table
    rate = measured_rate(some, resources.cpus * workers, resources.gpus * workers)
    return _checked(Plan(sweep, runs, tuple(groups), tuple(most), tuple(counts), rate, slots, memory, attempts))


def pending(scan: Scan, sweep: Sweep, skip_failed: bool = False, retry_diverged: bool = False) -> Runs:
    """The rest of a sweep. A plain function's run is trained whole, as it cannot be entered half-way."""
    rest = scan.pending(sweep.runs, skip_failed, retry_diverged)
    return whole(sweep.runs, rest) if isinstance(sweep.experiment, FunctionExperiment) else rest


def whole(runs: Runs, rest: Runs) -> Runs:
    """The runs with unfinished cells, asked for all of their cells."""
    if len(rest) == len(runs) and rest.cells == runs.cells:
        return rest
    return runs.take(np.isin(runs.keys, rest.keys))


def _of_function(sweep: Sweep, store: Store, scan: Scan, runs: Runs, slots: int, left: int) -> Plan:
    groups = serial_groups(runs)
    some = Ledger(store).scan(["seconds", "experiment", "experiment_version"], _SAMPLE).table
    own = own_rows(sweep.runs, sweep.axes, sweep.identity)
    some = own.completed(some, own.mine(some.column("cell")))
    for name, value in (("experiment", own.experiment), ("experiment_version", own.version)):
        some = some.filter(pc.equal(some.column(name), value))
    seconds = _seconds_a_run(some)
    rate = (
        Rate(0.0, f"measured on {counted(seconds[1], 'run')} of this store", True)
        if seconds
        else Rate(0.0, "nothing measured")
    )
    begun = scan.partly_done(runs)
    kept = has_checkpoint(store, equal_codes(store, sweep.code.sha)) if begun else set()
    again = Again(len(begun - kept), len(begun & kept))
    pace = Pace(slots, seconds[0] if seconds else None)
    most = [1] * len(groups)
    return Plan(
        sweep, runs, tuple(groups), tuple(most), tuple(most), rate, slots, 0.0, scan.attempts(runs), pace, again, left
    )


def _seconds_a_run(cells: pa.Table) -> tuple[float, int] | None:
    """Mean wall time of the runs in some rows, and the number of runs; None where nothing was measured."""
    if not len(cells) or "seconds" not in cells.schema.names:
        return None
    runs = cells.group_by("run").aggregate([("seconds", "max")]).column("seconds_max")
    mean = pc.mean(runs).as_py()
    return (mean, len(runs)) if mean is not None else None


def _checked(plan: Plan) -> Plan:
    """The plan, if it is within the sweep's budget."""
    sweep = plan.sweep
    budget, runs = sweep.file.budget, plan.runs
    for name, limit, value in (("flops", budget.flops, plan.flops), ("cells", budget.cells, runs.cells)):
        if limit is not None and value > limit:
            raise SweepError(
                f"{sweep.path}: budget.{name}: at most {limit:.4g} may be spent, but the plan needs {value:.4g}. "
                "Raise the budget or shorten an axis"
            )
    return plan
