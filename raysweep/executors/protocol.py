"""What an executor is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from raysweep.executors.feed import Feed
from raysweep.executors.work import Job
from raysweep.ledger.rows import Counts
from raysweep.oracle.recipe import FlowRecipe
from raysweep.store import Store

if TYPE_CHECKING:
    from raysweep.oracle.flows import ClassFlow

__all__ = ["Executor"]


class Executor(Protocol):
    """Where work happens."""

    @property
    def slots(self) -> int:
        """Packs of `cpus` and `gpus` that run at the same time; valid inside `session`."""
        ...

    @property
    def dashboard(self) -> str:
        """Where a page about the workers is served, or ""; valid inside `session`."""
        ...

    def session(self, job: Job, log: Path) -> contextlib.AbstractContextManager[None]:
        """Start what is needed, and stop it at the end. Noise goes to `log`."""
        ...

    def call(self, job: Job, function: Callable[..., Any], *arguments: Any, gpus: float = 0.0) -> Any:
        """The answer of a function run where packs run; what it raises is raised here."""
        ...

    def train_flow(
        self, recipe: FlowRecipe, store: Store, workers: int, on_progress: Callable[[Mapping[str, float]], None]
    ) -> ClassFlow:
        """Train a flow oracle."""
        ...

    def run(self, job: Job, feed: Feed, on_counts: Callable[[Counts], None]) -> None:
        """Execute packs until the feed is finished."""
        ...
