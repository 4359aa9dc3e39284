"""Which lanes and items go through a model together, so that memory is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from raysweep.errors import MetricError

__all__ = ["lanes_of", "passes", "per_lane"]

_BYTES = {"cpu": 2**24, "cuda": 2**28}  # of inputs in a pass


def passes(lanes: int, x: Tensor, chunk: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Slices of lanes and of items which together cover both; all items of some lanes come before the next lanes.

    Args:
        x: [..., n, d] the items; their size and device decide where `chunk` does not.
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
    most = chunk or max(64, _BYTES.get(x.device.type, _BYTES["cpu"]) // (x.shape[-1] * x.element_size()))
    items = min(n, most)
    at_a_time = max(1, most // items)
    for lane in range(0, lanes, at_a_time):
        for item in range(0, n, items):
            yield slice(lane, min(lane + at_a_time, lanes)), slice(item, min(item + items, n))


def lanes_of(parameters: Mapping[str, Tensor]) -> int:
    """The number of lanes of a stack."""
    return len(next(iter(parameters.values())))


def per_lane(values: Tensor, lanes: int, dims: int) -> Tensor:
    """[lanes, ...] values that have a lane axis (`dims` axes in all), or that all lanes share (one axis fewer)."""
    return values if values.dim() == dims else values.expand(lanes, *values.shape)
