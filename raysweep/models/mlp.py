"""The multi-layer perceptron."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

__all__ = ["MLP", "mlp_sizes"]


def mlp_sizes(inputs: int, width: int, depth: int, outputs: int) -> list[int]:
    """Layer widths, input first: `depth` hidden layers of `width`."""
    return [inputs, *[width] * depth, outputs]


class MLP(nn.Module):
    """Linear layers with ReLU between them; logits out. x [n, inputs] -> [n, outputs]."""

    def __init__(self, inputs: int, width: int, depth: int, outputs: int) -> None:
        super().__init__()
        sizes = mlp_sizes(inputs, width, depth, outputs)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x).relu()
        out: Tensor = last(x)
        return out
