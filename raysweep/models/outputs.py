"""Transformations of a model's outputs: their change since initialisation, and their scale.

Source: Chizat et al. 2019, arXiv 1812.07956. A wrapper closes over nothing that differs between lanes: it reads such
values from the stacked parameters, so that lanes can leave the stack. What is added to the parameters here is passed to
`training.loop.train` as `frozen`:

    start = initial_parameters(...)
    train(scaled(centred(model)), start, ..., frozen={**initial_values(start), RICHNESS: gamma})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["RICHNESS", "centred", "initial_values", "scaled"]

RICHNESS = "richness"  # the name of [lanes] gamma among the parameters
_INITIAL = "initial."


def initial_values(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """{`initial.` + name: a copy}: what `centred` subtracts the outputs of.

    Args:
        parameters: {name: [lanes, ...]} those that train; frozen ones do not change and need no copy.
    """
    return {f"{_INITIAL}{name}": p.detach().clone() for name, p in parameters.items()}


def centred(model: Model) -> Model:
    """f(x) - f0(x), with f0 the model at `initial_values`: 0 at the start. A second forward pass, without gradient.

    The difference of two rounded numbers: bf16 has too few digits for it, and float32 too few at a small richness.
    """

    def change(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        own = {name: value for name, value in p.items() if not name.startswith(_INITIAL)}
        with torch.no_grad():
            start = model({name: p.get(f"{_INITIAL}{name}", value) for name, value in own.items()}, x)
        return model(own, x) - start

    return change


def scaled(model: Model) -> Model:
    """f(x) / gamma, lane by lane, with gamma the parameter `RICHNESS`: lazy as gamma falls to 0, rich as it grows."""

    def divided(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
        outputs = model(p, x)
        return outputs / p[RICHNESS].to(outputs.dtype)[:, None, None]

    return divided
