"""The empirical neural tangent kernel of a stack of models: K(x, x') = sum over outputs of df(x)/dp . df(x')/dp.

Source: Jacot et al. 2018, arXiv 1806.07572. Two forms, both exact, chosen parameter by parameter:

- A matrix W that meets one vector a of an item (a dense layer) has the gradient d a', with d the gradient with respect
  to W a. Its part of the kernel is (d . d') (a . a'), which costs outputs + inputs per pair of items where the product
  of two gradients costs outputs * inputs.
- Every other parameter (filters, gains) has its gradients written out, item by item, in blocks, and multiplied.

The gradients of all items come from one backward pass per output (`models.taps`). A parameter that a model uses outside
`models.ops`, or more than once, is differentiated item by item instead, with the items as lanes: slower, and right for
any model. The work is symmetric: blocks of items above the diagonal only.

In float32, a ReLU whose input is 0 but for rounding may take the other slope, which moves an item's row by up to 1e-3
of a deep convolutional network's kernel. In float64 the kernel agrees with a loop over items to 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raysweep.errors import PackError
from raysweep.models.taps import Tap, recorded

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["items_per_block", "ntk"]

# Numbers per product. One float32 accumulator over a million of them loses the terms below half its last digit: 7e-4 of
# a kernel on a GPU, which has one accumulator per pair of items.
_SLAB = 2**13
_PROBE = 2  # items of the pass that finds how each parameter is used
_AGREES = 1e-3  # of the items' gradients added up with the gradient of the sum, in float32
_GRAPH = 3  # copies of the activations that a pass holds: values, what backward keeps, gradients


@torch.no_grad()
def ntk(
    model: Model,
    parameters: Mapping[str, Tensor],
    inputs: Tensor,
    *,
    outputs: Sequence[int] | None = None,
    frozen: Mapping[str, Tensor] | None = None,
    rates: Mapping[str, float] | None = None,
    memory: int = 2**30,
    chunk: int | None = None,
    accumulate: torch.dtype | None = None,
) -> Tensor:
    """[lanes, items, items] the kernel of each lane, on the device of the inputs.

    Args:
        model: Its items must not depend on each other.
        parameters: {name: [lanes, ...]} those that are differentiated.
        inputs: [items, numbers], shared by the lanes, in the parameters' type.
        outputs: Outputs whose kernels are added up; all of them if not given. At large width every output has the
            same kernel, and one stands for all.
        frozen: {name: [lanes, ...]} parameters that are not differentiated.
        rates: {name: factor} on a parameter's part, as its learning rate would be; 1 where there is none.
        memory: Bytes that may be used besides the kernel itself. It sets the number of items in a block.
        chunk: Items in a block, in place of `memory`.
        accumulate: The type in which gradients are multiplied and added up, and of the kernel: float64 for small
            eigenvalues of a model that runs in float32. The inputs' own type if not given.

    Raises:
        PackError: `memory` is too small for one item.
    """
    lanes, kind = len(next(iter(parameters.values()))), accumulate or inputs.dtype
    kernel = torch.empty(lanes, len(inputs), len(inputs), dtype=kind, device=inputs.device)
    for lane in range(lanes):
        own, fixed = (
            {name: p[lane : lane + 1].detach() for name, p in some.items()} for some in (parameters, frozen or {})
        )
        probe = inputs[:_PROBE]
        one = _Lane(model, own, fixed, rates or {}, outputs, kind, probe)
        size = chunk or items_per_block(one.bytes_per_item(probe), memory, kind.itemsize)
        blocks = inputs.split(min(size, len(inputs)))
        starts = [sum(map(len, blocks[:i])) for i in range(len(blocks))]
        for i, first in enumerate(blocks):
            rows = slice(starts[i], starts[i] + len(first))
            mine = one.gradients(first)
            for start, second in zip(starts[i:], blocks[i:], strict=True):
                columns = slice(start, start + len(second))
                kernel[lane, rows, columns] = mine.products(mine if start == starts[i] else one.gradients(second))
                if start != starts[i]:
                    kernel[lane, columns, rows] = kernel[lane, rows, columns].T
    return kernel


def items_per_block(per_item: int, memory: int, itemsize: int) -> int:
    """Items b of two blocks that fit: b * per_item + 3 b^2 itemsize <= memory, three matrices of products among them.

    Raises:
        PackError: Not one item fits.
    """
    size = int((math.sqrt(per_item**2 + 12 * itemsize * memory) - per_item) / (6 * itemsize))
    if size < 1:
        need = per_item + 3 * itemsize
        raise PackError(
            f"memory: one item's gradients must fit, but got (memory={memory:,} bytes, needed={need:,}). "
            "Allow more memory, or take a narrower model"
        )
    return size


@dataclass(frozen=True)
class _Gradients:
    """The gradients of a block of items.

    Attributes:
        flat: [items, outputs * numbers] those written out.
        dense: (d [items, outputs * features], a [items, inputs]) of each dense layer.
    """

    flat: Tensor
    dense: list[tuple[Tensor, Tensor]]

    def products(self, other: _Gradients) -> Tensor:
        """[items, items of the other] sums over all parameters and outputs."""
        total = self.flat.new_zeros(len(self.flat), len(other.flat))
        for mine, theirs in zip(self.flat.split(_SLAB, 1), other.flat.split(_SLAB, 1), strict=True):
            total.addmm_(mine, theirs.T)
        for (down, received), (others_down, others_received) in zip(self.dense, other.dense, strict=True):
            total.addcmul_(down @ others_down.T, received @ others_received.T)
        return total


class _Lane:
    """One model, and how each of its parameters is differentiated."""

    def __init__(
        self,
        model: Model,
        parameters: dict[str, Tensor],
        frozen: dict[str, Tensor],
        rates: Mapping[str, float],
        outputs: Sequence[int] | None,
        kind: torch.dtype,
        probe: Tensor,
    ) -> None:
        self.model, self.frozen, self.outputs, self.kind = model, frozen, outputs, kind
        self.parameters = {name: p.requires_grad_() for name, p in parameters.items()}
        self.names = {id(p): name for name, p in self.parameters.items()}
        self.factor = {name: math.sqrt(rates.get(name, 1.0)) for name in parameters}
        taps, outs = self._pass(probe)
        self.tapped = self._trusted(taps, outs, len(probe))

    def bytes_per_item(self, probe: Tensor) -> int:
        """Bytes that an item takes in two blocks and the passes that make them."""
        items = len(probe)
        taps, outputs = self._pass(probe)
        met = [t.out for t in taps] + [other for t in taps if (other := t.received(items)) is not None]
        alone = sum(p.numel() for name, p in self.parameters.items() if name not in self.tapped)
        graph = _GRAPH * sum(t.numel() for t in met) // items + 2 * alone * (1 + len(self._chosen(outputs)))
        mine = self.gradients(probe)
        kept = 2 * mine.flat.numel() + 3 * sum(d.numel() + a.numel() for d, a in mine.dense)
        return graph * probe.dtype.itemsize + kept * self.kind.itemsize // items

    def gradients(self, x: Tensor) -> _Gradients:
        """The gradients of a block of items x [items, numbers]."""
        items = len(x)
        taps, outputs = self._pass(x)
        taps = [t for t in taps if self._name(t) in self.tapped]
        alone = [name for name in self.parameters if name not in self.tapped]
        chosen = self._chosen(outputs)
        layers = {id(t.out): [u for u in taps if u.out is t.out] for t in taps if t.is_dense(items)}
        written = [t for t in taps if id(t.out) not in layers]
        sizes = [self.parameters[name].numel() for name in [*map(self._name, written), *alone]]
        flat = torch.empty(items, len(chosen), sum(sizes), dtype=self.kind, device=x.device)
        downs: dict[int, list[Tensor]] = {key: [] for key in layers}
        others = [t.received(items) for t in written]
        outs = [t.out for t in written] + [own[0].out for own in layers.values()]
        for c, output in enumerate(chosen):
            found = _downs(outputs, output, outs, retain=c + 1 < len(chosen))
            for t, other, down, part in zip(written, others, found, flat[:, c].split(sizes, 1), strict=False):
                part.copy_(t.gradient(down, other, items)[0] * self.factor[self._name(t)])
            for key, down in zip(layers, found[len(written) :], strict=True):
                downs[key].append(down.reshape(items, -1).to(self.kind))
        if alone:
            parts = flat.split(sizes, 2)[len(written) :]
            for name, part, own in zip(alone, parts, self._as_lanes(x, alone, chosen), strict=True):
                part.copy_(own * self.factor[name])
        dense = [(torch.cat(downs[key], 1), self._received(own, x)) for key, own in layers.items()]
        return _Gradients(flat.flatten(1), dense)

    def _received(self, layer: Iterable[Tap], x: Tensor) -> Tensor:
        """[items, inputs] that a dense layer multiplies, and a 1 for its bias, which is the weight of that."""
        columns = []
        for tap in layer:
            other = tap.received(len(x))
            columns.append((x.new_ones(len(x), 1) if other is None else other[0, :, 0]) * self.factor[self._name(tap)])
        return torch.cat(columns, 1).to(self.kind)

    def _pass(self, x: Tensor) -> tuple[list[Tap], Tensor]:
        with recorded() as taps, torch.enable_grad():
            outputs = self.model({**self.frozen, **self.parameters}, x[None])
        return [t for t in taps if id(t.parameter) in self.names], outputs

    def _name(self, tap: Tap) -> str:
        return self.names[id(tap.parameter)]

    def _chosen(self, outputs: Tensor) -> Sequence[int]:
        return range(outputs.shape[2]) if self.outputs is None else self.outputs

    def _trusted(self, taps: Iterable[Tap], outputs: Tensor, items: int) -> set[str]:
        """Names of parameters whose one operation accounts for all of their gradient."""
        met: dict[str, list[Tap]] = {}
        for tap in taps:
            met.setdefault(self._name(tap), []).append(tap)
        once = {name: found[0] for name, found in met.items() if len(found) == 1}
        whole = _downs(outputs, None, [self.parameters[name] for name in once], retain=True)
        downs = _downs(outputs, None, [tap.out for tap in once.values()], retain=True)
        trusted = set()
        for (name, tap), wanted, down in zip(once.items(), whole, downs, strict=True):
            sums = tap.gradient(down, tap.received(items), items).sum(1)
            if abs(sums.norm() - wanted.norm()) <= _AGREES * wanted.norm():  # the order differs, the length does not
                trusted.add(name)
        return trusted

    def _as_lanes(self, x: Tensor, names: Sequence[str], chosen: Sequence[int]) -> list[Tensor]:
        """[items, outputs, numbers] gradients of each name, from a stack in which each item is the data of a lane."""
        stack = {name: p.detach().expand(len(x), *p.shape[1:]) for name, p in (self.frozen | self.parameters).items()}
        leaves = {name: stack[name].clone().requires_grad_() for name in names}
        with torch.enable_grad():
            outputs = self.model({**stack, **leaves}, x[:, None])
        found = []
        for c, output in enumerate(chosen):
            found.append(_downs(outputs, output, list(leaves.values()), retain=c + 1 < len(chosen)))
        return [torch.stack([each.flatten(1) for each in own], 1) for own in zip(*found, strict=True)]


def _downs(outputs: Tensor, chosen: int | None, of: Sequence[Tensor], retain: bool) -> list[Tensor]:
    """The gradient of an output, or of the sum of all, summed over items, with respect to tensors of the graph."""
    if not of:
        return []
    weight = torch.ones_like(outputs)
    if chosen is not None:
        weight = weight.zero_().index_fill_(2, torch.tensor([chosen], device=outputs.device), 1.0)
    found = torch.autograd.grad(outputs, list(of), weight, retain_graph=retain, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(of, found, strict=True)]
