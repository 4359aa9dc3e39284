"""Counter-based random numbers: a value is a hash of (seed, stream, counters) and of nothing else.

So a lane's draws do not depend on its neighbours, its position or the pack's size; they are made on the device,
inside the step, and are the same on CPU and GPU (32-bit integer arithmetic held in int64).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["INIT", "ORDER", "PERMUTATION", "indices", "permutation", "uniform", "words"]

# Streams: what a seed is used for. Two uses of one seed never share numbers.
PERMUTATION, INIT, ORDER = 1, 2, 3

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


def _mix(h: Tensor) -> Tensor:
    """Murmur3's 32-bit finaliser (Appleby): a bijection in which every input bit moves every output bit."""
    h = h ^ (h >> 16)
    h = (h * 0x85EBCA6B) & _MASK
    h = h ^ (h >> 13)
    h = (h * 0xC2B2AE35) & _MASK
    return h ^ (h >> 16)


def words(seed: Tensor, stream: int, *counters: Tensor | int) -> Tensor:
    """Uniform integers in [0, 2^32) as int64, of the broadcast shape of seed and counters.

    Args:
        seed: int64, non-negative.
        stream: One of the streams above.
        counters: int64 or int, each in [0, 2^32).
    """
    h = _mix((seed & _MASK) ^ ((stream * _GOLDEN) & _MASK))
    h = _mix((h + ((seed >> 32) & _MASK)) & _MASK)
    for i, counter in enumerate(counters):
        h = _mix(((h ^ counter) + (i + 1) * _GOLDEN) & _MASK)
    return h


def uniform(seed: Tensor, stream: int, *counters: Tensor | int) -> Tensor:
    """float64 in [0, 1) with 53 random bits, of the broadcast shape."""
    high = words(seed, stream, *counters, 0) >> 5
    low = words(seed, stream, *counters, 1) >> 6
    return (high.double() * 67108864.0 + low.double()) / 9007199254740992.0


def indices(order_seed: Tensor, step: Tensor | int, batch: int, n: Tensor) -> Tensor:
    """[lanes, batch] indices below n, i.i.d. with replacement (so a batch may exceed n).

    Args:
        order_seed: [lanes].
        step: The training step.
        n: [lanes] data-set sizes, below 2^31.
    """
    item = torch.arange(batch, device=order_seed.device)
    return (words(order_seed[:, None], ORDER, step, item) * n[:, None]) >> 32


def permutation(data_seed: int, size: int) -> Tensor:
    """[size] a permutation of range(size); its first N items are the data set of size N, so sizes are nested."""
    seed, item = torch.tensor(data_seed), torch.arange(size)
    key = (words(seed, PERMUTATION, item, 0) << 31) ^ words(seed, PERMUTATION, item, 1)
    return torch.argsort(key, stable=True)
