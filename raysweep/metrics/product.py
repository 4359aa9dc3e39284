"""Products of matrices by the faster of the libraries that torch has for CPUs."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["product"]

_LEAST = 64  # rows and columns below which oneDNN's preparation costs more than it saves
# The operator that torch's compiler calls; products of oneDNN's own tensors, which are public, copy the result.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(a: Tensor, b: Tensor) -> Tensor:
    """a [m, k] times b [k, n], in the precision of `torch.mm`, without gradients.

    In float32 on a CPU by oneDNN where torch has it, which uses AVX-512 on every processor that has it; MKL, behind
    `torch.mm`, does so on Intel's only, and reaches half the speed on AMD's.
    """
    a, b = a.detach(), b.detach()
    plain = a.device.type != "cpu" or a.dtype != torch.float32 or min(*a.shape, b.shape[1]) < _LEAST
    if plain or not _HAS_ONEDNN or not torch.backends.mkldnn.enabled:
        return a.mm(b)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(a.contiguous(), b.T.contiguous(), None, "none", [], "")
    return found
