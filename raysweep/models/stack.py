"""Parameters of many models of one shape, stacked along a leading lane axis."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raysweep.streams import INIT, uniform

__all__ = ["stacked_parameters"]


def stacked_parameters(module: nn.Module, init_seed: Tensor, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """{name: [lanes, ...]} initial parameters, lane i drawn from init_seed[i] alone.

    Weights and biases of a layer with fan-in f are uniform in +-1/sqrt(f) (torch's default for linear layers),
    drawn in float64 and then rounded, so that precisions start from the same point.

    Args:
        module: The model's shape; its own values are not read. Every parameter belongs to a layer with a `weight`.
        init_seed: [lanes] int64.
    """
    parameters: dict[str, Tensor] = {}
    seeds = init_seed.to(device)
    for index, (name, value) in enumerate(module.named_parameters()):
        layer = module.get_submodule(name.rpartition(".")[0])
        weight = layer.get_parameter("weight")
        bound = 1.0 / weight[0].numel() ** 0.5
        item = torch.arange(value.numel(), device=device)
        draws = uniform(seeds[:, None], INIT, index, item)
        parameters[name] = ((2 * draws - 1) * bound).view(len(seeds), *value.shape).to(dtype)
    return parameters
