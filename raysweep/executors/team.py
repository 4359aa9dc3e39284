"""Packs that several workers train together: a Tune trial drives a Ray Train trainer whose workers do the work.

A trial holds nothing but a process on the head, and the trainer's workers get their resources in one placement group,
all of it or nothing. So no pack holds some of its CPUs or GPUs while it waits for the rest, and trials that wait for
one another cannot occur, whatever becomes of the cluster; that no more trials start than there is room for saves the
others' wait.

A trainer lives as long as its trial's actor, and trains pack after pack: to start one takes ten seconds. It restarts no
workers by itself (`max_failures=0`): when one fails or dies, all of them end, the feed decides what is left of the pack
and whether it is tried again, as for any other pack, and the trial starts another trainer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from raysweep.errors import PackError
from raysweep.executors.internals import had_no_room
from raysweep.executors.trial import Bench, result
from raysweep.executors.work import Job, device_of, opened, out_of_memory
from raysweep.experiment import Context, Saved, Share
from raysweep.ledger.rows import Counts
from raysweep.pack import Pack

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TeamTrial"]

_WAIT = 86400  # seconds in a collective: worker 0 may evaluate for hours, and Ray knows who is alive
_ROOM = 60  # seconds that a trainer waits for room for its workers
_GRACE = 10.0  # seconds in which Ray Train learns which worker is gone, and ends the others
_STOP = 4.0  # seconds for a trainer to end: Tune ends the trial's process after five
_LISTEN = 1.0  # seconds after which a trial that heard nothing looks whether it is to stop
_CODE = 114
_TRIAL = -1  # the trial's box; a worker's is its rank
_SETTINGS = {  # of the trainer; Ray Train reads them in the trial's process
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(_ROOM),
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # its workers have no checkpoint to write before they end
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # what a worker prints last goes to its own log
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


class Parted(Exception):
    """A collective failed: another worker is gone."""


class Ended(Exception):
    """A pack did not end well, so the process group cannot be used any more; its last report says why."""


class _Mail:
    """Boxes for messages between a trial and its workers, in a process that never works."""

    def __init__(self) -> None:
        self._boxes: defaultdict[int, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)

    async def put(self, box: int, message: Any) -> None:
        await self._boxes[box].put(message)

    async def get(self, box: int, seconds: float | None = None) -> Any:
        """The next message; None where none comes in time."""
        with contextlib.suppress(asyncio.TimeoutError):
            return await asyncio.wait_for(self._boxes[box].get(), seconds)


@dataclass(frozen=True)
class _Read:
    """The `experiment.Keep` of a worker that saves nothing."""

    saved: Saved | None
    lasting: bool = False

    def due(self, size: int) -> bool:
        return False

    def save(self, step: int, state: Callable[[dict[str, str]], bytes], stage: int = 0) -> None:
        """Nothing: worker 0 saves."""


def _work(given: Mapping[str, Any]) -> None:
    """What each of the trainer's workers does, in the process group that Ray Train has formed."""
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    if rank == 0:
        _Lead(given["job"], given["mail"]).work()
    else:
        _follow(given["job"], given["mail"], rank)


def _share(job: Job, rank: int) -> Share:
    from torch import distributed

    def add(tensor: Tensor) -> None:
        try:
            distributed.all_reduce(tensor)
        except RuntimeError as error:  # which gloo and NCCL raise for a partner that is gone
            if out_of_memory(error):
                raise
            raise Parted(str(error).strip().partition("\n")[0]) from error

    return Share(rank, job.workers, add)


def _meet(job: Job, share: Share) -> None:
    """Wait until all workers of a pack are here.

    They load the sweep and its world at their own pace, and none may do so within the time of a run.
    """
    import torch

    share.add(torch.zeros(1, device=device_of(job)[0]))


def _follow(job: Job, mail: Any, rank: int) -> None:
    """Train, together with worker 0, what it announces."""
    experiment, _, world = opened(job)
    device, _ = device_of(job)
    share = _share(job, rank)
    while (part := ray.get(mail.get.remote(rank))) is not None:
        pack, saved = ray.get(part[0])
        try:
            _meet(job, share)
            for _ in experiment.run(pack.runs, Context(device, world, _Read(saved), share)):
                pass  # worker 0 has the rows
        except Parted:
            time.sleep(_GRACE)
            raise


class _Lead:
    """Worker 0: it executes packs as a trial of its own would, and the other workers train with it."""

    def __init__(self, job: Job, mail: Any) -> None:
        self._job, self._mail = job, mail
        self._broken = False
        self._flush: Callable[[], None] | None = None
        self._todo: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()

    def work(self) -> None:
        self._mail.put.remote(_TRIAL, {"group": ray.util.get_current_placement_group().id.hex()})
        bench = Bench(self._job, self._training)
        threading.Thread(target=self._listen, daemon=True, name="raysweep-team").start()
        while (config := self._todo.get()) is not None:
            for report in bench.reports(config):
                ray.get(self._mail.put.remote(_TRIAL, report))
            if self._broken:
                raise Ended("the pack did not end well")
        for rank in range(1, self._job.workers):
            self._mail.put.remote(rank, None)

    def _listen(self) -> None:
        """Take the trial's messages: packs, and None for the end, also in the middle of a pack."""
        while (config := ray.get(self._mail.get.remote(0))) is not None:
            self._todo.put(config)
        if flush := self._flush:  # nothing else can break off a training, or a collective
            with contextlib.suppress(BaseException):
                flush()
            os._exit(_CODE)
        self._todo.put(None)

    @contextlib.contextmanager
    def _training(self, pack: Pack, saved: Saved | None, flush: Callable[[], None]) -> Iterator[Share]:
        """The `work.Teaming` of worker 0.

        Raises:
            PackError: another worker is gone, and Ray Train did not learn which within its time.
        """
        part = ray.put((pack, saved))
        for rank in range(1, self._job.workers):
            self._mail.put.remote(rank, [part])  # in a list Ray leaves a reference what it is
        self._flush = flush
        try:
            share = _share(self._job, 0)
            _meet(self._job, share)
            yield share
        except BaseException as error:
            self._broken = True
            if not isinstance(error, Parted):
                raise
            with contextlib.suppress(Exception):
                flush()
            time.sleep(_GRACE)
            raise PackError(f"pack {pack.id}: a worker is gone: {error}") from error
        finally:
            self._flush = None


def _own_gpu(config: type[Any]) -> type[Any]:
    """A `TorchConfig` whose workers see only their own GPU: by default Ray Train shows each all GPUs of its node, and a
    world of images is sampled on all GPUs that a process sees."""

    class Backend(config().backend_cls):  # type: ignore[misc]
        share_cuda_visible_devices = False

    class Config(config):  # type: ignore[misc]
        backend_cls = Backend

    return Config


class TeamTrial(tune.Trainable):  # type: ignore[misc]
    """A trial: one pack, which a trainer's workers execute. It waits for their reports, and holds no CPU."""

    def setup(self, config: dict[str, Any], job: Job) -> None:
        os.environ.update(_SETTINGS)
        self.job = job
        self.folder = tempfile.mkdtemp(prefix="raysweep-train-")  # Ray Train wants one; nothing is written there
        self.training: threading.Thread | None = None
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        if self.training is None or not self.training.is_alive():
            self._start()
        self.mail.put.remote(0, config)
        self.config: dict[str, Any] = {}  # would travel back with every report

    def _start(self) -> None:
        """Start a trainer. `fit` runs in a thread, as it ends when there are no more packs."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        job = self.job
        self.mail = ray.remote(num_cpus=0)(_Mail).remote()  # of its own: another's may hold messages
        self.error: BaseException | None = None
        self.group = ""  # the workers' placement group, which worker 0 names
        need = {"CPU": job.cpus, **({"GPU": job.gpus} if job.gpus else {})}
        trainer = TorchTrainer(
            _work,
            train_loop_config={"job": job, "mail": self.mail},
            torch_config=_own_gpu(TorchConfig)(backend="nccl" if job.gpus else "gloo", timeout_s=_WAIT),
            scaling_config=ScalingConfig(num_workers=job.workers, use_gpu=bool(job.gpus), resources_per_worker=need),
            run_config=RunConfig(
                name="packs",
                storage_path=self.folder,
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0),
            ),
        )

        def fit() -> None:
            try:
                trainer.fit()
            except BaseException as error:
                self.error = error

        self.training = threading.Thread(target=fit, daemon=True, name="raysweep-train")
        self.training.start()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next pack."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        assert self.training is not None
        ended = not self.training.is_alive()  # looked at before its last report is
        report: dict[str, Any] | None = ray.get(self.mail.get.remote(_TRIAL, 0.0 if ended else _LISTEN))
        if report is None and ended:
            return self._ended()
        if report is not None and "group" in report:
            self.group, report = report["group"], None
        return {**(report or {**result(Counts()), "waits": True, "done": False}), "group": self.group}

    def _ended(self) -> dict[str, Any]:
        """The last report of a pack whose trainer has ended before it."""
        from ray.train import WorkerGroupError

        error = self.error
        report = {**result(Counts()), "done": True}
        if had_no_room(error):
            return {**report, "no_room": _ROOM}
        if isinstance(error, WorkerGroupError):
            for rank, failure in error.worker_failures.items():
                if out_of_memory(failure):
                    who = f"worker {rank} of {self.job.workers}"
                    return {**report, "out_of_memory": f"{who} ran out of memory: {failure}".partition("\n")[0]}
        return {**report, "lost": str(error or "the trainer ended without a reason")}

    def cleanup(self) -> None:
        if self.training is not None and self.training.is_alive():
            self.mail.put.remote(0, None)
            self.training.join(_STOP)  # a trainer that is not ready by then ends with this process, its owner
        shutil.rmtree(self.folder, ignore_errors=True)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the ledger holds what is done."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""
