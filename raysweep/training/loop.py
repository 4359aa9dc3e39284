"""The one training loop: it trains a stack of models; a single model is a stack of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from raysweep.errors import PackError
from raysweep.experiment import Keep, Saved, Share
from raysweep.training import saved
from raysweep.training.batches import Batches
from raysweep.training.graph import Repeated
from raysweep.training.legs import Leg
from raysweep.training.loss import CROSS_ENTROPY, Loss
from raysweep.training.optim import Optimiser, Parameters, State
from raysweep.training.saved import Stage
from raysweep.training.schedule import Schedule
from raysweep.training.together import Together
from raysweep.training.whole import Whole

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["Inputs", "Snapshot", "forward", "train"]

Inputs: TypeAlias = "Callable[[Model, Parameters, Tensor, Tensor], Tensor]"
"""(model, parameters, x [lanes, n, d], targets [lanes, n, outputs]) -> x. A pure function that neither waits for the
device nor closes over anything that differs between lanes, and returns a tensor without gradient."""

_LOOK = 64  # steps between checks whether a save is due; by the host's clock, without waiting for the device


@dataclass(frozen=True)
class Snapshot:
    """The stack at one step.

    Attributes:
        step: Steps taken, the branch's included.
        lanes: [m] the lanes still in the stack, as positions in the stack that training began with.
        parameters: {name: [m, ...]}, frozen ones included; the live tensors, to be read before the loop continues.
        diverged_at: [all lanes] updates done when a lane's loss was not finite or above its bound, or -1; live, too.
            Such a lane is frozen from then on.
    """

    step: int
    lanes: Tensor
    parameters: Parameters
    diverged_at: Tensor

    def filled(self, otherwise: Parameters) -> Parameters:
        """{name: [all lanes, ...]} copies of the parameters, with which a later stage of the run begins.

        Args:
            otherwise: {name: [all lanes, ...]} the names that are wanted, and the values of lanes that left the stack.
        """
        return {name: p.detach().index_copy(0, self.lanes, self.parameters[name]) for name, p in otherwise.items()}


def forward(model: Model, parameters: Parameters, x: Tensor) -> Tensor:
    """[lanes, n, outputs] of every lane on shared inputs x [n, d]."""
    lanes = len(next(iter(parameters.values())))
    return model(parameters, x.expand(lanes, *x.shape))


@dataclass(frozen=True)
class _Given:
    """The part of the state that training reads and never changes.

    Attributes:
        frozen: {name: [lanes, ...]} parameters that are not updated.
        limits: [lanes] losses above which a lane has diverged; a number where all lanes share it.
        compute: Type of the activations.
        inputs: What replaces the inputs of every step.
        share: This worker's part in the steps of several.
    """

    model: Model
    frozen: Parameters
    batches: Batches | Whole
    optimiser: Optimiser
    schedule: Schedule
    loss: Loss
    limits: Tensor | float
    compute: torch.dtype
    inputs: Inputs | None
    share: Share | None

    def take(self, lanes: Tensor) -> _Given:
        """The same of these lanes."""
        return replace(
            self,
            frozen={name: p[lanes] for name, p in self.frozen.items()},
            batches=self.batches.take(lanes),
            optimiser=self.optimiser.take(lanes),
            schedule=self.schedule.take(lanes),
            limits=self.limits[lanes] if isinstance(self.limits, Tensor) else self.limits,
        )


class _Stack:
    """The state that one step reads and writes, at fixed addresses, so that a captured step can be replayed."""

    def __init__(self, given: _Given, parameters: Parameters) -> None:
        batches = given.batches
        self.given = given
        self.parameters = {name: p.requires_grad_() for name, p in parameters.items()}
        self.everything = {**given.frozen, **self.parameters}
        self.state: State = given.optimiser.state(parameters)
        self.step = torch.zeros((), dtype=torch.int64, device=batches.x.device)
        self.updates = torch.zeros_like(batches.n)
        self.alive = torch.ones_like(batches.n, dtype=torch.bool)
        self.lanes = torch.arange(len(batches), device=batches.x.device)
        self.run: Callable[[int], None] = Repeated(self._update, str(batches.x.device))
        if given.share is not None:
            trained = list(self.parameters.values())
            self.run = Together(given.share, self._gradients, self._move, trained, len(batches))

    def _update(self) -> None:
        """One step of every lane."""
        self._move(*self._gradients())

    def _gradients(self) -> tuple[Tensor, Sequence[Tensor]]:
        """Losses [lanes] and gradients; of several workers, this one's parts of them."""
        given = self.given
        x, targets = given.batches.at(self.step)
        part = 1.0
        if given.share is not None:
            own = given.share.of(x.shape[1])
            part = (own.stop - own.start) / x.shape[1]
            x, targets = x[:, own].contiguous(), targets[:, own].contiguous()
        x = x.to(given.compute)
        if given.inputs is not None:
            x = given.inputs(given.model, self.everything, x, targets)
        outputs = given.model(self.everything, x)
        with torch.no_grad():
            loss, downstream = given.loss.value_and_gradient(outputs, targets)
            if given.share is not None:
                loss, downstream = loss * part, downstream * part
        return loss, _apart(torch.autograd.grad(outputs, list(self.parameters.values()), downstream))

    def _move(self, loss: Tensor, gradients: Sequence[Tensor]) -> None:
        """Update every lane. One that fails is frozen before its update."""
        given = self.given
        with torch.no_grad():
            self.alive.logical_and_(loss <= given.limits)  # false for NaN
            self.updates.add_(self.alive)
            lr = given.schedule.scaled(given.optimiser.lr, self.step)
            named = dict(zip(self.parameters, gradients, strict=True))
            given.optimiser.step(self.parameters, named, self.state, lr, ~self.alive, self.step)
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
        small = _Stack(self.given.take(index), {name: p.detach()[index] for name, p in self.parameters.items()})
        small.state = {m: {name: t[index] for name, t in by_name.items()} for m, by_name in self.state.items()}
        small.step, small.updates = self.step, self.updates[index]
        small.alive, small.lanes = self.alive[index], self.lanes[index]
        return small


def train(
    model: Model,
    parameters: Parameters,
    batches: Batches | Whole,
    optimiser: Optimiser,
    schedule: Schedule,
    legs: Sequence[Leg],
    compute: torch.dtype | None = None,
    keep: Keep | None = None,
    *,
    loss: Loss = CROSS_ENTROPY,
    frozen: Parameters | None = None,
    stage: Stage | None = None,
    inputs: Inputs | None = None,
    share: Share | None = None,
) -> Iterator[Snapshot]:
    """Minimise a loss; yield at the end of each leg that is a snapshot.

    A lane that diverges is frozen and its step recorded; the others go on. Nothing between snapshots waits for the
    device. At a snapshot, once at most half of the stack still trains (the others diverged, or passed their horizon),
    the stack is compacted to those lanes.

    Args:
        model: The forward function. What differs between lanes must reach it through its parameters, so that it is
            still right when the stack is compacted.
        parameters: Stacked initial parameters; updated in place.
        legs: What to train, in order.
        compute: Type of the activations; the parameters' by default.
        keep: Where the state is saved from time to time, except in branches, and what an earlier attempt saved there;
            also at the end, if later times may be asked for.
        loss: The loss to minimise.
        frozen: {name: [lanes, ...]} parameters that the model reads and nothing updates: random features, initial
            values, a richness. Their gradient is not computed.
        stage: Which of the run's trainings this is, if there are several.
        inputs: What replaces the inputs of every step, given the model as it is then: adversarial training.
        share: This worker's part, where several train the stack together: all of them call this with equal arguments,
            `keep` aside, and only one may save. Results equal those of one device up to rounding.

    Raises:
        PackError: the loss does not take such targets, or a parameter is both frozen and trained.
    """
    _check(batches, loss, parameters, frozen or {})
    first = next(iter(parameters.values()))
    fixed = {name: p.detach() for name, p in (frozen or {}).items()}
    limits = loss.limits(batches.power()) if loss.relative else loss.bound
    given = _Given(model, fixed, batches, optimiser, schedule, loss, limits, compute or first.dtype, inputs, share)
    stack = _Stack(given, parameters)
    diverged_at = torch.full_like(stack.updates, -1)
    done = 0
    stage = stage or Stage().resumed(keep)
    if stage.saved is not None and legs:
        stack, diverged_at, done = _resumed(stack, diverged_at, stage.saved, legs[0])
    if share is not None:
        _check_start(share, stack.step, done)
    for i, leg in enumerate(legs):
        before = {n: t.detach().clone() for n, t in stack.tensors().items()} if leg.decay else {}
        if leg.decay:
            schedule.branch(done, leg.stop)
        if len(stack.lanes):
            for start in range(done, leg.stop, _LOOK):
                stack.run(min(_LOOK, leg.stop - start))
                if keep is not None and not leg.decay and leg.stop - start > _LOOK:
                    _keep(stack, diverged_at, keep, stage, start + _LOOK)
        diverged_at[stack.lanes] = stack.diverged_at
        if leg.snapshot:
            yield Snapshot(leg.stop, stack.lanes, {n: p.detach() for n, p in stack.everything.items()}, diverged_at)
        if leg.decay:
            schedule.trunk()
            stack.fill(before)
            diverged_at[stack.lanes] = stack.diverged_at
        else:
            done = leg.stop
        if keep is not None and (i + 1 < len(legs) or keep.lasting):
            _keep(stack, diverged_at, keep, stage, done, at_once=i + 1 == len(legs))
        if leg.snapshot and i + 1 < len(legs):
            busy = stack.alive.clone()
            if schedule.ends:
                busy &= stack.given.schedule.horizon > done
            left = torch.nonzero(busy)[:, 0]
            if 2 * len(left) <= len(busy) > 0:
                stack = stack.take(left)


def _apart(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Gradients that may each be overwritten: autograd gives both terms of a sum one tensor, and a mean's parts one
    number."""
    found: list[Tensor] = []
    taken: dict[int, list[tuple[int, int]]] = {}
    for g in gradients:
        steps = [(n - 1) * stride for n, stride in zip(g.shape, g.stride(), strict=True) if n > 1]
        start = int(g.storage_offset())
        stop = start + 1 + int(sum(steps))
        own = taken.setdefault(g.untyped_storage().data_ptr(), [])
        if 0 in steps or any(start < b and a < stop for a, b in own):
            g = g.clone(memory_format=torch.contiguous_format)
        else:
            own.append((start, stop))
        found.append(g)
    return found


def _check(batches: Batches | Whole, loss: Loss, parameters: Parameters, frozen: Parameters) -> None:
    kind = "real" if batches.real else "probabilities"
    if kind not in loss.targets:
        raise PackError(
            f"loss: {loss.name} needs targets that are {' or '.join(loss.targets)}, but got (targets={kind}). "
            "Choose another loss, or declare the kind of the batches' targets"
        )
    if both := sorted(parameters.keys() & frozen.keys()):
        raise PackError(f"frozen: a parameter must be either trained or frozen, but got {both} as both")


def _check_start(share: Share, like: Tensor, done: int) -> None:
    """Check that all workers start from the same step: one of them may not have found the saved state."""
    total = torch.full_like(like, done)
    share.add(total)
    if int(total) != share.workers * done:
        raise PackError(
            f"share: all workers must start from the same step, but worker {share.rank} of {share.workers} starts from "
            f"{done} and their sum is {int(total)}. Run it again"
        )


def _keep(stack: _Stack, diverged_at: Tensor, keep: Keep, stage: Stage, step: int, at_once: bool = False) -> None:
    """Save the state if it is due, or at once."""
    tensors = stack.tensors()
    if at_once or keep.due(sum(t.numel() * t.element_size() for t in (*tensors.values(), *stage.carried.values()))):
        diverged_at[stack.lanes] = stack.diverged_at
        keep.save(step, lambda about: saved.write(tensors, stack.lanes, diverged_at, stage, about), stage.number)


def _resumed(stack: _Stack, diverged_at: Tensor, old: Saved, first: Leg) -> tuple[_Stack, Tensor, int]:
    """The stack as an earlier attempt left it, the steps at which lanes diverged, and the steps done; else a fresh one.

    A state beyond the first leg's snapshot is of no use.
    """
    found = saved.read(old, stack.tensors(), len(diverged_at))
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
