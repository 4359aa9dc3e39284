"""The inline executor: everything in this process, one pack after another. For debugging and for tests."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from raysweep.errors import PackError
from raysweep.executors.feed import Feed
from raysweep.executors.interrupt import noting_interrupts
from raysweep.executors.work import Job, OutOfMemory, execute, release_memory
from raysweep.experiment import Dist
from raysweep.ledger.rows import Counts
from raysweep.oracle.curve import Curve
from raysweep.oracle.recipe import Point, TrainFunction
from raysweep.store import Store

__all__ = ["Inline", "threads"]


@contextlib.contextmanager
def threads(cpus: float) -> Iterator[None]:
    """Torch keeps to the threads that a pack may use, as it would in a worker."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, int(cpus)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Inline:
    """Runs packs where it is called."""

    slots = 1
    dashboard = ""

    def check(self, cpus: float, gpus: float, workers: int) -> None:
        """See `Executor.check`.

        Raises:
            PackError: packs need a GPU, and there is none; or several workers each.
        """
        if workers > 1:
            raise PackError(
                f"resources.workers_per_run: packs of several workers must run on Ray, but got (workers_per_run="
                f"{workers}, executor=inline). Run without --executor inline, or leave gpus_per_run and "
                "workers_per_run out"
            )
        if not gpus:
            return
        import torch

        if not torch.cuda.is_available():
            raise PackError(
                f"resources.gpus: a pack needs {gpus:g} GPUs, but torch sees none here. Ask for none, or run on a "
                "machine with one"
            )

    @contextlib.contextmanager
    def session(self, job: Job, log: Path) -> Iterator[None]:
        """Nothing to start.

        Raises:
            PackError: as `check`.
        """
        self.check(job.cpus, job.gpus, job.workers)
        with threads(job.cpus):
            yield

    def call(self, job: Job, function: Callable[..., Any], *arguments: Any, gpus: float = 0.0) -> Any:
        """Call the function here."""
        return function(*arguments)

    def train(
        self, function: TrainFunction, store: Store, folder: str, workers: int, on_progress: Point
    ) -> Mapping[str, bytes]:
        """Train on one device, a GPU where there is one. Checkpoints are kept beside the world until it is made."""
        import torch

        curve, place = Curve(store, folder), f"{folder}/checkpoint"
        kept: dict[str, bytes] = {}

        def record(point: Mapping[str, float]) -> None:
            curve(point)
            on_progress(point)

        def report(metrics: Mapping[str, Any], files: Mapping[str, bytes] | None) -> None:
            for name, data in (files or {}).items():
                store.write(f"{place}/{name}", data)
            kept.update(files or {})

        resume = {name: store.read(f"{place}/{name}") for name, _ in store.list(place)}
        dist = Dist(0, 1, wrap=lambda module: module, report=report, resume=resume or None)
        files = function(dist, record, "cuda" if torch.cuda.is_available() else "cpu")
        for name, _ in store.list(place):
            store.delete(f"{place}/{name}")
        return kept or files

    def run(self, job: Job, feed: Feed, on_counts: Callable[[Counts], None]) -> None:
        """One pack after another."""

        def count(counts: Counts) -> None:
            feed.count(counts)
            on_counts(counts)

        with noting_interrupts():
            while not feed.finished:
                pack = feed.ask()
                if pack is None:
                    time.sleep(1.0)
                    continue
                try:
                    for counts in execute(job, pack, None, feed.failed):
                        count(counts)
                except OutOfMemory as error:
                    on_counts(feed.too_large(pack.id, str(error)))
                else:
                    feed.done(pack.id)
                    continue
                release_memory()  # the error is gone, and with it the frames that held the pack
