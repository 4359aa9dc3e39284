"""The items of `double_descent`: a teacher's bits, or images scaled to [-1, 1]; each seed's, to train and test on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raysweep.data import images
from raysweep.grid.runs import Runs
from raysweep.training.batches import nested_rows

__all__ = ["Task", "task_of"]

_TEACHER, _TESTS, _ITEMS = range(16, 19)  # the random streams of a seed, none of which random features use
_MARGINALS = 4096  # images that single pixels are drawn from


@dataclass(frozen=True)
class Task:
    """Pools of items, one for all seeds or one for each, and where each seed's items are in its pool.

    Attributes:
        x: [items, inputs] of all pools, one after another.
        y: [items] classes.
        classes: Number of classes.
        offset: [seeds] first item of a seed's pool.
        rows: [seeds, longest] places in the pool: to train on are the first n.
        tests: [seeds, tests] places in the pool.
        marginals: [images, inputs] whose columns are the marginals of inputs; None for a teacher.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    classes: int
    offset: Tensor
    rows: Tensor
    tests: Tensor
    marginals: npt.NDArray[np.float32] | None = None


def task_of(pack: Runs, seeds: Sequence[int]) -> Task:
    """The items of these seeds, as many as a pack's runs need."""
    longest, tests = max(pack.column("n_train")), int(pack.value("test_items"))
    if pack.value("task") == "teacher":
        return _teacher(seeds, int(pack.value("dim")), longest, tests)
    return _images(seeds, str(pack.value("data")), bool(pack.value("shuffled")), longest, tests)


def _teacher(seeds: Sequence[int], dim: int, longest: int, tests: int) -> Task:
    """A pool for each seed: first the items to test on, whose number is known, then those to train on."""
    pools, labels = [], []
    for seed in seeds:

        def stream(use: int, key: int = seed) -> np.random.Generator:
            return np.random.Generator(np.random.Philox(key=[key, use]))

        bits = b"".join(stream(use).bytes(count * dim) for use, count in ((_TESTS, tests), (_ITEMS, longest)))
        x = 1.0 - 2.0 * (np.frombuffer(bits, dtype=np.uint8) & 1).reshape(-1, dim)
        pools.append(x.astype(np.float32))
        labels.append((x @ stream(_TEACHER).standard_normal(dim) >= 0).astype(np.int64))
    size = tests + longest
    return Task(
        x=np.concatenate(pools),
        y=np.concatenate(labels),
        classes=2,
        offset=torch.arange(len(seeds)) * size,
        rows=torch.arange(tests, size).expand(len(seeds), -1),
        tests=torch.arange(tests).expand(len(seeds), -1),
    )


def _images(seeds: Sequence[int], data: str, shuffled: bool, longest: int, tests: int) -> Task:
    found = images(data)
    x = found.x.astype(np.float32) * (2.0 / float(found.x.max())) - 1.0
    if shuffled:
        order = nested_rows(seeds, len(x), len(x))
        rows, places = order[:, :longest], order[:, len(x) - tests :]
    else:
        rows = nested_rows(seeds, found.train, longest)
        places = torch.arange(found.train, found.train + tests).expand(len(seeds), -1)
    zero = torch.zeros(len(seeds), dtype=torch.int64)
    return Task(x.astype(np.float32), found.y, found.classes, zero, rows, places, x[:_MARGINALS].astype(np.float32))
