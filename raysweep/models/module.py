"""Any `torch.nn.Module` as a stack: its parameters with a leading lane axis, and one forward function for all lanes.

Source: `torch.func.functional_call` and `torch.func.vmap`. Recurrent layers, which vmap does not know, run one lane
after another.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from raysweep.errors import PackError
from raysweep.generators import seeded

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["Examined", "examine", "made", "stacked", "starts"]

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


def made(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A new module whose initial values are a function of the seed, on the CPU.

    Raises:
        PackError: what is made is no module, or making it fails.
    """
    try:
        with seeded(seed), torch.device("cpu"):
            module = make()
    except Exception as error:
        raise PackError(f"model: must return a module, but raised {_said(error)}") from error
    if not isinstance(module, nn.Module):
        raise PackError(f"model: must return a torch.nn.Module, but got {type(module).__name__}")
    return module


def examine(make: Callable[[], nn.Module], x: Tensor) -> Examined:
    """Count a module's parameters and work, and check that lanes of it can be trained side by side.

    Args:
        make: Returns a new module.
        x: [items, ...] at least 3 items that the module is tried on, float64 or int64.

    Raises:
        PackError: the module fails on such items or does not return [items, outputs]; it draws random numbers in its
            forward pass (dropout), changes its buffers (batch norm), its items or its attributes there, mixes the items
            of a batch, or returns something else in evaluation; a parameter has no effect; its initial values are not a
            function of the seed; two modules differ in more than parameters and buffers.
    """
    module = made(make, 0)
    trained = _trained(make, module)
    module = module.double().train()
    buffers, attributes = {name: b.clone() for name, b in module.named_buffers()}, _attributes(module)
    first = _outputs(module, x)
    for name, buffer in module.named_buffers():
        if name not in buffers or not _equal(buffer, buffers[name]):
            raise PackError(
                f"model: a module must not change its buffers in its forward pass, but {name!r} changed, as running "
                "means of batch norm do. Use nn.GroupNorm or nn.LayerNorm, or a plain training function, which is not "
                "packed"
            )
    again = _attributes(module)
    if changed := [name for name, value in attributes.items() if again.get(name) != value]:
        raise PackError(
            f"model: a module must keep nothing from one call to the next, but its attributes {changed[:5]} change in "
            "its forward pass. Lanes share them: leave them out"
        )
    if not _equal(first, _outputs(module, x)):
        raise PackError(
            "model: a module must keep nothing from one call to the next, but two passes over the same items differ"
        )
    if not _close(_outputs(made(make, 0).double().train(), x[:2]), first[:2]):
        raise PackError(
            "model: an item's outputs must not depend on the others of its batch or on earlier calls, but they do, as "
            "in batch norm without running means. Use nn.GroupNorm or nn.LayerNorm"
        )
    judged = _outputs(module.eval(), x)
    if judged.shape != first.shape or not _close(judged, first):
        raise PackError(
            "model: a module must return the same in training and in evaluation mode, but its outputs differ. Return "
            "what the loss takes (logits, not probabilities) in both"
        )
    ahead, back, kept, fixed = _work(module.train(), x, trained)
    own = [*module.buffers(), *(p for p in module.parameters() if not p.requires_grad)]
    size = sum(p.numel() for n, p in module.named_parameters() if n in trained)
    constants = sum(t.numel() for t in own) + fixed
    return Examined(size, constants, first.shape[1], ahead, back, kept, _vectorises(make, x, first.shape[1]))


def _trained(make: Callable[[], nn.Module], module: nn.Module) -> list[str]:
    """Names of the parameters that are trained, once modules are new and a function of the seed."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if lazy := [name for name, t in tensors.items() if nn.parameter.is_lazy(t)]:
        raise PackError(
            f"model: every parameter must have a shape from the start, but {lazy[:5]} have none yet, as in lazy "
            "modules. Give the number of inputs"
        )
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    if not trained:
        raise PackError("model: a module must have parameters that require a gradient, but it has none")
    if other := [name for name in trained if not tensors[name].is_floating_point()]:
        raise PackError(f"model: trained parameters must be real numbers, but {other[:5]} are not. Use two real ones")
    twin = made(make, 0)
    again = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    if shared := [name for name in trained if again.get(name) is tensors[name]]:
        raise PackError(
            f"model: every call must return a new module, but two calls share the parameters {shared[:5]}. Make the "
            "module inside the function"
        )
    if tensors.keys() != again.keys() or (odd := [n for n, t in tensors.items() if not _equal(t, again[n])]):
        named = f"{odd[:5]} differ" if tensors.keys() == again.keys() else "names differ"
        raise PackError(
            f"model: initial values must be a function of the seed, but two modules of one seed differ: {named}. Draw "
            "them from torch's own generator, which is seeded before each call"
        )
    return trained


def _attributes(module: nn.Module) -> dict[str, bool | float | str]:
    """Plain values that a module and its parts hold, by name."""
    return {
        f"{name}.{key}".lstrip("."): value
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, bool | int | float | str)
    }


def _outputs(module: nn.Module, x: Tensor) -> Tensor:
    given = x.clone()
    version = given._version
    try:
        with seeded(2) as drawn, torch.no_grad():
            found = module(given)
            random = drawn()
    except Exception as error:
        said = _said(error)
        if not x.is_floating_point():
            said += ". Items of whole numbers are given as int64, for nn.Embedding: convert images to floating point"
        raise PackError(
            f"model: a module must take x of shape [items, {', '.join(map(str, x.shape[1:]))}] and type "
            f"{str(x.dtype).removeprefix('torch.')}, but it raised {said}"
        ) from error
    if random:
        raise PackError(
            "model: a module must not draw random numbers in its forward pass, as dropout does, but it did: a run's "
            "rows would depend on the runs beside it. Set dropout to 0, or use a plain training function, which is not "
            "packed"
        )
    if given._version != version:
        raise PackError(
            "model: a module must not change its items x in place, but it did: other lanes read them. Use x = x + 1 "
            "rather than x += 1, and no inplace=True in the first layer"
        )
    if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != len(x):
        got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise PackError(f"model: a module must return a tensor [items, outputs], but for {len(x)} items it gave {got}")
    if not found.is_floating_point():
        raise PackError(f"model: a module must return real numbers, but it gave {found.dtype}")
    return found


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two are equal up to rounding; what is not finite must be so in both."""
    a, b = a.detach(), b.detach()
    scale = b[b.isfinite()].abs().max() if b.isfinite().any() else 0.0
    return bool(torch.isclose(a, b, rtol=0.0, atol=_SAME * (1 + float(scale)), equal_nan=True).all())


def _work(module: nn.Module, x: Tensor, trained: Sequence[str]) -> tuple[float, float, float, int]:
    """FLOPs of the forward and the backward pass of one item; numbers kept between them of one item, and of any."""
    one, two = (_counted(module, x[:n], trained) for n in (1, 2))
    ahead, back, kept = (max(b - a, 0) for a, b in zip(one, two, strict=True))  # less what a batch costs once
    return float(ahead), float(back), float(kept), max(one[2] - kept, 0)


def _counted(module: nn.Module, x: Tensor, trained: Sequence[str]) -> tuple[int, int, int]:
    """FLOPs of both passes over a batch, and the numbers kept between them."""
    own = {p.untyped_storage().data_ptr() for p in [*module.parameters(), *module.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    x, named = x.clone(), dict(module.named_parameters())
    # As plain products: the counter does not know every fused kernel of attention.
    with saved_tensors_hooks(pack, lambda tensor: tensor), sdpa_kernel(SDPBackend.MATH):
        try:
            with FlopCounterMode(display=False) as ahead:
                outputs = module(x)
            with FlopCounterMode(display=False) as back:
                gradients = torch.autograd.grad(outputs.sum(), [named[n] for n in trained], allow_unused=True)
        except Exception as error:
            raise PackError(f"model: outputs must have a gradient, but taking it raised {_said(error)}") from error
    unused = [name for name, g in zip(trained, gradients, strict=True) if g is None]
    if unused:
        raise PackError(
            f"model: every parameter must have an effect on the outputs, but got (unused={unused[:5]}). Delete it, or "
            "set requires_grad to False"
        )
    return int(ahead.get_total_flops()), int(back.get_total_flops()), sum(kept.values())


def _vectorises(make: Callable[[], nn.Module], x: Tensor, outputs: int) -> bool:
    """Whether all lanes can run as one program, with the outputs and gradients of each alone.

    Raises:
        PackError: not even one after another.
    """
    modules, generator = [made(make, seed).double().train() for seed in (1, 2)], torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in (p for module in modules for p in module.parameters() if p.requires_grad):
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype), alpha=0.01)  # many begin equal: biases
    parameters, constants = _stacked_values(modules, torch.float64, "cpu")
    weights = torch.randn((len(x), outputs), generator=generator, dtype=torch.float64)
    alone, wanted = [], []
    for module in modules:
        trained = [p for p in module.parameters() if p.requires_grad]
        try:
            alone.append(module(x.clone()))
            wanted.append(torch.autograd.grad((alone[-1] * weights).sum(), trained))
        except Exception as error:
            raise PackError(f"model: outputs must have a gradient, but taking it raised {_said(error)}") from error
    expected = [torch.stack(alone), *(torch.stack(lanes) for lanes in zip(*wanted, strict=True))]
    said = "outputs or gradients differ from those of each module alone"
    for vectorised in (True, False):
        try:
            model = stacked(made(make, 0).double(), tuple(x.shape[1:]), not x.is_floating_point(), vectorised)
            found = model({**constants, **parameters}, x.double().flatten(1).repeat(2, 1, 1))
            gradients = torch.autograd.grad((found * weights).sum(), list(parameters.values()))
        except Exception as error:
            said = f"that raised {_said(error)}"
            continue
        if all(_close(a, b) for a, b in zip([found, *gradients], expected, strict=True)):
            return vectorised
        said = "outputs or gradients differ from those of each module alone"
    raise PackError(
        "model: two modules may differ only in parameters and buffers, so that one can be called with the values of "
        f"the other, but {said}. Register random masks and numbers as buffers, and let hooks use the module that they "
        "are given"
    )


def starts(
    make: Callable[[], nn.Module], seeds: Sequence[int], dtype: torch.dtype, device: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """{name: [lanes, ...]} initial parameters, and what is not trained: buffers and parameters without a gradient.

    A lane's values are a function of its seed alone; floating-point ones are rounded to `dtype`.

    Args:
        seeds: [lanes].
    """
    modules = {seed: made(make, seed) for seed in dict.fromkeys(seeds)}
    return _stacked_values([modules[seed] for seed in seeds], dtype, device)


def _alike(modules: Sequence[nn.Module]) -> None:
    """Check that modules have the same parameters."""
    one, *others = ({n: t.shape for n, t in [*m.named_parameters(), *m.named_buffers()]} for m in modules)
    for other in others:
        if odd := sorted(n for n in one.keys() | other.keys() if one.get(n) != other.get(n)):
            raise PackError(
                f"model: parameters and buffers must have the same names and shapes at every seed, but {odd[:5]} do not"
            )


def _stacked_values(
    modules: Sequence[nn.Module], dtype: torch.dtype, device: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    _alike(modules)

    def stack(of: Callable[[nn.Module], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        own = [of(module) for module in modules]
        found = {name: torch.stack([values[name].detach() for values in own]) for name in own[0]}
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
