"""A stack's training state as a safetensors file, and back; the stages of a run that trains several times.

Nothing in a file is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from raysweep.experiment import Keep, Saved

__all__ = ["Stage", "read", "write"]

_LANES, _DIVERGED, _CARRIED = "lanes", "diverged_at", "carried/"


@dataclass(frozen=True)
class Stage:
    """One of the trainings of a run, and the tensors it begins with.

    A run that trains once needs none. A run that trains several times numbers its trainings, and asks before the first
    whether an earlier attempt has come further:

        stage = Stage(0, {"mask": mask}).resumed(context.keep, latest=first_asked)
        for number in range(stage.number, last + 1):
            for snapshot in train(..., keep=context.keep, stage=stage): ...
            stage = Stage(number + 1, {"mask": ...})

    Attributes:
        number: 0, 1, ... in the order in which they happen.
        carried: {name: [lanes, ...]} tensors that the stage begins with, besides what axes and seeds determine: final
            parameters of an earlier stage, the items chosen so far, which lanes failed. All stages of a run have the
            same names, types and shapes; a file is checked for nothing else. The tensors are copied, so that training
            in place does not change them.
        saved: The state within this stage that an earlier attempt left.
    """

    number: int = 0
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    saved: Saved | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "carried", {name: t.detach().clone() for name, t in self.carried.items()})

    def resumed(self, keep: Keep | None, latest: int = 0) -> Stage:
        """The stage that a saved state belongs to; this stage if no saved state fits.

        The stages before it need not be trained again: their results are carried.

        Args:
            latest: The first stage with cells still to be read; a state of a later stage is of no use.
        """
        old = keep.saved if keep is not None else None
        if old is None or not self.number <= old.stage <= latest:
            return self
        if old.stage == self.number:
            return replace(self, saved=old)
        carried = _carried(old, self.carried)
        return self if carried is None else Stage(old.stage, carried, old)


def _carried(saved: Saved, expected: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors carried into the stage of a file, or None where they do not fit."""
    try:
        found = load(saved.data)
    except (SafetensorError, ValueError, RuntimeError):
        return None
    out: dict[str, Tensor] = {}
    for name, like in expected.items():
        tensor = found.get(_CARRIED + name)
        members, rest = divmod(len(like), len(saved.runs))
        if tensor is None or rest or tensor.dtype != like.dtype:
            return None
        if tensor.shape != (saved.of * members, *like.shape[1:]):
            return None
        out[name] = tensor[_wanted(saved, members)].to(like.device)
    return out


def _wanted(saved: Saved, members: int) -> Tensor:
    """[lanes] rows of a file's lanes, for runs of `members` lanes each."""
    return (torch.tensor(saved.runs)[:, None] * members + torch.arange(members)).flatten()


def write(
    tensors: Mapping[str, Tensor], lanes: Tensor, diverged_at: Tensor, stage: Stage, about: dict[str, str]
) -> bytes:
    """The content of a file for a stack.

    Args:
        tensors: All that training changes: [lanes of the stack, ...], or numbers that the lanes share.
        lanes: [lanes of the stack] positions among all lanes.
        diverged_at: [all lanes] steps at which lanes diverged, or -1.
        stage: The run's stage, whose carried tensors go into the file.
        about: The header's metadata.
    """
    named = {**tensors, _LANES: lanes, _DIVERGED: diverged_at}
    named |= {_CARRIED + name: t for name, t in stage.carried.items()}
    data: bytes = save({name: t.detach().cpu().contiguous() for name, t in named.items()}, about)
    return data


def read(saved: Saved, expected: Mapping[str, Tensor], lanes: int) -> tuple[dict[str, Tensor], Tensor, Tensor] | None:
    """A file's tensors for a new stack, or None where it does not fit.

    Args:
        saved: The file and which of its runs are wanted.
        expected: Tensors of the new stack with all its lanes, by name: shapes and types the file must have.
        lanes: Number of lanes of the new stack; the same for every run.

    Returns:
        Tensors [m, ...] of the lanes that still train, their positions in the new stack [m], and the steps at which
        lanes diverged, or -1, [lanes].
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
    wanted = _wanted(saved, members)
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
