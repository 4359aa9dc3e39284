"""Numerical precision as an explicit choice, recorded in every row."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["compute_dtype", "parameter_dtype", "products"]


def parameter_dtype(precision: str) -> torch.dtype:
    """Type of parameters, gradients and optimiser state: float64 or float32."""
    return torch.float64 if precision == "float64" else torch.float32


def compute_dtype(precision: str) -> torch.dtype:
    """Type of activations: bfloat16 under bf16 (with float32 parameters, losses and norm statistics)."""
    return torch.bfloat16 if precision == "bf16" else parameter_dtype(precision)


@contextlib.contextmanager
def products(precision: str) -> Iterator[None]:
    """Float32 matrix products and convolutions in TF32 if asked, and only then (torch's own default is mixed)."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
