"""Product measures over a function's inputs. Draws are hashes of (seed, use, item, input): see `raysweep.streams`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raysweep.errors import MetricError
from raysweep.streams import MEAN_DIMENSION, bits, normal, uniform

__all__ = ["Binary", "Gaussian", "Marginals", "Measure", "Uniform"]


class Measure(Protocol):
    """A distribution of inputs that are independent of each other."""

    def draw(self, seed: int, use: int, items: Tensor, inputs: int) -> Tensor:
        """[items, inputs] float32 (marginals: the data's type); item m is the same whatever else is drawn.

        Args:
            use: Draws of different uses are independent.
            items: [items] int64 counters, on the device of the draws.
            inputs: Numbers per item.
        """
        ...


def _ordered(measure: Binary | Uniform) -> None:
    low, high = measure.low, measure.high
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise MetricError(
            f"measure: `low < high` must hold for finite ends, but got ({low=}, {high=}). Give "
            f"{type(measure).__name__} the lower end first"
        )


def _counters(items: Tensor, inputs: int) -> tuple[Tensor, Tensor]:
    return items[:, None], torch.arange(inputs, device=items.device)


@dataclass(frozen=True)
class Binary:
    """Two values, each with probability 1/2; -1 and +1 if not given. Take the extremes of the network's input range.

    Raises:
        MetricError: low is not below high.
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _ordered(self)

    def draw(self, seed: int, use: int, items: Tensor, inputs: int) -> Tensor:
        """See `Measure`."""
        item, word = _counters(items, -(-inputs // 64))
        words = bits(torch.tensor(seed, device=items.device), MEAN_DIMENSION, use, item, word)
        chosen = (words[..., None] >> torch.arange(64, device=items.device)) & 1
        return (self.low + (self.high - self.low) * chosen.flatten(1)[:, :inputs]).float()

    def flipped(self, x: Tensor) -> Tensor:
        """The other value of every input."""
        return self.low + self.high - x


@dataclass(frozen=True)
class Uniform:
    """Uniform on an interval; [-1, 1] if not given.

    Raises:
        MetricError: low is not below high.
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _ordered(self)

    def draw(self, seed: int, use: int, items: Tensor, inputs: int) -> Tensor:
        """See `Measure`."""
        values = uniform(torch.tensor(seed, device=items.device), MEAN_DIMENSION, use, *_counters(items, inputs))
        return (self.low + (self.high - self.low) * values).float()


@dataclass(frozen=True)
class Gaussian:
    """Normal; standard if not given.

    Raises:
        MetricError: std is not positive.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise MetricError(
                f"measure: `std > 0` must hold, and mean be finite, but got (mean={self.mean}, std={self.std}). Give "
                "the standard deviation of an input"
            )

    def draw(self, seed: int, use: int, items: Tensor, inputs: int) -> Tensor:
        """See `Measure`."""
        values = normal(torch.tensor(seed, device=items.device), MEAN_DIMENSION, use, *_counters(items, inputs))
        return self.mean + self.std * values


@dataclass(frozen=True)
class Marginals:
    """Each input has the values that it has in the data, independently of the other inputs (pixel marginals).

    Attributes:
        data: [n, inputs] a tensor, or anything that `torch.as_tensor` takes.

    Raises:
        MetricError: There are no data, or they have another number of axes.
    """

    data: Tensor | Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        shape = tuple(torch.as_tensor(self.data).shape)
        if len(shape) != 2 or 0 in shape:
            raise MetricError(
                f"measure: the data of Marginals must be [n, inputs] with `n >= 1`, but got (shape={shape}). Give at "
                "least one item, and flatten each"
            )

    def draw(self, seed: int, use: int, items: Tensor, inputs: int) -> Tensor:
        """See `Measure`."""
        data = torch.as_tensor(self.data, device=items.device)
        values = uniform(torch.tensor(seed, device=items.device), MEAN_DIMENSION, use, *_counters(items, inputs))
        return data.gather(0, (values * len(data)).long())
