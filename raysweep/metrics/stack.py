"""Functions side by side, one per lane: their values, and how they change when single inputs change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raysweep.errors import MetricError
from raysweep.kernels import fused
from raysweep.metrics.product import product
from raysweep.metrics.switching import relu_changes
from raysweep.models.first import FirstDense
from raysweep.models.mlp import MLP

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["Stack", "stack_of", "whole"]

_PASS = {"cpu": (2**23, 2**24), "cuda": (2**29, 2**28)}  # bytes of a pass: in the first layer, or in the inputs


@dataclass(frozen=True)
class Stack:
    """A stacked model and its parameters.

    Attributes:
        model: (parameters, x [lanes, items, inputs]) -> [lanes, items, outputs]. If it is `FirstDense`, a change of one
            input costs no product with the first layer's weights.
        parameters: {name: [lanes, ...]}; empty for a plain function, which is one lane.
        lanes: Number of functions.
        inputs: Numbers per item.
        dtype, device: Those of the items.
    """

    model: Model
    parameters: Mapping[str, Tensor]
    lanes: int
    inputs: int
    dtype: torch.dtype
    device: torch.device

    def take(self, lanes: slice) -> Stack:
        """Some of the lanes."""
        some = {name: p[lanes] for name, p in self.parameters.items()}
        return replace(self, parameters=some, lanes=len(range(self.lanes)[lanes]))

    def blocks(self, at_a_time: int) -> Iterator[tuple[slice, Stack]]:
        """The lanes, some at a time, and where they are."""
        for start in range(0, self.lanes, at_a_time):
            lanes = slice(start, min(start + at_a_time, self.lanes))
            yield lanes, self.take(lanes)

    @cached_property
    def _first(self) -> tuple[Tensor, Tensor] | None:
        return self.model.first(self.parameters) if isinstance(self.model, FirstDense) else None

    @property
    def items_per_pass(self) -> int:
        """Items of a forward pass, over all lanes, that fill a GPU and, on a CPU, stay near its caches."""
        own, full = _PASS[self.device.type if self.device.type in _PASS else "cpu"]
        if self._first is None:
            return max(64, full // (self.inputs * self.dtype.itemsize))
        return max(64, own // (self._first[0].shape[1] * self.dtype.itemsize))

    @property
    def switches(self) -> bool:
        """Whether the changes of a single lane are found by `metrics.switching`, so that lanes go one by one."""
        model, on_cpu = self.model, self.device.type == "cpu"
        return isinstance(model, MLP) and model.depth == 1 and model.activation == "relu" and on_cpu

    def items_at_once(self, chunk: int, outputs: int) -> int:
        """Most items whose changes take no more memory than a pass of `chunk` items."""
        if not self.switches or self._first is None:
            return chunk
        return chunk * self._first[0].shape[1] // (self.inputs * outputs)  # all inputs change at once

    def values(self, x: Tensor) -> Tensor:
        """[lanes, items, outputs] at x [items, inputs], which all lanes share."""
        try:
            if isinstance(self.model, FirstDense):
                values = self.model.after_first(self.parameters, self._received(x))
            else:
                values = self.model(self.parameters, x.expand(self.lanes, *x.shape))
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            if type(error) not in (RuntimeError, IndexError, TypeError, ValueError):  # such as: out of memory
                raise
            raise MetricError(
                f"f: must take items of the given inputs, but got (items={len(x)}, inputs={self.inputs}, "
                f"dtype={_name(self.dtype)}), at which it raised {type(error).__name__}: {error}. Give the inputs, the "
                "dtype and the device that f takes"
            ) from error
        return self._checked(values, len(x))

    def changes(self, x: Tensor, other: Tensor, at_a_time: int) -> Iterator[Tensor]:
        """[lanes, some inputs, items, outputs] f(x with input i of `other`) - f(x), input after input.

        Args:
            x, other: [items, inputs].
            at_a_time: Inputs in a forward pass, unless all are found at once.
        """
        steps = [range(self.inputs)[i : i + at_a_time] for i in range(0, self.inputs, at_a_time)]
        if isinstance(self.model, FirstDense):
            assert self._first is not None
            weight, received, step = self._first[0], self._received(x), (other - x).T.contiguous()
            if self.lanes == 1 and self.switches and isinstance(self.model, MLP):
                second = self.parameters["layers.1.weight"][0] * self.model.output_scale
                yield relu_changes(received[0].T.contiguous(), weight[0], second, other - x)[None]
                return
            start = self._moved(self.model, received, weight[:, :, :1], torch.zeros_like(step[:1]))[:, None]
            for own in steps:
                columns = slice(own.start, own.stop)
                changed = self._moved(self.model, received, weight[:, :, columns], step[columns])
                yield changed.unflatten(1, (len(own), len(x))) - start
            return
        start = self.values(x)[:, None]
        for own in steps:
            rows = x.repeat(len(own), 1, 1)
            every, at = torch.arange(len(own), device=x.device), torch.arange(own.start, own.stop, device=x.device)
            rows[every, :, at] = other[:, own.start : own.stop].T
            yield self.values(rows.flatten(0, 1)).unflatten(1, (len(own), len(x))) - start

    def _received(self, x: Tensor) -> Tensor:
        """[lanes, features, items] what the first layer returns."""
        assert self._first is not None
        weight, bias = self._first
        flat, start = weight.flatten(0, 1), bias.reshape(-1, 1)
        found = product(flat, x.T).add_(start) if self.device.type == "cpu" else torch.addmm(start, flat, x.T)
        received: Tensor = found.unflatten(0, weight.shape[:2])
        return received

    def _moved(self, model: FirstDense, received: Tensor, columns: Tensor, steps: Tensor) -> Tensor:
        """[lanes, moves * items, outputs] after moves of what the first layer returns, by columns of its weights times
        steps [moves, items]."""
        if isinstance(model, MLP) and model.depth == 1 and fused(received):
            from raysweep.kernels.moves import MOST_OUTPUTS, moved_outputs

            second, bias = self.parameters["layers.1.weight"] * model.output_scale, self.parameters["layers.1.bias"]
            if bias.shape[1] <= MOST_OUTPUTS and received.dtype == torch.float32:
                return moved_outputs(received, columns, steps, second, bias, model.activation).transpose(1, 2)
        return model.after_first(
            self.parameters, torch.addcmul(received[:, :, None], columns[..., None], steps).flatten(2)
        )

    def _checked(self, values: Tensor, items: int) -> Tensor:
        _require_real(values)
        if values.dim() != 3 or values.shape[:2] != (self.lanes, items):
            raise MetricError(
                f"f: must return one value or one vector per item, but got (items={items}, lanes={self.lanes}, "
                f"shape={tuple(values.shape)}). Return [items] or [items, outputs]; a stacked model, "
                "[lanes, items, outputs]"
            )
        return values


def _lane(values: Tensor) -> Tensor:
    """[1, items, outputs] from [items] or [items, outputs]."""
    _require_real(values)
    return (values[:, None] if values.dim() == 1 else values)[None]


def _require_real(values: object) -> None:
    if not isinstance(values, Tensor) or not values.is_floating_point():
        got = f"dtype={_name(values.dtype)}" if isinstance(values, Tensor) else f"type={type(values).__name__}"
        raise MetricError(
            f"f: must return a tensor of floating-point numbers, but got ({got}). Convert what it returns: "
            f"{'values.double()' if isinstance(values, Tensor) else 'torch.as_tensor(values).double()'}, say"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class _Alone:
    """A plain function as a stack of one lane."""

    f: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]

    def __call__(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return _lane(self.f(x[0].unflatten(1, self.shape)))


@dataclass(frozen=True)
class _Sequence:
    """A sequence of modules that begins with a linear one, as a stack of one lane."""

    linear: nn.Linear
    rest: nn.Sequential

    def __call__(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return _lane(self.rest(self.linear(x[0])))

    def first(self, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        weight, bias = self.linear.weight, self.linear.bias
        return weight[None], (weight.new_zeros(len(weight)) if bias is None else bias)[None]

    def after_first(self, p: Mapping[str, Tensor], z: Tensor) -> Tensor:
        return _lane(self.rest(z[0].T))


def stack_of(
    f: Callable[..., Any],
    inputs: int | Sequence[int],
    parameters: Mapping[str, Tensor] | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Stack:
    """A function, a module or a stacked model as a `Stack`; see `mean_dimension` for the arguments.

    Raises:
        MetricError: The inputs, the parameters or the type make no sense; or a module is in training mode, in which it
            may drop units, or let items depend on each other.
    """
    shape = _shape(inputs)
    count = int(torch.Size(shape).numel())
    if parameters is not None and not (parameters and all(p.dim() for p in parameters.values())):
        raise MetricError(
            "parameters: a stacked model must have at least one, each with a lane axis first, but got "
            f"({', '.join(f'{n}: {tuple(p.shape)}' for n, p in parameters.items()) or 'none'}). Leave parameters out "
            "for a plain function"
        )
    if isinstance(f, nn.Module) and any(part.training for part in f.modules()):
        raise MetricError(
            f"f: must be a function of one item, but got ({type(f).__name__} in training mode, in which units may be "
            "dropped and items depend on each other). Call f.eval() first"
        )
    own = list((parameters or {}).values()) or (list(f.parameters()) if isinstance(f, nn.Module) else [])
    own = [p for p in own if p.is_floating_point()] or own  # a stack may hold whole numbers, such as masks, too
    dtype = dtype or (own[0].dtype if own else torch.get_default_dtype())
    if not dtype.is_floating_point:
        raise MetricError(f"dtype: must be a floating-point type, but got (dtype={_name(dtype)}). Use torch.float32")
    device = torch.device(device) if device is not None else own[0].device if own else torch.device("cpu")
    if parameters is not None:
        return Stack(f, parameters, len(own[0]), count, dtype, device)
    return Stack(_alone(f, shape), {}, 1, count, dtype, device)


def whole(value: object) -> bool:
    """Whether a value is an integer, of any library."""
    return isinstance(value, Integral)


def _shape(inputs: int | Sequence[int]) -> tuple[int, ...]:
    sides = tuple(inputs) if isinstance(inputs, Iterable) else (inputs,)
    if not sides or not all(whole(side) and side >= 1 for side in sides):
        raise MetricError(
            f"inputs: must be a positive integer, or the shape of an item, but got ({inputs=}). Give the number of "
            "inputs of f, or a shape such as (28, 28)"
        )
    return sides


def _alone(f: Callable[..., Any], shape: tuple[int, ...]) -> Model:
    if isinstance(f, nn.Sequential):
        parts = list(f)
        flat = isinstance(parts[0], nn.Flatten) if parts else False
        linear = parts[flat] if len(parts) > flat else None
        if isinstance(linear, nn.Linear) and (flat or len(shape) == 1):
            return _Sequence(linear, nn.Sequential(*parts[flat + 1 :]))
    return _Alone(f, shape)
