"""One Tune trial: a worker's actor that runs one pack, and then the next."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any

import pyarrow as pa
import ray
from ray import tune

from raysweep.executors.tasks import refuse_tasks
from raysweep.executors.work import Doubtful, Enough, Health, Job, OutOfMemory, Teaming, execute, opened
from raysweep.experiments.function import FunctionExperiment
from raysweep.ledger.causes import cause
from raysweep.ledger.rows import STATUSES, Counts

__all__ = ["Bench", "PackTrial", "Unfit", "result"]

_REASON, _REASONS = 500, 20  # characters of a failure's cause, and causes, that travel with a report
_REPORT_SECONDS = 1.0  # every report of every pack costs the driver milliseconds


class Unfit(Exception):
    """A pack met a process that must not run it. Tune ends the actor of a trial that raised, and starts another.

    (Refusing the pack by `reset_config` does not work: Tune then reports to nobody what became of the trial.)
    """


class Bench:
    """A process that executes one pack after another, and what it has been through.

    Args:
        together: Lets other workers train each pack with this process.
    """

    def __init__(self, job: Job, together: Teaming | None = None) -> None:
        self._job, self._together, self._fatal = job, together, ""
        self._health, self._node = Health(), ray.get_runtime_context().get_node_id()
        try:
            experiment, _, _ = opened(job)
            if isinstance(experiment, FunctionExperiment):
                refuse_tasks(job.child_cpus)
        except Exception as error:  # no pack can run here: say so instead of dying pack by pack
            self._fatal = f"{type(error).__name__}: {error}"

    def reports(
        self, config: Mapping[str, Any], on_rows: Callable[[pa.Table], None] = lambda rows: None
    ) -> Generator[dict[str, Any], None, None]:
        """Execute the pack of a trial's configuration; yields what Tune is to hear, at most once a second.

        `on_rows` is called with rows as they come. The last report is `done`. Closing the iterator flushes what is
        finished.

        Raises:
            Unfit: this process must not execute the pack.
        """
        if self._fatal:
            yield {**result(Counts()), "fatal": self._fatal, "done": True}
            return
        pack = config["pack"]
        aside = self._node in config.get("aside", ())
        if aside or self._health.spoilt or (pack.fresh and self._health.begun > 0):
            raise Unfit("this process cannot be trusted any more, or the pack wants a fresh one")
        reasons: list[str] = []

        def report(counts: Counts, **more: Any) -> dict[str, Any]:
            causes = [cause(reason)[:_REASON] for reason in reasons[:_REASONS]]
            reasons.clear()
            return {**result(counts), "done": False, **more, "node": self._node, "reasons": causes}

        work = execute(self._job, pack, self._health, reasons.append, config.get("sure", ()), self._together, on_rows)
        counts, until = Counts(), time.monotonic() + _REPORT_SECONDS
        end: dict[str, Any] = {}
        with contextlib.closing(work):
            try:
                for finished in work:
                    counts += finished
                    if time.monotonic() > until:
                        yield report(counts)
                        counts, until = Counts(), time.monotonic() + _REPORT_SECONDS
            except OutOfMemory as error:
                self._health.spoilt = True
                end = {"out_of_memory": str(error)}
            except Doubtful as error:
                end = {"again": "fresh", "doubtful": error.runs}
            except Enough:
                end = {"again": "any"}
        yield report(counts, done=True, **end)


class PackTrial(tune.Trainable):  # type: ignore[misc]
    """A trial: one pack; a `step` ends at a snapshot, at most once a second.

    The class form lets Tune reuse the actor for the next pack.
    """

    def setup(self, config: dict[str, Any], job: Job) -> None:
        self.bench = Bench(job)  # torch's threads follow the OMP_NUM_THREADS that Ray derives from cpus
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self.reports = self._reports(config)
        self.config: dict[str, Any] = {}  # would travel back with every report

    def _reports(self, config: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """What one trial reports, a `step` each."""
        return self.bench.reports(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        self.cleanup()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        return next(self.reports)

    def cleanup(self) -> None:
        self.reports.close()  # flushes what is finished

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the ledger holds what is done."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""


def result(counts: Counts) -> dict[str, Any]:
    """Counts as a trial's result."""
    return {status: getattr(counts, status) for status in STATUSES}
