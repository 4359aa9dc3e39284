"""The flow: a bijection with a true Jacobian, a density of mass 1, and Bayes' rule at every temperature."""

import math

import pytest
import torch

from raysweep.oracle.flows.coupling import coupling_net
from raysweep.oracle.flows.shared import ClassFlow
from raysweep.oracle.gaussian import GaussianRecipe, gaussian_flow

TEMPERATURES = [0.5, 1.0, 3.0]


def bent(dim, classes=2, layers=4, separation=2.0, prior=None):
    """A flow far from the identity, in float64, with a base of unequal scales."""
    recipe = GaussianRecipe(dim=dim, classes=classes, layers=layers, separation=separation, prior=prior)
    flow = gaussian_flow(recipe)
    with torch.no_grad():
        flow.log_scale.copy_(torch.linspace(-0.3, 0.3, dim, dtype=torch.float64))
    return flow.requires_grad_(False)


def items(flow, n=64, temperature=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(flow.classes, (n,), generator=generator)
    return flow.generate(y, torch.randn(n, flow.dim, generator=generator, dtype=flow.means.dtype), temperature)


DIMS = pytest.mark.parametrize("dim", [2, 3, 16, 64])


@DIMS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_inverse_undoes_the_flow_and_the_flow_its_inverse(dim, dtype, tolerance):
    flow = bent(dim).to(dtype)
    x = items(flow)
    z, log_det = flow.net(x)
    back, inverse_log_det = flow.net.inverse(z)
    assert (back - x).abs().max() <= tolerance * x.abs().max()
    assert (flow.net(back)[0] - z).abs().max() <= tolerance * z.abs().max()
    assert (log_det + inverse_log_det).abs().max() <= tolerance * max(1.0, log_det.abs().max().item())


@DIMS
def test_log_det_is_that_of_the_autograd_jacobian(dim):
    flow = bent(dim)
    for x in items(flow, 4):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow.net(v[None])[0][0], x)
        assert torch.linalg.slogdet(jacobian)[1].item() == pytest.approx(flow.net(x[None])[1].item(), abs=1e-9 * dim)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_class_densities_integrate_to_one(temperature):
    flow = bent(2)
    drawn = items(flow, 20_000, temperature)
    low, high = drawn.amin(0), drawn.amax(0)
    middle, half = (low + high) / 2, (high - low) * 0.6
    axes = [torch.linspace(-1, 1, 501, dtype=torch.float64) * half[i] + middle[i] for i in (0, 1)]
    grid = torch.cartesian_prod(*axes)
    area = math.prod((axis[1] - axis[0]).item() for axis in axes)
    mass = flow.log_density(grid, temperature).exp().sum(0) * area
    assert mass.tolist() == pytest.approx([1.0, 1.0], abs=2e-3)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("dim", "classes", "prior"), [(2, 2, None), (5, 4, (0.4, 0.3, 0.2, 0.1)), (16, 10, None)])
def test_posterior_is_bayes_rule_on_the_densities(temperature, dim, classes, prior):
    flow = bent(dim, classes, prior=prior)
    x = items(flow, 200, temperature)
    joint = flow.log_prior + flow.log_density(x, temperature)
    log_r = flow.log_posterior(x, temperature)
    torch.testing.assert_close(log_r, torch.log_softmax(joint, -1), rtol=1e-9, atol=1e-9)
    assert (log_r.exp().sum(-1) - 1).abs().max() < 1e-12


def test_log_density_at_the_base_is_a_gaussian():
    flow = bent(3, layers=0)
    x = items(flow, 10)
    for k in range(flow.classes):
        for t in TEMPERATURES:
            normal = torch.distributions.Normal(flow.means[k], flow.log_scale.exp() * t)
            torch.testing.assert_close(flow.log_density(x, t)[:, k], normal.log_prob(x).sum(-1))


def test_the_training_loss_is_the_mean_nll_of_the_own_class():
    flow = bent(4, 3)
    x, y = items(flow, 30), torch.arange(30) % 3
    expected = -sum(flow.log_density(x[i : i + 1])[0, y[i]].item() for i in range(30)) / 30
    assert flow(x, y).item() == pytest.approx(expected, rel=1e-12)
    assert flow(x[:0], y[:0]).item() == 0.0  # the share of a rank may be empty


@pytest.mark.parametrize("dim", [2, 5])
def test_couplings_follow_their_seed_and_leave_the_global_generator_alone(dim):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = (coupling_net(dim, 3, 8, 1, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_every_feature_is_transformed_and_gradients_reach_every_parameter():
    flow = ClassFlow(coupling_net(4, 3, 8, 1, 0), 4, torch.full((3,), -math.log(3)))
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in flow.net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    flow(x, torch.arange(50) % 3).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in flow.parameters())
    assert ((flow.latent(x)[0].sort(-1).values - x.sort(-1).values).abs() > 0).any(0).all()
