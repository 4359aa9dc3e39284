"""The plan: what a sweep collapses to (cells -> runs -> packs) and what it will cost, before anything is spent."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.capacity import Probe, fit_to_device
from raysweep.cost import Rate, host_memory, measured_rate
from raysweep.errors import SweepError
from raysweep.ledger import Ledger
from raysweep.oracle.recipe import shape_of
from raysweep.pack import Group, Pack, build_packs, lanes_per_pack, shape_groups
from raysweep.runs import Runs
from raysweep.store import Store
from raysweep.sweep import Sweep

__all__ = ["Plan", "make_plan"]

_MEMORY_SHARE = 0.5  # of free memory, divided among the packs that run at a time
_SAMPLE = 200  # parts of the ledger that throughput is read from


@dataclass(frozen=True)
class Plan:
    """What is to do.

    Attributes:
        runs: The pending ones, each asked only for pending cells.
        groups: Pending runs by shape.
        most: Lanes a pack, by group.
        rate: FLOPs a second of one pack.
        slots: Packs at a time.
        memory: Bytes of its device that a pack may take.
        attempts: [runs] tries so far.
    """

    sweep: Sweep
    runs: Runs
    groups: tuple[Group, ...]
    most: tuple[int, ...]
    rate: Rate
    slots: int
    memory: float
    attempts: npt.NDArray[np.int32]

    def packs(self) -> Iterator[Pack]:
        """The packs, dearest first; each is made when it is asked for."""
        return build_packs(self.runs, self.groups, self.most, self.attempts)

    @property
    def pack_count(self) -> int:
        """How many packs there are."""
        return sum(math.ceil(len(g.index) / most) for g, most in zip(self.groups, self.most, strict=True))

    @property
    def flops(self) -> float:
        return sum(len(g.index) * (g.cost.flops + g.cost.flops_eval) for g in self.groups)

    @property
    def seconds(self) -> float | None:
        """Estimated wall time of the packs; None where the experiment states no cost."""
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
                "parameters": g.cost.parameters,
                "flops": len(g.index) * g.cost.flops,
                "flops_eval": len(g.index) * g.cost.flops_eval,
                "bytes": most * g.cost.bytes,
            }
            for g, most in zip(self.groups, self.most, strict=True)
        ]
        total = self.sweep.runs
        return {
            "sweep": self.sweep.name,
            "experiment": f"{self.sweep.experiment.name}/{self.sweep.experiment.version}",
            "cells": total.cells,
            "runs": len(total),
            "done_cells": total.cells - self.runs.cells,
            "pending_cells": self.runs.cells,
            "pending_runs": len(self.runs),
            "packs": self.pack_count,
            "flops": sum(s["flops"] for s in shapes),
            "flops_eval": sum(s["flops_eval"] for s in shapes),
            "slots": self.slots,
            "memory": self.memory,
            "seconds": self.seconds,
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
    """What is pending in a store, grouped into packs.

    Args:
        probe: Asks the GPUs that packs will run on.

    Raises:
        SweepError: the plan is dearer than the sweep's budget.
        PackError: a lane does not fit in memory.
    """
    ledger = Ledger(store)
    scan = ledger.states()
    runs = scan.pending(sweep.runs, skip_failed, retry_diverged)
    world = shape_of(sweep.file.world) if sweep.file.world else None
    groups = shape_groups(runs, sweep.axes, lambda run, observed: sweep.experiment.cost(run, observed, world))
    resources = sweep.file.resources
    if resources.memory_gib:
        memory = resources.memory_gib * 2**30
    elif resources.gpus:
        groups, memory = fit_to_device(runs, groups, sweep.experiment, resources.gpus, probe)
    else:
        here = max(1, int((os.cpu_count() or 1) / resources.cpus))  # a cluster's slots are on other hosts, too
        memory = _MEMORY_SHARE * host_memory() / min(slots, here)
    most = lanes_per_pack(groups, memory, slots, resources.lanes)
    attempts = scan.attempts(runs)
    del scan
    rate = measured_rate(ledger.scan(["flops", "flops_eval", "seconds"], _SAMPLE).table, resources.cpus, resources.gpus)
    plan = Plan(sweep, runs, tuple(groups), tuple(most), rate, slots, memory, attempts)
    budget = sweep.file.budget
    for name, limit, value in (("flops", budget.flops, plan.flops), ("cells", budget.cells, runs.cells)):
        if limit is not None and value > limit:
            raise SweepError(
                f"{sweep.path}: budget.{name}: at most {limit:.4g} may be spent, but the plan needs {value:.4g}. "
                "Raise the budget or shorten an axis"
            )
    return plan
