"""The one training loop: a stack of models, of which one is the plain case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raysweep.experiment import Keep
from raysweep.training import saved
from raysweep.training.batches import Batches
from raysweep.training.graph import Repeated
from raysweep.training.legs import Leg
from raysweep.training.loss import loss_and_gradient
from raysweep.training.optim import Optimiser, Parameters, State
from raysweep.training.schedule import Schedule

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["DIVERGED", "Snapshot", "forward", "train"]

DIVERGED = 1e6  # nats; a loss above it is as good as infinite
_LOOK = 64  # steps between looks at whether the state is to be saved; the host's clock, no wait for the device


@dataclass(frozen=True)
class Snapshot:
    """The stack at one step.

    Attributes:
        step: Steps taken, the branch's included.
        lanes: [m] the lanes still in the stack, as positions in the stack that training began with.
        parameters: {name: [m, ...]}; the live tensors, to be read before the loop goes on.
        diverged_at: [all lanes] updates done when a lane's loss was not finite or above `DIVERGED`, or -1; live, too.
            Such a lane is frozen since then.
    """

    step: int
    lanes: Tensor
    parameters: Parameters
    diverged_at: Tensor


def forward(model: Model, parameters: Parameters, x: Tensor) -> Tensor:
    """[lanes, n, classes] logits of every lane on shared inputs x [n, d]."""
    lanes = len(next(iter(parameters.values())))
    return model(parameters, x.expand(lanes, *x.shape))


class _Stack:
    """What one step reads and writes; all of it stays where it is, so that a captured step can be replayed."""

    def __init__(
        self, model: Model, parameters: Parameters, batches: Batches, optimiser: Optimiser, schedule: Schedule,
        compute: torch.dtype,
    ) -> None:  # fmt: skip
        self.model, self.batches, self.optimiser, self.schedule = model, batches, optimiser, schedule
        self.parameters = {name: p.requires_grad_() for name, p in parameters.items()}
        self.state: State = optimiser.state(parameters)
        self.compute = compute
        self.step = torch.zeros((), dtype=torch.int64, device=batches.x.device)
        self.updates = torch.zeros_like(batches.n)
        self.alive = torch.ones_like(batches.n, dtype=torch.bool)
        self.lanes = torch.arange(len(batches), device=batches.x.device)
        self.run = Repeated(self._update, str(batches.x.device))

    def _update(self) -> None:
        """One step of every lane. A lane that fails is frozen before its update."""
        x, targets = self.batches.at(self.step)
        logits = self.model(self.parameters, x.to(self.compute))
        with torch.no_grad():
            loss, downstream = loss_and_gradient(logits, targets)
        gradients = torch.autograd.grad(logits, list(self.parameters.values()), downstream)
        with torch.no_grad():
            self.alive.logical_and_(loss <= DIVERGED)  # false for NaN
            self.updates.add_(self.alive)
            lr = self.schedule.scaled(self.optimiser.lr, self.step)
            named = dict(zip(self.parameters, gradients, strict=True))
            self.optimiser.step(self.parameters, named, self.state, lr, ~self.alive, self.step)
            self.step += 1

    @property
    def diverged_at(self) -> Tensor:
        """[lanes] updates done before a lane diverged, or -1."""
        return torch.where(self.alive, -1, self.updates)

    def tensors(self) -> dict[str, Tensor]:
        """All that training changes."""
        found = {f"parameter/{name}": p for name, p in self.parameters.items()}
        found |= {f"{m}/{name}": t for m, by_name in self.state.items() for name, t in by_name.items()}
        return {**found, "step": self.step, "updates": self.updates, "alive": self.alive}

    def fill(self, values: Mapping[str, Tensor]) -> None:
        """Take over another state of this stack."""
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(values[name])

    def take(self, index: Tensor) -> _Stack:
        """A smaller stack of these lanes, as they are now."""
        parameters = {name: p.detach()[index] for name, p in self.parameters.items()}
        small = _Stack(
            self.model, parameters, self.batches.take(index), self.optimiser.take(index), self.schedule.take(index),
            self.compute,
        )  # fmt: skip
        small.state = {m: {name: t[index] for name, t in by_name.items()} for m, by_name in self.state.items()}
        small.step, small.updates = self.step, self.updates[index]
        small.alive, small.lanes = self.alive[index], self.lanes[index]
        return small


def train(
    model: Model,
    parameters: Parameters,
    batches: Batches,
    optimiser: Optimiser,
    schedule: Schedule,
    legs: Sequence[Leg],
    compute: torch.dtype | None = None,
    keep: Keep | None = None,
) -> Iterator[Snapshot]:
    """Minimise cross-entropy to the targets; yield at the end of each leg that is a snapshot.

    A lane that diverges is frozen and its step recorded; the others go on. Nothing between snapshots waits for the
    device. At a snapshot, once at most half of the stack still trains (the others diverged, or passed their horizon),
    the stack is compacted to those lanes.

    Args:
        model: The forward function.
        parameters: Stacked initial parameters; updated in place.
        legs: What to train, in order.
        compute: Type of the activations; the parameters' by default.
        keep: Where the state is saved now and then, branches aside, and what an earlier try saved there.
    """
    first = next(iter(parameters.values()))
    stack = _Stack(model, parameters, batches, optimiser, schedule, compute or first.dtype)
    diverged_at = torch.full_like(stack.updates, -1)
    done = 0
    if keep is not None and legs:
        stack, diverged_at, done = _resumed(stack, diverged_at, keep, legs[0])
    for i, leg in enumerate(legs):
        before = {n: t.detach().clone() for n, t in stack.tensors().items()} if leg.decay else {}
        if leg.decay:
            schedule.branch(done, leg.stop)
        if len(stack.lanes):
            for start in range(done, leg.stop, _LOOK):
                stack.run(min(_LOOK, leg.stop - start))
                if keep is not None and not leg.decay and leg.stop - start > _LOOK:
                    _keep(stack, diverged_at, keep, start + _LOOK)
        diverged_at[stack.lanes] = stack.diverged_at
        if leg.snapshot:
            yield Snapshot(leg.stop, stack.lanes, {n: p.detach() for n, p in stack.parameters.items()}, diverged_at)
        if leg.decay:
            schedule.trunk()
            stack.fill(before)
            diverged_at[stack.lanes] = stack.diverged_at
        else:
            done = leg.stop
        if keep is not None and i + 1 < len(legs):
            _keep(stack, diverged_at, keep, done)
        if leg.snapshot and i + 1 < len(legs):
            busy = stack.alive.clone()
            if schedule.kind == "cosine":
                busy &= stack.schedule.horizon > done
            left = torch.nonzero(busy)[:, 0]
            if 2 * len(left) <= len(busy) > 0:
                stack = stack.take(left)


def _keep(stack: _Stack, diverged_at: Tensor, keep: Keep, step: int) -> None:
    """Save the state if it is time to."""
    tensors = stack.tensors()
    if keep.due(sum(t.numel() * t.element_size() for t in tensors.values())):
        diverged_at[stack.lanes] = stack.diverged_at
        keep.save(step, lambda about: saved.write(tensors, stack.lanes, diverged_at, about))


def _resumed(stack: _Stack, diverged_at: Tensor, keep: Keep, first: Leg) -> tuple[_Stack, Tensor, int]:
    """The stack as an earlier try left it, where diverged lanes left it, and the steps it has done; else as it is.

    A state that is past what the first leg must read is of no use.
    """
    old = keep.saved
    found = None if old is None else saved.read(old, stack.tensors(), len(diverged_at))
    if found is None:
        return stack, diverged_at, 0
    tensors, left, at = found
    step = int(tensors["step"])
    if not 0 < step <= (0 if first.decay else first.stop):
        return stack, diverged_at, 0
    if len(left) < len(stack.lanes):
        stack = stack.take(left.to(stack.lanes.device))
    stack.fill(tensors)
    return stack, at.to(diverged_at.device), step
