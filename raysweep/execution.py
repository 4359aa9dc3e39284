"""The packs of a plan, handed to an executor. A lane too large for one worker is trained by several together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

from raysweep.errors import PackError
from raysweep.executors import Executor, Feed, Job
from raysweep.grid.runs import Runs
from raysweep.ledger.log import Ledger, sequence
from raysweep.ledger.rows import Counts, Stamp, failure_rows, row_schema
from raysweep.pack import Group, Pack
from raysweep.plan import Plan, whole
from raysweep.progress import Progress
from raysweep.spread import can_double, in_words
from raysweep.store.leases import Claims
from raysweep.terminal import counted

__all__ = ["execute"]


def execute(
    plan: Plan,
    job: Job,
    sha: str | None,
    executor: Executor,
    claims: Claims,
    pending: Callable[[Sequence[Runs]], list[Runs]],
    progress: Progress,
) -> str:
    """Run the packs of a plan; returns why it stopped before all were started, or ""."""
    ledger = Ledger(job.store)
    schema, numbers = row_schema(plan.sweep.experiment), sequence()
    function = plan.pace is not None

    def give_up(pack: Pack, reason: str) -> Counts:
        (rest,) = pending([pack.runs])
        by = Stamp(pack.id, pack.attempt, "", sha, 0.0, "grid", *job.made_by, job.lineage)
        rows = failure_rows(rest if len(rest) else pack.runs, schema, by, "failed", reason)
        ledger.append(rows, next(numbers))
        return Counts(failed=len(rows))

    progress.say(
        f"plan: {counted(plan.runs.cells, 'cell')} -> {counted(len(plan.runs), 'run')}"
        + ("" if function else f" -> {counted(plan.pack_count, 'pack')}")
        + (f", {plan.flops:.2g} FLOP" if plan.flops else "")
    )
    progress.begin(plan.runs.cells)
    again = plan.again
    if again.restarted or again.resumed:
        progress.say(
            f"plan: {counted(again.restarted + again.resumed, 'partly finished run')}: {again.resumed:,} resume from a "
            f"checkpoint, {again.restarted:,} are trained again from their start"
        )
    resources = plan.sweep.file.resources
    waiting = {count: [plan.packs(count)] for count in plan.workers} or {resources.workers_per_run: []}
    for count, groups in plan.spread.items():
        _check_spread(plan, executor, count, groups[0])
        progress.say(f"plan: {in_words(groups, count, resources.gpus)}")

    def spread(workers: int, pack: Pack) -> bool:
        """Have twice as many workers train a lane that ran out of memory, where there are as many."""
        try:
            executor.check(resources.cpus, resources.gpus, 2 * workers)
        except PackError:
            return False
        if not can_double(plan.sweep, pack.runs, workers):
            return False
        progress.say(f"warning: a run ran out of memory; {2 * workers} workers will train it together")
        waiting.setdefault(2 * workers, []).append(iter([pack]))
        return True

    def left(runs: Sequence[Runs]) -> list[Runs]:
        found = pending(runs)
        return [whole(one, rest) for one, rest in zip(runs, found, strict=True)] if function else found

    most = resources.max_failures if function and plan.runs.cells == plan.sweep.runs.cells else None
    stopped = ""
    while waiting and not stopped:
        workers = min(waiting)  # only larger numbers are added
        packs = chain.from_iterable(waiting.pop(workers))
        more = partial(spread, workers)
        feed = Feed(
            packs, left, claims, resources.attempts, give_up, progress.wait, most, plan.pace, progress.say, more
        )
        executor.run(replace(job, workers=workers), feed, progress.count)
        stopped = feed.stopped
    return stopped


def _check_spread(plan: Plan, executor: Executor, workers: int, group: Group) -> None:
    """Check that there are as many workers as a lane needs that does not fit on one device.

    Raises:
        PackError: there are not.
    """
    resources = plan.sweep.file.resources
    try:
        executor.check(resources.cpus, resources.gpus, workers)
    except PackError as error:
        raise PackError(
            f"pack: one lane must fit in {plan.memory / 2**30:.2f} GiB, but {dict(group.shape)} does not, and "
            f"{workers} workers, which could train it together, cannot be had: {error}"
        ) from error
