"""Stacked initial parameters: lane by lane what a model alone would get."""

import pytest
import torch

from raysweep.models import MLP, stacked_parameters
from raysweep.models.mlp import mlp_sizes

SEEDS = torch.tensor([0, 1, 7, 2**62])


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_lane_of_the_stack_is_the_model_of_its_seed_alone(dtype):
    module = MLP(5, 8, 2, 3)
    stack = stacked_parameters(module, SEEDS, dtype, "cpu")
    for lane, seed in enumerate(SEEDS):
        alone = stacked_parameters(module, seed[None], dtype, "cpu")
        assert stack.keys() == alone.keys() == dict(module.named_parameters()).keys()
        assert all(torch.equal(stack[name][lane], alone[name][0]) for name in stack)


def test_float32_init_is_the_float64_init_rounded():
    module = MLP(5, 8, 2, 3)
    single, double = (stacked_parameters(module, SEEDS, t, "cpu") for t in (torch.float32, torch.float64))
    assert all(torch.equal(single[name], double[name].float()) for name in single)
    assert {p.dtype for p in single.values()} == {torch.float32}


@pytest.mark.parametrize(("inputs", "width", "depth"), [(3, 64, 1), (64, 32, 3)])
def test_weights_and_biases_fill_plus_minus_one_over_sqrt_fan_in(inputs, width, depth):
    module = MLP(inputs, width, depth, 4)
    stack = stacked_parameters(module, torch.arange(50), torch.float64, "cpu")
    for i, fan_in in enumerate([inputs, *[width] * depth]):
        bound = fan_in**-0.5
        for kind in ("weight", "bias"):
            values = stack[f"layers.{i}.{kind}"]
            assert values.abs().max() <= bound
            assert values.abs().max() > 0.9 * bound
            assert values.mean().abs() < 4 * bound / (3 * values.numel()) ** 0.5
            assert values.var().item() == pytest.approx(bound**2 / 3, rel=4 * (0.8 / values.numel()) ** 0.5)


def test_no_two_lanes_or_parameters_share_values():
    stack = stacked_parameters(MLP(4, 4, 2, 4), SEEDS, torch.float64, "cpu")
    values = torch.cat([p.reshape(-1) for p in stack.values()])  # one fan-in, so one range
    assert len(values.unique()) == len(values)
    assert not torch.equal(stack["layers.0.weight"][0], stack["layers.1.weight"][0])


def test_the_modules_own_values_are_not_read():
    first, second = MLP(3, 4, 1, 2), MLP(3, 4, 1, 2)
    a, b = (stacked_parameters(m, SEEDS, torch.float32, "cpu") for m in (first, second))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_mlp_is_affine_relu_affine(depth):
    module = MLP(3, 5, depth, 2).double()
    sizes = mlp_sizes(3, 5, depth, 2)
    assert [tuple(layer.weight.shape) for layer in module.layers] == list(zip(sizes[1:], sizes[:-1], strict=True))
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    h = x
    for i, layer in enumerate(module.layers):
        h = h @ layer.weight.T + layer.bias
        h = h.clamp_min(0) if i < depth else h
    torch.testing.assert_close(module(x), h, rtol=1e-12, atol=1e-12)
