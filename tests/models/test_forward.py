"""The stacked forward functions against plain PyTorch modules: logits, gradients, parameters and FLOPs."""

import re

import pytest
import torch
import torch.nn.functional as F
from models.reference import load, reference_of, to_torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from raysweep.models import Architecture, image_of
from raysweep.models.initial import initial_parameters
from raysweep.models.ops import depthwise
from raysweep.models.swin import Swin
from raysweep.training.loop import forward

SEEDS = torch.tensor([0, 3, 2**62])
GREY, COLOUR, LARGE = 64, 3 * 64, 256

ARCHITECTURES = [
    Architecture("mlp", 5, 4, 7, 0),
    Architecture("mlp", 5, 3, 7, 3),
    Architecture("mlp", 3, 2, 8, 2, "gelu"),
    Architecture("mlp", 3, 2, 8, 1, "tanh"),
    Architecture("cnn", GREY, 4, 3, 1, "tanh"),
    Architecture("cnn", COLOUR, 3, 4, 3, "gelu"),
    Architecture("cnn", GREY, 3, 2, 5),  # no pixel is left to pool after the third
    Architecture("cnn", 49, 3, 2, 2),  # 7 x 7: pooling drops a row
    Architecture("resnet", GREY, 4, 4, 1),
    Architecture("resnet", COLOUR, 4, 3, 2),
    Architecture("resnet", LARGE, 3, 8, 1),
    Architecture("vit", GREY, 4, 8, 1, "gelu", 4, 2),
    Architecture("vit", COLOUR, 3, 6, 2, "relu", 2, 3),
    Architecture("vit", LARGE, 3, 4, 1, "tanh", 8, 1),
    Architecture("convnext", GREY, 4, 4, 1, "gelu", 4),  # grids of 2, 1 and 1: filters of 3 and 1
    Architecture("convnext", COLOUR, 3, 4, 2, "relu", 1),
    Architecture("convnext", 14 * 14, 3, 4, 1, "gelu", 2),  # an odd grid keeps its side
    Architecture("swin", GREY, 4, 4, 1, "gelu", 2, 2),
    Architecture("swin", COLOUR, 3, 6, 2, "relu", 1, 3),  # a shift in the first stage: 2 x 2 windows of 4 x 4
    Architecture("swin", 14 * 14, 3, 4, 2, "gelu", 1, 1),  # 2 x 2 windows of 7 x 7, then one
    Architecture("mobilenet", GREY, 4, 4, 1),
    Architecture("mobilenet", COLOUR, 3, 3, 2),
    Architecture("mobilenet", 100, 3, 4, 1),  # grids of 10, 5 and 3
]


def name_of(a):
    return f"{a.kind}-{a.inputs}-{a.width}-{a.depth}-{a.activation}"


every = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=name_of)
convolutional = pytest.mark.parametrize(
    "architecture", [a for a in ARCHITECTURES if a.kind in ("cnn", "resnet", "convnext", "mobilenet")], ids=name_of
)


def stack_of(architecture, dtype=torch.float64, spread=True):
    """Lanes with gains and biases away from 1 and 0, where no permutation of them could hide."""
    stack = initial_parameters(architecture, SEEDS, dtype, "cpu")
    generator = torch.Generator().manual_seed(1)
    for p in architecture.layout.parameters:
        if spread and p.start != "uniform":
            stack[p.name] += 0.3 * torch.randn(stack[p.name].shape, generator=generator, dtype=torch.float64).to(dtype)
    return stack


def items_of(architecture, n=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(len(SEEDS), n, architecture.inputs, generator=generator, dtype=torch.float64).to(dtype)


def logits_and_gradients(model, stack, x):
    parameters = {name: p.clone().requires_grad_() for name, p in stack.items()}
    logits = model(parameters, x)
    weights = torch.linspace(-1, 2, logits[0].numel(), dtype=torch.float64).view(logits.shape[1:]).to(logits.dtype)
    loss = (torch.log_softmax(logits.double(), -1) * weights.double()).sum()
    return logits.detach(), dict(zip(parameters, torch.autograd.grad(loss, parameters.values()), strict=True))


@every
def test_logits_and_gradients_are_those_of_a_plain_module(architecture):
    stack, x = stack_of(architecture), items_of(architecture)
    logits, gradients = logits_and_gradients(architecture.model(), stack, x)
    assert logits.shape == (len(SEEDS), x.shape[1], architecture.outputs)
    for lane in range(len(SEEDS)):
        module = load(reference_of(architecture), {name: p[lane] for name, p in stack.items()})
        theirs = module(x[lane])
        torch.testing.assert_close(logits[lane], theirs.detach(), rtol=1e-12, atol=1e-12)
        weights = torch.linspace(-1, 2, theirs.numel(), dtype=torch.float64).view(theirs.shape)
        (torch.log_softmax(theirs, -1) * weights).sum().backward()
        wanted = {name: p.grad for name, p in module.named_parameters()}
        ours = to_torch({name: g[lane] for name, g in gradients.items()})
        assert ours.keys() == wanted.keys()
        for name, g in ours.items():
            torch.testing.assert_close(g, wanted[name], rtol=1e-11, atol=1e-12)


@every
def test_shared_inputs_are_seen_by_every_lane(architecture):
    stack, x = stack_of(architecture), items_of(architecture)[0]
    logits = forward(architecture.model(), stack, x)
    for lane in range(len(SEEDS)):
        alone = forward(architecture.model(), {name: p[lane : lane + 1] for name, p in stack.items()}, x)
        torch.testing.assert_close(logits[lane], alone[0], rtol=1e-12, atol=1e-12)


@convolutional
def test_one_grouped_convolution_and_one_a_lane_agree(architecture):
    stack, x = stack_of(architecture), items_of(architecture)
    (logits, gradients), (theirs, wanted) = (
        logits_and_gradients(architecture.model(how), stack, x) for how in ("grouped", "loop")
    )
    torch.testing.assert_close(logits, theirs, rtol=1e-12, atol=1e-12)
    for name, g in gradients.items():
        torch.testing.assert_close(g, wanted[name], rtol=1e-11, atol=1e-12)


@every
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_lower_precision_follows_float64(architecture, dtype, tolerance):
    """Parameters in float32 at least; activations in the type of the inputs; gradients in that of the parameters."""
    exact, gradients = logits_and_gradients(architecture.model(), stack_of(architecture), items_of(architecture))
    stack, x = stack_of(architecture, torch.float32), items_of(architecture, dtype=dtype)
    logits, rough = logits_and_gradients(architecture.model(), stack, x)
    assert logits.dtype == dtype
    assert (logits - exact).norm() <= tolerance * exact.norm()
    assert {g.dtype for g in rough.values()} == {torch.float32}
    flat = [torch.cat([g.double().reshape(-1) for g in gs.values()]) for gs in (rough, gradients)]
    # Half a ReLU's input near 0 may change sign: gradients are coarser than logits.
    assert (flat[0] - flat[1]).norm() <= 5 * tolerance * flat[1].norm()


@every
def test_the_layout_holds_every_parameter_of_the_module(architecture):
    module = reference_of(architecture)
    assert architecture.layout.size == sum(p.numel() for p in module.parameters())
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    ours = {p.name: torch.empty(p.shape) for p in architecture.layout.parameters}
    assert {name: tuple(p.shape) for name, p in to_torch(ours).items()} == shapes


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if (a.kind, a.depth) != ("swin", 2)], ids=name_of)
def test_flops_are_those_that_torch_counts_on_the_module(architecture):
    module, n = reference_of(architecture), 5
    items = torch.zeros(n, architecture.inputs, dtype=torch.float64)
    # Attention as plain products: the counter knows nothing of the fused kernel for CPUs.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as evaluation, torch.no_grad():
            module(items)
        with FlopCounterMode(display=False) as training:
            module(items).sum().backward()
    layout = architecture.layout
    assert evaluation.get_total_flops() == n * layout.forward_flops
    assert training.get_total_flops() == n * (layout.forward_flops + layout.backward_flops)


def test_flops_of_attention_by_hand():
    """Queries times keys and weights times values: 2 n^2 d each forward, twice that backward."""
    layout = Architecture("vit", GREY, 4, 8, 2, patch=2, heads=2).layout
    tokens, width, depth = 16, 8, 2
    dense = tokens * width * (3 * width + width + 4 * width + 4 * width) * depth + tokens * 4 * width + width * 4
    inner = depth * 2 * tokens * tokens * width
    assert layout.forward_flops == 2 * (dense + inner)
    assert layout.backward_flops == 4 * (dense + inner) - 2 * tokens * 4 * width  # patches need no gradient


def test_shifted_windows_cost_what_whole_windows_do():
    """Masked pairs of the windows that a shift wraps around are multiplied, too: the module leaves them out."""
    one, two = (Architecture("swin", 256, 3, 4, depth, patch=1, heads=1).layout for depth in (1, 2))
    tokens, width = [256, 64, 16], [4, 8, 16]  # in windows of 4 x 4
    block = [2 * t * 16 * w + 12 * t * w * w for t, w in zip(tokens, width, strict=True)]
    assert two.forward_flops - one.forward_flops == 2 * sum(block)
    assert two.inner == 2 * one.inner


def test_depthwise_convolution_is_torchs_own_of_each_lane():
    generator = torch.Generator().manual_seed(0)
    for kernel, stride, side in ((7, 1, 5), (3, 2, 5), (3, 2, 4), (1, 1, 1)):
        x = torch.randn(2, 3, side, side, 4, generator=generator, dtype=torch.float64)
        weight = torch.randn(2, kernel, kernel, 4, generator=generator, dtype=torch.float64)
        for lane in range(2):
            filters = weight[lane].permute(2, 0, 1)[:, None]
            images = x[lane].permute(0, 3, 1, 2)
            wanted = F.conv2d(images, filters, stride=stride, padding=kernel // 2, groups=4).permute(0, 2, 3, 1)
            for how in ("grouped", "loop"):
                torch.testing.assert_close(depthwise(x, weight, stride, how)[lane], wanted, rtol=1e-12, atol=1e-12)


def test_a_filter_is_clipped_to_what_meets_a_pixel():
    """On 2 x 2 pixels, all of a 7 x 7 filter but its middle 3 x 3 lies outside of the image."""
    x = torch.randn(1, 2, 2, 2, 3, dtype=torch.float64)
    weight = torch.randn(1, 7, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(depthwise(x, weight, 1, "loop"), depthwise(x, weight[:, 2:5, 2:5], 1, "loop"))
    shapes = {p.name: p.shape for p in Architecture("convnext", 256, 3, 2, 1, patch=2).layout.parameters}
    assert [shapes[f"stages.{s}.0.mix.weight"][0] for s in range(3)] == [7, 7, 3]


def test_a_swin_sees_beyond_its_windows_by_shifts_alone():
    """Which pixels change what a block returns at the corner: those of its window, or of the shifted, smaller one."""
    model = Swin((1, 8, 8), 1, 1, 1)
    p = stack_of(Architecture("swin", GREY, 3, 4, 1, patch=1, heads=1))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(SEEDS), 1, 8, 8, 4, generator=generator, dtype=torch.float64)
    for shifted, window in ((False, 4), (True, 2)):
        leaf = x.clone().requires_grad_()
        model._attention(p, "stages.0.0", leaf, shifted)[:, 0, 0, 0].sum().backward()
        seen = (leaf.grad[:, 0].abs().sum(-1) > 0).nonzero()
        assert len(seen) == len(SEEDS) * window**2
        assert seen[:, 1:].max() == window - 1


@pytest.mark.parametrize(
    ("numbers", "image"),
    [(64, (1, 8, 8)), (192, (3, 8, 8)), (256, (1, 16, 16)), (3, (3, 1, 1)), (50, None), (2, None), (1, (1, 1, 1))],
)
def test_square_grey_and_colour_images_are_recognised(numbers, image):
    assert image_of(numbers) == image


def test_colour_channels_come_first_in_an_item():
    """An item is (channel, row, column): one that is bright in one channel alone is bright there in the network."""
    architecture = Architecture("cnn", 192, 1, 1, 1)
    weight = torch.zeros(1, 3, 3, 3, 1, dtype=torch.float64)
    weight[0, 1, 1, 2, 0] = 1.0  # looks at the last channel
    p = {
        "convs.0.weight": weight,
        "convs.0.bias": torch.zeros(1, 1, dtype=torch.float64),
        "head.weight": torch.ones(1, 1, 1, dtype=torch.float64),
        "head.bias": torch.zeros(1, 1, dtype=torch.float64),
    }
    x = torch.eye(3, dtype=torch.float64).repeat_interleave(64, 1)
    assert forward(architecture.model(), p, x)[0, :, 0].tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"kind": "cnn", "inputs": 50}, "square images of 1 or 3 channels, but items have 50 numbers"),
        ({"kind": "resnet", "inputs": 50}, "square images"),
        ({"kind": "vit", "inputs": 50}, "square images"),
        ({"kind": "cnn", "depth": 0}, r"depth >= 1.*depth=0"),
        ({"kind": "resnet", "depth": 0}, r"depth >= 1.*depth=0"),
        ({"kind": "resnet", "activation": "gelu"}, "activation: a resnet has relu, but got gelu"),
        ({"kind": "resnet", "inputs": 36}, "halves images 2 times, but they are 6 pixels wide"),
        ({"kind": "vit", "patch": 3}, "^patch: .*patch=3, pixels=8.*1, 2, 4, 8"),
        ({"kind": "mobilenet", "activation": "gelu"}, "activation: a mobilenet has relu, but got gelu"),
        ({"kind": "mobilenet", "depth": 0}, r"depth >= 1.*depth=0"),
        ({"kind": "convnext", "patch": 3}, "^patch: .*patch=3, pixels=8.*1, 2, 4, 8"),
        ({"kind": "swin", "patch": 3}, "^patch: .*patch=3, pixels=8.*1, 2, 4, 8"),
        ({"kind": "swin", "inputs": 22 * 22, "patch": 1}, "^patch: windows of 2 to 7.*patch=1, pixels=22"),
        ({"kind": "swin", "heads": 3}, "heads=3, width=8"),
        ({"kind": "vit", "heads": 3}, "heads=3, width=8"),
        ({"kind": "vit", "heads": 4, "base_width": 6}, "^base_width: .*heads=4, base_width=6"),
    ],
)
def test_a_shape_that_cannot_be_built_has_its_problem_named(changes, rule):
    shape = {"kind": "mlp", "inputs": 64, "outputs": 3, "width": 8, "depth": 1, **changes}
    assert re.search(rule, Architecture(**shape).problem())


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=name_of)
def test_a_shape_that_can_be_built_has_no_problem(architecture):
    assert architecture.problem() == ""
