"""What a sweep takes: time, from throughput that was measured, and memory of this host."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["ASSUMED_FLOPS", "Rate", "clock", "host_memory", "measured_rate"]

# A second, for packs of small models, until something was measured: per core in float32, per GPU in TF32.
ASSUMED_FLOPS, ASSUMED_GPU_FLOPS = 4e9, 1e13


@dataclass(frozen=True)
class Rate:
    """Throughput of one pack: FLOPs a second, and where the number comes from."""

    flops: float
    source: str
    measured: bool = False


def measured_rate(cells: pa.Table | None, threads: float = 1.0, gpus: float = 0.0) -> Rate:
    """FLOPs a second of a pack, from the rows of an earlier run of the sweep, else an assumption.

    A row's `seconds` are its pack's wall time divided by the lanes, so that they add up over the last rows of runs.
    """
    if cells is not None and {"flops", "seconds", "run", "status"} <= set(cells.schema.names):
        ok = cells.filter(pc.equal(cells.column("status"), "ok"))
        runs = ok.group_by("run").aggregate([("flops", "max"), ("flops_eval", "max"), ("seconds", "max")])
        work = sum(pc.sum(runs.column(c)).as_py() or 0.0 for c in ("flops_max", "flops_eval_max"))
        seconds = pc.sum(runs.column("seconds_max")).as_py() or 0.0
        if work > 0 and seconds > 0:
            return Rate(work / seconds, f"measured on {len(runs):,} runs of this store", measured=True)
    assumed = ASSUMED_GPU_FLOPS * gpus if gpus else ASSUMED_FLOPS * max(threads, 1.0)
    return Rate(assumed, "assumed; nothing measured in this store yet")


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


def clock(seconds: float) -> str:
    """`4:05` or `2:04:05`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
