"""One Tune trial: a worker's actor that runs one pack, and then the next."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray import tune

from raysweep.executors.tasks import refuse_tasks
from raysweep.executors.team import Team
from raysweep.executors.work import Doubtful, Enough, Health, Job, OutOfMemory, execute, opened
from raysweep.experiments.function import FunctionExperiment
from raysweep.ledger.causes import cause
from raysweep.ledger.rows import STATUSES, Counts

__all__ = ["PackTrial", "Unfit"]

_REASON, _REASONS = 500, 20  # characters of a failure's cause, and causes, that travel with a report
_REPORT_SECONDS = 1.0  # every report of every pack costs the driver milliseconds


class Unfit(Exception):
    """A pack met a process that must not run it. Tune ends the actor of a trial that raised, and starts another.

    (Refusing the pack by `reset_config` does not work: Tune then reports to nobody what became of the trial.)
    """


class PackTrial(tune.Trainable):  # type: ignore[misc]
    """A trial: one pack; a `step` ends at a snapshot, at most once a second.

    The class form lets Tune reuse the actor for the next pack.
    """

    def setup(self, config: dict[str, Any], job: Job) -> None:
        self.job, self.fatal = job, ""  # torch's threads follow the OMP_NUM_THREADS that Ray derives from cpus
        self.health, self.node = Health(), ray.get_runtime_context().get_node_id()
        self.team = Team(job) if job.workers > 1 else None
        try:
            experiment, _, _ = opened(job)
            if isinstance(experiment, FunctionExperiment):
                refuse_tasks(job.child_cpus)
        except Exception as error:  # no pack can run here: say so instead of dying pack by pack
            self.fatal = f"{type(error).__name__}: {error}"
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        pack = config["pack"]
        aside = self.node in config.get("aside", ())
        spoilt = self.health.spoilt or (self.team is not None and self.team.broken)
        self.unfit = aside or spoilt or (pack.fresh and self.health.begun > 0)
        self.reasons: list[str] = []
        together = None if self.team is None else self.team.training
        self.work = execute(self.job, pack, self.health, self.reasons.append, config.get("sure", ()), together)
        self.config: dict[str, Any] = {}  # would travel back with every report

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next pack."""
        self.work.close()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self.fatal:
            return {**_result(Counts()), "fatal": self.fatal, "done": True}
        if self.unfit:
            raise Unfit("this process cannot be trusted any more, or the pack wants a fresh one")
        counts, until = Counts(), time.monotonic() + _REPORT_SECONDS
        report: dict[str, Any] = {"done": True}
        try:
            for finished in self.work:
                counts += finished
                if time.monotonic() > until:
                    report = {"done": False}
                    break
        except OutOfMemory as error:
            self.health.spoilt = True
            report |= {"out_of_memory": str(error)}
        except Doubtful as error:
            report |= {"again": "fresh", "doubtful": error.runs}
        except Enough:
            report |= {"again": "any"}
        report |= {"node": self.node, "reasons": [cause(reason)[:_REASON] for reason in self.reasons[:_REASONS]]}
        self.reasons.clear()
        return {**_result(counts), **report}

    def cleanup(self) -> None:
        self.work.close()  # flushes what is finished

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the ledger holds what is done."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""


def _result(counts: Counts) -> dict[str, Any]:
    return {status: getattr(counts, status) for status in STATUSES}
