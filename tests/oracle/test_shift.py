"""Shifted worlds: the distance is the one asked for, and the posterior is that of the shifted samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from raysweep.errors import OracleError
from raysweep.oracle.audit import calibration
from raysweep.oracle.flow_world import FlowWorld
from raysweep.oracle.gaussian import GaussianRecipe, gaussian_flow
from raysweep.oracle.shift import Shifted, _noise, shifted
from raysweep.oracle.transformer_world import TransformerRecipe

RECIPE = GaussianRecipe(dim=3, classes=3, separation=2.0, layers=2, prior=(0.5, 0.3, 0.2))
KINDS = ("imbalance", "translation", "scale")


def world(recipe: Any = RECIPE) -> FlowWorld:
    flow = gaussian_flow(recipe)
    with torch.no_grad():
        flow.log_scale.copy_(torch.linspace(-0.3, 0.2, recipe.dim, dtype=torch.float64))
    return FlowWorld(flow.requires_grad_(False), recipe, "0" * 16)


def log_joint(at: Shifted, x: np.ndarray, temperature: float) -> np.ndarray:
    """[n, classes] log of the shifted joint density, from nothing but Gaussians in the latent space."""
    flow: Any = at.world.flow
    z, log_det = flow.latent(torch.from_numpy(x).double())
    scale = flow.log_scale.exp() * temperature
    prior = at._log_prior if at.kind == "imbalance" else flow.log_prior
    columns = []
    for k in range(at.classes):
        normal = torch.distributions.Normal(flow.means[k] + at._offset * scale, scale * at._gain)
        columns.append(normal.log_prob(z).sum(1) + log_det + prior[k])
    return np.asarray(torch.stack(columns, 1).numpy())


@pytest.mark.parametrize("temperature", [1.0, 1.5])
@pytest.mark.parametrize("kl", [0.05, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_distance_is_the_one_asked_for_and_the_posterior_its_own(kind: str, kl: float, temperature: float) -> None:
    base, at = world(), shifted(world(), kind, kl)
    assert isinstance(at, Shifted)
    sample = at.sample(20_000, "test", temperature)
    own = log_joint(at, sample.x, temperature)
    np.testing.assert_allclose(sample.log_posterior, own - np.logaddexp.reduce(own, 1, keepdims=True), atol=1e-7)
    plain = log_joint(Shifted(base, "scale", 1e-12), sample.x, temperature)
    rows = np.arange(len(sample.y))
    gap = own[rows, sample.y] - plain[rows, sample.y]
    assert gap.mean() == pytest.approx(kl, abs=4 * gap.std() / len(gap) ** 0.5)
    assert all(check.passed for check in calibration(sample))


@pytest.mark.parametrize("kind", KINDS)
def test_a_flow_that_is_conditional_on_the_class_shifts_alike(kind: str) -> None:
    recipe = TransformerRecipe(patch=4, width=16, blocks=2, layers=1, confusion=0.1)
    flow = recipe.fresh().double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    at = shifted(FlowWorld(flow.requires_grad_(False), recipe, "0" * 16), kind, 0.3)
    sample = at.sample(3000, "test", 1.3)
    assert all(check.passed for check in calibration(sample)), calibration(sample)


def test_pixel_noise_has_the_bound_asked_for_and_keeps_the_worlds_posterior() -> None:
    base, at = world(), shifted(world(), "pixel", 0.2)
    assert isinstance(at, Shifted)
    assert not at.exact
    sample = at.sample(500, "test")
    np.testing.assert_allclose(sample.log_posterior, base.log_posterior(sample.x), atol=1e-12)
    plain = base.sample(500, "test")
    assert np.array_equal(plain.y, sample.y)
    assert (sample.x - plain.x).std() == pytest.approx(_noise(at, 1.0), rel=0.1)
    assert _noise(at, 1.0) < _noise(Shifted(base, "pixel", 0.8), 1.0)


@pytest.mark.parametrize("kind", ["none", "imbalance", "pixel"])
def test_noise_comes_on_top_of_any_shift_and_no_posterior_knows_of_it(kind: str) -> None:
    base, kl = world(), 0.0 if kind == "none" else 0.2
    without, at = shifted(base, kind, kl), shifted(base, kind, kl, 0.3)
    assert isinstance(at, Shifted)
    assert not at.exact
    clean, noisy = without.sample(2000, "test"), at.sample(2000, "test")
    assert np.array_equal(clean.y, noisy.y)
    own = _noise(at, 1.0) if kind == "pixel" else 0.0
    before = base if kind == "pixel" else without
    assert (noisy.x - before.sample(2000, "test").x).std() == pytest.approx(np.hypot(own, 0.3), rel=0.03)
    np.testing.assert_allclose(noisy.log_posterior, without.log_posterior(noisy.x), atol=1e-12)


def test_shifts_of_one_world_are_pairs_and_none_is_the_world_itself() -> None:
    base = world()
    assert shifted(base, "none", 0.3) is base
    assert shifted(base, "scale", 0.0) is base
    near, far = (shifted(base, "translation", kl).sample(50, "test") for kl in (1e-10, 0.3))
    np.testing.assert_allclose(near.x, base.sample(50, "test").x, atol=1e-3)
    moved = base.flow.latent(torch.from_numpy(far.x - 0).double(), torch.zeros(50))[0]
    still = base.flow.latent(torch.from_numpy(near.x).double(), torch.zeros(50))[0]
    step = (moved - still) / base.flow.log_scale.exp()  # type: ignore[attr-defined]
    torch.testing.assert_close(step.norm(dim=1), torch.full((50,), 0.6**0.5, dtype=torch.float64), rtol=1e-3, atol=1e-3)


def test_what_cannot_be_shifted_is_refused() -> None:
    with pytest.raises(OracleError, match=r"less than that of a single class, 1\.61 nats.*kl=2"):
        shifted(world(), "imbalance", 2.0).sample(10, "test")
    with pytest.raises(OracleError, match="only a world of a flow"):
        shifted(object(), "scale", 0.1)  # type: ignore[arg-type]
