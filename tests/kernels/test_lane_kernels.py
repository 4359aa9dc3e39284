"""Each kernel against its plain torch twin. Without a CUDA device they run in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="Triton is not installed")

from raysweep.kernels import update  # noqa: E402
from raysweep.kernels.bias_activation import bias_activation  # noqa: E402
from raysweep.kernels.draw import draw  # noqa: E402
from raysweep.kernels.loss import cross_entropy, logistic, square  # noqa: E402
from raysweep.kernels.rows import layer_norm, row_bias_activation  # noqa: E402
from raysweep.models import ops  # noqa: E402
from raysweep.models.ops import activate  # noqa: E402
from raysweep.streams import ORDER  # noqa: E402
from raysweep.training.batches import Batches, nested_rows  # noqa: E402
from raysweep.training.loss import CROSS_ENTROPY, LOGISTIC, SQUARE, Loss  # noqa: E402
from raysweep.training.optim import Optimiser  # noqa: E402

LANES = 3


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("step", [0, 7, 2**40])
@pytest.mark.parametrize(("batch", "inputs"), [(5, 3), (70, 100)])
def test_a_drawn_batch_is_the_streams_batch(batch: int, inputs: int, step: int) -> None:
    pool = 50
    x, targets = normal(2 * pool, inputs), torch.softmax(normal(4 * pool, 7), -1)
    offset = torch.tensor([0, pool, pool])
    batches = Batches(
        x=x.cpu(), targets=targets.cpu(), rows=nested_rows([3, 2**61], pool, 40), batch=batch,
        seed_row=torch.tensor([0, 1, 1]), pool_offset=offset, target_offset=offset + torch.tensor([0, 0, 2 * pool]),
        n=torch.tensor([40, 1, 23]), order_seed=torch.tensor([0, 2**62, 12345678901]),
        data_seed=torch.tensor([0, 1, 1]),
    )  # fmt: skip
    wanted = batches._draw(torch.tensor(step))
    order = ("rows", "order_seed", "seed_row", "pool_offset", "target_offset", "n")
    moved = [getattr(batches, name).to(DEVICE) for name in order]
    found = draw(x, targets, *moved, torch.tensor(step, device=DEVICE), batch, ORDER)
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a.cpu(), b)


@pytest.mark.parametrize("kind", ["", "relu", "gelu", "tanh", "relu2", "tilted"])
@pytest.mark.parametrize("n", [64, 1500])
def test_bias_and_activation_and_their_gradients(kind: str, n: int) -> None:
    z, bias, gradient = normal(LANES, 4, n), normal(LANES, 4, seed=1), normal(LANES, 4, n, seed=2)
    found, wanted = [], []
    for into, function in (
        (found, lambda z, b: bias_activation(z * 1.0, b, kind)),
        (wanted, lambda z, b: activate(z + b[..., None], kind) if kind else z + b[..., None]),
    ):
        leaves = [z.clone().requires_grad_(), bias.clone().requires_grad_()]
        out = function(*leaves)
        into += [out, *torch.autograd.grad(out, leaves, gradient)]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["", "relu", "gelu", "tanh", "relu2", "tilted"])
@pytest.mark.parametrize(("m", "width"), [(5, 3), (150, 64), (40, 300)])
def test_rows_with_bias_and_activation_and_their_gradients(kind: str, m: int, width: int) -> None:
    z, bias, gradient = normal(LANES, m, width), normal(LANES, width, seed=1), normal(LANES, m, width, seed=2)
    found, wanted = [], []
    for into, function in (
        (found, lambda z, b: row_bias_activation(z * 1.0, b, kind)),
        (wanted, lambda z, b: activate(z + b[:, None], kind) if kind else z + b[:, None]),
    ):
        leaves = [z.clone().requires_grad_(), bias.clone().requires_grad_()]
        out = function(*leaves)
        into += [out, *torch.autograd.grad(out, leaves, gradient)]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize(("m", "width"), [(5, 3), (150, 64), (40, 300)])
def test_layer_norm_and_its_gradients(m: int, width: int) -> None:
    x, gain, bias = 3 * normal(LANES, m, width) + 1, normal(LANES, width, seed=1), normal(LANES, width, seed=2)
    gradient = normal(LANES, m, width, seed=3)
    found, wanted = [], []
    for into, function, dtype in ((found, layer_norm, torch.float32), (wanted, ops.layer_norm, torch.float64)):
        leaves = [v.clone().to(dtype).requires_grad_() for v in (x, gain, bias)]
        out = function(*leaves)
        into += [v.double() for v in (out, *torch.autograd.grad(out, leaves, gradient.to(dtype)))]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


LOSSES = ((cross_entropy, CROSS_ENTROPY), (square, SQUARE), (logistic, LOGISTIC))


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize(("batch", "outputs"), [(5, 3), (70, 10), (3, 300)])
@pytest.mark.parametrize(("kernel", "plain"), LOSSES, ids=lambda one: getattr(one, "name", ""))
def test_a_loss_and_its_gradient(kernel: Any, plain: Loss, batch: int, outputs: int, across: bool) -> None:
    out = 3 * (normal(LANES, outputs, batch).transpose(1, 2) if across else normal(LANES, batch, outputs))
    if plain is CROSS_ENTROPY:
        targets = torch.softmax(2 * normal(LANES, batch, outputs, seed=1), -1)
        targets[0] = torch.eye(outputs, device=DEVICE)[torch.arange(batch) % outputs]
    else:
        targets = normal(LANES, batch, outputs, seed=1)
        out[0, 0, 0] = 200.0  # exp overflows in float32
    if plain is LOGISTIC:
        targets = targets.sign()
    value, gradient = kernel(out, targets)
    wanted, wanted_gradient = plain.value_and_gradient(out.cpu().double(), targets.cpu().double())
    assert gradient.stride() == out.stride()
    torch.testing.assert_close(value.cpu().double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.cpu().double(), wanted_gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("kernel", [cross_entropy, square, logistic])
def test_a_lane_of_the_loss_that_is_not_finite_leaves_the_others(kernel: Any) -> None:
    out, targets = normal(LANES, 6, 4), torch.softmax(normal(LANES, 6, 4, seed=1), -1)
    fine, _ = kernel(out, targets)
    out[1, 2, 3] = torch.nan
    value, _ = kernel(out, targets)
    assert not torch.isfinite(value[1])
    assert torch.equal(value[[0, 2]], fine[[0, 2]])


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adamw"])
@pytest.mark.parametrize("decay", [False, True])
def test_updates_follow_the_plain_rule_and_spare_dead_lanes(kind: str, decay: bool) -> None:
    def lanes(*values: float) -> torch.Tensor:
        return torch.tensor(values)

    optimiser = Optimiser(
        kind, lr=lanes(0.1, 0.2, 0.3), momentum=lanes(0.9, 0.0, 0.5), beta1=lanes(0.9, 0.8, 0.7),
        beta2=lanes(0.99, 0.999, 0.9), eps=lanes(1e-8, 1e-6, 1e-3),
        weight_decay=lanes(0.1, 0.0, 0.01) if decay else None,
    )  # fmt: skip
    start = normal(LANES, 33, 40).cpu()
    plain, kernel = {"w": start.clone()}, start.clone().to(DEVICE)
    state = optimiser.state(plain)
    moments = [m["w"].clone().to(DEVICE) for m in optimiser.state(plain).values()]
    dead = torch.tensor([False, True, False])
    moved = optimiser if DEVICE == "cpu" else Optimiser(
        kind, *(getattr(optimiser, n).to(DEVICE) for n in ("lr", "momentum", "beta1", "beta2", "eps")),
        weight_decay=None if optimiser.weight_decay is None else optimiser.weight_decay.to(DEVICE),
    )  # fmt: skip
    for step in range(3):
        g = normal(LANES, 33, 40, seed=step + 5)
        g[1] = torch.nan
        optimiser.step(plain, {"w": g.cpu().clone()}, state, optimiser.lr, dead, torch.tensor(step))
        if kind == "adamw":
            betas = (moved.beta1, moved.beta2, moved.eps, moved.weight_decay)
            update.adamw(
                kernel, g, *moments, moved.lr, moved.lr, *betas, dead.to(DEVICE), torch.tensor(step, device=DEVICE)
            )
        else:
            update.sgd(
                kernel, g, *moments, moved.lr, moved.momentum, moved.weight_decay, dead.to(DEVICE), kind == "nesterov"
            )
    torch.testing.assert_close(kernel.cpu(), plain["w"], rtol=1e-5, atol=1e-6)
    assert torch.equal(kernel[1].cpu(), start[1])
