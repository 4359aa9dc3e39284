"""Losses: their values against torch.nn.functional, their gradients against autograd, what each calls divergence."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from training.packs import FIVE, batches_of, optimiser_of, start_of

from raysweep.errors import PackError
from raysweep.models import Architecture
from raysweep.training.batches import Batches
from raysweep.training.legs import Leg
from raysweep.training.loop import train
from raysweep.training.loss import CROSS_ENTROPY, LOGISTIC, SQUARE, Loss
from raysweep.training.schedule import Schedule

LINEAR = Architecture("mlp", 3, 4, 1, 0)
LANES, BATCH, OUTPUTS = 3, 5, 4
LOSSES = pytest.mark.parametrize("loss", [CROSS_ENTROPY, SQUARE, LOGISTIC], ids=lambda loss: loss.name)


def case(loss: Loss) -> tuple[Tensor, Tensor]:
    """Outputs, some of them extreme, and targets; float64."""
    draw = torch.Generator().manual_seed(0)
    outputs, other = torch.randn(2, LANES, BATCH, OUTPUTS, generator=draw, dtype=torch.float64)
    outputs[0, 0] = torch.tensor([60.0, -60.0, 0.0, 1e3])
    targets = {CROSS_ENTROPY: torch.softmax(other, -1), SQUARE: 3 * other, LOGISTIC: other.sign()}[loss]
    return outputs, targets


@LOSSES
def test_the_value_is_torchs_own(loss: Loss) -> None:
    outputs, targets = case(loss)
    theirs = {
        CROSS_ENTROPY: lambda f, t: F.cross_entropy(f, t),
        SQUARE: lambda f, t: F.mse_loss(f, t, reduction="sum") / (2 * BATCH),
        LOGISTIC: lambda f, t: F.binary_cross_entropy_with_logits(f, (t + 1) / 2, reduction="sum") / BATCH,
    }[loss]
    value, _ = loss.value_and_gradient(outputs, targets)
    wanted = torch.stack([theirs(f, t) for f, t in zip(outputs, targets, strict=True)])
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)


@LOSSES
def test_the_gradient_is_the_values(loss: Loss) -> None:
    outputs, targets = case(loss)
    leaf = outputs.clone().requires_grad_()
    # The loss works in place, which autograd could not follow back: its value is written out here.
    written = {
        CROSS_ENTROPY: lambda f: -(torch.log_softmax(f, -1) * targets).sum((1, 2)) / BATCH,
        SQUARE: lambda f: (f - targets).square().sum((1, 2)) / (2 * BATCH),
        LOGISTIC: lambda f: -F.logsigmoid(targets * f).sum((1, 2)) / BATCH,
    }[loss](leaf)
    (wanted,) = torch.autograd.grad(written.sum(), leaf)
    value, found = loss.value_and_gradient(outputs, targets)
    torch.testing.assert_close(value, written.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-15)
    _, narrow = loss.value_and_gradient(outputs.bfloat16(), targets.float())
    assert narrow.dtype == torch.bfloat16


def test_targets_must_be_what_the_loss_takes() -> None:
    probabilities = batches_of(LINEAR, FIVE[1:2], torch.float64)
    real = replace(probabilities, real=True, label_noise=None, smoothing=None, sharpness=None)
    for loss, batches in ((CROSS_ENTROPY, real), (LOGISTIC, probabilities)):
        with pytest.raises(PackError, match=rf"loss: {loss.name} needs targets that are"):
            ends(loss, batches, [1.0])
    ends(SQUARE, real, [1.0])
    ends(SQUARE, probabilities, [1.0])
    for name in ("label_noise", "smoothing", "sharpness"):
        with pytest.raises(PackError, match=f"real targets have no classes, but got {name}"):
            replace(real, **{name: torch.ones(1)})  # type: ignore[arg-type]


def ends(loss: Loss, batches: Batches, size: list[float]) -> list[int]:
    """When lanes diverge whose only output is `size`, whatever the item, and never moves."""
    lanes = [replace(FIVE[1], lr=0.0)] * len(size)

    def model(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return p["w"][:, None, None] * torch.ones_like(x[..., :1]).expand(*x.shape[:2], batches.targets.shape[-1])

    schedule = Schedule.make("constant", torch.zeros(len(size)), torch.zeros(len(size)))
    w = {"w": torch.tensor(size, dtype=torch.float64)}
    optimiser = replace(optimiser_of(LINEAR, lanes, torch.float64, "sgd"), rates={})
    (end,) = train(model, w, batches, optimiser, schedule, [Leg(2, True)], loss=loss)  # type: ignore[arg-type]
    return end.diverged_at.tolist()


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_a_square_loss_diverges_in_units_of_the_targets(unit: float) -> None:
    """Whatever the targets' unit, outputs a million times as large as they are end a lane, and not before."""
    plain = batches_of(LINEAR, [FIVE[1]] * 3, torch.float64)
    targets = torch.full_like(plain.targets, unit)
    batches = replace(plain, targets=targets, real=True)
    assert ends(SQUARE, batches, [0.9e6 * unit, 1.1e6 * unit, math.nan]) == [-1, 0, 0]


def test_the_natural_scale_is_a_lanes_own() -> None:
    lanes = [replace(FIVE[1], n=n, pool=pool) for n, pool in ((1, 0), (17, 1), (300, 1), (17, 1))]
    batches = batches_of(LINEAR, lanes, torch.float64)
    batches = replace(batches, targets=torch.randn_like(batches.targets), real=True)
    for i, power in enumerate(batches.power().tolist()):
        at = batches.rows[batches.seed_row[i], : batches.n[i]] + batches.target_offset[i]
        assert power == pytest.approx(batches.targets[at].square().sum(-1).mean().item(), rel=1e-12)
        assert batches.take(torch.tensor([i])).power().tolist() == [power]
    silent = replace(batches, targets=torch.zeros_like(batches.targets))
    assert ends(SQUARE, silent, [0.0, 1e5, 1e7, 1.0]) == [-1, -1, 0, -1]  # in units of 1


@pytest.mark.parametrize(
    ("loss", "rule"),
    [(CROSS_ENTROPY, "not finite or above 1e6 nats"), (SQUARE, "not finite or above 1e12 times that of predicting 0")],
)
def test_the_rule_is_said_in_words(loss: Loss, rule: str) -> None:
    assert loss.rule == rule


def test_one_hot_targets_and_real_ones_train_alike() -> None:
    """A square loss on one-hot targets is one on the same numbers declared real."""
    lanes = FIVE[1:2]
    batches = batches_of(LINEAR, lanes, torch.float64)
    found = []
    for real in (False, True):
        schedule = Schedule.make("constant", torch.zeros(1), torch.zeros(1))
        optimiser = optimiser_of(LINEAR, lanes, torch.float64, "sgd")
        start = start_of(LINEAR, lanes, torch.float64)
        one = replace(batches, real=real)
        (end,) = train(LINEAR.model(), start, one, optimiser, schedule, [Leg(20, True)], loss=SQUARE)
        found.append({n: p.clone() for n, p in end.parameters.items()})
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])
