"""Stacked initial parameters: lane by lane what a model alone would get."""

from dataclasses import replace

import pytest
import torch

from raysweep.models import Architecture
from raysweep.models.initial import he_parameters, initial_parameters
from raysweep.models.layout import mlp_sizes

SEEDS = torch.tensor([0, 1, 7, 2**62])
MLP = Architecture("mlp", 5, 3, 8, 2)
ALL = [
    MLP,
    Architecture("cnn", 192, 4, 4, 2),
    Architecture("resnet", 64, 4, 4, 1),
    Architecture("vit", 64, 4, 8, 1, patch=4, heads=2),
    Architecture("convnext", 64, 4, 4, 1, patch=2),
    Architecture("swin", 64, 4, 4, 1, patch=2, heads=2),
    Architecture("mobilenet", 64, 4, 4, 1),
]
every = pytest.mark.parametrize("architecture", ALL, ids=lambda a: a.kind)


def start(architecture, seeds=SEEDS, dtype=torch.float64):
    return initial_parameters(architecture, seeds, dtype, "cpu")


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_lane_of_the_stack_is_the_model_of_its_seed_alone(architecture, dtype):
    stack = start(architecture, dtype=dtype)
    for lane, seed in enumerate(SEEDS):
        alone = start(architecture, seed[None], dtype)
        assert list(stack) == list(alone) == [p.name for p in architecture.layout.parameters]
        assert all(torch.equal(stack[name][lane], alone[name][0]) for name in stack)


@every
def test_float32_init_is_the_float64_init_rounded(architecture):
    single, double = (start(architecture, dtype=t) for t in (torch.float32, torch.float64))
    assert all(torch.equal(single[name], double[name].float()) for name in single)
    assert {p.dtype for p in single.values()} == {torch.float32}


def fills(values, bound):
    """Uniform in +-bound, by its extremes and two moments."""
    assert values.abs().max() <= bound
    assert values.abs().max() > 0.9 * bound
    assert values.mean().abs() < 4 * bound / (3 * values.numel()) ** 0.5
    assert values.var().item() == pytest.approx(bound**2 / 3, rel=4 * (0.8 / values.numel()) ** 0.5)


@pytest.mark.parametrize(("inputs", "width", "depth"), [(3, 64, 1), (64, 32, 3)])
def test_weights_and_biases_fill_plus_minus_one_over_sqrt_fan_in(inputs, width, depth):
    stack = start(Architecture("mlp", inputs, 4, width, depth), torch.arange(50))
    for i, fan_in in enumerate([inputs, *[width] * depth]):
        for kind in ("weight", "bias"):
            fills(stack[f"layers.{i}.{kind}"], fan_in**-0.5)


def test_convolutions_and_tokens_start_by_their_fan_in_and_norms_at_the_identity():
    """torch's own defaults: 9 pixels times channels; gains are 1, their biases 0."""
    cnn = start(Architecture("cnn", 192, 4, 8, 2), torch.arange(50))
    for name, fan_in in (("convs.0", 27), ("convs.1", 72)):
        fills(cnn[f"{name}.weight"], fan_in**-0.5)
        fills(cnn[f"{name}.bias"], fan_in**-0.5)
    fills(cnn["head.weight"], 16**-0.5)
    resnet = start(Architecture("resnet", 64, 4, 4, 1), torch.arange(50))
    for name, fan_in in (("stem", 9), ("stages.0.0.conv2", 36), ("stages.1.0.shortcut", 4), ("stages.2.0.conv2", 144)):
        fills(resnet[f"{name}.weight"], fan_in**-0.5)
    vit = start(Architecture("vit", 64, 4, 8, 1, patch=4, heads=2), torch.arange(50))
    for name, fan_in in (("embed.weight", 16), ("position", 4), ("blocks.0.qkv.bias", 8), ("blocks.0.down.weight", 32)):
        fills(vit[name], fan_in**-0.5)
    convnext, swin, mobilenet = (start(a, torch.arange(50)) for a in ALL[4:])
    for name, fan_in in (("stem.weight", 4), ("stages.0.0.mix.bias", 49), ("merges.1.weight", 16)):
        fills(convnext[name], fan_in**-0.5)
    for name, fan_in in (("stages.0.0.expand", 4), ("stages.0.0.mix", 9), ("last", 16), ("head", 64)):
        fills(mobilenet[f"{name}.weight"], fan_in**-0.5)
    assert all((convnext[f"stages.{s}.0.scale"] == 0.1).all() for s in range(3))
    assert not any(swin[f"stages.{s}.0.relative"].any() for s in range(2))
    norms = {n: p for stack in (resnet, vit) for n, p in stack.items() if "norm" in n}
    norms |= {f"{i}.{n}": p for i, s in enumerate((convnext, swin, mobilenet)) for n, p in s.items() if "norm" in n}
    assert len(norms) == 2 * (1 + 3 * 2 + 2) + 2 * 3 + 2 * (2 + 2 + 3 + 2 + 2 + 6 + 2 + 9)
    assert all((p == float(name.endswith("gain"))).all() for name, p in norms.items())


@pytest.mark.parametrize("architecture", [Architecture("mlp", 4, 4, 4, 2), *ALL[1:]], ids=lambda a: a.kind)
def test_no_two_lanes_or_parameters_share_values(architecture):
    bounds = architecture.bounds()
    stack = start(architecture)
    drawn = [p.name for p in architecture.layout.parameters if p.start == "uniform"]
    values = torch.cat([(stack[name] / bounds[name]).reshape(-1) for name in drawn])  # one range
    assert len(values.unique()) == len(values)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_mlp_is_affine_relu_affine(depth):
    architecture = Architecture("mlp", 3, 2, 5, depth)
    stack = start(architecture)
    sizes = mlp_sizes(3, 5, depth, 2)
    shapes = [tuple(p.shape) for p in architecture.layout.parameters if p.name.endswith("weight")]
    assert shapes == list(zip(sizes[1:], sizes[:-1], strict=True))
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    for lane in range(len(SEEDS)):
        h = x
        for i in range(depth + 1):
            h = h @ stack[f"layers.{i}.weight"][lane].T + stack[f"layers.{i}.bias"][lane]
            h = h.clamp_min(0) if i < depth else h
        ours = architecture.model()(stack, x.expand(len(SEEDS), 4, 3))[lane]
        torch.testing.assert_close(ours, h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("architecture", ALL[:3], ids=lambda a: a.kind)
def test_he_weights_have_a_variance_of_two_over_fan_in_times_each_lanes_scale(architecture):
    scale = torch.tensor([1.0, 0.5], dtype=torch.float64)
    wide = he_parameters(replace(architecture, width=64), SEEDS[:2], torch.float64, "cpu", scale)
    for p in replace(architecture, width=64).layout.parameters:
        for lane, s in enumerate(scale.tolist()):
            values = wide[p.name][lane]
            if p.is_bias or p.start != "uniform":
                assert (values == (p.constant or 0.0)).all()
            else:
                assert values.std().item() == pytest.approx(s * (2 / p.fan_in) ** 0.5, rel=4 / p.size**0.5)
    alone = he_parameters(replace(architecture, width=64), SEEDS[1:2], torch.float64, "cpu", scale[1:])
    assert all(torch.equal(alone[name][0], wide[name][1]) for name in wide)
