"""Counter-based random numbers: a value is a hash of (seed, stream, counters) and of nothing else.

A lane's draws thus do not depend on its neighbours, its position or the pack's size; they are made on the device,
inside the step, and are the same on CPU and GPU (64-bit integer arithmetic that wraps).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "ATTACK", "COMPLEXITY", "FEATURE_ITEMS", "INIT", "INPUT_NOISE", "LABEL_NOISE", "MEAN_DIMENSION", "MEMBER", "ORDER",
    "PERMUTATION", "bits", "indices", "member_seed", "normal", "permutation", "uniform",
]  # fmt: skip

# Streams: what a seed is used for. Two uses of one seed never share numbers. Draws made elsewhere, by other generators
# and so never the same numbers either: `experiments/lid.py` (NumPy's Philox, keyed by (seed, use): it needs gamma draws
# and no torch) and `oracle/` (torch's generator: a world is sampled once, in order, on a CPU).
PERMUTATION, INIT, ORDER, LABEL_NOISE, INPUT_NOISE, MEMBER, FEATURE_ITEMS, MEAN_DIMENSION, ATTACK, COMPLEXITY = range(
    1, 11
)


def _signed(word: int) -> int:
    """An unsigned 64-bit word as torch's int64."""
    word &= 2**64 - 1
    return word - 2**64 if word >= 2**63 else word


_GAMMA = 0x9E3779B97F4A7C15
_MIX = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014, figure 6): a bijection in which every bit moves every bit."""
    z = (z ^ _shifted(z, 30)) * _MIX[0]
    z = (z ^ _shifted(z, 27)) * _MIX[1]
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, by: int) -> Tensor:
    """Logical shift to the right; torch's own copies the sign."""
    unsigned: Tensor = (z >> by) & (2 ** (64 - by) - 1)
    return unsigned


def bits(seed: Tensor, stream: int, *counters: Tensor | int) -> Tensor:
    """64 random bits as int64, of the broadcast shape of seed and counters.

    Args:
        seed: int64, non-negative.
        stream: One of the streams above.
        counters: int64 or int, non-negative.
    """
    h = _mix(seed + _signed(stream * _GAMMA))
    for i, counter in enumerate(counters):
        h = _mix((h ^ counter) + _signed((i + 1) * _GAMMA))
    return h


def uniform(seed: Tensor, stream: int, *counters: Tensor | int) -> Tensor:
    """float64 in [0, 1) with 53 random bits, of the broadcast shape."""
    return _shifted(bits(seed, stream, *counters), 11).double() / 9007199254740992.0


def normal(seed: Tensor, stream: int, *counters: Tensor | int) -> Tensor:
    """Standard normal float32, of the broadcast shape: Box-Muller on the two halves of one word."""
    word = bits(seed, stream, *counters)
    radius = (_shifted(word, 40).float() + 0.5) / 2**24
    angle = (word & (2**24 - 1)).float() / 2**24
    return (-2 * radius.log()).sqrt() * torch.cos(2 * math.pi * angle)


def member_seed(seed: Tensor, member: Tensor) -> Tensor:
    """The seed of a member of an ensemble: member 0 is the run alone, so its seed is the run's."""
    drawn = _shifted(bits(seed, MEMBER, member), 2)
    return torch.where(member == 0, seed, drawn)


def indices(order_seed: Tensor, step: Tensor | int, batch: int, n: Tensor) -> Tensor:
    """[lanes, batch] indices below n, i.i.d. with replacement (so a batch may exceed n).

    Args:
        order_seed: [lanes].
        n: [lanes] data-set sizes, below 2^31.
    """
    item = torch.arange(batch, device=order_seed.device)
    word = _shifted(bits(order_seed[:, None], ORDER, step, item), 32)
    below_n: Tensor = (word * n[:, None]) >> 32
    return below_n


def permutation(data_seed: int, size: int) -> Tensor:
    """[size] a permutation of range(size); its first N items are the data set of size N, so sizes are nested."""
    key = bits(torch.tensor(data_seed), PERMUTATION, torch.arange(size))
    return torch.argsort(key, stable=True)
