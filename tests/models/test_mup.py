"""mu-P (Yang et al. 2022, arXiv 2203.03466): table 8 by hand; and what it is for, by training across widths."""

import itertools
import math

import numpy as np
import pytest
import torch

from raysweep.models import Architecture
from raysweep.models.initial import initial_parameters
from raysweep.training.batches import Batches, nested_rows
from raysweep.training.legs import legs
from raysweep.training.loop import forward, train
from raysweep.training.optim import Optimiser
from raysweep.training.schedule import Schedule

RATIO = 4.0  # of width to base width in the tables below
SCALED = {
    "mlp": Architecture("mlp", 16, 5, 64, 3, base_width=16),
    "cnn": Architecture("cnn", 64, 5, 16, 2, base_width=4),
    "resnet": Architecture("resnet", 64, 5, 16, 1, base_width=4),
    "vit": Architecture("vit", 64, 5, 32, 1, patch=4, heads=2, base_width=8),
    "convnext": Architecture("convnext", 64, 5, 16, 1, patch=4, base_width=4),
    "swin": Architecture("swin", 64, 5, 32, 1, patch=4, heads=2, base_width=8),
    "mobilenet": Architecture("mobilenet", 64, 5, 16, 1, base_width=4),
}
HIDDEN = {
    "mlp": {"layers.1.weight", "layers.2.weight"},
    "cnn": {"convs.1.weight"},
    "resnet": {
        *(f"stages.{s}.0.conv{c}.weight" for s in range(3) for c in (1, 2)),
        *(f"stages.{s}.0.shortcut.weight" for s in (1, 2)),
    },
    "vit": {f"blocks.0.{name}.weight" for name in ("qkv", "proj", "up", "down")},
    "convnext": {
        *(f"stages.{s}.0.{name}.weight" for s in range(3) for name in ("up", "down")),
        *(f"merges.{s}.weight" for s in (1, 2)),
    },
    "swin": {
        *(f"stages.{s}.0.{name}.weight" for s in range(3) for name in ("qkv", "proj", "up", "down")),
        *(f"merges.{s}.weight" for s in (1, 2)),
    },
    "mobilenet": {"last.weight", *(f"stages.{s}.0.{name}.weight" for s in range(3) for name in ("expand", "project"))},
}
OUTPUT = {"mlp": "layers.3", "cnn": "head", "resnet": "head", "vit": "head"}
OUTPUT |= dict.fromkeys(("convnext", "swin", "mobilenet"), "head")
INPUT = {"mlp": ("layers.0.weight", 16), "cnn": ("convs.0.weight", 9), "resnet": ("stem.weight", 9),
         "vit": ("embed.weight", 16), "convnext": ("stem.weight", 16), "swin": ("stem.weight", 16),
         "mobilenet": ("stem.weight", 9)}  # fmt: skip
kinds = pytest.mark.parametrize("kind", list(SCALED))


@kinds
def test_learning_rates_of_table_8(kind):
    """Input weights, biases and gains: fan-out for SGD, 1 for Adam. Hidden: 1; 1 / fan-in. Output: fan-in; 1."""
    sgd, adam = (SCALED[kind].rates(adaptive) for adaptive in (False, True))
    names = {p.name for p in SCALED[kind].layout.parameters}
    assert sgd.keys() == adam.keys() == names
    assert HIDDEN[kind] < names
    for name in names:
        if name in HIDDEN[kind]:
            wanted = (1.0, 1 / RATIO)
        elif name == f"{OUTPUT[kind]}.weight":
            wanted = (RATIO, 1.0)
        elif name == f"{OUTPUT[kind]}.bias" or name.endswith("relative"):
            wanted = (1.0, 1.0)  # fans out to the classes, or to heads, which do not grow
        else:
            wanted = (RATIO, 1.0)
        assert (sgd[name], adam[name]) == wanted, name


@kinds
def test_initial_values_of_table_8(kind):
    """Variance 1 / fan-in for hidden weights; all others start as at the base width."""
    wide = SCALED[kind]
    base = Architecture(kind, wide.inputs, 5, wide.base_width, wide.depth, patch=4, heads=wide.heads)
    bounds, at_base = wide.bounds(), base.bounds()
    for name in bounds:
        ratio = RATIO**-0.5 if name in HIDDEN[kind] else 1.0
        assert bounds[name] == pytest.approx(ratio * at_base[name], rel=1e-12), name
    name, fan_in = INPUT[kind]
    assert bounds[name] == pytest.approx(fan_in**-0.5, rel=1e-12)
    assert all(base.rates(adaptive)[n] == 1.0 for n in bounds for adaptive in (False, True))


@pytest.mark.parametrize("adaptive", [False, True])
@kinds
def test_at_the_base_width_mup_is_the_standard_parametrisation(kind, adaptive):
    wide = SCALED[kind]
    shape = (kind, wide.inputs, 5, wide.width, wide.depth)
    scaled, standard = (Architecture(*shape, patch=4, heads=2, base_width=b) for b in (wide.width, 0))
    assert set(scaled.rates(adaptive).values()) == set(standard.rates(adaptive).values()) == {1.0}
    assert scaled.bounds() == standard.bounds()
    p = initial_parameters(standard, torch.arange(2), torch.float64, "cpu")
    x = torch.randn(5, wide.inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(forward(scaled.model(), p, x), forward(standard.model(), p, x), rtol=1e-12, atol=1e-12)


def output_part(kind, part, base):
    """What multiplies the output weights, or the output bias: the ratio of logits with and without mu-P."""
    wide = SCALED[kind]
    model = Architecture(kind, wide.inputs, 5, wide.width, wide.depth, patch=4, heads=2, base_width=base).model()
    p = initial_parameters(wide, torch.arange(2), torch.float64, "cpu")
    p[f"{OUTPUT[kind]}.{'bias' if part == 'weight' else 'weight'}"].zero_()
    for name in p:
        if "qkv" in name:
            p[name].zero_()  # attention is scaled too; here it is uniform
    return forward(model, p, torch.ones(3, wide.inputs, dtype=torch.float64))


@kinds
def test_output_weights_are_multiplied_by_one_over_the_width_ratio(kind):
    scaled, standard = (output_part(kind, "weight", base) for base in (SCALED[kind].base_width, 0))
    torch.testing.assert_close(scaled, standard / RATIO, rtol=1e-12, atol=1e-12)
    assert standard.abs().max() > 1e-3


@kinds
def test_the_output_bias_is_not_multiplied(kind):
    """Table 8 has 1 for all biases: with 1 / width before it and a gradient through it, it would stop learning."""
    scaled, standard = (output_part(kind, "bias", base) for base in (SCALED[kind].base_width, 0))
    torch.testing.assert_close(scaled, standard, rtol=1e-12, atol=1e-12)


def test_attention_is_scaled_by_one_over_the_head_size():
    """Definition 4.1: q.k / d; at the base width the usual 1 / sqrt(d)."""
    for kind in ("vit", "swin"):
        models = [Architecture(kind, 64, 5, w, 1, patch=4, heads=2, base_width=8).model() for w in (8, 32)]
        scales = [model.attention_scale for model in models]
        assert scales == pytest.approx([4**-0.5, 4**-0.5 / RATIO], rel=1e-12)
    assert Architecture("vit", 64, 5, 32, 1, patch=4, heads=2).model().attention_scale in (None, 16**-0.5)


def test_without_hidden_layers_there_is_nothing_to_scale():
    flat = Architecture("mlp", 8, 3, 64, 0, base_width=16)
    assert set(flat.rates(False).values()) == set(flat.rates(True).values()) == {1.0}
    assert flat.bounds() == Architecture("mlp", 8, 3, 64, 0).bounds()


# --- by training ------------------------------------------------------------------------------------------


def task(inputs):
    """Soft labels of a small random network."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, inputs, generator=generator)
    hidden = torch.tanh(x @ torch.randn(inputs, 16, generator=generator) / inputs**0.5)
    return x, torch.softmax(2 * hidden @ torch.randn(16, 4, generator=generator), -1)


def states(architecture, kind, lrs, seeds, steps, batch, momentum=0.9):
    """The parameters before training, and after each of these numbers of steps."""
    lanes = len(lrs)
    (x, target), none = task(architecture.inputs), torch.zeros(lanes, dtype=torch.int64)
    seed = torch.tensor(seeds)
    rows = nested_rows([0], len(x), len(x))
    batches = Batches(x, target, rows, batch, none, none, none, none + len(x), seed, none)
    hyper = [torch.full((lanes,), v) for v in (momentum, 0.9, 0.999, 1e-8)]
    optimiser = Optimiser(kind, torch.tensor(lrs), *hyper, rates=architecture.rates(kind == "adamw"))
    distinct = initial_parameters(architecture, torch.arange(max(seeds) + 1), torch.float32, "cpu")
    start = {name: p[seed] for name, p in distinct.items()}
    schedule = Schedule.make("constant", none, none)
    times = [0, *steps]
    for snapshot in train(architecture.model(), start, batches, optimiser, schedule, legs("constant", times, 0.0)):
        yield snapshot.parameters


def hidden_and_logits(architecture, p, x):
    """Pre-activations of every hidden layer of an MLP, then its logits: its forward pass once more."""
    found, h = [], x.expand(len(p["layers.0.bias"]), *x.shape)
    for i in range(architecture.depth):
        found.append(h @ p[f"layers.{i}.weight"].transpose(1, 2) + p[f"layers.{i}.bias"][:, None])
        h = found[-1].relu()
    return [*found, forward(architecture.model(), p, x)]


def slopes(make, widths, kind, lr, steps, values, batch=8):
    """[steps, values] log-log slope against width of how far each value has moved (rms over seeds and items)."""
    moved = []
    for width in widths:
        architecture, seeds = make(width), range(8 if width < 1024 else 4)
        x = task(architecture.inputs)[0][:32]
        found = states(architecture, kind, [lr] * len(seeds), seeds, steps, batch)
        first, *later = (values(architecture, p, x) for p in found)
        moved.append([[(b - a).square().mean().sqrt().item() for a, b in zip(first, h, strict=True)] for h in later])
    log = np.log(np.array(moved)).reshape(len(widths), -1)
    return np.polyfit(np.log(widths), log, 1)[0].reshape(len(steps), -1)


@pytest.mark.parametrize(("kind", "lr"), [("sgd", 0.05), ("adamw", 0.002)])
def test_activations_and_logits_of_an_mlp_move_alike_at_every_width(kind, lr):
    widths, steps = [64, 128, 256, 512, 1024], [1, 5]
    options = (widths, kind, lr, steps, hidden_and_logits)
    scaled = slopes(lambda w: Architecture("mlp", 16, 4, w, 2, base_width=64), *options)
    assert np.abs(scaled).max() < 0.15, scaled
    standard = slopes(lambda w: Architecture("mlp", 16, 4, w, 2), widths[:4], *options[1:])
    assert standard[0, -1] > 0.6  # logits grow
    assert standard[:, 1:].min() > 0.2  # and so does the second layer, at every time


SMALL = [
    ("cnn", [16, 32, 64, 128], "sgd", 0.2),
    ("cnn", [16, 32, 64, 128], "adamw", 0.003),
    ("resnet", [8, 16, 32], "sgd", 0.05),
    ("resnet", [8, 16, 32], "adamw", 0.003),
    ("vit", [32, 64, 128, 256], "sgd", 0.1),
    ("vit", [32, 64, 128, 256], "adamw", 0.003),
    ("convnext", [16, 32, 64], "sgd", 0.1),
    ("swin", [16, 32, 64], "adamw", 0.001),
    ("mobilenet", [16, 32], "sgd", 0.01),
]


@pytest.mark.parametrize(("model", "widths", "kind", "lr"), SMALL)
def test_logits_of_image_models_move_alike_at_every_width(model, widths, kind, lr):
    def make(base):
        depth = 2 if model == "cnn" else 1
        return lambda w: Architecture(model, 64, 4, w, depth, patch=4, heads=4, base_width=base)

    def logits(architecture, p, x):
        return [forward(architecture.model(), p, x[:16])]

    scaled = slopes(make(widths[0]), widths, kind, lr, [1, 3], logits)
    assert np.abs(scaled).max() < 0.15, scaled
    assert slopes(make(0), widths[:3] if len(widths) > 3 else widths[:2], kind, lr, [1], logits).max() > 0.3


@pytest.mark.parametrize(
    ("kind", "grid", "momentum", "steps"),
    [("sgd", [0.2, 0.4, 0.8, 1.6, 3.2], 0.5, 12), ("adamw", [0.008, 0.016, 0.032, 0.064, 0.128], 0.9, 6)],
)
def test_the_best_learning_rate_is_the_same_within_2_at_every_width(kind, grid, momentum, steps):
    """A short training, where too small a rate is too slow and too large a rate too rough."""
    seeds = range(2)

    def losses(width, base):
        """[rates] mean loss over seeds on all items."""
        architecture = Architecture("mlp", 16, 4, width, 2, base_width=base)
        lrs, order = zip(*itertools.product(grid, seeds), strict=True)
        (*_, last) = states(architecture, kind, lrs, order, [steps], 64, momentum)
        x, target = task(16)
        loss = -(target * torch.log_softmax(forward(architecture.model(), last, x), -1)).sum(-1).mean(-1)
        return loss.view(len(grid), -1).mean(1).nan_to_num(math.inf)

    found = {width: losses(width, 64) for width in (64, 256, 1024)}
    best = [grid[int(loss.argmin())] for loss in found.values()]
    assert all(grid[0] < b < grid[-1] for b in best), best  # inside the grid
    assert max(best) / min(best) < 2.001, best
    # At a gentle rate widths even learn as fast; and a standard network that is wider does not.
    gentle = [loss[0].item() for loss in found.values()]
    assert max(gentle) - min(gentle) < 0.1, gentle
    assert found[64][0] - losses(256, 0)[0] > 0.2
