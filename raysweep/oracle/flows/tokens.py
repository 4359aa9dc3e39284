"""Images as sequences of patches, and sequences read backwards: transforms that move numbers and change no volume."""

from __future__ import annotations

from nflows.transforms import Transform
from torch import Tensor

__all__ = ["Patches", "Reversed"]


class Patches(Transform):  # type: ignore[misc]
    """Flat images [n, channels * side * side] to tokens [n, (side / patch)^2, channels * patch^2], row by row.

    Args:
        channels, side: Of the images.
        patch: Side of a patch.

    Raises:
        ValueError: patches do not tile the image.
    """

    def __init__(self, channels: int, side: int, patch: int) -> None:
        super().__init__()
        if side % patch:
            raise ValueError(f"patch: must divide the side of the images, but got (patch={patch}, side={side})")
        self.channels, self.along, self.patch = channels, side // patch, patch

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        grid = (self.channels, self.along, self.patch, self.along, self.patch)
        tokens = inputs.unflatten(1, grid).permute(0, 2, 4, 1, 3, 5)
        return tokens.flatten(3).flatten(1, 2), inputs.new_zeros(len(inputs))

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        grid = inputs.unflatten(2, (self.channels, self.patch, self.patch)).unflatten(1, (self.along, self.along))
        return grid.permute(0, 3, 1, 4, 2, 5).flatten(1), inputs.new_zeros(len(inputs))


class Reversed(Transform):  # type: ignore[misc]
    """A transform of sequences [n, tokens, ...] that sees them, and returns them, from the last token to the first."""

    def __init__(self, inner: Transform) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        outputs, log_det = self.inner(inputs.flip(1), context)
        return outputs.flip(1), log_det

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        outputs, log_det = self.inner.inverse(inputs.flip(1), context)
        return outputs.flip(1), log_det
