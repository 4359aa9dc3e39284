"""A stack's training state as a safetensors file, and back. Nothing in a file is executed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from raysweep.experiment import Saved

__all__ = ["read", "write"]

_LANES, _DIVERGED = "lanes", "diverged_at"


def write(tensors: Mapping[str, Tensor], lanes: Tensor, diverged_at: Tensor, about: dict[str, str]) -> bytes:
    """A file of a stack.

    Args:
        tensors: All that training changes: [lanes of the stack, ...], or numbers that the lanes share.
        lanes: [lanes of the stack] positions among all lanes.
        diverged_at: [all lanes] where lanes diverged, or -1.
        about: What the header is to say.
    """
    named = {**tensors, _LANES: lanes, _DIVERGED: diverged_at}
    data: bytes = save({name: t.detach().cpu().contiguous() for name, t in named.items()}, about)
    return data


def read(saved: Saved, expected: Mapping[str, Tensor], lanes: int) -> tuple[dict[str, Tensor], Tensor, Tensor] | None:
    """A file's tensors for a new stack, or None where it does not fit.

    Args:
        saved: The file and which of its runs are wanted.
        expected: Tensors of the new stack with all its lanes, by name: shapes and types the file must have.
        lanes: Of the new stack; the same number for every run.

    Returns:
        Tensors [m, ...] of the lanes that still train, their positions in the new stack [m], and where all lanes
        diverged, or -1, [lanes].
    """
    try:
        found = load(saved.data)
        own, diverged_at = found.pop(_LANES), found.pop(_DIVERGED)
    except (SafetensorError, KeyError, ValueError, RuntimeError):
        return None
    members, rest = divmod(lanes, len(saved.runs))
    if rest or diverged_at.shape != (saved.of * members,) or {own.dtype, diverged_at.dtype} != {torch.int64}:
        return None
    if own.dim() != 1 or (own.numel() and not 0 <= int(own.min()) <= int(own.max()) < len(diverged_at)):
        return None
    wanted = (torch.tensor(saved.runs)[:, None] * members + torch.arange(members)).flatten()
    at = torch.full((len(diverged_at),), -1)
    at[own] = torch.arange(len(own))
    here = at[wanted]
    diverged_at = diverged_at[wanted]
    if ((here < 0) & (diverged_at < 0)).any():  # a lane that left the stack without a reason
        return None
    left = torch.nonzero(here >= 0)[:, 0]
    out: dict[str, Tensor] = {}
    for name, like in expected.items():
        tensor = found.get(name)
        if tensor is None or tensor.dtype != like.dtype:
            return None
        if (like.dim() and tensor.shape != (len(own), *like.shape[1:])) or (not like.dim() and tensor.dim()):
            return None
        out[name] = tensor[here[left]] if like.dim() else tensor
    return out, left, diverged_at
