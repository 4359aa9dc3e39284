"""What every executor does with a pack: run the experiment, stamp its rows, flush them to the ledger."""

from __future__ import annotations

import contextlib
import gc
import json
import platform
import socket
import time
import traceback
from collections.abc import Callable, Collection, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from raysweep.capacity import Device
from raysweep.code import Code
from raysweep.errors import PackError, RaysweepError, SweepError, tail
from raysweep.executors.interrupt import interrupted
from raysweep.executors.keeping import Keeping, Kept, find, parts
from raysweep.executors.limit import watched
from raysweep.executors.place import RunPlace, lend
from raysweep.executors.sink import Sink
from raysweep.experiment import Context, Experiment, Outbox, Saved, Share, World
from raysweep.experiments.function import FunctionExperiment
from raysweep.grid.lineage import Lineage
from raysweep.ledger.log import Ledger
from raysweep.ledger.rows import Counts, Stamp, row_schema
from raysweep.oracle.world import world_of_worker
from raysweep.pack import Pack
from raysweep.store import Store
from raysweep.sweep import from_mapping

__all__ = [
    "FLUSH_SECONDS",
    "Doubtful",
    "Enough",
    "Health",
    "Job",
    "OutOfMemory",
    "Teaming",
    "check_store",
    "device_of",
    "execute",
    "gpu",
    "opened",
    "out_of_memory",
    "peak_bytes",
    "release_memory",
]

# (pack, the state it continues from, what to call before the process ends itself) -> this worker's share, for as long
# as the pack is trained.
Teaming: TypeAlias = Callable[[Pack, Saved | None, Callable[[], None]], AbstractContextManager[Share]]

FLUSH_SECONDS = 30.0
_TRIAL_SECONDS = 2.0  # after which a pack of several runs of a user's function starts no further run
_BROKEN = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "CUDNN_STATUS", "device-side assert", "NCCL error")
_FULL = ("DefaultCPUAllocator: can't allocate", "CUDA out of memory", "_ALLOC_FAILED")


class OutOfMemory(Exception):
    """A pack did not fit on its device; the feed halves it."""


class Enough(Exception):
    """A trial of several runs took long; other workers may take what is left of it."""


class Doubtful(Exception):
    """Runs failed in a process that had run others before: they are tried once more in a fresh one.

    Args:
        runs: How many did.
    """

    def __init__(self, runs: int) -> None:
        super().__init__(f"{runs} runs failed in a used process")
        self.runs = runs


@dataclass(frozen=True)
class Job:
    """All that a worker needs besides its packs; small, hashable and easy to pickle.

    Attributes:
        sweep: The resolved sweep file as JSON.
        path: The sweep file's path, for error messages.
        folders: Where a user's module may be.
        store: Where rows are written.
        world: Folder of the world in the store, or "".
        token: Content of the store's `store.json`; a worker that does not see it does not share the driver's disk.
        cpus, gpus: What a pack, or each of the workers that train it together, may use.
        workers: Workers that train a pack together.
        checkpoint_seconds: Least time between saves of a pack's training state; 0 for none.
        made_by: Name, version and code of the experiment.
        given: The user's function, where it was given in Python; Ray ships it by value.
        seconds: Time that a run of a user's function, or else a pack, may take.
        own_folder: Each run of a user's function works in a folder of its own.
        child_cpus: CPUs that are kept free for Ray tasks which a run starts.
        equal_codes: Hashes of the code versions whose checkpoints the sweep's code may continue from; its own first.
        lineage: Where the runs of a sweep that tunes come from.
        lasting: Whether packs end at a rung, after which some of their runs are asked for later cells.
    """

    sweep: str
    path: str
    folders: tuple[str, ...]
    store: Store
    world: str
    token: str
    cpus: float
    gpus: float
    workers: int = 1
    checkpoint_seconds: float = 0.0
    made_by: tuple[str, int, Code] = ("", 0, Code())
    given: Any = None
    seconds: float | None = None
    own_folder: bool = False
    child_cpus: float = 0.0
    equal_codes: tuple[str, ...] = ("",)
    lineage: Lineage | None = None
    lasting: bool = field(default=False, compare=False)  # nothing is loaded differently

    def __hash__(self) -> int:
        return hash((self.sweep, self.store.uri, self.token))


@lru_cache(maxsize=4)
def opened(job: Job) -> tuple[Experiment, pa.Schema, World | None]:
    """The experiment, row schema and world of a worker, loaded once per process.

    Raises:
        PackError: this host sees another store than the driver.
        RaysweepError: the sweep or its world cannot be loaded here.
    """
    sweep = from_mapping(json.loads(job.sweep), job.path, [Path(f) for f in job.folders], job.given)
    check_store(job.store, job.token)
    world = None
    if job.world:
        world = world_of_worker(job.store, job.world)
    return sweep.experiment, row_schema(sweep.experiment), world


def check_store(store: Store, token: str) -> None:
    """Check that this host sees the driver's store: in a folder by its token, in an object store by any token, because
    of two drivers that create one store in the same instant the later one's token stays.

    Raises:
        PackError: it sees another store or none.
    """
    seen = store.read("store.json").decode() if store.exists("store.json") else ""
    if seen != token and (store.is_local or not seen):
        raise PackError(
            f"store {store.uri}: every worker must see the driver's store, but host {socket.gethostname()} sees "
            f"{'another' if seen else 'none'}. Give --store a folder that all hosts share, or an object store (s3://...)"
        )


@dataclass
class Health:
    """What a process has been through.

    Attributes:
        begun: Number of runs of a user's function, or of packs, that began in it.
        spoilt: Whether it ran out of memory or its GPU does not answer: no later result can be trusted.
    """

    begun: int = 0
    spoilt: bool = False

    def look(self, error: BaseException) -> None:
        """Update by the error that ended a run."""
        self.spoilt = self.spoilt or out_of_memory(error) or _of_gpu(error)


def execute(
    job: Job,
    pack: Pack,
    health: Health | None = None,
    on_failure: Callable[[str], None] = lambda reason: None,
    sure: Collection[str] = (),
    together: Teaming | None = None,
    on_rows: Callable[[pa.Table], None] = lambda rows: None,
) -> Generator[Counts, None, None]:
    """Run one pack; yields the cells finished at each snapshot. Rows are flushed at most every 30 s and at the end.

    Where an earlier attempt at its runs saved their training state, they continue from there.
    While the store does not answer, rows are kept and tried again at the next flush; only the last flush waits for it.

    Args:
        health: Health of this process, where it can be replaced: a failure in a used process does not count yet.
        on_failure: Called with the reason of each failure that counts.
        sure: Causes of failure that are known to be the runs' own: they count in any process.
        together: Lets other workers train the pack with this one.
        on_rows: Called with rows as they come.

    Raises:
        OutOfMemory: the device is full; what finished before is in the ledger.
        Enough: the time of one trial is over, and runs are left.
        Doubtful: some runs failed in a process that was used before.
        LedgerError: rows cannot be written.
    """
    _, _, world = opened(job)
    sha = world.sha if world else ""
    kept = find(job.store, sha) if job.checkpoint_seconds else []
    for part, start in parts(pack, kept):
        yield from _part(job, part, start, health, on_failure, sure, together, on_rows)


def _part(
    job: Job,
    pack: Pack,
    start: Kept | None,
    health: Health | None,
    on_failure: Callable[[str], None],
    sure: Collection[str],
    together: Teaming | None,
    on_rows: Callable[[pa.Table], None],
) -> Generator[Counts, None, None]:
    """Execute the runs of a pack that start, or continue, together."""
    experiment, schema, world = opened(job)
    device, name = device_of(job)
    sha = world.sha if world else None
    name = f"{job.workers} x {name}" if together else name
    by = Stamp(pack.id, pack.attempt, name, sha, 0.0, "grid", *job.made_by, job.lineage)
    outbox = Outbox()
    sink = Sink(Ledger(job.store), pack.runs, schema, by, outbox, health, on_failure, sure, on_rows)
    began, left = time.monotonic(), False
    flush = partial(sink.flush, 0.0)
    keep = Keeping(job.store, pack, sha or "", start, job.checkpoint_seconds, flush, job.lasting)
    function = isinstance(experiment, FunctionExperiment)
    limit = nullcontext() if function else watched(job.seconds, sink.flush if health else None, f"pack {pack.id}")
    if health is not None and not function:
        health.begun += 1

    def hold(key: str) -> contextlib.AbstractContextManager[RunPlace]:
        if health is not None:
            health.begun += 1
        own = job.own_folder and health is not None
        return lend(job.store, key, sink.flush, own, job.seconds, health is not None, sink.watch, job.equal_codes)

    def enough() -> bool:
        nonlocal left
        left = health is not None and time.monotonic() - began > _TRIAL_SECONDS
        return left

    context = Context(
        device=device,
        world=world,
        keep=keep,
        outbox=outbox,
        hold=hold,
        interrupted=interrupted if health is None else lambda error: False,
        on_error=health.look if health is not None else lambda error: None,
        enough=enough,
    )
    with sink.regularly(FLUSH_SECONDS):
        reason = "the experiment yielded no row for this cell"
        try:
            with together(pack, keep.saved, sink.flush) if together else nullcontext() as share, limit:
                for batch in experiment.run(pack.runs, replace(context, share=share)):
                    sink.take(batch)
                    if counts := sink.counted():
                        yield counts
        except GeneratorExit:
            raise
        except BaseException as error:  # also Rust's and asyncio's: it ends the pack, not the sweep
            if health is None and interrupted(error):
                raise
            if out_of_memory(error):
                raise OutOfMemory(_message(error).partition("\n")[0] or type(error).__name__) from error
            if isinstance(error, RaysweepError) and not isinstance(error, SweepError):
                raise
            context.on_error(error)
            try:
                reason = tail(traceback.format_exc())
            except Exception:  # an exception's own code may raise whatever it is asked
                reason = type(error).__name__
        whole = False if left else sink.finish(reason)
        if counts := sink.counted():
            yield counts
        if whole:
            sink.flush()
            if not keep.lasting:
                keep.forget()
    if sink.doubtful:
        raise Doubtful(len(sink.doubtful))
    if left:
        raise Enough


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

    Memory held, not allocated, because a captured graph keeps what it once took. The pack trains twice: what is tried
    and loaded the first time (convolution algorithms, workspaces, the world's samples) would hide what the lanes take.
    """
    import torch

    experiment, _, world = opened(job)
    share = Share(0, job.workers, lambda tensor: None) if job.workers > 1 else None  # as worker 0 without the others
    for _ in range(2):
        release_memory()
        torch.cuda.reset_peak_memory_stats()
        work = experiment.run(pack.runs, Context(device="cuda", world=world, share=share))
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


def device_of(job: Job) -> tuple[str, str]:
    """Torch's word for the device of a pack, and the device's name."""
    if job.gpus > 0:
        import torch

        if torch.cuda.is_available():
            return "cuda", str(torch.cuda.get_device_name())
    return "cpu", platform.processor() or platform.machine()


def _of_gpu(error: BaseException) -> bool:
    """Whether a GPU's context is broken: every later call of the process fails, too."""
    return type(error).__name__ == "AcceleratorError" or any(sign in _message(error) for sign in _BROKEN)


def _message(error: BaseException) -> str:
    """What an exception says; its own code may raise."""
    try:
        return str(error)
    except BaseException:
        return ""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised on top of, is a lack of memory.

    Torch (on the device) and Python raise errors of that name; torch's CPU allocator and cuBLAS raise a plain
    RuntimeError; an allocation that fails inside a captured graph ends as an error of the capture on top of it.
    """
    seen: BaseException | None = error
    met: set[int] = set()
    while seen is not None and id(seen) not in met:  # `raise e from e` is its own cause
        met.add(id(seen))
        text = _message(seen)
        if type(seen).__name__ == "OutOfMemoryError" or isinstance(seen, MemoryError) or any(t in text for t in _FULL):
            return True
        seen = seen.__context__ if seen.__cause__ is None else seen.__cause__
    return False
