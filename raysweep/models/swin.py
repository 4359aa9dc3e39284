"""A small Swin transformer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from raysweep.models.cnn import as_images
from raysweep.models.layout import STAGES, merging, window_of
from raysweep.models.ops import layer_norm_of, linear_of, merge

__all__ = ["Swin"]


@dataclass(frozen=True)
class Swin:
    """Patches; three stages of pre-norm blocks, 2x2 tokens merged between; norm; mean; head (Liu et al. 2021).

    Tokens attend to those of their window, with a learned bias for each relative position. In every second block of a
    stage, windows are shifted by half their side. Windows are the largest of up to 7 x 7 tokens that divide the grid:
    one window holds a grid of 7 x 7 or less, and is then not shifted. An odd grid keeps its side between stages.

    Attributes:
        image: (channels, height, width) of an item.
        depth: Blocks per stage.
        patch: Side of a patch in pixels.
        heads: Attention heads of the first stage; they double with the width.
        activation: Activation of the blocks' hidden layer; GELU in the source.
        attention_scale: Multiplies queries times keys; None is 1/sqrt(head size). mu-P wants 1/(head size).
        output_scale: Multiplies the output weights (mu-P), by way of their input.
    """

    image: tuple[int, int, int]
    depth: int
    patch: int
    heads: int
    activation: str = "gelu"
    attention_scale: float | None = None
    output_scale: float = 1.0

    def __call__(self, p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Outputs [lanes, n, outputs] of x [lanes, n, inputs]; p: {name: [lanes, ...]}."""
        h = linear_of(p, "stem", merge(as_images(x, self.image), self.patch))
        h = layer_norm_of(p, "stem.norm", h)
        for stage in range(STAGES):
            if stage:
                h = layer_norm_of(p, f"merges.{stage}.norm", merge(h, merging(h.shape[2])))
                h = linear_of(p, f"merges.{stage}", h)
            for block in range(self.depth):
                name = f"stages.{stage}.{block}"
                h = h + self._attention(p, name, layer_norm_of(p, f"{name}.norm1", h), bool(block % 2))
                up = linear_of(p, f"{name}.up", layer_norm_of(p, f"{name}.norm2", h), self.activation)
                h = h + linear_of(p, f"{name}.down", up)
        h = layer_norm_of(p, "norm", h).mean((2, 3))
        return linear_of(p, "head", h * self.output_scale)

    def _attention(self, p: Mapping[str, Tensor], name: str, x: Tensor, shifted: bool) -> Tensor:
        """Attention within windows of x [lanes, n, side, side, width], which are shifted only if there are several."""
        side, width = x.shape[3:]
        window = window_of(side)
        shift = window // 2 if shifted and window < side else 0
        heads = self.heads * width // p["stem.bias"].shape[1]
        # [3, lanes, n, windows, heads, tokens, head size]
        qkv = _windows(linear_of(p, f"{name}.qkv", x.roll((-shift, -shift), (2, 3)) if shift else x), window)
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(4, 0, 1, 2, 5, 3, 6)
        scores = q @ k.transpose(-1, -2) * (self.attention_scale or math.sqrt(heads / width))
        if window > 1:
            bias = _relative(p[f"{name}.relative"].to(x.dtype))[:, None, None]
            scores = scores + (bias + _apart(side, window, shift, x)[:, None] if shift else bias)
        out = (scores.softmax(-1) @ v).transpose(3, 4).flatten(4)
        across = side // window
        squares = out.unflatten(3, (window, window)).unflatten(2, (across, across)).transpose(3, 4)
        out = linear_of(p, f"{name}.proj", squares.flatten(4, 5).flatten(2, 3))
        return out.roll((shift, shift), (2, 3)) if shift else out


def _windows(x: Tensor, side: int) -> Tensor:
    """[lanes, n, windows, side * side, C] of a grid [lanes, n, H, W, C]."""
    squares: Tensor = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return squares.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def _relative(table: Tensor) -> Tensor:
    """[lanes, heads, tokens, tokens] the table's entry at (query's place - key's place + side - 1), row and column.

    Args:
        table: [lanes, heads, 2 * side - 1, 2 * side - 1].
    """
    side = (table.shape[2] + 1) // 2
    each = table.unfold(2, side, 1).unfold(3, side, 1).flip(4, 5)  # views, so that nothing is looked up by an index
    return each.flatten(4, 5).flatten(2, 3)


def _apart(side: int, window: int, shift: int, like: Tensor) -> Tensor:
    """[windows, tokens, tokens] -inf where two tokens of a shifted window are not neighbours in the image, 0 elsewhere.

    It is made on the device, from no numbers of the host, so that it may stand in a captured graph.
    """
    place = torch.arange(side, device=like.device)
    part = (place >= side - window).int() + (place >= side - shift)
    parts = _windows((3 * part[:, None] + part)[None, None, :, :, None], window)[0, 0, :, :, 0]
    apart = parts[:, :, None] != parts[:, None]
    return torch.zeros(apart.shape, dtype=like.dtype, device=like.device).masked_fill(apart, -math.inf)
