"""The empirical NTK against Jacobians item by item, output by output."""

import pytest
import torch

from raysweep.errors import PackError
from raysweep.models import Architecture
from raysweep.models.initial import initial_parameters
from raysweep.models.ntk import items_per_block, ntk
from raysweep.models.outputs import RICHNESS, centred, initial_values, scaled

ITEMS, LANES = 7, 2
ARCHITECTURES = [
    Architecture("mlp", 5, 4, 7, 2),
    Architecture("mlp", 5, 3, 6, 1, "tanh", base_width=3),
    Architecture("cnn", 64, 4, 3, 2, "gelu"),
    Architecture("cnn", 3 * 16, 3, 2, 3),  # no pixel is left to pool after the second: one patch per item
    Architecture("resnet", 3 * 64, 3, 4, 1),
    Architecture("vit", 64, 3, 6, 1, "gelu", 4, 2),
    Architecture("convnext", 64, 3, 4, 1, "gelu", 4),  # depthwise filters are differentiated item by item
]


def stack_of(architecture, dtype=torch.float64):
    """Lanes away from the symmetric start of gains, biases and positions."""
    generator = torch.Generator().manual_seed(3)
    stack = initial_parameters(architecture, torch.arange(LANES), torch.float64, "cpu")
    return {n: (p + 0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype)).to(dtype) for n, p in stack.items()}


def items_of(architecture, dtype=torch.float64, items=ITEMS):
    generator = torch.Generator().manual_seed(4)
    return torch.randn(items, architecture.inputs, generator=generator, dtype=torch.float64).to(dtype)


def naive(model, stack, x, outputs=None, frozen=None, rates=None):
    """One backward pass per lane, item and output."""
    kernels = []
    for lane in range(LANES):
        own = {name: p[lane : lane + 1].clone().requires_grad_() for name, p in stack.items()}
        fixed = {name: p[lane : lane + 1] for name, p in (frozen or {}).items()}
        rows = []
        for item in x:
            out = model({**own, **fixed}, item[None, None])[0, 0]
            each = []
            for c in outputs or range(len(out)):
                found = torch.autograd.grad(out[c], list(own.values()), retain_graph=True, allow_unused=True)
                each += [
                    ((rates or {}).get(name, 1.0) ** 0.5 * (torch.zeros_like(own[name]) if g is None else g)).flatten()
                    for name, g in zip(own, found, strict=True)
                ]
            rows.append(torch.cat(each))
        jacobian = torch.stack(rows).double()
        kernels.append(jacobian @ jacobian.T)
    return torch.stack(kernels)


def close(ours, theirs, tolerance):
    assert (ours.double() - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: f"{a.kind}-{a.depth}")
def test_kernels_are_those_of_jacobians_item_by_item(architecture):
    model, stack, x = architecture.model(), stack_of(architecture), items_of(architecture)
    wanted = naive(model, stack, x)
    close(ntk(model, stack, x), wanted, 1e-12)
    close(ntk(model, stack, x, chunk=3), wanted, 1e-12)
    close(ntk(model, stack, x, outputs=[1]), naive(model, stack, x, [1]), 1e-12)
    single = {name: p.float() for name, p in stack.items()}
    rough = ntk(model, single, x.float())
    assert rough.dtype == torch.float32
    close(rough, wanted, 1e-5)
    wide = ntk(model, single, x.float(), accumulate=torch.float64)
    assert wide.dtype == torch.float64
    close(wide, wanted, 1e-5)


@pytest.mark.parametrize("architecture", [ARCHITECTURES[0], ARCHITECTURES[2]], ids=lambda a: a.kind)
def test_a_lane_alone_and_any_blocks_have_the_same_kernel(architecture):
    model, stack, x = architecture.model(), stack_of(architecture), items_of(architecture)
    whole = ntk(model, stack, x)
    torch.testing.assert_close(whole, whole.transpose(1, 2), rtol=1e-13, atol=0)
    for lane in range(LANES):
        alone = ntk(model, {name: p[lane : lane + 1] for name, p in stack.items()}, x)
        torch.testing.assert_close(alone[0], whole[lane], rtol=0, atol=0)
    for chunk in (1, 2, ITEMS, 100):
        torch.testing.assert_close(ntk(model, stack, x, chunk=chunk), whole, rtol=1e-12, atol=1e-13)


def test_rates_weigh_the_parts_of_a_kernel():
    architecture = ARCHITECTURES[0]
    model, stack, x = architecture.model(), stack_of(architecture), items_of(architecture)
    rates = {"layers.0.weight": 3.0, "layers.1.bias": 0.0, "layers.2.weight": 0.25}
    close(ntk(model, stack, x, rates=rates), naive(model, stack, x, rates=rates), 1e-12)


def test_a_centred_and_scaled_model_has_the_kernel_of_its_own_parameters():
    architecture = ARCHITECTURES[0]
    stack, x = stack_of(architecture), items_of(architecture)
    gamma = torch.tensor([0.5, 2.0], dtype=torch.float64)
    frozen = {**initial_values(stack), RICHNESS: gamma}
    plain = ntk(architecture.model(), stack, x)
    found = ntk(scaled(centred(architecture.model())), stack, x, frozen=frozen)
    torch.testing.assert_close(found, plain / gamma[:, None, None] ** 2)


def test_parameters_that_are_used_in_other_ways_are_differentiated_too():
    """Scaled weights, a weight that two operations share, one that a formula uses besides, and an unused one."""
    from raysweep.models.ops import linear

    def model(p, x):
        h = linear(x, p["w"], p["b"], "tanh")
        h = linear(h, p["w"], p["b"], "tanh")
        h = linear(h, p["v"] * 2.0, p["c"]) + p["d"].sum(1)[:, None, None]
        return linear(h, p["u"], p["c"] * 0.0) + p["u"].square().sum((1, 2))[:, None, None]

    generator = torch.Generator().manual_seed(0)
    shapes = {"w": (5, 5), "b": (5,), "v": (4, 5), "c": (4,), "d": (4,), "u": (4, 4), "unused": (3,)}
    stack = {n: torch.randn(LANES, *s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
    x = torch.randn(ITEMS, 5, generator=generator, dtype=torch.float64)
    close(ntk(model, stack, x, chunk=4), naive(model, stack, x), 1e-12)


def test_blocks_fit_the_memory_that_is_allowed():
    per_item, itemsize = 1000, 4
    for memory in (1_012, 50_000, 10**7):
        size = items_per_block(per_item, memory, itemsize)
        needed = [b * per_item + 3 * b * b * itemsize for b in (size, size + 1)]
        assert needed[0] <= memory < needed[1]
    with pytest.raises(PackError, match=r"memory: one item's gradients must fit, but got \(memory=1,011 bytes"):
        items_per_block(per_item, 1_011, itemsize)
    architecture = ARCHITECTURES[0]
    with pytest.raises(PackError, match="one item's gradients"):
        ntk(architecture.model(), stack_of(architecture), items_of(architecture), memory=100)
    small = ntk(architecture.model(), stack_of(architecture), items_of(architecture), memory=20_000)
    torch.testing.assert_close(small, ntk(architecture.model(), stack_of(architecture), items_of(architecture)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: f"{a.kind}-{a.depth}")
def test_a_gpu_has_the_same_kernel(architecture):
    stack, x = stack_of(architecture), items_of(architecture)
    wanted = ntk(architecture.model(), stack, x)
    there = {name: p.cuda() for name, p in stack.items()}
    close(ntk(architecture.model(), there, x.cuda()).cpu(), wanted, 1e-12)
    with torch.backends.cudnn.flags(allow_tf32=False):
        single = {name: p.float() for name, p in there.items()}
        close(ntk(architecture.model(), single, x.float().cuda()).cpu(), wanted, 1e-5)
