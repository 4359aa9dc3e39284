"""Run a step many times: eagerly on CPUs, as one captured CUDA graph on GPUs."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from functools import cache

import torch

__all__ = ["Repeated"]

_WARM_UP = 3  # steps before capture, in which libraries choose algorithms and allocate workspaces


@cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """One stream for all captures: cuBLAS keeps a workspace of 32 MiB for every stream it ever ran on."""
    return torch.cuda.Stream(device)


class Repeated:
    """A function without arguments that updates tensors in place, called many times.

    On a CUDA device the first calls are eager, on a separate stream, and count as calls; then one call is captured
    and replayed, so that a step costs one launch and its kernels follow each other without gaps.

    Args:
        step: The function; it must neither wait for the device nor allocate memory that outlives the call.
        device: A torch device name.
        beside: Whether other threads of this process use the device, too, as NCCL's do; they do not void a capture.
    """

    def __init__(self, step: Callable[[], None], device: str, beside: bool = False) -> None:
        self._step = step
        self._mode = "thread_local" if beside else "global"
        self._eager = torch.device(device).type != "cuda"
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        if not self._eager:
            # Gives autograd's own thread a CUDA context: cuBLAS would warn that it has none.
            torch.ones(1, device=device, requires_grad=True).mul(2).backward()

    def __call__(self, times: int) -> None:
        """Call the function this many times."""
        if self._eager:
            for _ in range(times):
                self._step()
            return
        done = self._warm_up(min(times, _WARM_UP - self._calls)) if self._calls < _WARM_UP else 0
        if done == times:
            return
        if self._graph is None:
            self._graph = self._captured()
        for _ in range(times - done):
            self._graph.replay()

    def _warm_up(self, times: int) -> int:
        stream = _side_stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(times):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        self._calls += times
        return times

    def _captured(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        stream = _side_stream(torch.cuda.current_device())
        with _no_collection(), torch.cuda.graph(graph, stream=stream, capture_error_mode=self._mode):
            self._step()
        return graph


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Pause Python's garbage collector: if it destroyed an earlier pack's graph now, CUDA would void this capture."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
