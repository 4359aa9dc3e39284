"""The generators that a user's function draws from when it names none: of Python, NumPy and torch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[Callable[[], bool]]:
    """The three global generators on the CPU, seeded, and then as they were; yields whether one has been drawn from."""
    import torch

    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        fresh = _states(torch)
        try:
            yield lambda: _states(torch) != fresh
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _states(torch: Any) -> tuple[Any, ...]:
    name, words, *rest = np.random.get_state()
    return random.getstate(), name, np.asarray(words).tobytes(), rest, torch.get_rng_state().numpy().tobytes()
