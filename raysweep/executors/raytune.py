"""The Ray executor: one Tune trial per pack, fed by ask-tell to a single running Tuner.

Tune's own per-trial files, loggers and restore are not used: the ledger is the truth. Actors are reused, so a trial
costs tens of milliseconds instead of a process start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for the controller's next poll: 2 s by default
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",  # after a node is lost, Train first waits for as many as before
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's state is never restored
    "TUNE_WARN_THRESHOLD_S": "10",
    "RAY_prestart_worker_first_driver": "0",  # an actor never takes a waiting worker: they would only cost their start
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a user's function stay valid
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a CPU pack must not see a GPU
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",  # else Tune itself starts the whole pack again; the feed knows better
}.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402  (the settings above are read at import)
from ray import tune  # noqa: E402
from ray.tune.schedulers import FIFOScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from raysweep.errors import LedgerError, PackError, RaysweepError, tail  # noqa: E402
from raysweep.executors.cluster import check_nodes, resources, room  # noqa: E402
from raysweep.executors.feed import Feed  # noqa: E402
from raysweep.executors.hosts import Hosts  # noqa: E402
from raysweep.executors.internals import (  # noqa: E402
    forget,
    inside,
    own_resources,
    release_actors,
    remove_group,
    uncounted,
    wait_for_actors,
)
from raysweep.executors.lastwords import at_work, last_words, said  # noqa: E402
from raysweep.executors.limit import HELD, LATE, took_longer  # noqa: E402
from raysweep.executors.quiet import quiet  # noqa: E402
from raysweep.executors.runlog import log_name  # noqa: E402
from raysweep.executors.search import Search  # noqa: E402
from raysweep.executors.team import TeamTrial  # noqa: E402
from raysweep.executors.trial import PackTrial, Unfit  # noqa: E402
from raysweep.executors.witness import witness  # noqa: E402
from raysweep.executors.work import Job  # noqa: E402
from raysweep.ledger.rows import STATUSES, Counts  # noqa: E402
from raysweep.oracle.recipe import Point, TrainFunction  # noqa: E402
from raysweep.store import Store, UnreachableError  # noqa: E402

__all__ = ["RayExecutor"]

_STARTING = 200  # actors that start at a time
_STOPPING = 5.0  # seconds that actors have to stop before the store is looked at again
_LOOK_SECONDS = 5.0  # between checks for packs that are silent
# One of these is in a trial's error when its pack is to blame. Otherwise a node has died, was preempted or does not
# answer: Ray then says so, or gives no reason at all.
_CRASHED = ("worker process has died", "Traceback", "RayTaskError")
_NODE_DIED = "its node has died"  # Ray's words, also where it is another worker's node


class _Unsaved:
    """Tune pickles and copies its parts for a restore that never happens; these stay what and where they are."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class PackSearch(_Unsaved, Searcher):  # type: ignore[misc]
    """Ask-tell between Tune and the feed."""

    def __init__(
        self, feed: Feed, order: PackOrder, on_counts: Callable[[Counts], None], hosts: Hosts, job: Job
    ) -> None:
        super().__init__()
        self.hosts, self.job = hosts, job
        self.feed, self.order, self.on_counts = feed, order, on_counts
        self.packs: dict[str, str] = {}
        self.fatal = ""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        if self.fatal:
            return Searcher.FINISHED
        if self.job.workers > 1 and len(self.packs) >= room(self.job):  # its trials hold nothing that Tune could count
            return None
        pack = self.feed.ask()
        if pack is None:
            if self.feed.idle:  # Tune now asks repeatedly, for minutes, and does nothing else
                self.order.let_go()
            return Searcher.FINISHED if self.feed.finished else None
        self.packs[trial_id] = pack.id
        return {"pack": pack, "aside": self.hosts.aside, "sure": self.feed.sure}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        pack = self.packs.pop(trial_id, None)
        if pack is None or error or (result and "lost" in result):
            return  # PackWatch reports a lost pack, as it knows why
        if result and "fatal" in result:
            self.fatal = result["fatal"]
        elif result and "out_of_memory" in result:
            self.on_counts(self.feed.too_large(pack, result["out_of_memory"]))
        elif result and "no_room" in result:
            self.feed.back(pack)
            self.feed.say_no_room(self.job.workers, result["no_room"])
        elif result and "again" in result:
            self.on_counts(self.feed.again(pack, fresh=result["again"] == "fresh"))
        elif result and result.get("done"):
            self.feed.done(pack)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Tune's state is never restored."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class PackWatch(_Unsaved, tune.Callback):  # type: ignore[misc]
    """Progress, and the reason when a trial's worker died."""

    def __init__(self, feed: Feed, on_counts: Callable[[Counts], None], hosts: Hosts, job: Job) -> None:
        self.feed, self.on_counts, self.hosts = feed, on_counts, hosts
        self.store, self.seconds = job.store, job.seconds
        self._looked = time.monotonic()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            self.feed.say_silent()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if STATUSES[0] not in result or "waits" in result:
            return
        counts = Counts(*(int(result[s]) for s in STATUSES))
        if "lost" in result:  # the trial's own process lives on
            self._lost(trial, str(result["lost"]))
            return
        self.feed.sign(trial.config["pack"].id)
        self.feed.count(counts)
        reasons = result.get("reasons", ())
        one_host = bool(reasons) and self.hosts.only(str(result.get("node", "")))
        for reason in reasons:
            self.feed.failed(reason, one_host)
        # Whether the process or the host is to blame, a host on which nothing else happens is no good.
        failed = len(result.get("reasons", ())) + int(result.get("doubtful", 0))
        self.hosts.saw(str(result.get("node", "")), counts.ok + counts.skipped, failed)
        self.on_counts(counts)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        forget(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        file = Path(trial.error_file) if trial.error_file else None
        if group := (trial.last_result or {}).get("group"):
            remove_group(group)
        self._lost(trial, file.read_text(errors="replace") if file and file.is_file() else "")
        forget(trial)

    def _lost(self, trial: Any, whole: str) -> None:
        """A pack's worker died or failed, of which this is Ray's report."""
        pack, reason = trial.config["pack"], last_words(whole) or "its worker died"
        if f"{Unfit.__name__}:" in whole or f"({Unfit.__name__})" in whole:
            self.feed.back(pack.id)
            return
        run = at_work(reason) or (pack.runs.key(0) if len(pack) == 1 else "")
        late = self.seconds is not None and bool(LATE.search(reason) or HELD.search(reason))
        if late and not LATE.search(reason) and self.seconds is not None:  # it held Python's lock: C code ended it
            reason = f"{reason.rpartition(chr(10))[0]}\n{took_longer(self.seconds)}"
        if run and not self.store.exists(log_name(run)):  # what it printed died with it
            with contextlib.suppress(LedgerError):
                self.store.write(log_name(run), said(reason).encode(errors="backslashreplace"), patience=0.0)
        full = "OutOfMemoryError" in whole  # Ray killed it when the host ran out of memory; half of the pack may fit
        if full and len(pack) > 1:
            self.on_counts(self.feed.too_large(pack.id, reason))
        else:
            innocent = UnreachableError.__name__ in whole or _NODE_DIED in whole
            crashed = full or (any(sign in whole for sign in _CRASHED) and not innocent)
            self.on_counts(self.feed.lost(pack.id, said(reason), crashed, run, final=late))


class PackOrder(_Unsaved, FIFOScheduler):  # type: ignore[misc]
    """First come, first served. Tune's own scheduler looks at every trial of the run whenever anything happens, even at
    those that ended: after 6,000 packs that is half of the driver's work.

    Tune keeps actors that ended a pack for the next one. While all that is left is claimed by another driver, they are
    released: that driver may be waiting for their CPUs.
    """

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self.feed = feed
        self.waiting: deque[Any] = deque()
        self.controller: Any = None

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.controller = inside(tune_controller)
        self.waiting.append(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        self.controller = inside(tune_controller)
        while self.waiting and self.waiting[0].status != "PENDING":
            self.waiting.popleft()
        if not self.waiting and self.feed.blocked:
            release_actors(self.controller)
        return self.waiting[0] if self.waiting else None

    def let_go(self) -> None:
        """Stop all actors, as Tune does at the end of a run; only while no trial is running or waits to."""
        if self.controller is not None:  # else it has not started any
            release_actors(self.controller)
            wait_for_actors(self.controller, _STOPPING)


class RayExecutor:
    """Packs as Tune trials on a local or running Ray.

    Args:
        address: Address of a running cluster (`auto` finds it); None starts Ray on this machine's loopback.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address
        self.slots = 1
        self.dashboard = ""

    def check(self, cpus: float, gpus: float, workers: int) -> None:
        """See `Executor.check`. What a cluster has is known once this process is connected to it."""
        if ray.is_initialized():
            total = resources()
        elif self.address is None:
            total = own_resources()
        else:
            return
        of = f" for its {workers} workers" if workers > 1 else ""
        for name, need in (("CPU", cpus * workers), ("GPU", gpus * workers)):
            if need > total.get(name, 0.0):
                raise PackError(
                    f"resources.{name.lower()}s: a pack needs {need:g} {name}s{of}, but this Ray has "
                    f"{total.get(name, 0.0):g}. Ask for fewer, or give --address of a larger cluster"
                )

    @contextlib.contextmanager
    def session(self, job: Job, log: Path) -> Iterator[None]:
        """Start Ray, with its noise in `log`, and stop it. A Ray already connected to this process is used and kept."""
        ours = not ray.is_initialized()
        local = {"address": "local", "include_dashboard": False}
        with quiet(log), witness(log):
            if ours:
                try:
                    found = ray.init(
                        **(local if self.address is None else {"address": self.address}),
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        namespace="raysweep",
                    )
                except Exception as error:
                    reason = str(error).strip().splitlines()[0]
                    raise PackError(f"ray: cannot start or reach {self.address or 'a Ray here'}: {reason}") from error
            else:
                found = ray.init(ignore_reinit_error=True, log_to_driver=False)
            self.dashboard = f"http://{found.dashboard_url}" if found.dashboard_url else ""
            try:
                self.check(job.cpus, job.gpus, job.workers)
                self.slots = room(job)
                check_nodes(job)
                yield
            finally:
                if ours:
                    ray.shutdown()

    def call(self, job: Job, function: Callable[..., Any], *arguments: Any, gpus: float = 0.0) -> Any:
        """Call a function in a task that holds a pack's CPUs and return its result.

        Raises:
            RaysweepError: what the function raised, without Ray's wrapping.
        """
        task = ray.remote(num_cpus=job.cpus, num_gpus=gpus, max_retries=0)(function)
        try:
            return ray.get(task.remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RaysweepError):
                raise error.cause from error
            raise PackError(f"a worker failed: {tail(str(error))}") from error

    def train(
        self, function: TrainFunction, store: Store, folder: str, workers: int, on_progress: Point
    ) -> Mapping[str, bytes]:
        """Train with Ray Train."""
        from raysweep.executors.raytrain import train

        return train(function, store, folder, workers, on_progress)

    def search(self, job: Job, search: Search, on_counts: Callable[[Counts], None]) -> str:
        """See `Searching.search`.

        Raises:
            PackError: Tune broke off.
            LedgerError: the store is out of reach.
            KeyboardInterrupt: Ctrl-C; workers have flushed what was finished.
        """
        from raysweep.executors.raysearch import run_search

        try:
            return run_search(job, search, room(job), _resources(job), on_counts)
        except Exception as error:
            raise _own(error) or PackError(f"ray: the search broke off: {tail(str(error), 1)}") from error

    def run(self, job: Job, feed: Feed, on_counts: Callable[[Counts], None]) -> None:
        """One Tuner until the feed is finished.

        Raises:
            PackError: a worker cannot load the sweep, its world or its store.
            LedgerError: the store is out of reach.
            KeyboardInterrupt: Ctrl-C; workers have flushed what was finished.
        """
        order, hosts = PackOrder(feed), Hosts(feed.say)
        search = PackSearch(feed, order, on_counts, hosts, job)
        trial = PackTrial if job.workers == 1 else TeamTrial
        # By default a searcher's trials start one after another.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(min(room(job), _STARTING))
        with tempfile.TemporaryDirectory(prefix="raysweep-tune-") as scratch:
            tuner = tune.Tuner(
                tune.with_resources(tune.with_parameters(trial, job=job), _resources(job)),
                tune_config=tune.TuneConfig(
                    search_alg=search, scheduler=order, num_samples=-1, reuse_actors=True, metric="ok", mode="max"
                ),
                run_config=tune.RunConfig(
                    name="packs", storage_path=scratch, verbose=0, callbacks=[PackWatch(feed, on_counts, hosts, job)]
                ),
            )
            try:
                with uncounted():
                    tuner.fit()
            except Exception as error:  # Tune wraps what the feed raises, e.g. that the store is out of reach
                raise _own(error) or PackError(f"ray: the run of packs broke off: {tail(str(error), 1)}") from error
        if search.fatal:
            raise PackError(f"a worker cannot start: {search.fatal}")
        if not feed.finished:
            raise KeyboardInterrupt


def _resources(job: Job) -> Any:
    """What a trial holds: its CPUs and GPUs, and in a separate bundle those of the tasks that a run starts. A trial of
    several workers, which get theirs from Ray Train, holds a place on the head, which is not lost while the others are:
    where a trial and Ray Train's controller beside it die suddenly, their placement group may stay."""
    if job.workers > 1:
        return tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
    own = {"CPU": job.cpus, **({"GPU": job.gpus} if job.gpus else {})}
    return tune.PlacementGroupFactory([own] + [{"CPU": job.child_cpus}] * bool(job.child_cpus))


def _own(error: BaseException | None) -> RaysweepError | None:
    """Our own error beneath those raised on top of it; a worker's comes without the traceback that Ray adds."""
    while error is not None:
        own = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        if isinstance(own, RaysweepError):
            return own
        error = error.__cause__ or error.__context__
    return None
