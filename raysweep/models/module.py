"""Any `torch.nn.Module` as a stack: its parameters with a leading lane axis, and one forward function for all lanes.

Source: `torch.func.functional_call` and `torch.func.vmap`. Recurrent layers, which vmap does not know, run one lane
after another.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from raysweep.errors import PackError

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["Examined", "examine", "made", "stacked", "starts"]

_ITEMS = 4  # of the batch that a module is examined with
_SAME = 1e-9  # relative difference of outputs in float64 that is rounding


@dataclass(frozen=True)
class Examined:
    """What a module turned out to be.

    Attributes:
        parameters: Scalars that are trained.
        constants: Scalars that are not: buffers, and parameters without a gradient.
        outputs: Numbers that it returns for an item.
        forward_flops, backward_flops: Of one item; products and convolutions, 2 per multiply-add.
        activations: Numbers kept of one item for the backward pass.
        vectorised: Whether all lanes run as one program; otherwise they run one after another.
    """

    parameters: int
    constants: int
    outputs: int
    forward_flops: float
    backward_flops: float
    activations: float
    vectorised: bool


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's generator on the CPU, seeded, and then as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        yield


def made(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A new module whose initial values are a function of the seed, on the CPU.

    Raises:
        PackError: what is made is no module, or making it fails.
    """
    try:
        with _seeded(seed), torch.device("cpu"):
            module = make()
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise PackError(f"model: must return a module, but raised {type(error).__name__}: {said}") from error
    if not isinstance(module, nn.Module):
        raise PackError(f"model: must return a torch.nn.Module, but got {type(module).__name__}")
    return module


def examine(make: Callable[[], nn.Module], item: tuple[int, ...], whole: bool) -> Examined:
    """Count a module's parameters and work, and check that lanes of it can be trained side by side.

    Args:
        make: Returns a new module.
        item: Shape of one item of x.
        whole: Whether x holds whole numbers, such as tokens.

    Raises:
        PackError: the module fails on such items or does not return [items, outputs]; it draws random numbers in its
            forward pass (dropout), changes its buffers there (batch norm), or mixes the items of a batch; a parameter
            has no effect.
    """
    module = made(make, 0).double()
    with _seeded(1):
        x = torch.randint(0, 2, (_ITEMS, *item)) if whole else torch.randn(_ITEMS, *item, dtype=torch.float64)
    before = {name: b.clone() for name, b in module.named_buffers()}
    first = _outputs(module.train(), x, 2)
    for name, buffer in module.named_buffers():
        if not torch.equal(buffer, before[name]):
            raise PackError(
                f"model: a module must not change its buffers in its forward pass, but {name!r} changed, as running "
                "means of batch norm do. Use nn.GroupNorm or nn.LayerNorm, or a plain training function, which is not "
                "packed"
            )
    if not torch.equal(first, _outputs(module, x, 3)):
        raise PackError(
            "model: a module must not draw random numbers in its forward pass, as dropout does, but two passes over "
            "the same items differ: a run's rows would depend on the runs beside it. Set dropout to 0, or use a plain "
            "training function, which is not packed"
        )
    module.eval()
    if not _close(_outputs(module, x[:2], 2), _outputs(module, x, 2)[:2]):
        raise PackError(
            "model: an item's outputs must not depend on the others of its batch, but they do, as in batch norm "
            "without running means. Use nn.GroupNorm or nn.LayerNorm"
        )
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trained:
        raise PackError("model: a module must have parameters that require a gradient, but it has none")
    forward, backward, kept = _work(module.train(), x[:1], trained)
    constants = sum(b.numel() for b in module.buffers()) + sum(
        p.numel() for p in module.parameters() if not p.requires_grad
    )
    size = sum(p.numel() for p in trained.values())
    return Examined(size, constants, first.shape[1], forward, backward, kept, _vectorises(make, item, x))


def _outputs(module: nn.Module, x: Tensor, seed: int) -> Tensor:
    try:
        with _seeded(seed), torch.no_grad():
            found = module(x)
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        if not x.is_floating_point():
            said += ". Items of whole numbers are given as int64, for nn.Embedding: convert images to floating point"
        raise PackError(
            f"model: a module must take x of shape [items, {', '.join(map(str, x.shape[1:]))}] and type "
            f"{str(x.dtype).removeprefix('torch.')}, but it raised {type(error).__name__}: {said}"
        ) from error
    if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != len(x):
        got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise PackError(f"model: a module must return a tensor [items, outputs], but for {len(x)} items it gave {got}")
    return found


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= _SAME * (1 + b.abs().max()))


def _work(module: nn.Module, x: Tensor, trained: Mapping[str, Tensor]) -> tuple[float, float, float]:
    """FLOPs of the forward and the backward pass of one item, and the numbers kept between them."""
    own = {p.untyped_storage().data_ptr() for p in [*module.parameters(), *module.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    # As plain products: the counter does not know every fused kernel of attention.
    with _seeded(2), saved_tensors_hooks(pack, lambda tensor: tensor), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as ahead:
            outputs = module(x)
        with FlopCounterMode(display=False) as back:
            gradients = torch.autograd.grad(outputs.sum(), list(trained.values()), allow_unused=True)
    unused = [name for name, g in zip(trained, gradients, strict=True) if g is None]
    if unused:
        raise PackError(
            f"model: every parameter must have an effect on the outputs, but got (unused={unused[:5]}). Delete it, or "
            "set requires_grad to False"
        )
    return float(ahead.get_total_flops()), float(back.get_total_flops()), float(sum(kept.values()))


def _vectorises(make: Callable[[], nn.Module], item: tuple[int, ...], x: Tensor) -> bool:
    """Whether all lanes can run as one program, with the outputs of each alone."""
    parameters, constants = starts(make, [0, 1], torch.float64, "cpu")
    everything, lanes = {**constants, **parameters}, x.double().flatten(1).expand(2, -1, -1)
    base = made(make, 0).double()
    alone = stacked(base, item, not x.is_floating_point(), vectorised=False)(everything, lanes)
    try:
        side_by_side = stacked(base, item, not x.is_floating_point(), vectorised=True)(everything, lanes)
        torch.autograd.grad(side_by_side.sum(), list(parameters.values()))
    except (RuntimeError, NotImplementedError):
        return False
    return _close(side_by_side, alone)


def starts(
    make: Callable[[], nn.Module], seeds: Sequence[int], dtype: torch.dtype, device: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """{name: [lanes, ...]} initial parameters, and what is not trained: buffers and parameters without a gradient.

    A lane's values are a function of its seed alone; floating-point ones are rounded to `dtype`.

    Args:
        seeds: [lanes].
    """
    modules = {seed: made(make, seed) for seed in dict.fromkeys(seeds)}

    def stack(of: Callable[[nn.Module], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        own = {seed: of(module) for seed, module in modules.items()}
        found = {name: torch.stack([own[s][name].detach() for s in seeds]) for name in own[seeds[0]]}
        return {n: t.to(device, dtype if t.is_floating_point() else t.dtype) for n, t in found.items()}

    parameters = stack(lambda module: {n: p for n, p in module.named_parameters() if p.requires_grad})
    constants = stack(
        lambda m: {n: p for n, p in m.named_parameters() if not p.requires_grad} | dict(m.named_buffers())
    )
    return {n: p.requires_grad_() for n, p in parameters.items()}, constants


def stacked(module: nn.Module, item: tuple[int, ...], whole: bool, vectorised: bool, training: bool = True) -> Model:
    """The forward function of a stack: ({name: [lanes, ...]}, x [lanes, n, inputs]) -> [lanes, n, outputs].

    Args:
        module: One of the stack; its own values are not read.
        item: Shape of one item, which x holds flat.
        whole: Whether the module takes whole numbers.
        vectorised: Whether lanes run as one program rather than one after another.
        training: The module's mode.
    """
    base = copy.deepcopy(module).train(training).requires_grad_(False)

    def one(own: Mapping[str, Tensor], x: Tensor) -> Tensor:
        found: Tensor = functional_call(base, dict(own), (x,))
        return found

    together = vmap(one)

    def model(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        x = x.reshape(*x.shape[:2], *item)
        if whole:
            x = x.long()
        own = dict(p)
        if not vectorised:
            return torch.stack([one({n: t[lane] for n, t in own.items()}, x[lane]) for lane in range(len(x))])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")  # still one call per layer
            outputs: Tensor = together(own, x)
        return outputs.contiguous()

    return model
