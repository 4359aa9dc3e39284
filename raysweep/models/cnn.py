"""A small convolutional network without normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from raysweep.models.ops import Conv, activate, add, conv2d, linear

__all__ = ["CNN", "as_images"]


def as_images(x: Tensor, image: tuple[int, int, int]) -> Tensor:
    """Flat items [lanes, n, channels * height * width] as [lanes, n, height, width, channels]."""
    images: Tensor = x.unflatten(-1, image)
    return images.permute(0, 1, 3, 4, 2)


@dataclass(frozen=True)
class CNN:
    """3x3 convolutions, each with an activation and 2x2 mean pooling; global mean; a linear head.

    Attributes:
        image: (channels, height, width) of an item.
        depth: Convolutions; the width doubles from one to the next.
        activation: One of `ACTIVATIONS`.
        output_scale: Multiplies the output weights (mu-P), by way of their input.
        conv: How lanes are convolved.
    """

    image: tuple[int, int, int]
    depth: int
    activation: str = "relu"
    output_scale: float = 1.0
    conv: Conv = "loop"

    def __call__(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Outputs [lanes, n, outputs] of x [lanes, n, inputs]; p: {name: [lanes, ...]}."""
        h = as_images(x, self.image)
        for i in range(self.depth):
            h = add(conv2d(h, p[f"convs.{i}.weight"], 1, self.conv), p[f"convs.{i}.bias"])
            h = activate(h, self.activation)
            if h.shape[2] > 1:
                even = h[:, :, : h.shape[2] // 2 * 2, : h.shape[3] // 2 * 2]
                h = even.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))
        return linear(h.mean((2, 3)) * self.output_scale, p["head.weight"], p["head.bias"])
