"""What the changes of single inputs add up to, over points, inputs and lanes; and the variance of a sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raysweep.metrics.lanes import on_threads
from raysweep.metrics.measures import Binary, Measure
from raysweep.metrics.stack import Stack
from raysweep.streams import MEAN_DIMENSION, uniform

__all__ = ["Changes", "squared_deviations", "squared_error", "variance_floor"]

_BASE, _OTHER, _VARIANCE, _SECOND, _RHO, _KEPT = range(6)  # uses of the seed
_BATCH, _BATCHES = 100, 100  # most items whose squared deviations are averaged; fewest averages, as they give the error
_ROUNDING = 8  # units in the last place
_INPUTS_FIRST = 16  # inputs in a pass before it takes further lanes: a line of the weights in the cache


@dataclass(frozen=True)
class Changes:
    """Sums over the changes of single inputs; D_i is a change of f by input i, and tau_i half its mean square.

    Attributes:
        squares: [lanes, points, outputs] float64, sum over i of D_i^2 / 2 (flips: D_i^2 / 4); the mean is the sum of
            tau_i.
        taus: [lanes, inputs] tau_i, summed over outputs.
        taus_error2: [lanes, inputs] their squared standard errors.
        floor: [lanes] variance that rounding gives a constant of this size.
        products: [lanes, points, outputs], for pairs only: the mean is Var f.
    """

    squares: Tensor
    taus: Tensor
    taus_error2: Tensor
    floor: Tensor
    products: Tensor | None = None

    @staticmethod
    def over(stack: Stack, measure: Measure, seed: int, points: int, chunk: int, paired: bool) -> Changes:
        """Changes of every input at every point; two points that follow each other are exchangeable.

        Args:
            chunk: Items in a forward pass, over all lanes.
            paired: Whether to move to a second point, which keeps some of the first one's inputs, and take products.
        """
        probe = stack.values(_drawn(stack, measure, seed, _BASE, torch.arange(1, device=stack.device)))
        group = min(points, max(2, stack.items_at_once(chunk, probe.shape[2]) // 2 * 2))
        lanes = 1 if stack.switches else min(stack.lanes, max(1, chunk // (group * _INPUTS_FIRST)))
        at_a_time = max(1, chunk // (group * lanes))
        taus, spread = torch.zeros(2, stack.lanes, stack.inputs, dtype=torch.float64, device=stack.device)
        squares, products = taus.new_zeros(2, stack.lanes, points, probe.shape[2])
        for items in torch.arange(points, device=stack.device).split(group):
            x = _drawn(stack, measure, seed, _BASE, items)
            bases = [x, _second(stack, measure, seed, items, points, x)] if paired else [x]
            others = [_other(stack, measure, seed, items, base) for base in bases]
            same_way = torch.where(bases[0] == bases[-1], 1.0, -1.0).to(stack.dtype).T[:, :, None]
            here = slice(int(items[0]), int(items[-1]) + 1)

            def add(
                block: tuple[slice, Stack],
                bases: list[Tensor] = bases,
                others: list[Tensor] = others,
                same_way: Tensor = same_way,
                here: slice = here,
            ) -> None:
                own, some = block
                moves = [some.changes(base, other, at_a_time) for base, other in zip(bases, others, strict=True)]
                done = 0
                for first, *second in zip(*moves, strict=True):
                    at = slice(done, done := done + first.shape[1])
                    if second:
                        products[own, here] += (first * second[0]).mul_(same_way[at]).sum(1)
                        each = first.square_().addcmul_(second[0], second[0])
                    else:
                        each = first.square_()
                    squares[own, here] += each.sum(1)
                    of_input = each.sum(3)
                    taus[own, at] += of_input.sum(2)
                    spread[own, at] += (of_input[..., ::2] - of_input[..., 1::2]).square_().sum(2)

            if stack.switches:
                on_threads(add, stack.blocks(lanes))
            else:
                for block in stack.blocks(lanes):
                    add(block)
        factor = 0.25 if isinstance(measure, Binary) else 0.5
        share = factor / len(bases)
        return Changes(
            squares * share,
            taus * (share / points),
            spread * (share / points) ** 2,
            variance_floor(probe),
            products * factor if paired else None,
        )


def squared_deviations(stack: Stack, measure: Measure, seed: int, points: int, chunk: int) -> Tensor:
    """[lanes, batches, outputs] float64: mean squared deviations of f in batches of items; their mean is Var f.

    Args:
        points: Rounded up to whole batches.
        chunk: Items in a forward pass, over all lanes.
    """
    batch = min(_BATCH, max(1, points // _BATCHES))
    batches = -(-points // batch)
    first = torch.arange(min(_BATCH, points), device=stack.device)
    about = torch.cat(  # near the mean: squares about it lose no digits
        [
            some.values(_drawn(stack, measure, seed, _BASE, first)).double().mean(1, keepdim=True)
            for _, some in stack.blocks(max(1, chunk // len(first)))
        ]
    )
    squares, sums = about.new_zeros(2, stack.lanes, batches, about.shape[2])
    whole = max(1, chunk // batch)  # batches in a pass
    for start in range(0, batches, whole):
        own_batches = slice(start, min(start + whole, batches))
        count = own_batches.stop - start
        items = torch.arange(start * batch, own_batches.stop * batch, device=stack.device)
        for part in items.split(len(items) if chunk >= batch else chunk):
            x = _drawn(stack, measure, seed, _VARIANCE, part)
            for own, some in stack.blocks(max(1, chunk // len(part))):
                values = (some.values(x) - about[own]).unflatten(1, (count, -1))
                sums[own, own_batches] += values.sum(2)
                squares[own, own_batches] += values.square_().sum(2)
    total = batches * batch
    mean = sums.sum(1, keepdim=True) / total
    found: Tensor = (squares - 2 * mean * sums + batch * mean**2) * (batches / (total - 1))
    return found


def variance_floor(values: Tensor) -> Tensor:
    """[lanes] the variance below which values [lanes, items, outputs] differ by rounding alone."""
    floor: Tensor = (_ROUNDING * torch.finfo(values.dtype).eps * values.double().abs().amax((1, 2))) ** 2
    return floor


def squared_error(samples: Tensor) -> Tensor:
    """[lanes, ...] the squared standard error of the mean over axis 1, from differences of neighbours, which are
    exchangeable: right also where pairs of neighbours are stratified."""
    count = samples.shape[1] // 2 * 2
    differences = samples[:, 0:count:2] - samples[:, 1:count:2]
    found: Tensor = differences.square().sum(1) / count**2
    return found


def _drawn(stack: Stack, measure: Measure, seed: int, use: int, items: Tensor) -> Tensor:
    return measure.draw(seed, use, items, stack.inputs).to(stack.dtype)


def _other(stack: Stack, measure: Measure, seed: int, items: Tensor, x: Tensor) -> Tensor:
    """[items, inputs] the values that inputs change to."""
    return measure.flipped(x) if isinstance(measure, Binary) else _drawn(stack, measure, seed, _OTHER, items)


def _second(stack: Stack, measure: Measure, seed: int, items: Tensor, points: int, x: Tensor) -> Tensor:
    """[items, inputs] x with each input kept with probability rho and drawn again otherwise; rho is uniform, two points
    to a stratum."""
    key = torch.tensor(seed, device=stack.device)
    rho = (items // 2 + uniform(key, MEAN_DIMENSION, _RHO, items)) / (points // 2)
    kept = uniform(key, MEAN_DIMENSION, _KEPT, items[:, None], torch.arange(stack.inputs, device=stack.device))
    return torch.where(kept < rho[:, None], x, _drawn(stack, measure, seed, _SECOND, items))
