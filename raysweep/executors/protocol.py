"""What an executor is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from raysweep.executors.feed import Feed
from raysweep.executors.work import Job
from raysweep.ledger.rows import Counts
from raysweep.oracle.recipe import Point, TrainFunction
from raysweep.store import Store

__all__ = ["Executor"]


class Executor(Protocol):
    """Where work happens."""

    @property
    def slots(self) -> int:
        """Packs of `cpus` and `gpus` that run at the same time; valid inside `session`."""
        ...

    @property
    def dashboard(self) -> str:
        """Address of a web page about the workers, or ""; valid inside `session`."""
        ...

    def check(self, cpus: float, gpus: float, workers: int) -> None:
        """Refuse packs that can never run here, as far as that is known before anything is started.

        Args:
            cpus, gpus: Of each worker of a pack.

        Raises:
            PackError: a pack needs more than there is.
        """
        ...

    def session(self, job: Job, log: Path) -> contextlib.AbstractContextManager[None]:
        """Start what is needed, and stop it at the end. Noise goes to `log`."""
        ...

    def call(self, job: Job, function: Callable[..., Any], *arguments: Any, gpus: float = 0.0) -> Any:
        """Call a function where packs run and return its result; what it raises is raised here."""
        ...

    def train(
        self, function: TrainFunction, store: Store, folder: str, workers: int, on_progress: Point
    ) -> Mapping[str, bytes]:
        """Train on this executor; returns the files that the function returned, or reported last.

        Args:
            store, folder: Where its curve and its checkpoints are written.
            workers: Data-parallel workers, at most.
            on_progress: Called now and then with the newest point of the curve.
        """
        ...

    def run(self, job: Job, feed: Feed, on_counts: Callable[[Counts], None]) -> None:
        """Execute packs until the feed is finished."""
        ...
