"""The workers that train one pack together: a trial's own process is worker 0, the others are actors it starts.

Tune reserves what all of them need in one placement group, all of it or nothing. So no pack holds some of its CPUs or
GPUs while it waits for the rest, and packs that wait for one another cannot occur; nor is there a process that holds a
CPU only to wait. The workers live as long as their trial's process, pack after pack. When one of them fails or dies,
all of them end, and what is left of the pack is tried again.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raysweep.errors import PackError, tail
from raysweep.executors.work import Job, device_of, opened, out_of_memory
from raysweep.experiment import Context, Saved, Share
from raysweep.pack import Pack

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

__all__ = ["Team"]

_MEETING = timedelta(minutes=5)  # for all workers to be there
_WAIT = timedelta(days=1)  # in a collective: worker 0 may evaluate for hours, and Ray knows who is alive
_LOOK, _GRACE = 0.5, 10.0  # seconds between looks at the others, and for worker 0 to notice that one is gone
_CODE = 114


class Parted(Exception):
    """A collective failed: another worker is gone."""


@contextlib.contextmanager
def _parting() -> Iterator[None]:
    """What gloo and NCCL raise, as one error; a lack of memory stays what it is."""
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise Parted(str(error).strip().partition("\n")[0]) from error


@contextlib.contextmanager
def _joined(meeting: TCPStore, rank: int, workers: int, device: str) -> Iterator[Share]:
    """Form a process group, over NCCL on GPUs and gloo on CPUs, and leave it where nothing was raised."""
    import torch
    from torch import distributed

    cuda = device.startswith("cuda")
    own = torch.device("cuda", torch.cuda.current_device()) if cuda else None

    def add(tensor: Tensor) -> None:
        with _parting():
            distributed.all_reduce(tensor)

    with _parting():
        distributed.init_process_group(
            "nccl" if cuda else "gloo", store=meeting, rank=rank, world_size=workers, timeout=_WAIT, device_id=own
        )
    yield Share(rank, workers, add)
    distributed.destroy_process_group()


@dataclass(frozen=True)
class _Read:
    """The `experiment.Keep` of a worker that saves nothing."""

    saved: Saved | None

    def due(self, size: int) -> bool:
        return False

    def save(self, step: int, state: Callable[[dict[str, str]], bytes], stage: int = 0) -> None:
        """Nothing: worker 0 saves."""


class _Peer:
    """A worker other than worker 0."""

    def train(self, job: Job, pack: Pack, saved: Saved | None, rank: int, host: str, port: int) -> None:
        """Train a pack together with worker 0, which listens at this address."""
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        experiment, _, world = opened(job)
        device, _ = device_of(job)
        meeting = TCPStore(host, port, job.workers, is_master=False, timeout=_MEETING)
        with _joined(meeting, rank, job.workers, device) as share:
            for _ in experiment.run(pack.runs, Context(device, world, _Read(saved), share)):
                pass  # worker 0 has the rows


class Team:
    """The workers beside this process, which is worker 0 of a trial with a bundle of resources for each.

    Attributes:
        broken: Whether a pack ended otherwise than well: the process must be replaced, as its group is not dissolved.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.broken = job, False
        self._peers: list[Any] = []

    @contextlib.contextmanager
    def training(self, pack: Pack, saved: Saved | None, before: Callable[[], None]) -> Iterator[Share]:
        """Train a pack with all workers.

        Args:
            saved: The state that the pack continues from.
            before: Called before this process ends itself, to flush rows: a collective on a GPU that lost a partner
                cannot be left otherwise.

        Raises:
            PackError: another worker failed or died.
            MemoryError: another worker ran out of memory.
        """
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        device, _ = device_of(self.job)
        host = ray.util.get_node_ip_address()
        listening = socket.create_server((host, 0))  # on this address alone, where TCPStore itself would take all
        port = listening.getsockname()[1]
        meeting = TCPStore(host, port, self.job.workers, True, _MEETING, False, master_listen_fd=listening.detach())
        self._peers = self._peers or [self._started(rank) for rank in range(1, self.job.workers)]
        work = [peer.train.remote(self.job, pack, saved, rank, host, port) for rank, peer in enumerate(self._peers, 1)]
        try:
            with self._watched(work, before), _joined(meeting, 0, self.job.workers, device) as share:
                yield share
            ray.get(work)
        except BaseException as error:
            self.broken = True
            reason = self._reason(work) if isinstance(error, Parted) else ""
            for peer in self._peers:  # they would wait for this one for ever, and hold their GPUs
                ray.kill(peer)
            self._peers = []
            if isinstance(error, Parted):
                raise PackError(f"pack {pack.id}: {reason or f'a worker is gone: {error}'}") from error
            raise

    def _started(self, rank: int) -> Any:
        where = PlacementGroupSchedulingStrategy(ray.util.get_current_placement_group(), rank)
        made = ray.remote(_Peer).options(
            num_cpus=self.job.cpus, num_gpus=self.job.gpus, scheduling_strategy=where, max_restarts=0
        )
        return made.remote()

    def _reason(self, work: list[Any]) -> str:
        """Why another worker is gone, in a sentence; "" where nobody knows.

        Raises:
            MemoryError: it ran out of memory.
        """
        left, until = list(work), time.monotonic() + _GRACE
        while left and time.monotonic() < until:
            ready, left = ray.wait(left, num_returns=1, timeout=until - time.monotonic())
            if not ready:
                break
            who = f"worker {work.index(ready[0]) + 1} of {self.job.workers}"
            try:
                ray.get(ready[0])
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, Parted):  # it, too, lost a partner
                    continue
                if out_of_memory(error.cause):
                    raise MemoryError(f"{who} ran out of memory") from error
                return f"{who} failed: {tail(str(error))}"
            except ray.exceptions.RayError as error:
                return f"{who} died: {str(error).strip().replace(chr(10), ' ')}"
        return ""

    @contextlib.contextmanager
    def _watched(self, work: list[Any], before: Callable[[], None]) -> Iterator[None]:
        """End this process if another worker is gone and this one does not notice."""
        done = threading.Event()

        def watch() -> None:
            left = list(work)
            while not done.wait(_LOOK):
                ready, left = ray.wait(left, num_returns=len(left), timeout=0) if left else ([], left)
                for task in ready:
                    try:
                        ray.get(task)
                    except ray.exceptions.RayError as error:
                        if done.wait(_GRACE):
                            return
                        os.write(2, f"another worker of the pack is gone: {tail(str(error))}\n".encode())
                        with contextlib.suppress(BaseException):
                            before()
                        os._exit(_CODE)

        threading.Thread(target=watch, daemon=True, name="raysweep-team").start()
        try:
            yield
        finally:
            done.set()
