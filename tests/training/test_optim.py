"""Optimisers one step at a time: each lane's own numbers, width factors, and what a zero rate leaves."""

import math

import pytest
import torch
from training.packs import OPTIMISERS

from raysweep.training.optim import Optimiser

LANES = 3
LR = torch.tensor([0.1, 0.02, 0.5], dtype=torch.float64)
MOMENTUM = torch.tensor([0.9, 0.0, 0.5], dtype=torch.float64)
BETA1 = torch.tensor([0.9, 0.5, 0.0], dtype=torch.float64)
BETA2 = torch.tensor([0.999, 0.9, 0.0], dtype=torch.float64)
EPS = torch.tensor([1e-8, 1e-2, 1.0], dtype=torch.float64)
DECAY = torch.tensor([0.0, 0.1, 0.3], dtype=torch.float64)
CLIP = torch.tensor([math.inf, 0.5, 1e-3], dtype=torch.float64)
SHAPES = {"a": (4, 3), "b": (2,), "c": (2, 2, 3, 2)}


def numbers(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {n: scale * torch.randn(LANES, *s, generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}


def optimiser(kind, rates=None, weight_decay=DECAY, clip=CLIP):
    return Optimiser(kind, LR, MOMENTUM, BETA1, BETA2, EPS, weight_decay, clip, rates or {})


def walk(o, parameters, steps, lr=LR, dead=(False, False, False), scale=1.0):
    state = o.state(parameters)
    for t in range(steps):
        o.step(parameters, numbers(100 + t, scale), state, lr, torch.tensor(dead), torch.tensor(t))
    return parameters, state


@pytest.mark.parametrize("kind", OPTIMISERS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_ten_steps_are_torchs(kind, scale):
    ours, _ = walk(optimiser(kind), numbers(1), 10, scale=scale)
    for lane in range(LANES):
        theirs = {n: torch.nn.Parameter(p[lane]) for n, p in numbers(1).items()}
        lr, decay = LR[lane].item(), DECAY[lane].item()
        if kind == "adamw":
            betas = (BETA1[lane].item(), BETA2[lane].item())
            o = torch.optim.AdamW(theirs.values(), lr, betas, EPS[lane].item(), weight_decay=decay)
        else:
            m = MOMENTUM[lane].item()
            o = torch.optim.SGD(theirs.values(), lr, m, weight_decay=decay, nesterov=kind == "nesterov" and m > 0)
        for t in range(10):
            for name, g in numbers(100 + t, scale).items():
                theirs[name].grad = g[lane]
            if math.isfinite(CLIP[lane]):
                torch.nn.utils.clip_grad_norm_(theirs.values(), CLIP[lane].item())
            o.step()
        for name, p in theirs.items():
            torch.testing.assert_close(ours[name][lane], p.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_no_decay_and_no_clip_are_decay_0_and_clip_infinity(kind):
    none, _ = walk(optimiser(kind, weight_decay=None, clip=None), numbers(1), 5)
    neutral, _ = walk(optimiser(kind, weight_decay=0 * DECAY, clip=0 * CLIP.nan_to_num() + math.inf), numbers(1), 5)
    assert all(torch.equal(none[n], neutral[n]) for n in none)


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_a_rate_of_0_keeps_parameters_exactly_but_not_the_moments(kind):
    lr = torch.tensor([0.1, 0.0, 0.5], dtype=torch.float64)
    after, state = walk(optimiser(kind), numbers(1), 4, lr)
    for name, p in numbers(1).items():
        assert torch.equal(after[name][1], p[1])
        assert not torch.equal(after[name][0], p[0])
    assert all(moment["a"][1].abs().sum() > 0 for moment in state.values())


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_a_dead_lane_keeps_its_parameters_exactly_whatever_its_moments_were(kind):
    o, parameters = optimiser(kind), numbers(1)
    state = o.state(parameters)
    for t in range(3):
        o.step(parameters, numbers(t), state, LR, torch.tensor([False] * 3), torch.tensor(t))
    before = {n: p.clone() for n, p in parameters.items()}
    for t in range(3, 6):
        g = {n: v.masked_fill(torch.tensor([False, True, False]).view(-1, *[1] * (v.dim() - 1)), math.nan)
             for n, v in numbers(t).items()}  # fmt: skip
        o.step(parameters, g, state, LR, torch.tensor([False, True, False]), torch.tensor(t))
    for name, p in parameters.items():
        assert torch.equal(p[1], before[name][1])
        assert (p[[0, 2]] != before[name][[0, 2]]).all()


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_a_width_factor_multiplies_the_step(kind):
    rates = {"a": 4.0, "c": 0.25}
    plain, _ = walk(optimiser(kind, weight_decay=None), numbers(1), 5)
    scaled, _ = walk(optimiser(kind, rates, weight_decay=None), numbers(1), 5)
    for name, p in numbers(1).items():
        torch.testing.assert_close(scaled[name] - p, rates.get(name, 1.0) * (plain[name] - p), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_decay_follows_the_rate_without_the_width_factor(kind):
    """Yang et al. 2022, appendix B.3: decay is scaled independently of width. Without a gradient it is all there is."""
    o, parameters = optimiser(kind, {"a": 4.0, "c": 0.25}), numbers(1)
    state = o.state(parameters)
    zeros = {n: torch.zeros_like(p) for n, p in parameters.items()}
    o.step(parameters, zeros, state, LR, torch.tensor([False] * 3), torch.tensor(0))
    boost = 1 + MOMENTUM if kind == "nesterov" else torch.ones(LANES, dtype=torch.float64)
    for name, p in numbers(1).items():
        kept = (1 - LR * DECAY * boost).view(-1, *[1] * (p.dim() - 1))
        torch.testing.assert_close(parameters[name], kept * p, rtol=1e-12, atol=1e-12)


def test_clipping_is_by_the_norm_of_a_lanes_whole_gradient():
    o = Optimiser("sgd", LR, 0 * MOMENTUM, BETA1, BETA2, EPS, None, CLIP)
    parameters, g = numbers(1), numbers(2)
    before = {n: p.clone() for n, p in parameters.items()}
    norm = torch.cat([v.flatten(1) for v in g.values()], 1).norm(dim=1)
    o.step(
        parameters,
        {n: v.clone() for n, v in g.items()},
        o.state(parameters),
        LR,
        torch.zeros(3).bool(),
        torch.tensor(0),
    )
    moved = torch.cat([((before[n] - p).flatten(1) / LR[:, None]) for n, p in parameters.items()], 1).norm(dim=1)
    assert (norm > 1).all()
    torch.testing.assert_close(moved, torch.minimum(norm, CLIP), rtol=1e-5, atol=0)


def test_taking_lanes_takes_every_hyper_parameter():
    o = optimiser("adamw", {"a": 2.0}).take(torch.tensor([2, 0]))
    assert o.lr.tolist() == [0.5, 0.1]
    assert o.momentum.tolist() == [0.5, 0.9]
    assert (o.beta1.tolist(), o.beta2.tolist(), o.eps.tolist()) == ([0.0, 0.9], [0.0, 0.999], [1.0, 1e-8])
    assert (o.weight_decay.tolist(), o.clip.tolist()) == ([0.3, 0.0], [1e-3, math.inf])
    assert (o.kind, o.rates) == ("adamw", {"a": 2.0})
    bare = optimiser("sgd", weight_decay=None, clip=None).take(torch.tensor([1]))
    assert bare.weight_decay is None
    assert bare.clip is None
