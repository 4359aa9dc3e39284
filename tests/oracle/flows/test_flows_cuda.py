"""Flows on a GPU: the density of the CPU, training in bfloat16 with a compiled step, two ways to sample."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from raysweep.oracle.descent import Descent
from raysweep.oracle.flows.autoregressive import Autoregressive, Jacobi
from raysweep.oracle.flows.block import compile_blocks
from raysweep.oracle.glow_world import GlowRecipe
from raysweep.oracle.image_flow import ImageRecipe
from raysweep.oracle.likelihood import bits_per_dim, trained, weights_of
from raysweep.oracle.transformer_world import TransformerRecipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

RECIPE = TransformerRecipe(patch=2, width=64, blocks=2, layers=1, steps=60, batch=128, lr=3e-3, noise=0.3)
GLOW = GlowRecipe(depth=2, width=16, layers=1, steps=60, batch=128, lr=3e-3, noise=0.3)


def bent() -> torch.nn.Module:
    flow = RECIPE.fresh()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return flow.double().requires_grad_(False)


def test_the_density_and_its_samples_are_those_of_the_cpu() -> None:
    flow, generator = bent(), torch.Generator().manual_seed(1)
    noise, y = torch.randn(32, 64, generator=generator, dtype=torch.float64), torch.arange(32) % 10
    x = flow.generate(y, noise)  # type: ignore[operator]
    density = flow.log_density(x)  # type: ignore[operator]
    flow.cuda()
    torch.testing.assert_close(flow.generate(y.cuda(), noise.cuda()).cpu(), x, rtol=1e-9, atol=1e-9)  # type: ignore[operator]
    torch.testing.assert_close(flow.log_density(x.cuda()).cpu(), density, rtol=1e-9, atol=1e-7)  # type: ignore[operator]
    how = Jacobi(tolerance=1e-11)
    for part in flow.modules():
        if isinstance(part, Autoregressive):
            part.jacobi = how
    torch.testing.assert_close(flow.generate(y.cuda(), noise.cuda()).cpu(), x, rtol=1e-8, atol=1e-8)  # type: ignore[operator]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("plain", [RECIPE, GLOW], ids=lambda recipe: recipe.kind)
def test_training_on_a_gpu_finds_what_the_cpu_finds(plain: ImageRecipe, precision: str) -> None:
    recipe = plain.model_copy(update={"precision": precision})
    found = recipe.load(weights_of(trained(recipe, None, lambda _: None, "cuda")), "0" * 16)
    expected = plain.load(weights_of(trained(plain, None, lambda _: None, "cpu")), "1" * 16)
    on_gpu, on_cpu = (bits_per_dim(plain, world.flow, "cpu") for world in (found, expected))  # type: ignore[attr-defined]
    assert on_gpu.bits == pytest.approx(on_cpu.bits, abs=0.05)  # noise differs between devices
    start = bits_per_dim(plain, plain.fresh().double(), "cpu")
    assert on_gpu.bits < start.bits - 0.1


class Wrapped(torch.nn.Module):
    """A flow behind a wrapper, as in data-parallel training, so that its updates are not captured."""

    def __init__(self, flow: torch.nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.flow(x, y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("plain", [RECIPE, GLOW], ids=lambda recipe: recipe.kind)
def test_captured_updates_are_those_that_are_launched_one_by_one(plain: ImageRecipe) -> None:
    recipe = plain.model_copy(update={"accumulate": 2})
    generator = torch.Generator("cuda").manual_seed(0)
    batches = [torch.randn(128, 64, generator=generator, device="cuda") for _ in range(8)]
    y = torch.arange(128, device="cuda") % 10
    weights, totals = [], []
    for captured in (True, False):
        flow = recipe.fresh().cuda()
        average = copy.deepcopy(flow).requires_grad_(False)
        compile_blocks(flow)
        descent = Descent(recipe, flow, average, 1)
        if not captured:
            descent.model = Wrapped(flow)
        for step, x in enumerate(batches):
            descent(step, 1e-3 * (1 + step), x, y)
        weights.append(torch.cat([p.detach().flatten() for p in (*flow.parameters(), *average.parameters())]))
        totals.append(descent.total.item())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


def test_a_world_with_a_channel_is_sampled_on_every_gpu() -> None:
    recipe = RECIPE.model_copy(update={"confusion": 0.2, "steps": 5})
    world = recipe.load(weights_of(trained(recipe, None, lambda _: None, "cuda")), "0" * 16)
    sample = world.sample(5000, "channel")
    assert len(world.copies) == torch.cuda.device_count() - 1  # type: ignore[attr-defined]
    again = world.log_posterior(sample.x)  # type: ignore[attr-defined]
    assert abs(again - sample.log_posterior).max() < 1e-9
    assert abs(np.exp(sample.log_posterior).sum(1) - 1).max() < 1e-12
