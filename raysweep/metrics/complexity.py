"""Measures of a trained network's complexity, which may predict how well it generalises; batched over lanes.

After Jiang et al. 2019 ("Fantastic generalization measures and where to find them", arXiv 1912.02178): norms of the
weights, margins, the sharpness of the training loss, gradients with respect to the inputs. Each family is a function of
its own; `complexity` returns all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raysweep.metrics.attacks import checked_targets
from raysweep.metrics.gradients import input_gradients
from raysweep.metrics.norms import norms
from raysweep.metrics.passes import lanes_of, passes
from raysweep.metrics.sharpness import sharpness
from raysweep.training.loss import CROSS_ENTROPY, Loss

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["complexity", "margin"]

_LOW = 0.1  # share of items below the margin (Jiang et al. 2019)
_OVER = ("frobenius_product", "spectral_product", "spectral_complexity", "path_norm")


def complexity(
    model: Model,
    parameters: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    x: Tensor,
    targets: Tensor,
    loss: Loss = CROSS_ENTROPY,
    *,
    projections: int | None = None,
    seed: int = 0,
    chunk: int | None = None,
) -> dict[str, Tensor]:
    """All measures of complexity.

    Args:
        model: (parameters, x [lanes, n, d]) -> outputs [lanes, n, outputs].
        parameters: {name: [lanes, ...]} after training.
        initial: The same before training; parameters without an initial value did not train: they are in no norm, and
            no measure of sharpness changes them.
        x: [lanes, n, d], or [n, d] where lanes share the items: the training set, or a part of it.
        targets: Classes, [n] or [lanes, n] integers; or targets as the loss takes them, [n, outputs] or
            [lanes, n, outputs].
        loss: The training loss.
        projections: See `metrics.gradients.input_gradients`.
        seed: Of random directions, which all lanes share.
        chunk: Most items in a pass, over all lanes. It bounds the memory and changes results by rounding only.

    Returns:
        {name: [lanes]} in float64: those of `metrics.norms.norms` (no `path_norm` but for multi-layer perceptrons),
        `metrics.sharpness.sharpness` and `metrics.gradients.input_gradients`; `margin`, and the products of norms and
        the path norm over it, e.g. `spectral_complexity_over_margin`. These are NaN for a lane whose margin is not
        positive, and absent for targets of one output that are not all -1 or 1, which have no margin.

    Raises:
        MetricError: Classes are given for a model of one output, or are none of its outputs; there are no items; or
            `initial` is empty or has other names than the parameters.
    """
    found = norms(parameters, initial)
    if targets.is_floating_point() and targets.shape[-1] == 1 and not (targets.abs() == 1).all():
        margins = {}
    else:
        between = margin(model, parameters, x, targets, chunk)
        over = torch.where(between > 0, between, torch.nan)
        margins = {"margin": between} | {f"{name}_over_margin": found[name] / over for name in _OVER if name in found}
    sharp = sharpness(model, parameters, x, targets, loss, trained=initial, seed=seed, chunk=chunk)
    slopes = input_gradients(model, parameters, x, targets, loss, projections=projections, seed=seed, chunk=chunk)
    return {**found, **margins, **sharp, **slopes}


@torch.no_grad()
def margin(
    model: Model, parameters: Mapping[str, Tensor], x: Tensor, targets: Tensor, chunk: int | None = None
) -> Tensor:
    """[lanes] float64: the margin that nine tenths of the items reach (Jiang et al. 2019, section 5).

    An item's margin is the output of its class (the largest target) minus the largest other output; for one output, the
    output times its target.

    Args:
        model, parameters, x, targets, chunk: As for `complexity`.
    """
    lanes = lanes_of(parameters)
    found = torch.empty(lanes, x.shape[-2], dtype=torch.float64, device=x.device)
    for part in passes(lanes, x, targets, chunk):
        outputs = model(part.of(parameters), part.x).double()
        wanted = checked_targets(part.targets, outputs)
        if outputs.shape[-1] == 1:
            margins = (outputs * wanted)[..., 0]
        else:
            own = wanted.argmax(-1, keepdim=True)
            margins = outputs.gather(-1, own)[..., 0] - outputs.scatter(-1, own, -torch.inf).amax(-1)
        found[part.lanes, part.items] = margins
    return found.kthvalue(max(1, round(_LOW * found.shape[1])), 1).values
