"""Centred and scaled outputs, frozen parts, rates by layer and lane: a lane is trained as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from training.packs import FIVE, Lane, batches_of, largest_gap, start_of

from raysweep.errors import PackError
from raysweep.models import Architecture
from raysweep.models.outputs import RICHNESS, centred, initial_values, scaled
from raysweep.training.batches import Batches
from raysweep.training.legs import Leg
from raysweep.training.loop import Snapshot, forward, train
from raysweep.training.loss import SQUARE
from raysweep.training.optim import Optimiser
from raysweep.training.schedule import Schedule

MLP = Architecture("mlp", 3, 2, 8, 2, "tanh")
EIGHT = tuple(replace(FIVE[1], seed=i, data_seed=i % 2, n=50 + i, lr=0.02 + 0.01 * i) for i in range(8))
GAMMA = (0.5, 0.7, 1.0, 1.3, 1.7, 2.0, 3.0, 5.0)
FEATURES = ("layers.0.weight", "layers.0.bias")


def real_batches(lanes: Sequence[Lane]) -> Batches:
    plain = batches_of(MLP, lanes, torch.float64)
    draw = torch.Generator().manual_seed(1)
    targets = torch.randn(plain.targets.shape, generator=draw, dtype=torch.float64)
    return replace(plain, targets=targets, real=True)


def rates_of(picked: Sequence[int]) -> dict[str, float | Tensor]:
    """One rate by layer, one by layer and lane."""
    return {"layers.1.weight": 0.5, "layers.2.weight": torch.tensor([1.0 + i for i in picked], dtype=torch.float64) / 4}


def optimiser_of(lanes: Sequence[Lane], kind: str = "sgd", **more: Any) -> Optimiser:
    def column(name: str) -> Tensor:
        return torch.tensor([getattr(lane, name) for lane in lanes], dtype=torch.float64)

    hyper = {name: column(name) for name in ("lr", "momentum", "beta1", "beta2", "eps")}
    return Optimiser(kind, **hyper, **more)


def trained(picked: Sequence[int], stops: Sequence[int], **more: Any) -> list[Snapshot]:
    """Centred, scaled, first layer frozen, rates by layer: these of the eight lanes. Parameters are copies."""
    lanes = [EIGHT[i] for i in picked]
    start = start_of(MLP, lanes, torch.float64)
    features = {name: start.pop(name) for name in FEATURES}
    gamma = torch.tensor([GAMMA[i] for i in picked], dtype=torch.float64)
    zero = torch.zeros(len(lanes))
    found = train(
        scaled(centred(MLP.model())), start, real_batches(lanes),
        replace(optimiser_of(lanes, rates=rates_of(picked)), **more), Schedule.make("constant", zero, zero),
        [Leg(stop, True) for stop in stops], loss=SQUARE,
        frozen={**features, **initial_values(start), RICHNESS: gamma},
    )  # fmt: skip
    return [replace(s, parameters={n: p.clone() for n, p in s.parameters.items()}) for s in found]


def test_centred_outputs_are_zero_at_the_start_and_the_change_later() -> None:
    start, x = start_of(MLP, EIGHT, torch.float64), torch.randn(6, 3, dtype=torch.float64)
    moved = {name: p + 0.1 for name, p in start.items()}
    model = centred(MLP.model())
    assert torch.equal(forward(model, {**start, **initial_values(start)}, x), torch.zeros(8, 6, 2, dtype=torch.float64))
    found = forward(model, {**moved, **initial_values(start)}, x)
    wanted = forward(MLP.model(), moved, x) - forward(MLP.model(), start, x)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)


def test_outputs_are_divided_by_each_lanes_richness() -> None:
    start, x = start_of(MLP, EIGHT, torch.float64), torch.randn(6, 3, dtype=torch.float64)
    gamma = torch.tensor(GAMMA, dtype=torch.float64)
    found = forward(scaled(MLP.model()), {**start, RICHNESS: gamma}, x)
    torch.testing.assert_close(found * gamma[:, None, None], forward(MLP.model(), start, x), rtol=1e-12, atol=0)


def test_centring_adds_no_gradient() -> None:
    start, x = start_of(MLP, EIGHT, torch.float64), torch.randn(6, 3, dtype=torch.float64)
    leaves = {name: p.clone().requires_grad_() for name, p in start.items()}
    linear = [
        torch.autograd.grad(forward(model, {**leaves, **initial_values(start)}, x).sum(), list(leaves.values()))
        for model in (MLP.model(), centred(MLP.model()))
    ]
    for a, b in zip(*linear, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


def test_a_pack_is_its_lanes_alone_also_after_half_of_them_left() -> None:
    bad = (1, 2, 4, 7)
    lr = torch.tensor([1e30 if i in bad else EIGHT[i].lr for i in range(8)], dtype=torch.float64)
    first, last = trained(range(8), [100, 200], lr=lr)
    assert (len(first.lanes), last.lanes.tolist()) == (8, [0, 3, 5, 6])
    for place, i in enumerate(last.lanes.tolist()):
        (alone,) = trained([i], [200])
        found = {name: p[place] for name, p in last.parameters.items()}
        assert largest_gap(found, {name: p[0] for name, p in alone.parameters.items()}) < 1e-9
        assert largest_gap(found, {name: p[i] for name, p in first.parameters.items()}) > 1e-3  # it still trained


def test_a_frozen_part_stays_and_the_rest_trains_as_if_it_were_a_constant() -> None:
    """Beside a model that has the features inside, as numbers."""
    lanes = EIGHT[:3]
    start = start_of(MLP, lanes, torch.float64)
    features = {name: start.pop(name) for name in FEATURES}
    kept = {name: p.clone() for name, p in features.items()}
    zero, seen = torch.zeros(3), []

    def inside(p: Any, x: Tensor) -> Tensor:
        return MLP.model()({**kept, **p}, x)

    def watched(p: Any, x: Tensor) -> Tensor:
        seen.append({name: value.requires_grad for name, value in p.items()})
        return MLP.model()(p, x)

    ends = []
    for model, frozen in ((watched, features), (inside, {})):
        mine = {name: p.clone() for name, p in start.items()}
        options = (real_batches(lanes), optimiser_of(lanes, "adamw"), Schedule.make("constant", zero, zero))
        (end,) = train(model, mine, *options, [Leg(30, True)], loss=SQUARE, frozen=frozen)
        ends.append(end.parameters)
    assert all(torch.equal(ends[0][name], kept[name]) for name in FEATURES)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in start)
    assert all(not torch.equal(ends[0][name], start[name]) for name in start)
    assert all(flags == {name: name not in FEATURES for name in flags} for flags in seen)


def test_a_parameter_is_not_trained_and_frozen_at_once() -> None:
    lanes = EIGHT[:1]
    start, zero = start_of(MLP, lanes, torch.float64), torch.zeros(1)
    options = (real_batches(lanes), optimiser_of(lanes), Schedule.make("constant", zero, zero), [Leg(1, True)])
    with pytest.raises(PackError, match=r"either trained or frozen, but got \['layers.0.bias'\]"):
        next(train(MLP.model(), start, *options, loss=SQUARE, frozen={"layers.0.bias": start["layers.0.bias"]}))


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adamw"])
def test_rates_by_layer_and_lane_are_learning_rates_of_their_own(kind: str) -> None:
    """One lane with factors is torch's optimiser with a parameter group per layer."""
    lanes, steps = EIGHT[:2], 15
    factors = {"layers.0.weight": torch.tensor([0.5, 3.0], dtype=torch.float64), "layers.2.bias": 0.25}
    zero, decay = torch.zeros(2), torch.tensor([0.0, 0.1], dtype=torch.float64)
    momentum = torch.tensor([0.5, 0.8], dtype=torch.float64)
    optimiser = replace(optimiser_of(lanes, kind, rates=factors), weight_decay=decay, momentum=momentum)
    start, batches = start_of(MLP, lanes, torch.float64), real_batches(lanes)
    (end,) = train(MLP.model(), {n: p.clone() for n, p in start.items()}, batches, optimiser,
                   Schedule.make("constant", zero, zero), [Leg(steps, True)], loss=SQUARE)  # fmt: skip
    for i, lane in enumerate(lanes):
        p = {name: value[i].clone().requires_grad_() for name, value in start.items()}
        groups = []
        for name, leaf in p.items():
            factor = factors.get(name, 1.0)
            factor = float(factor[i]) if isinstance(factor, Tensor) else factor
            # Weight decay follows the unscaled rate.
            groups.append({"params": [leaf], "lr": lane.lr * factor, "weight_decay": float(decay[i]) / factor})
        if kind == "adamw":
            theirs: Any = torch.optim.AdamW(groups, betas=(lane.beta1, lane.beta2), eps=lane.eps)
        else:
            theirs = torch.optim.SGD(groups, momentum=float(momentum[i]), nesterov=kind == "nesterov")
        for step in range(steps):
            x, y = (part[i] for part in batches.at(torch.tensor(step)))
            out = MLP.model()({name: leaf[None] for name, leaf in p.items()}, x[None])[0]
            theirs.zero_grad()
            ((out - y).square().sum() / (2 * len(y))).backward()
            theirs.step()
        assert largest_gap({n: v[i] for n, v in end.parameters.items()}, {n: v.detach() for n, v in p.items()}) < 1e-9


@pytest.mark.parametrize("factor", [0.0, -1.0, torch.tensor([1.0, 0.0]), float("nan")])
def test_a_rate_must_be_positive(factor: Any) -> None:
    with pytest.raises(PackError, match="factor > 0"):
        optimiser_of(EIGHT[:2], rates={"layers.0.weight": factor})
