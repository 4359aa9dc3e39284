"""Where parameters meet activations: recorded during a forward pass, so that each item's own gradients follow from it.

The operations of `models.ops` record themselves while `recorded` is open, and cost nothing otherwise. From the gradient
of an output with respect to what an operation returns, `Tap.gradient` gives the gradient of every item with respect to
the operation's parameter: without a backward pass per item, and for one output of all items at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

__all__ = ["Tap", "record", "recorded", "recording"]


@dataclass(frozen=True)
class Tap:
    """One operation with a parameter.

    Attributes:
        parameter: [lanes, ...], the tensor that the model was given.
        out: [lanes, items, ..., features] or [lanes, items * positions, features], a tensor of the graph.
        other: What the parameter multiplies: nothing where it is added; shaped like `out` where each feature has its
            own number; [lanes, items, ..., inputs] where the parameter is a matrix or a convolution's filters.
        matrix: Whether the parameter is a matrix or filters.
        kernel, stride: Those of a convolution with padding kernel // 2.
    """

    parameter: Tensor
    out: Tensor
    other: Tensor | None = None
    matrix: bool = False
    kernel: int = 1
    stride: int = 1

    def is_dense(self, items: int) -> bool:
        """Whether a matrix meets one vector of each item."""
        plain = self.matrix and self.kernel == self.stride == 1
        return plain and self.out.numel() == len(self.out) * items * self.out.shape[-1]

    def received(self, items: int) -> Tensor | None:
        """What the parameter multiplies: of a matrix, [lanes, items, positions, inputs], which may be patches."""
        x = self.other
        if x is None or not self.matrix:
            return x
        if self.kernel > 1 or self.stride > 1:
            images = x.flatten(0, 1).permute(0, 3, 1, 2)
            x = F.unfold(images, self.kernel, padding=self.kernel // 2, stride=self.stride).transpose(1, 2)
        return x.reshape(len(self.out), items, -1, x.shape[-1])

    def gradient(self, down: Tensor, received: Tensor | None, items: int) -> Tensor:
        """[lanes, items, numbers] each item's gradient with respect to the parameter, in some fixed order.

        Args:
            down: The gradient with respect to `out`, and shaped so.
            received: From the method of that name: it serves several outputs.
        """
        if self.matrix:
            assert received is not None
            own = down.reshape(len(down), items, -1, down.shape[-1])
            return (own.transpose(2, 3) @ received).flatten(2)
        each = down if received is None else down * received
        return each.reshape(len(down), items, -1, self.parameter[0].numel()).sum(2)


_TAPS: ContextVar[list[Tap] | None] = ContextVar("taps", default=None)


def recording() -> bool:
    """Whether operations record themselves, and so must not be fused with what follows them."""
    return _TAPS.get() is not None


def record(tap: Tap) -> None:
    """Keep an operation, if anybody asked for them and its parameter is one that is differentiated."""
    taps = _TAPS.get()
    if taps is not None and tap.parameter.requires_grad and tap.out.requires_grad:
        taps.append(tap)


@contextlib.contextmanager
def recorded() -> Iterator[list[Tap]]:
    """The operations on parameters of the forward passes inside, in their order."""
    taps: list[Tap] = []
    token = _TAPS.set(taps)
    try:
        yield taps
    finally:
        _TAPS.reset(token)
