"""A step that several workers take together: each computes its part of the gradient, and one collective adds the parts.

On a GPU both halves of a step are captured graphs, and the collective between them is an ordinary call: it works with
every version of NCCL, and costs one more launch per step than a capture of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from raysweep.experiment import Share
from raysweep.training.graph import Repeated

__all__ = ["Together"]


class Together:
    """A step in two halves, called many times.

    Args:
        share: This worker's part.
        parts: Returns the losses [lanes] and the gradients of this worker's items, as parts of those of the batch.
        move: Called with their sums over all workers; the gradients may be overwritten.
        parameters: The tensors that the gradients belong to.
        lanes: Number of lanes.
    """

    def __init__(
        self,
        share: Share,
        parts: Callable[[], tuple[Tensor, Sequence[Tensor]]],
        move: Callable[[Tensor, Sequence[Tensor]], None],
        parameters: Sequence[Tensor],
        lanes: int,
    ) -> None:
        first = parameters[0]
        self._share, self._parts = share, parts
        self._bucket = torch.zeros(sum(p.numel() for p in parameters) + lanes, dtype=first.dtype, device=first.device)
        sizes = [*(p.numel() for p in parameters), lanes]
        *gradients, self._loss = self._bucket.split(sizes)
        self._gradients = [g.view(p.shape) for g, p in zip(gradients, parameters, strict=True)]
        self._before = Repeated(self._fill, str(first.device), beside=True)
        self._after = Repeated(lambda: move(self._loss, self._gradients), str(first.device), beside=True)

    def __call__(self, times: int) -> None:
        """Take this many steps."""
        for _ in range(times):
            self._before(1)
            self._share.add(self._bucket)
            self._after(1)

    def _fill(self) -> None:
        loss, gradients = self._parts()
        self._loss.copy_(loss)
        for place, gradient in zip(self._gradients, gradients, strict=True):
            place.copy_(gradient)
