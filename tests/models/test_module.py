"""A user's module as a stack: equal to each module alone; what cannot stand beside others is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from module_toy import Net
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from raysweep.errors import PackError
from raysweep.models.module import examine, made, stacked, starts


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.lstm(x)[0][:, -1])
        return found


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(4, 4, bias=False)
        self.out = nn.Linear(4, 4)
        self.out.weight = self.into.weight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(torch.tanh(self.into(x)))
        return found


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(8, 24), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.into(x).chunk(3, -1))
        heads = F.scaled_dot_product_attention(q, k, v)
        found: Tensor = self.out(heads.transpose(1, 2).flatten(2).mean(1))
        return found


class Keeping(nn.Module):
    """A linear layer, and an attribute beside it."""

    def __init__(self, kept: Any, forward: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.layer, self.kept, self.call = nn.Linear(4, 2), kept, forward

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self)


def hooked() -> nn.Module:
    layer = nn.Linear(4, 2)
    nn.init.zeros_(layer.bias)
    layer.register_forward_hook(lambda module, x, y: y + layer.bias)
    return layer


def centring(x: Tensor, module: Any) -> Tensor:
    y: Tensor = module.layer(x)
    module.kept = y.mean().detach() if module.kept is None else module.kept
    return y - module.kept


def counting(x: Tensor, module: Any) -> Tensor:
    module.kept += 1
    y: Tensor = module.layer(x)
    return y if module.kept < 100 else -y


class Of(nn.Module):
    """A linear layer, and then whatever a test does to its outputs."""

    def __init__(self, change: Callable[[Tensor, Any], object]) -> None:
        super().__init__()
        self.layer, self.change = nn.Linear(4, 2), change

    def forward(self, x: Tensor) -> object:
        return self.change(self.layer(x), self)


def items(item: tuple[int, ...], whole: bool = False) -> Tensor:
    """[4, ...] numbers to try a module on."""
    generator = torch.Generator().manual_seed(1)
    if whole:
        return torch.randint(0, 2, (4, *item), generator=generator)
    return torch.randn(4, *item, generator=generator, dtype=torch.float64)


SHARED, COUNT = nn.Linear(4, 2), itertools.count()


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("noise", torch.from_numpy(np.random.default_rng().normal(size=2)))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x) + self.noise
        return found


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )


def attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 2))


def tokens() -> nn.Module:
    return nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 2))


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool, bool]] = {
    "perceptron": (lambda: Net(5, 2), (2, 3), False, True),
    "conv": (conv, (1, 8, 8), False, True),
    "attention": (attention, (3, 8), False, True),
    "tokens": (tokens, (3,), True, True),
    "tied": (Tied, (4,), False, True),
    "recurrent": (Recurrent, (6, 4), False, False),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_stack_equals_each_module_alone(name: str) -> None:
    make, item, whole, vectorised = MODULES[name]
    found = examine(make, items(item, whole))
    assert found.vectorised == vectorised
    seeds, shape = [3, 1, 3], (3, 5, *item)
    generator = torch.Generator().manual_seed(0)
    x = (
        torch.randint(0, 7, shape, generator=generator)
        if whole
        else torch.randn(shape, generator=generator, dtype=torch.float64)
    )
    parameters, constants = starts(make, seeds, torch.float64, "cpu")
    modules = [made(make, seed).double() for seed in seeds]
    base = made(make, 9).double()  # its own values are not read
    outputs = stacked(base, item, whole, vectorised)({**constants, **parameters}, x.double().flatten(2))
    gradients = torch.autograd.grad(outputs.square().sum(), list(parameters.values()))
    assert found.parameters == sum(p.numel() for p in modules[0].parameters() if p.requires_grad)
    for lane, module in enumerate(modules):
        alone = module(x[lane])
        assert torch.allclose(outputs[lane], alone, rtol=1e-12, atol=1e-12)
        alone.square().sum().backward()
        own = dict(module.named_parameters())
        for key, gradient in zip(parameters, gradients, strict=True):
            expected = own[key].grad
            assert expected is not None
            assert torch.allclose(gradient[lane], expected, rtol=1e-10, atol=1e-12)


def test_images_of_whole_numbers_are_told_to_be_converted() -> None:
    with pytest.raises(PackError, match="convert images to floating point"):
        examine(conv, items((1, 8, 8), True))


def test_a_module_that_looks_at_its_data_runs_lane_by_lane() -> None:
    found = examine(lambda: Of(lambda y, m: y if m.layer.bias.sum() > 0 else -y), items((4,)))
    assert not found.vectorised


def test_what_a_weight_is_made_of_is_counted_once_per_batch() -> None:
    plain = examine(lambda: nn.Linear(4, 2), items((4,)))
    found = examine(lambda: parametrizations.orthogonal(nn.Linear(4, 2)), items((4,)))
    assert (found.forward_flops, found.backward_flops) == (plain.forward_flops, plain.backward_flops)
    assert found.activations == plain.activations


def test_numpys_generator_is_seeded_too_and_left_as_it_was() -> None:
    def make() -> nn.Module:
        layer = nn.Linear(4, 2)
        layer.register_buffer("mask", torch.from_numpy(np.random.rand(4)))
        return layer

    before = repr(np.random.get_state())
    _, constants = starts(make, [1, 2, 1], torch.float64, "cpu")
    assert repr(np.random.get_state()) == before
    assert torch.equal(constants["mask"][0], constants["mask"][2])
    assert not torch.equal(constants["mask"][0], constants["mask"][1])


def test_a_seed_may_not_change_the_shapes() -> None:
    with pytest.raises(PackError, match="the same names and shapes at every seed, but"):
        starts(lambda: nn.Linear(4, 1 + int(torch.randint(9, ()))), [1, 2, 3, 4], torch.float64, "cpu")


def test_a_start_is_a_function_of_the_seed_alone_and_leaves_torchs_generator() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    parameters, constants = starts(lambda: Net(4, 1), [7, 2], torch.float32, "cpu")
    assert torch.equal(torch.get_rng_state(), before)
    again, shift = starts(lambda: Net(4, 1), [2], torch.float32, "cpu")
    assert all(torch.equal(parameters[name][1], again[name][0]) for name in again)
    assert set(constants) == {"scale", "shift"}
    assert torch.equal(constants["shift"][1], shift["shift"][0])
    assert not torch.equal(constants["shift"][0], constants["shift"][1])


def test_work_is_that_of_the_products() -> None:
    found = examine(lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), items((6,)))
    assert found.parameters == 6 * 5 + 5 + 5 * 3 + 3
    assert found.forward_flops == 2 * (6 * 5 + 5 * 3)
    assert found.backward_flops == 2 * (6 * 5 + 2 * 5 * 3)  # inputs have no gradient
    assert (found.outputs, found.constants) == (3, 0)
    assert 6 + 5 <= found.activations <= 2 * (6 + 5 + 5)


def test_fused_attention_is_counted() -> None:
    length = 16
    found = examine(Attending, items((length, 8)))
    assert found.forward_flops == 2 * (length * 8 * 24 + 8 * 2) + 2 * 2 * 2 * length * length * 4
    assert found.vectorised


def _spoilt(outputs: Tensor, module: nn.Module) -> Tensor:
    raise IndexError("no such thing")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)), "must not draw random numbers in its forward pass"),
        (lambda: Of(lambda y, m: F.dropout(y, 0.1)), "must not draw random numbers"),
        (lambda: nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)), "must not change its buffers"),
        (
            lambda: nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, track_running_stats=False)),
            "must not depend on the others of its batch",
        ),
        (lambda: Of(lambda y, m: y - y.mean(0)), "must not depend on the others of its batch"),
        (lambda: nn.ModuleList([nn.Linear(4, 2)]), "must take x of shape [items, 4]"),
        (lambda: Of(_spoilt), "raised IndexError: no such thing"),
        (lambda: Of(lambda y, m: y[:, 0]), "must return a tensor [items, outputs]"),
        (lambda: Of(lambda y, m: (y, y)), "it gave tuple"),
        (lambda: Of(lambda y, m: 0 * y.detach() + m.layer.bias), "(unused=['layer.weight'])"),
        (lambda: nn.Linear(4, 2).requires_grad_(False), "must have parameters that require a gradient"),
        (lambda: F.relu, "must return a torch.nn.Module, but got"),
        (lambda: Keeping(torch.rand(4), lambda x, m: m.layer(x * m.kept)), "may differ only in parameters and buffers"),
        (lambda: Keeping(torch.rand(()).item(), lambda x, m: m.kept * m.layer(x)), "may differ only in parameters"),
        (hooked, "let hooks use the module that they are given"),
        (lambda: SHARED, "two calls share the parameters ['weight', 'bias']"),
        (lambda: Keeping(None, centring), "or on earlier calls"),
        (lambda: Keeping(0, counting), "its attributes ['kept'] change"),
        (lambda: nn.Sequential(nn.Linear(4, 2), nn.Dropout(1e-6)), "must not draw random numbers"),
        (lambda: Of(lambda y, m: y if m.training else y.softmax(-1)), "the same in training and in evaluation mode"),
        (lambda: Of(lambda y, m: y if m.training else y[:, :1]), "the same in training and in evaluation mode"),
        (lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)), "must not change its items x in place"),
        (lambda: nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)), "as in lazy modules"),
        (lambda: nn.Linear(4, 2, dtype=torch.complex64), "trained parameters must be real numbers"),
        (lambda: Of(lambda y, m: y.round().long()), "must return real numbers, but it gave torch.int64"),
        (lambda: Of(lambda y, m: y.detach()), "outputs must have a gradient"),
        (lambda: nn.Linear(4, 2) if next(COUNT) % 2 else nn.Linear(4, 2, bias=False), "names differ"),
        (lambda: Noisy(), "['noise'] differ. Draw them from torch's own generator"),
    ],
)
def test_what_cannot_stand_beside_others_is_refused(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(PackError) as caught:
        examine(make, items((4,)))
    assert words in str(caught.value)
