"""Packs whose lanes differ in everything that a lane can differ in; shared by the tests of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raysweep.experiment import Keep, Share
from raysweep.models import Architecture
from raysweep.models.initial import initial_parameters
from raysweep.training.batches import Batches, nested_rows
from raysweep.training.legs import legs
from raysweep.training.loop import train
from raysweep.training.optim import Optimiser
from raysweep.training.saved import Stage
from raysweep.training.schedule import Schedule

OPTIMISERS = ("sgd", "nesterov", "adamw")

POOLS, ITEMS = 2, 300


@dataclass(frozen=True)
class Lane:
    """One training."""

    seed: int = 0
    data_seed: int = 0
    pool: int = 0
    soft: bool = True
    n: int = 200
    lr: float = 0.05
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = math.inf
    label_noise: float = 0.0
    smoothing: float = 0.0
    sharpness: float = 1.0
    input_noise: float = 0.0
    warmup: int = 0
    horizon: int = 10


# No two lanes share a value that matters; the second has every optional term at its neutral value, the fourth rests.
FIVE = (
    Lane(0, 0, 0, False, 1, 0.02, 0.9, 0.9, 0.999, 1e-8, 0.0, math.inf, 0.0, 0.1, 1.0, 0.1, 3, 7),
    Lane(3, 3, 1, True, 17, 0.1, 0.0, 0.0, 0.9, 1e-6, 0.0, math.inf, 0.0, 0.0, 1.0, 0.0, 0, 20),
    Lane(5, 3, 1, False, 64, 0.05, 0.5, 0.8, 0.99, 1e-3, 0.05, 0.3, 0.5, 0.2, 1.0, 0.0, 10, 12),
    Lane(2**62, 2**61, 0, True, 300, 0.0, 0.9, 0.9, 0.95, 1e-8, 0.1, 1.0, 0.2, 0.0, 2.0, 0.5, 1, 20),
    Lane(7, 9, 0, True, 300, 0.15, 0.3, 0.5, 0.999, 1e-8, 0.01, 0.7, 0.0, 0.05, 0.5, 0.02, 5, 16),
)


@dataclass(frozen=True)
class End:
    """What a snapshot held."""

    lanes: list[int]
    parameters: dict[str, Tensor]
    diverged: list[int]

    def of(self, lane: int) -> dict[str, Tensor]:
        """The parameters of a lane, by its position in the stack that training began with."""
        return {name: p[self.lanes.index(lane)] for name, p in self.parameters.items()}


def column(lanes: Sequence[Lane], name: str, dtype: torch.dtype, neutral: float | None = None) -> Tensor | None:
    values = [getattr(lane, name) for lane in lanes]
    return None if set(values) == {neutral} else torch.tensor(values, dtype=dtype)


def batches_of(architecture: Architecture, lanes: Sequence[Lane], dtype: torch.dtype, batch: int = 8) -> Batches:
    generator = torch.Generator().manual_seed(0)
    shape = (POOLS * ITEMS, architecture.inputs)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    logits = torch.randn(POOLS * ITEMS, architecture.outputs, generator=generator, dtype=torch.float64)
    soft = torch.softmax(2 * logits, -1)
    hard = torch.eye(architecture.outputs, dtype=torch.float64)[soft.argmax(-1)]
    seeds = sorted({lane.data_seed for lane in lanes})
    pool = torch.tensor([lane.pool * ITEMS for lane in lanes])
    return Batches(
        x=x.to(dtype),
        targets=torch.cat([hard, soft]).to(dtype),
        rows=nested_rows(seeds, ITEMS, max(lane.n for lane in lanes)),
        batch=batch,
        seed_row=torch.tensor([seeds.index(lane.data_seed) for lane in lanes]),
        pool_offset=pool,
        target_offset=pool + torch.tensor([int(lane.soft) * POOLS * ITEMS for lane in lanes]),
        n=torch.tensor([lane.n for lane in lanes]),
        order_seed=torch.tensor([lane.seed for lane in lanes]),
        data_seed=torch.tensor([lane.data_seed for lane in lanes]),
        label_noise=column(lanes, "label_noise", torch.float64, 0.0),
        smoothing=column(lanes, "smoothing", dtype, 0.0),
        sharpness=column(lanes, "sharpness", dtype, 1.0),
        input_noise=column(lanes, "input_noise", dtype, 0.0),
    )


def optimiser_of(architecture: Architecture, lanes: Sequence[Lane], dtype: torch.dtype, kind: str) -> Optimiser:
    hyper = {name: column(lanes, name, dtype) for name in ("lr", "momentum", "beta1", "beta2", "eps")}
    return Optimiser(
        kind,
        **hyper,
        weight_decay=column(lanes, "weight_decay", dtype, 0.0),
        clip=column(lanes, "clip", dtype, math.inf),
        rates=architecture.rates(kind == "adamw"),
    )


def start_of(architecture: Architecture, lanes: Sequence[Lane], dtype: torch.dtype) -> dict[str, Tensor]:
    return initial_parameters(architecture, torch.tensor([lane.seed for lane in lanes]), dtype, "cpu")


def trained(
    architecture: Architecture,
    lanes: Sequence[Lane],
    times: Sequence[int],
    optimiser: str = "sgd",
    schedule: str = "constant",
    dtype: torch.dtype = torch.float64,
    decay: float = 0.25,
    conv: str = "loop",
    batch: int = 8,
    compute: torch.dtype | None = None,
    keep: Keep | None = None,
    stage: Stage | None = None,
    share: Share | None = None,
) -> dict[int, End]:
    """{step: what its snapshot held} of the loop over these lanes."""
    warmup, horizon = (torch.tensor([getattr(lane, name) for lane in lanes]) for name in ("warmup", "horizon"))
    stack = train(
        architecture.model(conv),
        start_of(architecture, lanes, dtype),
        batches_of(architecture, lanes, dtype, batch),
        optimiser_of(architecture, lanes, dtype, optimiser),
        Schedule.make(schedule, warmup, horizon),
        legs(schedule, times, decay),
        compute,
        keep,
        stage=stage,
        share=share,
    )
    return {
        s.step: End(s.lanes.tolist(), {name: p.clone() for name, p in s.parameters.items()}, s.diverged_at.tolist())
        for s in stack
    }


def with_lr(lane: Lane, lr: float) -> Lane:
    return replace(lane, lr=lr)


def largest_gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference over tensors, each relative to its largest number."""
    assert a.keys() == b.keys()
    return max(((a[name] - b[name]).abs().max() / b[name].abs().max().clamp(min=1e-300)).item() for name in b)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit by bit; NaN equals NaN."""
    return a.keys() == b.keys() and all(
        torch.equal(torch.isnan(a[n]), torch.isnan(b[n])) and torch.equal(a[n].nan_to_num(), b[n].nan_to_num())
        for n in b
    )
