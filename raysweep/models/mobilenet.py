"""A small MobileNet with GroupNorm (BatchNorm would tie a lane's items together)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from raysweep.models.cnn import as_images
from raysweep.models.layout import STAGES, groups_of
from raysweep.models.ops import Conv, conv2d, depthwise, group_norm, linear_of

__all__ = ["MobileNet"]


@dataclass(frozen=True)
class MobileNet:
    """Stem; three stages of inverted residuals, stride 2 between; a wide layer; global mean; head.

    An inverted residual expands to 6 times the channels, convolves each by itself, and projects without an activation;
    all other layers have ReLU6 (Sandler et al. 2018, MobileNetV2). The source normalises by the batch: an item's
    outputs would depend on the other items of its batch in training, and on running means, which are not parameters,
    afterwards. GroupNorm keeps a model a function of one item, which is the same in every pack.

    Attributes:
        image: (channels, height, width) of an item.
        depth: Blocks per stage.
        output_scale: Multiplies the output weights (mu-P), by way of their input.
        conv: How lanes are convolved.
    """

    image: tuple[int, int, int]
    depth: int
    output_scale: float = 1.0
    conv: Conv = "loop"

    def __call__(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Outputs [lanes, n, outputs] of x [lanes, n, inputs]; p: {name: [lanes, ...]}."""
        h = F.relu6(_norm(p, "stem.norm", conv2d(as_images(x, self.image), p["stem.weight"], 1, self.conv)))
        for stage in range(STAGES):
            for block in range(self.depth):
                name, stride = f"stages.{stage}.{block}", 2 if stage and not block else 1
                out = F.relu6(_norm(p, f"{name}.norm1", linear_of(p, f"{name}.expand", h)))
                out = depthwise(out, p[f"{name}.mix.weight"], stride, self.conv)
                out = F.relu6(_norm(p, f"{name}.norm2", out))
                out = _norm(p, f"{name}.norm3", linear_of(p, f"{name}.project", out))
                h = h + out if out.shape == h.shape else out
        h = F.relu6(_norm(p, "last.norm", linear_of(p, "last", h)))
        return linear_of(p, "head", h.mean((2, 3)) * self.output_scale)


def _norm(p: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    gain = p[f"{name}.gain"]
    return group_norm(x, gain, p[f"{name}.bias"], groups_of(gain.shape[1]))
