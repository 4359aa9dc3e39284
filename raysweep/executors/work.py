"""What every executor does with a pack: run the experiment, stamp its rows, flush them to the ledger."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import time
import traceback
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from raysweep.capacity import Device
from raysweep.errors import PackError, tail
from raysweep.executors.keeping import Keeping, Kept, find, parts
from raysweep.experiment import Context, Experiment, Stamp, World, failure_rows, row_schema, stamp
from raysweep.ledger import STATUSES, Ledger, sequence
from raysweep.pack import Pack
from raysweep.remaining import subtract
from raysweep.store import Store, UnreachableError
from raysweep.sweep import from_mapping

__all__ = [
    "FLUSH_SECONDS",
    "Counts",
    "Job",
    "OutOfMemory",
    "check_store",
    "execute",
    "gpu",
    "opened",
    "peak_bytes",
    "release_memory",
]

FLUSH_SECONDS = 30.0
_FULL = ("DefaultCPUAllocator: can't allocate", "CUDA out of memory", "_ALLOC_FAILED")


class OutOfMemory(Exception):
    """A pack did not fit on its device; the feed halves it."""


@dataclass(frozen=True)
class Counts:
    """Cells by status."""

    ok: int = 0
    diverged: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, s) + getattr(other, s) for s in STATUSES))

    @property
    def total(self) -> int:
        return self.ok + self.diverged + self.failed + self.skipped


@dataclass(frozen=True)
class Job:
    """All that a worker needs besides its packs; small, hashable, and plain to pickle.

    Attributes:
        sweep: The resolved sweep file as JSON.
        path: Where it came from, for errors.
        folders: Where a user's module may lie.
        store: Where rows go.
        world: Folder of the world in the store, or "".
        token: Content of the store's `store.json`; a worker that does not see it has another disk.
        cpus, gpus: What a pack may use.
        checkpoint_seconds: Least time between saves of a pack's training state; 0 for none.
    """

    sweep: str
    path: str
    folders: tuple[str, ...]
    store: Store
    world: str
    token: str
    cpus: float
    gpus: float
    checkpoint_seconds: float = 0.0


@lru_cache(maxsize=4)
def opened(job: Job) -> tuple[Experiment, pa.Schema, World | None]:
    """A worker's parts, once per process.

    Raises:
        PackError: this host sees another store than the driver.
        RaysweepError: the sweep or its world cannot be loaded here.
    """
    sweep = from_mapping(json.loads(job.sweep), job.path, [Path(f) for f in job.folders])
    check_store(job.store, job.token)
    world = None
    if job.world:
        from raysweep.oracle.world import load_world

        world = load_world(job.store, job.world)
    return sweep.experiment, row_schema(sweep.experiment), world


def check_store(store: Store, token: str) -> None:
    """Whether this host sees the driver's store: its token in a folder; any in an object store, where of two drivers
    that make one store in the same instant the later one's token stays.

    Raises:
        PackError: it sees another or none.
    """
    seen = store.read("store.json").decode() if store.exists("store.json") else ""
    if seen != token and (store.is_local or not seen):
        raise PackError(
            f"store {store.uri}: every worker must see the driver's store, but host {socket.gethostname()} sees "
            f"{'another' if seen else 'none'}. Give --store a folder that all hosts share, or an object store (s3://...)"
        )


def execute(job: Job, pack: Pack) -> Generator[Counts, None, None]:
    """Run one pack; yields the cells finished at each snapshot. Rows are flushed at most every 30 s and at the end.

    Where an earlier try of its runs saved their training state, they go on from there.
    While the store does not answer, rows are kept and tried again at the next flush; only the last one waits for it.

    Raises:
        OutOfMemory: the device is full; what finished before is in the ledger.
        LedgerError: rows cannot be written.
    """
    _, _, world = opened(job)
    sha = world.sha if world else ""
    kept = find(job.store, sha) if job.checkpoint_seconds else []
    for part, start in parts(pack, kept):
        yield from _part(job, part, start)


def _part(job: Job, pack: Pack, start: Kept | None) -> Generator[Counts, None, None]:
    """Runs of a pack that begin, or go on, together."""
    experiment, schema, world = opened(job)
    device = _device(job)
    ledger, numbers = Ledger(job.store), sequence()
    by = Stamp(pack.id, pack.attempt, _device_name(device), world.sha if world else None)
    waiting: list[pa.Table] = []
    seen: list[pa.ChunkedArray] = []
    started = flushed = time.monotonic()

    def flush(patience: float | None = None) -> None:
        if waiting:
            ledger.append(pa.concat_tables(waiting, promote_options="permissive"), next(numbers), patience)
            waiting.clear()

    keep = Keeping(job.store, pack, world.sha if world else "", start, job.checkpoint_seconds, partial(flush, 0.0))
    context = Context(device=device, world=world, threads=max(1, int(job.cpus)), keep=keep)
    try:
        reason = "the experiment yielded no row for this cell"
        try:
            for batch in experiment.run(pack.runs, context):
                rows = stamp(batch, pack.runs, schema, replace(by, seconds=time.monotonic() - started))
                if not len(rows):
                    continue
                waiting.append(rows)
                seen.append(rows.column("cell"))
                if time.monotonic() - flushed > FLUSH_SECONDS:
                    with contextlib.suppress(UnreachableError):
                        flush(patience=0.0)
                    flushed = time.monotonic()
                yield _count(rows)
        except Exception as error:
            if _out_of_memory(error):
                raise OutOfMemory(str(error).splitlines()[0]) from error
            reason = tail(traceback.format_exc())
        done = [c for chunk in seen for c in chunk.to_pylist()]
        if len(done) < pack.runs.cells:
            missing = subtract(pack.runs, done)
            rows = failure_rows(missing, schema, replace(by, seconds=time.monotonic() - started), "failed", reason)
            waiting.append(rows)
            yield _count(rows)
        else:
            flush()
            keep.forget()
    finally:  # also when the pack is stopped half-way: what is finished stays finished
        flush()


def gpu(job: Job) -> Device:
    """The GPU this process sees.

    Raises:
        PackError: none.
    """
    import torch

    if not torch.cuda.is_available():
        raise PackError(f"resources.gpus: a pack asks for {job.gpus:g} GPUs, but torch sees none here")
    return Device(str(torch.cuda.get_device_name()), float(torch.cuda.get_device_properties(0).total_memory))


def peak_bytes(job: Job, pack: Pack) -> float:
    """Most bytes of the GPU held while a pack trains to its first snapshot and is evaluated there.

    Held, not allocated: a captured graph keeps what it once took. It trains twice, because what is tried and loaded on
    the way the first time (ways to convolve, workspaces, the world's samples) would hide what the lanes take.
    """
    import torch

    experiment, _, world = opened(job)
    for _ in range(2):
        release_memory()
        torch.cuda.reset_peak_memory_stats()
        work = experiment.run(pack.runs, Context(device="cuda", world=world, threads=max(1, int(job.cpus))))
        next(iter(work))
        found = float(torch.cuda.max_memory_reserved())
        del work
    release_memory()
    return found


def release_memory() -> None:
    """Give back what a pack that failed left behind."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _count(rows: pa.Table) -> Counts:
    found = {v["values"]: v["counts"] for v in pc.value_counts(rows.column("status")).to_pylist()}
    return Counts(*(found.get(s, 0) for s in STATUSES))


def _device(job: Job) -> str:
    if job.gpus <= 0:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _device_name(device: str) -> str:
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    import platform

    return platform.processor() or platform.machine()


def _out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised on top of, is a lack of memory.

    By torch on the device or by Python; by torch's CPU allocator and by cuBLAS as a plain RuntimeError; and an
    allocation that fails inside a captured graph ends as an error of the capture on top of it.
    """
    seen: BaseException | None = error
    while seen is not None:
        told = str(seen)
        if type(seen).__name__ == "OutOfMemoryError" or isinstance(seen, MemoryError) or any(t in told for t in _FULL):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
