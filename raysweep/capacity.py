"""How many lanes fit on a device: bytes per lane, measured once per shape and device and kept in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from raysweep.cache import cache_file
from raysweep.experiment import Experiment
from raysweep.grid.runs import Runs
from raysweep.pack import Group, Pack, make_pack

__all__ = ["Device", "Probe", "fit_to_device"]

_FILE = "capacity.json"
_FILL = 0.8  # share of a device's memory; the rest is for libraries, fragments and evaluation
_SURE = 4 * 2**30  # bytes that every supported device has: a smaller estimate needs no measurement
_CLOSE = 0.25  # an estimate above this share of the device is measured
_LANES = (8, 24)  # lanes of the two packs whose difference gives the bytes per lane
_LEAST = 0.1  # share of the estimate; a smaller difference was lost in what packs share
_ASSUMED = 80 * 2**30  # where no device can be queried


@dataclass(frozen=True)
class Device:
    """An accelerator: its name and its bytes of memory."""

    name: str
    memory: float


class Probe(Protocol):
    """Queries a worker's device."""

    def device(self) -> Device: ...

    def peak_bytes(self, pack: Pack) -> float:
        """Most bytes allocated while a pack trains to its first snapshot and is evaluated there."""
        ...


def fit_to_device(
    runs: Runs, groups: Sequence[Group], experiment: Experiment, gpus: float, probe: Probe | None, workers: int = 1
) -> tuple[list[Group], float]:
    """The groups with measured bytes where the estimate nears a GPU's memory, and the bytes that a pack may use.

    Args:
        runs: The pending runs that `groups` indexes.
        gpus: GPUs per pack, or per worker of one; a fraction shares the memory.
        probe: None where no device can be queried; then estimates and an 80 GiB device are assumed.
        workers: Workers that train a pack together; bytes are those of one of them.
    """
    share = _FILL * min(gpus, 1.0)
    if max((len(g.index) * g.cost.bytes for g in groups), default=0.0) <= _SURE * share:
        return list(groups), _SURE
    if probe is None:
        return list(groups), share * _ASSUMED
    device = probe.device()
    memory = share * device.memory
    kept = _read()
    found = []
    for group in groups:
        if len(group.index) * group.cost.bytes > _CLOSE * memory and len(group.index) > _LANES[0]:
            key = _key(group, experiment, device, workers)
            if key not in kept:
                kept[key] = _measured(runs, group, probe, memory)
                _write(kept)
            group = replace(group, cost=replace(group.cost, bytes=kept[key]))
        found.append(group)
    return found, memory


def _measured(runs: Runs, group: Group, probe: Probe, memory: float) -> float:
    """Bytes per lane without what packs share; the estimate where two packs hardly differ, or hardly fit."""
    room = int(memory // group.cost.bytes)
    if room < 2:
        return group.cost.bytes
    first = min(group.observed.cells.items(), key=lambda cell: [str(v).zfill(24) for v in cell[1]])[0]
    peaks, lanes = [], [min(n, len(group.index), most) for n, most in zip(_LANES, (room // 2, room), strict=True)]
    for n in lanes:
        few = runs.take(group.index[:n])  # the most expensive one, where they differ
        short = replace(few, observed=tuple(o.only([first]) if o == group.observed else o for o in few.observed))
        peaks.append(probe.peak_bytes(make_pack(short)))
    found = (peaks[1] - peaks[0]) / max(lanes[1] - lanes[0], 1)
    return found if found > _LEAST * group.cost.bytes else group.cost.bytes


def _key(group: Group, experiment: Experiment, device: Device, workers: int) -> str:
    parts = [experiment.name, experiment.version, sorted(group.shape.items()), device.name, device.memory]
    parts += [workers] if workers > 1 else []
    return hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=10).hexdigest()


def _read() -> dict[str, float]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(cache_file(_FILE).read_text())
        if isinstance(found, dict):
            return {k: float(v) for k, v in found.items() if isinstance(v, int | float) and np.isfinite(v) and v > 0}
    return {}


def _write(kept: dict[str, float]) -> None:
    """Write to the cache; one that cannot be written only costs time."""
    with contextlib.suppress(OSError):
        cache_file(_FILE).parent.mkdir(parents=True, exist_ok=True)
        scratch = cache_file(_FILE).with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(kept, indent=1))
        scratch.replace(cache_file(_FILE))
