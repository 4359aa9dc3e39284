"""Work on lanes one by one, as many of them at a time as torch has threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["on_threads"]

_Job = TypeVar("_Job")


def on_threads(work: Callable[[_Job], None], jobs: Iterable[_Job]) -> None:
    """Do all jobs without gradients, on as many Python threads as torch uses, each of which calls torch on one.

    A small operation on all threads waits longer for them than it computes. Results don't depend on the number of
    threads.

    Args:
        work: Writes its results, each job to its own place.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        for job in jobs:
            torch.no_grad()(work)(job)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(torch.no_grad()(work), jobs))
    finally:
        torch.set_num_threads(threads)  # also what threads begin with that use torch for the first time
