"""Losses and errors of a stack of networks, with and without attacks, and measures of their complexity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raysweep.experiments.double_descent import MOST_ITEMS
from raysweep.metrics.attacks import fgsm, flipped, pgd
from raysweep.metrics.complexity import complexity
from raysweep.training.batches import Batches
from raysweep.training.loss import Loss
from raysweep.training.optim import Parameters

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["Scores"]

Array: TypeAlias = npt.NDArray[np.float64]
Part: TypeAlias = tuple[Tensor, Tensor]  # x [lanes, some items, inputs], targets [lanes, some items, classes]

_MOST = 1024  # items in a forward pass


@dataclass(frozen=True)
class Scores:
    """What is measured on some lanes.

    Attributes:
        model: The stacked network.
        loss: Of outputs and classes.
        signs: The same loss of one output and its sign, -1 or 1, where there is one output for two classes.
        batches: Of all lanes, with their noisy labels.
        tests: [seeds, items] places in the pool of the items to test on.
        compute: Type of the activations.
    """

    model: Model
    loss: Loss
    signs: Loss | None
    batches: Batches
    tests: Tensor
    compute: torch.dtype

    def trained(self, own: Parameters, lanes: Tensor) -> tuple[Array, Array]:
        """Loss and error of some lanes on their training items and noisy labels, [lanes] each.

        Args:
            own: {name: [lanes, ...]} their parameters.
            lanes: [lanes] their positions in the pack.
        """
        found = np.empty((2, len(lanes)))
        sizes = self.batches.n[lanes]
        for size in sizes.unique().tolist():
            here = torch.nonzero(sizes == size)[:, 0]
            some = self.batches.take(lanes[here])
            parts = (some.items(i, min(i + _MOST, size)) for i in range(0, size, _MOST))
            found[:, here.cpu().numpy()] = self._rated({name: p[here] for name, p in own.items()}, parts)
        return found[0], found[1]

    def tested(
        self, own: Parameters, lanes: Tensor, moved: Callable[[Tensor, Tensor, int], Tensor] | None = None
    ) -> tuple[Array, Array]:
        """Loss and error on new items without label noise.

        Args:
            moved: (x, targets, number of the first item) -> the inputs in their place.
        """

        def parts() -> Iterator[Part]:
            for start in range(0, self.tests.shape[1], _MOST):
                x, targets = self._new(lanes, start)
                yield (x if moved is None else moved(x, targets, start)), targets

        return self._rated(own, parts())

    def attacked(self, own: Parameters, lanes: Tensor, eps: float, steps: int) -> dict[str, Array]:
        """Errors under FGSM, and under PGD of so many steps; the model must have gradients by its inputs."""
        one = self.tested(own, lanes, lambda x, y, _: fgsm(self.model, own, x, y, eps, loss=self.loss))
        many = self.tested(own, lanes, lambda x, y, _: pgd(self.model, own, x, y, eps, steps, loss=self.loss))
        return {"fgsm_error": one[1], "pgd_error": many[1]}

    def flipped(self, own: Parameters, lanes: Tensor, share: float) -> Array:
        """Error on new items, each of whose inputs changes its sign with this chance."""

        seed = self.batches.data_seed[lanes]
        return self.tested(own, lanes, lambda x, _, start: flipped(x, share, seed, first=start))[1]

    def complexity(self, own: Parameters, initial: Parameters, lanes: Tensor) -> dict[str, Array]:
        """Measures of complexity, on the first training items; the model must not be fused.

        Args:
            initial: {name: [lanes, ...]} their initial parameters.
        """
        found: dict[str, Array] = {}
        sizes = self.batches.n[lanes].clamp(max=MOST_ITEMS)
        for size in sizes.unique().tolist():
            here = torch.nonzero(sizes == size)[:, 0]
            x, targets = self.batches.take(lanes[here]).items(0, size)
            one, first = ({name: p[here] for name, p in group.items()} for group in (own, initial))
            if self.signs is not None:
                targets = targets[..., 1:] - targets[..., :1]
            for name, value in complexity(self.model, one, first, x, targets, self.signs or self.loss).items():
                found.setdefault(name, np.full(len(lanes), np.nan))[here.cpu().numpy()] = value.cpu().numpy()
        return found

    def _new(self, lanes: Tensor, start: int) -> Part:
        """New items of each lane, from this number on."""
        batches = self.batches
        row = self.tests[batches.seed_row[lanes], start : start + _MOST] + batches.pool_offset[lanes, None]
        return batches.x[row].to(self.compute), batches.targets[row]

    @torch.no_grad()
    def _rated(self, own: Parameters, parts: Iterator[Part]) -> tuple[Array, Array]:
        sums, items = [], 0
        for x, targets in parts:
            outputs = self.model(own, x.to(self.compute))
            value, _ = self.loss.value_and_gradient(outputs, targets)
            missed = (_classes(outputs) != targets.argmax(-1)).double().sum(1)
            sums.append(torch.stack([value.double() * x.shape[1], missed]))
            items += x.shape[1]
        loss, error = (torch.stack(sums).sum(0) / items).cpu().numpy()
        return loss, error


def _classes(outputs: Tensor) -> Tensor:
    return outputs.argmax(-1) if outputs.shape[-1] > 1 else (outputs[..., 0] >= 0).long()
