"""Triton kernels for a stack of lanes on CUDA. Each has a twin in plain torch, used on other devices and in float64."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["fused"]


@cache
def _triton() -> bool:
    spec = find_spec("triton")
    return spec is not None and spec.origin is not None  # a folder of that name is no package


def fused(x: Tensor) -> bool:
    """Whether the kernels take this tensor: it is on a CUDA device and not float64, and Triton is installed."""
    return x.is_cuda and x.dtype != torch.float64 and _triton()
