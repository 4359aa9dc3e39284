"""What a run costs: parameters, FLOPs and bytes by layer; and time, from throughput that was measured.

Conventions. A multiply-add is 2 FLOPs; forward and backward are counted layer by layer (the first layer has no
input gradient); activations, normalisation, optimiser arithmetic and data indexing are not counted. N counts
every trainable scalar, biases included.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from raysweep.experiment import Cost

__all__ = ["ASSUMED_FLOPS", "Rate", "dense_cost", "host_memory", "measured_rate"]

ASSUMED_FLOPS = 4e9  # per second and core, float32 packs of small MLPs; used until something was measured


def dense_cost(
    sizes: Sequence[int], batch: int, steps: int, evaluations: int, samples: int, itemsize: int, state: int = 1
) -> Cost:
    """Cost of training a multi-layer perceptron.

    Args:
        sizes: Layer widths, input first.
        batch: Items a step.
        steps: Training steps.
        evaluations: Snapshots evaluated.
        samples: Items each evaluation forwards.
        itemsize: Bytes of one number.
        state: Optimiser numbers kept per parameter (1 for momentum).
    """
    products = [a * b for a, b in itertools.pairwise(sizes)]
    parameters = sum(products) + sum(sizes[1:])
    forward = 2 * sum(products)
    backward = 4 * sum(products) - 2 * products[0]
    activations = 3 * batch * sum(sizes)  # forward values, their gradients, the gathered batch
    return Cost(
        parameters=parameters,
        flops=float(steps) * batch * (forward + backward),
        flops_eval=float(evaluations) * samples * forward,
        bytes=float(itemsize) * (parameters * (2 + state) + activations),
    )


@dataclass(frozen=True)
class Rate:
    """Throughput of one pack: FLOPs a second, and where the number comes from."""

    flops: float
    source: str


def measured_rate(cells: pa.Table | None, threads: float = 1.0) -> Rate:
    """FLOPs a second of a pack, from the rows of an earlier run of the sweep, else an assumption.

    A row's `seconds` are its pack's wall time divided by the lanes, so that they add up over the last rows of runs.
    """
    if cells is not None and {"flops", "seconds", "run", "status"} <= set(cells.schema.names):
        ok = cells.filter(pc.equal(cells.column("status"), "ok"))
        runs = ok.group_by("run").aggregate([("flops", "max"), ("flops_eval", "max"), ("seconds", "max")])
        work = sum(pc.sum(runs.column(c)).as_py() or 0.0 for c in ("flops_max", "flops_eval_max"))
        seconds = pc.sum(runs.column("seconds_max")).as_py() or 0.0
        if work > 0 and seconds > 0:
            return Rate(work / seconds, f"measured on {len(runs):,} runs of this store")
    return Rate(ASSUMED_FLOPS * max(threads, 1.0), "assumed; nothing measured in this store yet")


def host_memory() -> float:
    """Bytes of memory available to this process, by the kernel and by its control group."""
    free = float(os.sysconf("SC_AVPHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as stream:
                free = min(free, float(stream.read()))
        except (OSError, ValueError):
            continue
    return free
