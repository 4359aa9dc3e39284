"""A residual network of basic blocks with GroupNorm (BatchNorm would tie a lane's items together)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from raysweep.models.cnn import as_images
from raysweep.models.layout import STAGES, groups_of
from raysweep.models.ops import Conv, conv2d, group_norm, linear
from raysweep.models.taps import recording

__all__ = ["ResNet"]


@dataclass(frozen=True)
class ResNet:
    """Stem; three stages of basic blocks (He et al. 2016, post-activation), stride 2 between; global mean; head.

    Attributes:
        image: (channels, height, width) of an item.
        depth: Blocks per stage.
        output_scale: Multiplies the output weights (mu-P), by way of their input.
        conv: How lanes are convolved; `fused` runs convolution, norm, sum and ReLU in one kernel.
        tf32: Round float32 products to TF32 in `fused`.
    """

    image: tuple[int, int, int]
    depth: int
    output_scale: float = 1.0
    conv: Conv = "loop"
    tf32: bool = False

    def __call__(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Outputs [lanes, n, outputs] of x [lanes, n, inputs]; p: {name: [lanes, ...]}."""
        h = self._unit(p, "stem", "stem.norm", as_images(x, self.image))
        for stage in range(STAGES):
            for block in range(self.depth):
                name = f"stages.{stage}.{block}"
                stride = 2 if stage and not block else 1
                shortcut = h
                if f"{name}.shortcut.weight" in p:
                    shortcut = self._unit(p, f"{name}.shortcut", f"{name}.norm3", h, stride, relu=False)
                h = self._unit(p, f"{name}.conv1", f"{name}.norm1", h, stride)
                h = self._unit(p, f"{name}.conv2", f"{name}.norm2", h, residual=shortcut)
        return linear(h.mean((2, 3)) * self.output_scale, p["head.weight"], p["head.bias"])

    def _unit(
        self,
        p: Mapping[str, Tensor],
        conv: str,
        norm: str,
        x: Tensor,
        stride: int = 1,
        relu: bool = True,
        residual: Tensor | None = None,
    ) -> Tensor:
        """relu(norm(conv(x)) + residual)."""
        weight, gain, bias = p[f"{conv}.weight"], p[f"{norm}.gain"], p[f"{norm}.bias"]
        groups = groups_of(gain.shape[1])
        if self.conv == "fused" and not recording():
            from raysweep.kernels.conv_norm import conv_norm  # Triton, where there is a GPU

            return conv_norm(
                x.contiguous(), weight, gain, bias,
                stride=stride, groups=groups, relu=relu, residual=residual, tf32=self.tf32,
            )  # fmt: skip
        h = group_norm(conv2d(x, weight, stride, self.conv), gain, bias, groups)
        h = h if residual is None else h + residual
        return h.relu() if relu else h
