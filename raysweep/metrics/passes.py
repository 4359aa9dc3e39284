"""Which lanes and items go through a model together, so that memory is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from raysweep.errors import MetricError

__all__ = ["Pass", "lanes_of", "passes", "per_lane"]

_BYTES = {"cpu": 2**24, "cuda": 2**28}  # of inputs in a pass


@dataclass(frozen=True)
class Pass:
    """Some items of some lanes.

    Attributes:
        lanes, items: Which they are.
        x: [lanes, items, d].
        targets: [lanes, items] or [lanes, items, outputs].
        share: These items' share of all.
    """

    lanes: slice
    items: slice
    x: Tensor
    targets: Tensor
    share: float

    def of(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """These lanes of {name: [all lanes, ...]}, without a gradient."""
        return {name: p[self.lanes].detach() for name, p in parameters.items()}


def passes(lanes: int, x: Tensor, targets: Tensor, chunk: int | None = None) -> Iterator[Pass]:
    """Parts of the lanes and items, which together are all of them.

    Args:
        x: [lanes, n, d], or [n, d] where lanes share the items; their size and device decide where `chunk` does not.
        targets: Classes, [n] or [lanes, n] integers; or real numbers [n, outputs] or [lanes, n, outputs].
        chunk: Most items in a pass, over all lanes, but at least one.

    Raises:
        MetricError: There are no items, or `chunk` is not positive.
    """
    n = x.shape[-2]
    if not n or (chunk is not None and chunk < 1):
        raise MetricError(
            f"items: `n >= 1` and `chunk >= 1` must hold, but got (n={n}, chunk={chunk}). Give items, and leave chunk "
            "out to have it chosen"
        )
    x, targets = per_lane(x, lanes, 3), per_lane(targets, lanes, 3 if targets.is_floating_point() else 2)
    most = chunk or max(64, _BYTES.get(x.device.type, _BYTES["cpu"]) // (x.shape[-1] * x.element_size()))
    size = min(n, most)
    at_a_time = max(1, most // size)
    for lane in range(0, lanes, at_a_time):
        own = slice(lane, min(lane + at_a_time, lanes))
        for item in range(0, n, size):
            items = slice(item, min(item + size, n))
            yield Pass(own, items, x[own, items], targets[own, items], (items.stop - items.start) / n)


def lanes_of(parameters: Mapping[str, Tensor]) -> int:
    """The number of lanes of a stack.

    Raises:
        MetricError: It has no parameters.
    """
    if not parameters:
        raise MetricError(
            "parameters: a stacked model must have at least one, but got (0 parameters). Give {name: [lanes, ...]}"
        )
    return len(next(iter(parameters.values())))


def per_lane(values: Tensor, lanes: int, dims: int) -> Tensor:
    """[lanes, ...] values that have a lane axis (`dims` axes in all), or that all lanes share (one axis fewer)."""
    return values if values.dim() == dims else values.expand(lanes, *values.shape)
