"""Initial parameters of many models of one shape, stacked along a leading lane axis."""

from __future__ import annotations

import torch
from torch import Tensor

from raysweep.models.architecture import Architecture
from raysweep.streams import INIT, normal, uniform

__all__ = ["he_parameters", "initial_parameters"]


def initial_parameters(
    architecture: Architecture, init_seed: Tensor, dtype: torch.dtype, device: str
) -> dict[str, Tensor]:
    """{name: [lanes, ...]} initial parameters, lane i drawn from init_seed[i] alone.

    Drawn in float64 and then rounded, so that precisions start from the same point.

    Args:
        architecture: The models' shape.
        init_seed: [lanes] int64.
    """
    bounds = architecture.bounds()
    seeds = init_seed.to(device)
    parameters: dict[str, Tensor] = {}
    for index, p in enumerate(architecture.layout.parameters):
        shape = (len(seeds), *p.shape)
        if p.constant is not None:
            parameters[p.name] = torch.full(shape, p.constant, dtype=dtype, device=device)
            continue
        item = torch.arange(p.size, device=device)
        values = torch.empty(shape, dtype=dtype, device=device)
        # In slices: 64-bit words of a large stack would take a multiple of its memory.
        for lanes in torch.split(torch.arange(len(seeds)), max(1, 2**24 // p.size)):
            draws = uniform(seeds[lanes, None], INIT, index, item)
            values[lanes] = ((2 * draws - 1) * bounds[p.name]).view(-1, *p.shape).to(dtype)
        parameters[p.name] = values
    return parameters


def he_parameters(
    architecture: Architecture, init_seed: Tensor, dtype: torch.dtype, device: str, scale: Tensor
) -> dict[str, Tensor]:
    """{name: [lanes, ...]} initial parameters by He et al. 2015: weights N(0, 2 / fan_in), biases 0, gains 1.

    Args:
        architecture: The models' shape.
        init_seed: [lanes] int64.
        scale: [lanes] each lane's weights are multiplied by it.
    """
    seeds, scale = init_seed.to(device), scale.to(device)
    parameters: dict[str, Tensor] = {}
    for index, p in enumerate(architecture.layout.parameters):
        values = torch.full((len(seeds), *p.shape), p.constant or 0.0, dtype=dtype, device=device)
        if p.constant is None and not p.is_bias:
            item = torch.arange(p.size, device=device)
            for lanes in torch.split(torch.arange(len(seeds), device=device), max(1, 2**24 // p.size)):
                spread = scale[lanes, None] * (2 / p.fan_in) ** 0.5
                draws = normal(seeds[lanes, None], INIT, index, item).to(dtype) * spread
                values[lanes] = draws.view(-1, *p.shape).to(dtype)
        parameters[p.name] = values
    return parameters
