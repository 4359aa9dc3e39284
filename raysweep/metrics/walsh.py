"""Boolean functions by enumeration: Walsh coefficients of all values on {-1, +1}^n."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cube", "degrees", "walsh"]


def cube(inputs: int, start: int, stop: int, device: torch.device) -> Tensor:
    """[stop - start, inputs] the points of {-1, +1}^inputs with these numbers; bit i of a number is set where input i
    is -1."""
    numbers = torch.arange(start, stop, device=device)[:, None]
    return 1.0 - 2.0 * ((numbers >> torch.arange(inputs, device=device)) & 1)


def degrees(inputs: int, device: torch.device) -> Tensor:
    """[2^inputs] float64 sizes |S| of the sets of inputs; bit i of a set's number says whether it contains input i."""
    return ((1.0 - cube(inputs, 0, 2**inputs, device)) / 2).sum(1).double()


def walsh(values: Tensor) -> Tensor:
    """Coefficients f_S = E[f(x) prod_{i in S} x_i], by the fast Walsh-Hadamard transform, along the last axis.

    Args:
        values: [..., 2^inputs] the function on the points of `cube`.

    Returns:
        [..., 2^inputs] float64; sets are numbered as in `degrees`.

    Example:
        >>> walsh(torch.tensor([1.0, -1.0, -1.0, 1.0])).tolist()  # the parity of two inputs
        [0.0, 0.0, 0.0, 1.0]
    """
    found, step = values.double(), 1
    while step < values.shape[-1]:
        even, odd = found.unflatten(-1, (-1, 2, step)).unbind(-2)
        found = torch.stack((even + odd, even - odd), -2).flatten(-3)
        step *= 2
    return found / values.shape[-1]
