"""run: prepare the world, plan what is pending, execute it, compact the ledger. Rerunning finishes what is missing."""

from __future__ import annotations

import importlib
import json
import math
import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import IO

import numpy as np

from raysweep import __version__
from raysweep.capacity import Device
from raysweep.errors import LedgerError, PackError
from raysweep.execution import execute
from raysweep.executors import Executor, Job
from raysweep.executors.keeping import sweep_up
from raysweep.executors.quiet import terminal
from raysweep.executors.search import Searching
from raysweep.executors.work import gpu, peak_bytes
from raysweep.experiment import TheoryExperiment
from raysweep.experiments.function import FunctionExperiment
from raysweep.ledger.log import CELLS, Ledger
from raysweep.ledger.remaining import subtract
from raysweep.ledger.rows import STATUSES, Counts
from raysweep.ledger.scan import Scan
from raysweep.oracle.audits import settings
from raysweep.oracle.recipe import is_made, recipe_hash
from raysweep.pack import Pack
from raysweep.plan import make_plan
from raysweep.predictions import predict_ahead, score, sentences
from raysweep.progress import Progress
from raysweep.rounds import Rounds
from raysweep.searching import check_search, searching
from raysweep.stopping import State, check_coarse, check_code, run_rounds, state_of
from raysweep.store import Store, UnreachableError
from raysweep.store.leases import hold
from raysweep.sweep import Sweep
from raysweep.sweep.current import Current, adopt_renamed, ledger_of, left_out, own_rows
from raysweep.sweep.provenance import accepted_codes, ask, equal_codes, remember
from raysweep.sweep.schema import Budget
from raysweep.sweep.stale import stale
from raysweep.sweep.stored import at_store
from raysweep.tuning import require
from raysweep.verdict import record
from raysweep.worlds import made, ray_log

__all__ = ["Outcome", "run"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        counts: This grid's cells by status, over all rows of the store.
        pending: Cells still missing (held by another driver, or skipped).
        seconds: Wall time of this call.
        scan: Keys, statuses and attempts at the end; `Ledger.scan` has the other columns.
        stopped: Why no further pack was started, or "".
        notes: What else the store holds, in one sentence each.
        tuned: What is to be said of a sweep that tunes, in one sentence each.
        state: Where a sweep that stops itself is; None for others. Only cells that it asked for are then pending.
    """

    counts: Counts
    pending: int
    seconds: float
    scan: Scan
    stopped: str = ""
    notes: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()
    state: State | None = None


def run(
    sweep: Sweep,
    store: Store,
    executor: Executor,
    skip_failed: bool = False,
    retry_diverged: bool = False,
    stream: Callable[[], IO[str]] = terminal,
    accept_code: bool = False,
    same_as: str | None = None,
) -> Outcome:
    """Execute every pending cell of a sweep.

    Args:
        store: The store of its ledger; created if missing.
        executor: Where packs run.
        skip_failed: Leave failed cells as they are.
        retry_diverged: Run diverged cells again.
        stream: Where progress is written.
        accept_code: Whether the code as it was gives the same results as the code as it is now.
        same_as: The former name of a renamed or moved function, whose rows are taken over.

    Raises:
        RaysweepError: bad input, an unusable store, a failed audit.
        KeyboardInterrupt: Ctrl-C; finished rows are in the ledger, and the same call continues from there.
    """
    started = time.monotonic()
    sweep = at_store(sweep, store)
    rounds = Rounds(sweep, store) if sweep.tuning is not None else None
    searcher: Searching | None = None
    if rounds is not None:
        require(rounds.tuning.sampler)
        searcher = check_search(sweep, executor) if rounds.tuning.searches else None
        sweep = rounds.resume(skip_failed, retry_diverged)
    for observed in sweep.runs.observed:  # refuses invalid runs before anything is written
        observed.listable()
    if (recipe := sweep.file.world) is not None and not is_made(store, recipe):
        recipe.require_makeable()
    progress = Progress(stream)
    ask(store, sweep)
    resources = sweep.file.resources
    try:
        executor.check(resources.cpus, resources.gpus, resources.workers_per_run)
    except PackError:
        before = ledger_of(store, sweep.runs, dict(sweep.axes), sweep.identity)
        if same_as is None and len(before.pending(sweep.runs, skip_failed, retry_diverged)):
            raise  # else, where nothing is left to run, there is no need
    if sweep.file.until is not None:  # refuses what cannot be judged before anything is written
        rows = ledger_of(store, sweep.runs, dict(sweep.axes), sweep.identity)
        none, mine = np.zeros(len(sweep.runs), dtype=bool), own_rows(sweep.runs, sweep.axes, sweep.identity)
        ahead = state_of(sweep, store, rows, mine, skip_failed, retry_diverged, none)
        if ahead.todo.any() and not (accept_code or same_as):
            check_code(sweep, store)
    token = open_store(store, sweep, progress, accept_code, same_as)
    if weak := store.weaknesses():
        progress.say(f"warning: store {store.uri}: {'; '.join(weak)}")
    if rounds is not None:
        rounds.keep(sweep)
    ledger = ledger_of(store, sweep.runs, dict(sweep.axes), sweep.identity)
    own = own_rows(sweep.runs, sweep.axes, sweep.identity)
    stopped = ""
    judge = partial(state_of, sweep, store, ledger, own, skip_failed, retry_diverged)
    state = None if sweep.file.until is None else judge(np.zeros(len(sweep.runs), dtype=bool))
    part = sweep if state is None else sweep.only(state.todo)
    job = Job(
        sweep=json.dumps(sweep.file.model_dump(mode="json")),
        path=sweep.path,
        folders=tuple(str(folder.absolute()) for folder in sweep.folders),
        store=Store(store.absolute),
        world=f"oracle/{recipe_hash(sweep.file.world)}" if sweep.file.world else "",
        token=token,
        cpus=resources.cpus,
        gpus=resources.gpus,
        workers=resources.workers_per_run,
        checkpoint_seconds=resources.checkpoint_seconds,
        made_by=(sweep.experiment.name, sweep.experiment.version, sweep.code),
        given=sweep.given,
        seconds=resources.seconds,
        own_folder=isinstance(sweep.experiment, FunctionExperiment) and sweep.file.workdir == "own",
        child_cpus=resources.child_cpus,
        equal_codes=(sweep.code.sha, *sorted(equal_codes(store, sweep.code.sha) - {sweep.code.sha})),
        lineage=sweep.lineage,
    )
    try:
        if len(rest := ledger.pending(part.runs, skip_failed, retry_diverged)) or searching(sweep):
            asked = np.isin(sweep.runs.keys, rest.keys)
            for one in predict_ahead(store, [fit.request for fit in sweep.file.fit], sweep.runs, asked):
                progress.say(f"prediction kept: {sentences([one])[1]}")
            progress.live("starting", force=True)
            if sweep.file.world is not None:  # torch takes seconds to import; Ray takes as long to start
                threading.Thread(target=importlib.import_module, args=("raysweep.oracle.audit",), daemon=True).start()
            store.sweep()
            with executor.session(job, ray_log(store)), hold(store, executor.dashboard) as claims:
                sha = None
                if recipe is not None:
                    wanted = settings(recipe, sweep.runs.values)
                    sha = made(recipe, wanted, store, executor, resources.oracle_workers, claims, progress).sha
                plan = partial(make_plan, store=store, slots=executor.slots, probe=_Probe(executor, job))
                look = partial(ledger.pending_each, known={})

                def fill(part: Sweep, again: bool = False) -> str:
                    """Run what a part of the sweep lacks; again: but not what failed before."""
                    skip, retry = skip_failed or again, retry_diverged and not again
                    tasks = plan(part, skip_failed=skip, retry_diverged=retry)
                    left = partial(look, skip_failed=skip, retry_diverged=retry)
                    lasting = any(study.reached < math.inf for study in part.studies.values())
                    return execute(tasks, replace(job, lasting=lasting), sha, executor, claims, left, progress)

                if state is not None:
                    if sweep.file.until is not None and sweep.file.until.max_flops is not None and state.rounds == 1:
                        check_coarse(sweep, plan(sweep.only(state.chosen)).flops)
                    state, stopped = run_rounds(state, sweep, judge, fill, progress)
                elif rounds is None:
                    stopped = fill(sweep)
                else:
                    if sweep.file.budget != Budget():
                        plan(rounds.rehearsed(sweep))  # refuses what all rounds together would cost
                    search = (
                        None
                        if searcher is None
                        else partial(rounds.search, executor=searcher, job=job, claims=claims, progress=progress)
                    )
                    sweep, stopped = _tuned(rounds, sweep, fill, search, progress)
    finally:
        progress.end()
        if not isinstance(sys.exception(), UnreachableError):  # then compacting would fail, too
            own = own_rows(sweep.runs, sweep.axes, sweep.identity)
            scan = ledger.compact(own, accepted_codes(store))
    sweep_up(store, sweep.runs if rounds is None else rounds.to_end(sweep).runs, ledger.pending)
    score(store, [fit.request for fit in sweep.file.fit], sweep.runs)
    notes = left_out(Current(own, ledger), scan)
    said = () if rounds is None else tuple(rounds.sentences(sweep))
    if rounds is not None:
        rounds.keep(sweep, said)
    counts, pending = _tally(sweep, scan)
    if state is not None:
        store.write_json(f"until/{sweep.hash}.json", record(state))
        pending = sweep.only(state.todo).runs.cells if not state.over else 0
    return Outcome(counts, pending, time.monotonic() - started, scan, stopped, tuple(notes), said, state)


def _tuned(
    rounds: Rounds,
    stage: Sweep,
    fill: Callable[[Sweep, bool], str],
    search: Callable[[Sweep], tuple[Sweep, str]] | None,
    progress: Progress,
) -> tuple[Sweep, str]:
    """Run round after round of a sweep that tunes; its last stage, and why it was stopped before the end, or ""."""
    again = False
    before: Sweep | None = None
    while True:
        if line := rounds.line(stage, before):
            progress.say(line)
        if search is not None and searching(stage):
            stage, stopped = search(stage)
            if stopped:
                return stage, stopped
        stopped = fill(stage, again)
        following = None if stopped else rounds.after(stage)
        if following is None:
            return stage, stopped
        rounds.keep(following)
        if rounds.tuning.ladder is not None:  # else the states of all rungs would pile up
            sweep_up(rounds.store, rounds.to_end(following).runs, rounds.ledger(following).pending)
        before, stage, again = stage, following, True  # what failed in this call is not tried again


@dataclass(frozen=True)
class _Probe:
    """Queries the devices that an executor's packs run on."""

    executor: Executor
    job: Job

    def device(self) -> Device:
        found: Device = self.executor.call(self.job, gpu, self.job, gpus=self.job.gpus)
        return found

    def peak_bytes(self, pack: Pack) -> float:
        found: float = self.executor.call(self.job, peak_bytes, self.job, pack, gpus=self.job.gpus)
        return found


def open_store(
    store: Store, sweep: Sweep, progress: Progress, accept_code: bool = False, same_as: str | None = None
) -> str:
    """Create or adopt the store's folder: its token, the resolved sweep file, the environment.

    Raises:
        LedgerError: The folder is no store, and has a file that a store would replace.
    """
    _check_folder(store)
    store.create("store.json", json.dumps({"id": secrets.token_hex(8), "sweep": sweep.name}).encode())
    adopted = Ledger(store).adopt()
    if adopted:
        progress.say(f"{adopted:,} rows of {CELLS} that the ledger did not have were taken over")
    renamed = ""
    if same_as is not None:
        rows = adopt_renamed(store, sweep, same_as)
        renamed = same_as if rows else ""
        progress.say(
            f"{rows:,} rows of {same_as} were taken over; their code counts as that of {sweep.experiment.name}"
        )
    said = remember(store, sweep, accept_code, renamed)
    if not said and (old := stale(sweep, store)):
        said = [f"warning: {old}"]
    for line in [*sweep.notes, *said]:
        progress.say(line)
    store.create(f"sweeps/{sweep.hash}.yaml", sweep.text.encode())
    store.write_json(f"axes/{sweep.hash}.json", sweep.declaration)
    known = store.read_json("env.json") if store.exists("env.json") else None
    environment = {
        "raysweep": __version__,
        "sweep": sweep.hash,
        "cells": sweep.runs.cells,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "theory": isinstance(sweep.experiment, TheoryExperiment),
        "packages": {name: _version(name) for name in ("ray", "torch", "nflows", "numpy", "pyarrow")},
        # Whether there may be rows whose keys spell numbers as an older raysweep did.
        "respelled": isinstance(known, dict) and known.get("respelled", True) is True,
    }
    store.write_json("env.json", environment)
    return store.read_text("store.json")


def _check_folder(store: Store) -> None:
    """Refuse a folder of something else with a file that a store writes over.

    Raises:
        LedgerError: It is one.
    """
    if any(map(store.exists, ("store.json", "sweeps", "ledger", CELLS))):
        return
    known = store.read_json("env.json") if store.exists("env.json") else None
    if isinstance(known, dict) and "raysweep" in known:
        return
    if taken := [name for name in ("env.json", "report.html") if store.exists(name)]:
        raise LedgerError(
            f"store {store.uri}: must be a new folder, or a store, but is neither and has a file {taken[0]}, which "
            "would be replaced. Name another folder with --store"
        )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _tally(sweep: Sweep, scan: Scan) -> tuple[Counts, int]:
    """This grid's cells by status (the store may hold other grids' too), and the number without a row."""
    counts = Counts(**{s: sweep.runs.cells - subtract(sweep.runs, scan.cells(s)).cells for s in STATUSES})
    return counts, sweep.runs.cells - counts.total
