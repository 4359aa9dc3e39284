"""The multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from raysweep.models.ops import activate, linear_across

__all__ = ["MLP"]


@dataclass(frozen=True)
class MLP:
    """Linear layers with an activation between them.

    Attributes:
        depth: Hidden layers.
        activation: One of `ACTIVATIONS`.
        output_scale: Multiplies the output weights (mu-P), by way of their input.
    """

    depth: int
    activation: str = "relu"
    output_scale: float = 1.0

    def __call__(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Outputs [lanes, n, outputs] of x [lanes, n, inputs]; p: {name: [lanes, ...]}."""
        return self._layers(p, x.transpose(1, 2), 0)

    def first(self, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(weight [lanes, features, inputs], bias [lanes, features]) of the layer that sees the data."""
        weight = p["layers.0.weight"]
        return weight * self.output_scale if self.depth == 0 else weight, p["layers.0.bias"]

    def after_first(self, p: Mapping[str, Tensor], z: Tensor) -> Tensor:
        """Outputs [lanes, n, outputs] from what the first layer returns, z [lanes, features, n]; z is overwritten."""
        if self.depth == 0:
            return z.transpose(1, 2)
        return self._layers(p, z.relu_() if self.activation == "relu" else activate(z, self.activation), 1)

    def _layers(self, p: Mapping[str, Tensor], h: Tensor, start: int) -> Tensor:
        for i in range(start, self.depth + 1):
            activation = self.activation if i < self.depth else ""
            if i == self.depth and self.output_scale != 1.0:
                h = h * self.output_scale
            h = linear_across(h, p[f"layers.{i}.weight"], p[f"layers.{i}.bias"], activation)
        return h.transpose(1, 2)
