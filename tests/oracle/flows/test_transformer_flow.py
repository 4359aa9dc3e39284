"""The transformer flow: a bijection with a true Jacobian, causal, sampled alike one token at a time and in parallel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nflows.transforms import CompositeTransform

from raysweep.errors import OracleError
from raysweep.oracle.flows.autoregressive import Autoregressive, Jacobi, transformer_flow
from raysweep.oracle.flows.conditional import ConditionalFlow, symmetric_channel
from raysweep.oracle.flows.tokens import Patches, Reversed
from raysweep.oracle.flows.transformer import Causal


def bent(net: torch.nn.Module, size: float = 0.3) -> torch.nn.Module:
    """Weights away from their start, at which a flow is the identity."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator))
    return net.requires_grad_(False)


def flow(channels: int = 1, side: int = 4, patch: int = 2, blocks: int = 3, classes: int = 3) -> CompositeTransform:
    return bent(transformer_flow(channels, side, patch, 16, blocks, 2, classes, seed=1)).double()


def items(n: int, dim: int, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64), torch.arange(n) % classes


@pytest.mark.parametrize(("channels", "side", "patch"), [(1, 4, 1), (1, 6, 3), (3, 4, 2), (2, 2, 2)])
def test_patches_hold_each_number_once_in_the_rows_of_the_image(channels: int, side: int, patch: int) -> None:
    image = torch.arange(2 * channels * side**2, dtype=torch.float64).view(2, -1)
    tokens, log_det = Patches(channels, side, patch)(image)
    assert tokens.shape == (2, (side // patch) ** 2, channels * patch**2)
    assert not log_det.any()
    square = image.view(2, channels, side, side)
    for t in range(tokens.shape[1]):
        i, j = divmod(t, side // patch)
        own = square[:, :, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
        assert torch.equal(tokens[:, t], own.flatten(1))
    assert torch.equal(Patches(channels, side, patch).inverse(tokens)[0], image)


def test_patches_that_do_not_tile_are_refused() -> None:
    with pytest.raises(ValueError, match=r"patch=3, side=8"):
        Patches(1, 8, 3)


def test_outputs_of_a_token_depend_on_earlier_tokens_and_the_class_alone() -> None:
    net = bent(Causal(tokens=5, channels=2, outputs=4, width=16, layers=2, classes=3)).double()
    x = items(1, 10)[0].view(1, 5, 2).requires_grad_()
    out = net(x, torch.tensor([1]))
    for t in range(5):
        (gradient,) = torch.autograd.grad(out[0, t].sum(), x, retain_graph=True, allow_unused=True)
        reached = gradient[0].abs().sum(1) > 0
        assert reached.tolist() == [s < t for s in range(5)]
    assert not torch.allclose(out[0, 0], net(x, torch.tensor([2]))[0, 0])


def test_at_its_start_the_flow_is_the_identity_up_to_the_order_of_its_numbers() -> None:
    start = transformer_flow(1, 4, 2, 16, 2, 1, 3, seed=0).double()
    x, y = items(4, 16)
    z, log_det = start(x, y)
    assert torch.equal(z, Patches(1, 4, 2)(x)[0])
    assert not log_det.any()


@pytest.mark.parametrize(("channels", "side", "patch"), [(1, 4, 1), (3, 4, 2), (1, 4, 4)])
def test_inverse_and_log_det_are_those_of_autograd(channels: int, side: int, patch: int) -> None:
    own = flow(channels, side, patch)
    x, y = items(3, channels * side**2)
    z, log_det = own(x, y)
    back, inverse_log_det = own.inverse(z, y)
    assert float((back - x).abs().max()) < 1e-9
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-9, atol=1e-9)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda v, i=i: own(v[None], y[i : i + 1])[0].flatten(), x[i])
        exact = np.linalg.slogdet(jacobian.numpy())[1]
        assert log_det[i].item() == pytest.approx(exact, abs=1e-8)


def test_parallel_sampling_finds_what_token_by_token_finds_and_says_how_many_rounds_it_took() -> None:
    own = flow(1, 6, 1, blocks=2)
    z, y = items(4, 36)
    z = z.view(4, 36, 1)
    expected, log_det = own.inverse(z, y)
    how = Jacobi(tolerance=1e-10)
    for part in own.modules():
        if isinstance(part, Autoregressive):
            part.jacobi = how
    found, found_log_det = own.inverse(z, y)
    assert float((found - expected).abs().max()) < 1e-8
    torch.testing.assert_close(found_log_det, log_det, rtol=1e-8, atol=1e-8)
    assert 2 < how.rounds <= 2 * 36
    exact = Jacobi(tolerance=-1.0)  # never met: as many rounds as tokens, and exact
    for part in own.modules():
        if isinstance(part, Autoregressive):
            part.jacobi = exact
    assert float((own.inverse(z, y)[0] - expected).abs().max()) < 1e-9
    assert exact.rounds == 72


def test_a_reversed_transform_reads_from_the_last_token() -> None:
    net = bent(Causal(tokens=3, channels=1, outputs=2, width=16, layers=1, classes=1)).double()
    x, y = torch.tensor([[[1.0], [2.0], [3.0]]], dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    plain, log_det = Autoregressive(net)(x.flip(1), y)
    turned, same = Reversed(Autoregressive(net))(x, y)
    assert torch.equal(turned, plain.flip(1))
    assert torch.equal(log_det, same)


def test_an_autoregressive_flow_without_classes_is_refused() -> None:
    with pytest.raises(OracleError, match="context=None"):
        flow()(items(2, 16)[0])


def world(channel: torch.Tensor | None = None, side: int = 2, patch: int = 1) -> ConditionalFlow:
    prior = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    tokens = (side // patch) ** 2
    return ConditionalFlow(flow(1, side, patch, blocks=2), (tokens, patch**2), prior, channel)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_class_densities_integrate_to_one(temperature: float) -> None:
    prior = torch.full((3,), -math.log(3), dtype=torch.float64)
    own = ConditionalFlow(bent(transformer_flow(2, 1, 1, 16, 2, 1, 3, seed=1), 0.1).double(), (1, 2), prior)
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = torch.cat([own.generate(torch.full((4000,), k), noise, temperature) for k in range(3)])
    low, high = drawn.amin(0), drawn.amax(0)
    middle, half = (low + high) / 2, (high - low) * 0.7
    axes = [torch.linspace(-1, 1, 301, dtype=torch.float64) * half[i] + middle[i] for i in (0, 1)]
    area = math.prod((axis[1] - axis[0]).item() for axis in axes)
    mass = own.log_density(torch.cartesian_prod(*axes), temperature).exp().sum(0) * area
    assert mass.tolist() == pytest.approx([1.0] * 3, abs=2e-3)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_posterior_is_bayes_rule_on_nflows_own_densities(temperature: float) -> None:
    own = world()
    x = own.generate(items(7, 4)[1], items(7, 4)[0], temperature)
    expected = []
    for k in range(3):
        z, log_det = own.latent(x, torch.full((7,), k))
        normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), temperature)
        expected.append(normal.log_prob(z).sum(1) + log_det)
    found = own.log_posterior(x, temperature)
    torch.testing.assert_close(found, torch.log_softmax(own.log_prior + torch.stack(expected, 1), 1))
    if temperature == 1.0:
        each = torch.stack([own.log_prob(x, torch.full((7,), k)) for k in range(3)], 1)
        torch.testing.assert_close(own.log_density(x), each)


def test_many_items_and_classes_are_scored_and_sampled_in_parts() -> None:
    own, (x, y) = world(), items(50, 4)
    scored, sampled, taken = own.log_posterior(x), own.generate(y, x), []
    own._transform.register_forward_pre_hook(lambda _, given: taken.append(len(given[0])))
    for size in (1, 2, 7):
        own.at_once = size
        torch.testing.assert_close(own.log_posterior(x), scored)
        torch.testing.assert_close(own.generate(y, x), sampled)
        assert max(taken) <= size
        taken.clear()
    large = ConditionalFlow(own._transform, (1 << 20,), own.log_prior)
    assert large.at_once == 4  # items of so many numbers


def test_confused_labels_have_the_posterior_of_their_channel() -> None:
    channel = torch.tensor([[0.8, 0.2, 0.0], [0.1, 0.9, 0.0], [0.0, 0.5, 0.5]], dtype=torch.float64)
    own, (x, y) = world(channel), items(20_000, 4)
    expected = world().log_posterior(x[:50]).exp() @ channel
    torch.testing.assert_close(own.log_posterior(x[:50]).exp(), expected)
    drawn = own.labels(y, torch.Generator().manual_seed(0))
    for k in range(3):
        share = torch.bincount(drawn[y == k], minlength=3) / (y == k).sum()
        assert float((share - channel[k]).abs().max()) < 0.03
    rows = symmetric_channel(4, 0.3)
    assert rows.sum(1).tolist() == pytest.approx([1.0] * 4)
    assert rows.diagonal().tolist() == pytest.approx([0.7] * 4)


def test_in_bfloat16_scales_shifts_and_log_dets_stay_in_the_items_type() -> None:
    own, (x, y) = flow().float(), items(8, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = own(x.float(), y)
    assert z.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(log_det, own(x.float(), y)[1], rtol=0.1, atol=0.5)
