"""A model in two parts: its first layer, which is dense, and the rest.

When one number of an item changes, what the first layer returns moves by one column of its weights. The rest is then
all that must be computed again: see `metrics.mean_dimension`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["FirstDense"]


@runtime_checkable
class FirstDense(Protocol):
    """A stacked model whose first layer is dense: model(p, x) = after_first(p, weight x + bias)."""

    def __call__(self, p: Mapping[str, Tensor], x: Tensor, /) -> Tensor:
        """Outputs [lanes, n, outputs] of x [lanes, n, inputs]; p: {name: [lanes, ...]}."""
        ...

    def first(self, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(weight [lanes, features, inputs], bias [lanes, features])."""
        ...

    def after_first(self, p: Mapping[str, Tensor], z: Tensor) -> Tensor:
        """Outputs [lanes, n, outputs] from what the first layer returns, z [lanes, features, n], which may be
        overwritten."""
        ...
