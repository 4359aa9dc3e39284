"""The one training loop: a stack of models, of which one is the plain case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from raysweep.streams import indices, permutation
from raysweep.training.optim import SGD, Parameters

__all__ = ["Batches", "Snapshot", "forward", "nested_rows", "train"]


@dataclass(frozen=True)
class Batches:
    """Training batches for every lane out of one resident pool; no copies per lane.

    Attributes:
        x: [pools * items, d] inputs of all pools (one pool per temperature).
        targets: [kinds * pools * items, classes] probabilities by label kind.
        rows: [seeds, longest] positions in a pool: each data seed's permutation, cut to the largest N.
        seed_row: [lanes] row of `rows` of each lane.
        pool_offset: [lanes] first row of `x` of each lane's pool.
        target_offset: [lanes] first row of `targets` of each lane's kind and pool.
        n: [lanes] data-set sizes.
        order_seed: [lanes].
        batch: Items a step.
    """

    x: Tensor
    targets: Tensor
    rows: Tensor
    seed_row: Tensor
    pool_offset: Tensor
    target_offset: Tensor
    n: Tensor
    order_seed: Tensor
    batch: int

    def at(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """x [lanes, batch, d] and target probabilities [lanes, batch, classes] of a step."""
        item = indices(self.order_seed, step, self.batch, self.n)
        row = self.rows[self.seed_row[:, None], item]
        return self.x[row + self.pool_offset[:, None]], self.targets[row + self.target_offset[:, None]]


def nested_rows(data_seeds: Sequence[int], pool: int, longest: int) -> Tensor:
    """[seeds, longest] what `Batches.rows` holds."""
    return torch.stack([permutation(seed, pool)[:longest] for seed in data_seeds])


@dataclass(frozen=True)
class Snapshot:
    """The stack at one step.

    Attributes:
        step: Steps taken.
        parameters: {name: [lanes, ...]}; the live tensors, to be read before the loop goes on.
        diverged_at: [lanes] step whose loss was not finite, or -1. Such a lane is frozen since.
    """

    step: int
    parameters: Parameters
    diverged_at: Tensor


def forward(module: nn.Module, parameters: Parameters, x: Tensor) -> Tensor:
    """[lanes, n, classes] logits of every lane on shared inputs x [n, d]."""

    def one(p: Parameters) -> Tensor:
        out: Tensor = functional_call(module, p, (x,))
        return out

    logits: Tensor = vmap(one)(parameters)
    return logits


def train(
    module: nn.Module, parameters: Parameters, batches: Batches, optimiser: SGD, snapshots: Sequence[int]
) -> Iterator[Snapshot]:
    """Minimise cross-entropy to the targets; yield at each snapshot step.

    A lane whose loss is not finite is frozen before the update and its step recorded; the others go on. Nothing
    in the loop waits for the device.

    Args:
        module: The model's shape.
        parameters: Stacked initial parameters; updated in place.
        snapshots: Increasing steps; the last is the horizon. 0 is the initial state.
    """

    def loss(p: Parameters, x: Tensor, target: Tensor) -> Tensor:
        logits = functional_call(module, p, (x,))
        return -(target * torch.log_softmax(logits, dim=-1)).sum(-1).mean()

    gradient: Callable[..., tuple[Parameters, Tensor]] = vmap(grad_and_value(loss))
    state = optimiser.state(parameters)
    device = batches.x.device
    diverged_at = torch.full_like(batches.n, -1)
    step = torch.zeros((), dtype=torch.int64, device=device)
    done = 0
    for stop in snapshots:
        for _ in range(stop - done):
            x, target = batches.at(step)
            gradients, value = gradient(parameters, x, target)
            failed = ~torch.isfinite(value) & (diverged_at < 0)
            diverged_at = torch.where(failed, step, diverged_at)
            optimiser.step(parameters, gradients, state, diverged_at < 0)
            step += 1
        done = stop
        yield Snapshot(stop, parameters, diverged_at)
