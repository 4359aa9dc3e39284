"""Lanes that do not fit on a device alone: how many workers train each of them together, every worker on its device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from raysweep.cost import divided_cost, workers_for
from raysweep.experiment import DividedExperiment, WorldShape
from raysweep.grid.runs import Runs
from raysweep.pack import Group
from raysweep.sweep import Sweep
from raysweep.terminal import counted

__all__ = ["can_double", "in_words", "spread"]


def spread(
    sweep: Sweep, runs: Runs, groups: Sequence[Group], world: WorldShape | None, memory: float
) -> tuple[list[Group], list[int]]:
    """The groups, and how many workers train a pack of each: what the sweep asks for, or where one lane of a group does
    not fit, the smallest power of two of workers with which it does.

    A group that no number of workers helps is left as it is.

    Args:
        runs: The pending runs that `groups` indexes.
        groups: With the bytes of a lane on one of the sweep's workers.
        memory: Bytes of its device that a worker may use.
    """
    least = sweep.file.resources.workers_per_run
    found, counts = [], []
    for group in groups:
        workers = least
        if group.cost.bytes > memory and (needed := _needed(sweep, runs, group, world, memory)) is not None:
            workers = needed
            group = replace(group, cost=replace(group.cost, bytes=_bytes(sweep, runs, group, world, needed)))
        found.append(group)
        counts.append(workers)
    return found, counts


def can_double(sweep: Sweep, runs: Runs, workers: int) -> bool:
    """Whether twice as many workers can train these runs together, each with a whole device or none."""
    return (
        isinstance(sweep.experiment, DividedExperiment)
        and sweep.file.resources.gpus in (0.0, 1.0)
        and all(int(runs.row(i)[sweep.experiment.divided] or 1) >= 2 * workers for i in range(len(runs)))
    )


def in_words(groups: Sequence[Group], workers: int, gpus: float) -> str:
    """Which runs are spread over several workers, as a sentence."""
    runs, shapes = sum(len(group.index) for group in groups), [dict(group.shape) for group in groups]
    more = f" and {counted(len(shapes) - 1, 'other shape')}" if len(shapes) > 1 else ""
    device = "GPU" if gpus else "worker's memory"
    return (
        f"{counted(runs, 'run')} ({shapes[0]}{more}) would not fit on one {device}; {workers} workers share each "
        f"{'batch, with a GPU each' if gpus else 'batch'}"
    )


def _needed(sweep: Sweep, runs: Runs, group: Group, world: WorldShape | None, memory: float) -> int | None:
    if not can_double(sweep, runs.take(group.index[:1]), 1):
        return None
    needed = workers_for(partial(_bytes, sweep, runs, group, world), memory)
    return needed if needed is not None and needed > sweep.file.resources.workers_per_run else None


def _bytes(sweep: Sweep, runs: Runs, group: Group, world: WorldShape | None, workers: int) -> float:
    """Bytes of a lane on each of several workers; infinite where there is no item for each."""
    row = runs.row(int(group.index[0]))
    assert isinstance(sweep.experiment, DividedExperiment)
    if workers > int(row[sweep.experiment.divided] or 1):
        return math.inf
    return divided_cost(sweep.experiment, row, group.observed, world, workers).bytes
