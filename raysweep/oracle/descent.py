"""Updates of a flow in training: weights by AdamW, and their moving average."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from raysweep.oracle.image_flow import ImageRecipe
from raysweep.training.graph import Repeated

__all__ = ["Descent"]

_BETAS, _CLIP = (0.9, 0.95), 1.0  # the loss is in nats per dimension


class Descent:
    """A flow in training. An update never waits for the device; on one GPU it is captured as a graph, because a small
    flow's thousand kernels would take longer to launch than to run.

    Args:
        flow: The flow, whose blocks are compiled or not.
        average: A copy of it that follows.
        world: Workers that train it.

    Attributes:
        model: The flow; set it to what wraps it for data-parallel training, whose updates are not captured.
        optimiser: AdamW, fused; its rate is a tensor.
        total: [] sum over updates of the mean loss of this worker's items, in nats per image; may be zeroed.
    """

    def __init__(self, recipe: ImageRecipe, flow: nn.Module, average: nn.Module, world: int) -> None:
        self.recipe, self.flow, self.average, self.world = recipe, flow, average, world
        self.model = flow
        some = next(flow.parameters())
        self.device = some.device
        self.total = torch.zeros((), device=self.device)
        self.optimiser = torch.optim.AdamW(
            flow.parameters(),
            lr=torch.tensor(recipe.lr, device=self.device),
            betas=_BETAS,
            weight_decay=recipe.weight_decay,
            fused=True,
            capturable=self.device.type == "cuda",
        )
        self._weight = torch.zeros((), device=self.device)  # of the new weights in the average
        self._x, self._y = torch.empty(0), torch.empty(0)
        self._step: Repeated | None = None

    def __call__(self, step: int, rate: float, x: Tensor, y: Tensor) -> None:
        """Take an update.

        Args:
            step: Updates before it; the average's window at first grows with them: the start is soon forgotten.
            rate: The learning rate.
            x, y: [n, dim] and [n] this worker's share of the batch; n is the same in every update.
        """
        for group in self.optimiser.param_groups:
            group["lr"].fill_(rate)
        self._weight.fill_(1 - min(self.recipe.ema, (1 + step) / (10 + step)))
        if len(self._x) != len(x):
            self._x, self._y = torch.empty_like(x), torch.empty_like(y)
        self._x.copy_(x)
        self._y.copy_(y)
        if self._step is None:
            captured = self.device.type == "cuda" and self.model is self.flow
            self._step = Repeated(self._update, str(self.device) if captured else "cpu")
        self._step(1)

    def _update(self) -> None:
        """One update of all weights and of the average, from the batch that is there."""
        recipe, x, y = self.recipe, self._x, self._y
        parts = list(zip(x.chunk(recipe.accumulate), y.chunk(recipe.accumulate), strict=True))
        self.optimiser.zero_grad(set_to_none=True)
        for i, (some, labels) in enumerate(parts):
            later = i + 1 < len(parts) and hasattr(self.model, "no_sync")
            with self.model.no_sync() if later else contextlib.nullcontext():  # type: ignore[operator]
                # A cache of casts would outlive the capture of a graph.
                bf16 = recipe.precision == "bf16"
                with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
                    nll = self.model(some, labels)
                # Wrapping averages over ranks, whose shares may differ by an image; so weighted, that is the batch's
                # mean.
                (nll * (len(some) * self.world / recipe.batch / x.shape[1])).backward()
            self.total += nll.detach() * (len(some) / max(len(x), 1))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self.optimiser.step()
        self._follow()

    @torch.no_grad()
    def _follow(self) -> None:
        own: list[Tensor] = list(self.average.parameters())
        new: list[Tensor] = list(self.flow.parameters())
        apart = list(torch._foreach_sub(new, own))
        torch._foreach_mul_(apart, self._weight)
        torch._foreach_add_(own, apart)
