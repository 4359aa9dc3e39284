"""The multiscale flow: a bijection with a true Jacobian, conditional on the class, and trained as any other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nflows.transforms import Transform
from safetensors.torch import load

from raysweep.errors import OracleError, SweepError
from raysweep.experiment import Dist
from raysweep.oracle.audit import audit
from raysweep.oracle.flow_world import FlowWorld
from raysweep.oracle.flows.block import Block
from raysweep.oracle.flows.conditional import ConditionalFlow
from raysweep.oracle.flows.glow import ClassBase, Coupling, Mixing, Step, glow
from raysweep.oracle.glow_world import GlowRecipe
from raysweep.oracle.image_flow import ImageRecipe
from raysweep.oracle.likelihood import CHECKPOINT, bits_per_dim, trained, weights_of
from raysweep.oracle.recipe import recipe_of
from raysweep.oracle.transformer_world import TransformerRecipe

TINY = GlowRecipe(levels=2, depth=2, width=8, layers=1, steps=24, batch=64, lr=5e-3)


def bent(net: torch.nn.Module, size: float = 0.1) -> torch.nn.Module:
    """Weights away from their start, at which a flow moves numbers and does nothing else."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator))
    return net.double().requires_grad_(False)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def flow(channels: int, side: int, levels: int) -> Transform:
    return bent(glow(channels, side, levels, depth=2, width=6, layers=1, classes=3, seed=1))


def is_bijection(own: Transform, x: torch.Tensor, y: torch.Tensor) -> None:
    z, log_det = own(x, y)
    back, inverse_log_det = own.inverse(z, y)
    assert float((back - x).abs().max()) < 1e-9
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-9, atol=1e-9)
    for i in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(lambda v, i=i: own(v[None], y[i : i + 1])[0].flatten(), x[i])
        exact = np.linalg.slogdet(jacobian.reshape(x[i].numel(), -1).numpy())[1]
        assert log_det[i].item() == pytest.approx(exact, abs=1e-8)


@pytest.mark.parametrize(("channels", "side", "levels"), [(1, 2, 1), (1, 8, 3), (3, 4, 2), (3, 6, 1)])
def test_inverse_and_log_det_are_those_of_autograd(channels: int, side: int, levels: int) -> None:
    is_bijection(flow(channels, side, levels), normal(3, channels * side**2), torch.tensor([0, 2, 1]))


@pytest.mark.parametrize(
    "part", [Mixing(4), Coupling(4, 6, 1, 3), Step(4, 6, 1, 3)], ids=lambda part: type(part).__name__
)
def test_each_part_is_a_bijection_of_pixels(part: Transform) -> None:
    is_bijection(bent(part), normal(3, 4, 2, 3), torch.tensor([0, 2, 1]))


def test_the_base_is_a_gaussian_per_class() -> None:
    base = bent(ClassBase(5, 3))
    x, y = normal(6, 5), torch.arange(6) % 3
    is_bijection(base, x, y)
    z, log_det = base(x, y)
    own = torch.distributions.Normal(base.mean[y], (2 * torch.tanh(base.scale[y] / 2)).exp())
    standard = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    torch.testing.assert_close(standard.log_prob(z).sum(1) + log_det, own.log_prob(x).sum(1))


def test_at_its_start_the_flow_moves_numbers_and_changes_none() -> None:
    x = normal(4, 64)
    z, log_det = glow(1, 8, 3, 3, 8, 1, 2, seed=0).double()(x, torch.zeros(4, dtype=torch.long))
    assert torch.equal(z.sort(1).values, x.sort(1).values)
    assert not log_det.any()


def test_samples_are_finite_however_large_the_weights_are() -> None:
    wild = bent(glow(1, 4, 2, depth=2, width=6, layers=1, classes=3, seed=1), size=1.0)
    with torch.no_grad():
        for name, p in wild.named_parameters():
            if "write" in name or name.endswith("scale"):
                p.mul_(1e3)
    y = torch.arange(300) % 3
    assert wild.inverse(normal(300, 16), y)[0].isfinite().all()


def test_the_posterior_is_bayes_rule_and_knows_the_class_by_couplings_and_by_the_base() -> None:
    prior = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    for kept in ("label", "_transforms.2"):
        net = flow(1, 4, 2)
        with torch.no_grad():
            for name, p in net.named_parameters():
                if kept not in name and ("label" in name or "_transforms.2" in name):
                    p.zero_()
        own = ConditionalFlow(net, (16,), prior)
        x = own.generate(torch.arange(6) % 3, normal(6, 16))
        each = torch.stack([own.log_prob(x, torch.full((6,), k)) for k in range(3)], 1)
        found = own.log_posterior(x)
        torch.testing.assert_close(found, torch.log_softmax(prior + each, 1))
        assert float((found.exp().sum(1) - 1).abs().max()) < 1e-12
        assert float((found - prior).abs().max()) > 0.01


def test_without_classes_it_is_refused() -> None:
    with pytest.raises(OracleError, match="context=None"):
        flow(1, 2, 1)(normal(2, 4))


def test_in_bfloat16_pixels_are_mixed_and_scaled_in_their_own_type() -> None:
    own, x, y = flow(1, 4, 2).float(), normal(8, 16).float(), torch.arange(8) % 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = own(x, y)
        mixed = own.get_submodule("_transforms.1")._transforms[0]._transforms[1].mixing(x.view(8, 4, 2, 2))[0]
    assert z.dtype == log_det.dtype == mixed.dtype == torch.float32
    exact = own.get_submodule("_transforms.1")._transforms[0]._transforms[1].mixing(x.view(8, 4, 2, 2))[0]
    torch.testing.assert_close(mixed, exact)
    torch.testing.assert_close(log_det, own(x, y)[1], rtol=0.1, atol=0.5)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's compiler looks at what passes between blocks
@pytest.mark.parametrize(
    ("recipe", "compiled"),
    [(TINY.model_copy(update={"depth": 4}), 2), (TransformerRecipe(patch=4, width=16, blocks=5, layers=1), 1)],
)
def test_blocks_of_one_shape_are_compiled_once(recipe: ImageRecipe, compiled: int) -> None:
    from torch._dynamo.testing import CompileCounter  # takes seconds, which every process of the suite would pay

    torch._dynamo.reset()
    own, counter = recipe.fresh(), CompileCounter()
    x, y = torch.randn(4, 64, generator=torch.Generator().manual_seed(0), requires_grad=True), torch.arange(4)
    expected = own(x, y)
    for part in own.modules():
        if isinstance(part, Block):
            part.compile(backend=counter, fullgraph=True, dynamic=False)
    torch.testing.assert_close(own(x, y), expected)
    assert counter.frame_count == compiled
    torch._dynamo.reset()


def test_training_finds_likelier_images_and_continues_as_if_never_stopped() -> None:
    kept: dict[int, dict[str, bytes]] = {}
    dist = Dist(0, 1, lambda module: module, lambda metrics, files: kept.update({metrics["epoch"]: files}))
    straight = trained(TINY, dist, lambda _: None, "cpu")
    resumed = trained(TINY, Dist(0, 1, lambda m: m, lambda *_: None, resume=kept[12]), lambda _: None, "cpu")
    for name, tensor in load(straight[CHECKPOINT]).items():
        torch.testing.assert_close(load(resumed[CHECKPOINT])[name], tensor, rtol=1e-6, atol=1e-6)
    world = TINY.load(weights_of(straight), "0" * 16)
    assert isinstance(world, FlowWorld)
    before, after = bits_per_dim(TINY, TINY.fresh()), bits_per_dim(TINY, world.flow.float())  # type: ignore[attr-defined]
    assert after.bits < before.bits - 10 * before.error


def test_a_trained_world_passes_its_audit() -> None:
    recipe = TINY.model_copy(update={"confusion": 0.2, "noise": 0.3, "steps": 60})
    file = recipe.make(lambda function: function(None, lambda _: None, "cpu"))
    world = recipe.load(file, "0" * 16)
    found = audit(world, 1.5, items=400)  # type: ignore[arg-type]
    assert found.passed, found.checks
    assert found.aleatoric > -0.8 * math.log(0.8) - 0.2 * math.log(0.2 / 9) - 0.01  # the channel alone has so much


def test_levels_that_do_not_halve_the_side_are_refused_when_planned() -> None:
    recipe = recipe_of({"kind": "glow", "levels": 4})
    with pytest.raises(SweepError, match=r"world\.levels: the side .* multiple of 2\^levels.*levels=4, side=8"):
        _ = recipe.shape
