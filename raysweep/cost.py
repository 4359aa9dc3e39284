"""The cost of a sweep: that of its runs, time by measured throughput, and memory of this host."""

from __future__ import annotations

import math
import os
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.errors import PackError
from raysweep.experiment import Cost, DividedExperiment, Experiment, WorldShape
from raysweep.grid.runs import Observed, Runs, number
from raysweep.grid.values import Value
from raysweep.terminal import counted

__all__ = [
    "ASSUMED_FLOPS",
    "CostOf",
    "Rate",
    "clock",
    "divided_cost",
    "host_memory",
    "measured_rate",
    "run_costs",
    "stated_cost",
    "workers_for",
]

CostOf: TypeAlias = Callable[[Mapping[str, Value], Observed], Cost]  # the cost of a run that observes a set
# Per second, for packs of small models, until something was measured: per core in float32, per GPU in TF32.
ASSUMED_FLOPS, ASSUMED_GPU_FLOPS = 4e9, 1e13
_BUCKET = 4  # bytes per parameter of the tensor in which workers add their gradients
_MOST_WORKERS = 64  # that are suggested


@dataclass(frozen=True)
class Rate:
    """Throughput of one pack: FLOPs per second, and the source of the number."""

    flops: float
    source: str
    measured: bool = False


class _Noted(Mapping[str, Value]):
    """A run's axes, which record the ones that are read."""

    def __init__(self, row: Mapping[str, Value], read: set[str]) -> None:
        self._row, self._read = row, read

    def __getitem__(self, name: str) -> Value:
        self._read.add(name)
        return self._row[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)


def stated_cost(experiment: Experiment, run: Mapping[str, Value], observed: Observed, world: WorldShape | None) -> Cost:
    """The cost of a run, as its experiment states it, in floats.

    Raises:
        PackError: it is not a Cost of finite numbers, each 0 or more.
    """
    found = experiment.cost(run, observed, world)
    if not isinstance(found, Cost):
        raise PackError(
            f"experiment {experiment.name}: cost() must return a Cost, but returns {found!r} for {dict(run)}"
        )
    numbers = {}
    for name in ("parameters", "flops", "flops_eval", "bytes"):
        value = getattr(found, name)
        try:
            numbers[name] = float(value) if not isinstance(value, bool) and isinstance(value, Real) else math.nan
        except OverflowError:  # a whole number beyond every float
            numbers[name] = math.inf
        if not 0 <= numbers[name] < math.inf:
            raise PackError(
                f"experiment {experiment.name}: cost() must state finite numbers, 0 or more, but states "
                f"{name}={repr(value)[:200]} for the run {dict(run)}. Correct cost() for such runs"
            )
    return Cost(**numbers)


def divided_cost(
    experiment: Experiment, run: Mapping[str, Value], observed: Observed, world: WorldShape | None, workers: int
) -> Cost:
    """The cost of a run that several workers train together; its bytes are those of one worker."""
    whole = stated_cost(experiment, run, observed, world)
    if workers == 1 or not isinstance(experiment, DividedExperiment):
        return whole
    own = {experiment.divided: math.ceil(int(run[experiment.divided]) / workers)}
    part = stated_cost(experiment, ChainMap(own, run), observed, world)  # type: ignore[arg-type]  # it is only read
    return replace(whole, bytes=part.bytes + _BUCKET * whole.parameters)


def workers_for(bytes_of: Callable[[int], float], memory: float) -> int | None:
    """The smallest power of two of workers for which one worker's bytes fit in memory, or None."""
    count = 2
    while count <= _MOST_WORKERS:
        if bytes_of(count) <= memory:
            return count
        count *= 2
    return None


def run_costs(
    runs: Runs, index: npt.NDArray[np.int64], lanes: Sequence[str], cost: CostOf
) -> tuple[npt.NDArray[np.int64], list[Cost]]:
    """The cost of each run as an index, [n], and the distinct costs.

    An experiment need not declare which axes its cost depends on: those that `cost` reads are recorded, and each
    combination of their values is priced once. Runs that agree in all that is read have one cost, whatever else
    differs, so a million runs of twenty sizes are priced twenty times.

    Args:
        runs: Many runs.
        index: [n] positions of those to be priced, at least one. They share one observed set, and differ at most in
            `lanes`.
        lanes: Names of axes.
        cost: The cost of a run: a function of its arguments alone, which reads the run's axes by name.
    """
    observed = runs.observed[int(runs.observed_code[index[0]])]
    read: set[str] = set()
    while True:
        known = [name for name in lanes if name in read]
        code = number([(runs.codes[name][index], len(runs.values[name])) for name in known], len(index))
        first = np.empty(int(code.max()) + 1, dtype=np.int64)
        first[code[::-1]] = index[::-1]  # where several are written to one place, the last one stays
        found = []
        for i in first.tolist():
            found.append(cost(_Noted(runs.row(i), read), observed))
            if sum(name in read for name in lanes) > len(known):
                break  # it depends on one more lane
        else:
            return code, found


def measured_rate(cells: pa.Table | None, threads: float = 1.0, gpus: float = 0.0) -> Rate:
    """FLOPs per second of a pack, from the rows of an earlier run of the sweep, else assumed.

    A row's `seconds` are its pack's wall time divided by the lanes, so that they add up over the last rows of runs.
    """
    if cells is not None and {"flops", "seconds", "run", "status"} <= set(cells.schema.names):
        ok = cells.filter(pc.equal(cells.column("status"), "ok"))
        runs = ok.group_by("run").aggregate([("flops", "max"), ("flops_eval", "max"), ("seconds", "max")])
        work = sum(pc.sum(runs.column(c)).as_py() or 0.0 for c in ("flops_max", "flops_eval_max"))
        seconds = pc.sum(runs.column("seconds_max")).as_py() or 0.0
        if work > 0 and seconds > 0:
            return Rate(work / seconds, f"measured on {counted(len(runs), 'run')} of this store", measured=True)
    assumed = ASSUMED_GPU_FLOPS * gpus if gpus else ASSUMED_FLOPS * max(threads, 1.0)
    return Rate(assumed, "assumed; nothing measured in this store yet")


def host_memory() -> float:
    """Bytes of memory available to this process, according to the kernel and its control group."""
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
