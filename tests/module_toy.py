"""Networks and data as a user writes them, for the experiment that packs modules."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raysweep.experiments.packed_module import PackedModule


class Net(nn.Module):
    """A perceptron with a frozen scale, a buffer drawn at its start, and layer norm."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        sizes = [6, *[width] * depth]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)
        self.scale = nn.Parameter(torch.tensor([2.0]), requires_grad=False)
        self.register_buffer("shift", torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        found: Tensor = self.head(self.norm(x) * self.scale + self.shift)
        return found


def net(width: int = 8, depth: int = 1) -> nn.Module:
    return Net(width, depth)


def classes(noise: float = 0.5, items: int = 96) -> dict[str, Any]:
    """Three noisy prototypes of shape [2, 3]."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 2, 3))

    def part(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, 3, n)
        return (centres[y] + noise * rng.normal(size=(n, 2, 3))).astype(np.float32), y

    return {"train": part(items), "test": part(300), "select": part(50)}


def line() -> dict[str, Any]:
    """y = 3 x, exactly."""
    x = torch.linspace(-1, 1, 64)[:, None]
    return dict.fromkeys(("train", "test", "select"), (x, 3 * x[:, 0]))


CLASSES = PackedModule(net, classes)
LINE = PackedModule(lambda: nn.Linear(1, 1), line, loss="square", name="line")
