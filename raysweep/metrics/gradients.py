"""How strongly a network reacts to its inputs: gradients of its loss and of its outputs with respect to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raysweep.metrics.attacks import checked_targets
from raysweep.metrics.passes import lanes_of, passes
from raysweep.streams import COMPLEXITY, bits
from raysweep.training.loss import CROSS_ENTROPY, Loss

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["input_gradients"]

_SIGNS = 2  # use of the seed, after those of `metrics.sharpness`


def input_gradients(
    model: Model,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    targets: Tensor,
    loss: Loss = CROSS_ENTROPY,
    *,
    projections: int | None = None,
    seed: int = 0,
    chunk: int | None = None,
) -> dict[str, Tensor]:
    """Mean norms, over the items, of gradients with respect to the inputs.

    Args:
        model, parameters, x, targets, loss: As for `metrics.sharpness.sharpness`.
        projections: Estimate the Jacobian's squared norm of each item by this many random signs (Hutchinson 1990), in
            place of one backward pass per output. The mean of the roots is then low by about their relative variance
            over 8.
        seed: Of the signs.
        chunk: Most items in a pass, over all lanes.

    Returns:
        {name: [lanes]} in float64:

        * `input_gradient`: the mean Euclidean norm of the gradient of an item's loss with respect to its inputs.
        * `jacobian_norm`: the mean Frobenius norm of the Jacobian of the outputs with respect to the inputs (Novak et
          al. 2018, arXiv 1802.08760, equation 1, who take class probabilities; here, the outputs as they are).
    """
    lanes, n = lanes_of(parameters), x.shape[-2]
    slopes, sizes = torch.zeros(2, lanes, dtype=torch.float64, device=x.device)
    for part in passes(lanes, x, targets, chunk):
        with torch.enable_grad():
            seen = part.x.detach().requires_grad_()
            outputs = model(part.of(parameters), seen)
        with torch.no_grad():
            # The loss is a mean over these items, and each item's own gradient is wanted.
            _, downstream = loss.value_and_gradient(outputs.double(), checked_targets(part.targets, outputs).double())
            ways = [downstream * outputs.shape[1], *_ways(outputs, projections, seed, part.items.start)]
        squares = []
        for way in ways:
            (gradient,) = torch.autograd.grad(outputs, seen, way.to(outputs.dtype), retain_graph=True)
            squares.append(gradient.double().square().sum(2))
        slopes[part.lanes] += squares[0].sqrt().sum(1)
        sizes[part.lanes] += (torch.stack(squares[1:]).sum(0) / (projections or 1)).sqrt().sum(1)
    return {"input_gradient": slopes / n, "jacobian_norm": sizes / n}


def _ways(outputs: Tensor, projections: int | None, seed: int, first: int) -> list[Tensor]:
    """Directions of the outputs: each by itself, or random signs, the same for all lanes."""
    _, n, count = outputs.shape
    if projections is None:
        return [one.expand_as(outputs) for one in torch.eye(count, device=outputs.device)]
    key, device = torch.tensor(seed, device=outputs.device), outputs.device
    item, output = torch.arange(first, first + n, device=device)[:, None], torch.arange(count, device=device)
    return [
        (1 - 2 * (bits(key, COMPLEXITY, _SIGNS, draw, item, output) & 1)).expand_as(outputs)
        for draw in range(projections)
    ]
