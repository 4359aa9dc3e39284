"""Networks in mean-field scaling, in which richness and width are independent: initial values and learning rates.

Source: arXiv 2409.17858, section 6, and Yang & Hu 2021 (arXiv 2011.14522). It is mu-P from a base width of 1 with
Gaussian weights of unit variance and without biases: h = (1/N) w . phi(... W x / sqrt(d)), and f = (h - h0) / gamma.
Trained by SGD at the rate eta gamma^2 times `rates`, f moves by eta K (y - f) in a step, with a kernel K at the start
that depends on neither the width nor gamma. Activations are divided by the root of their second moment, by way of the
weights they feed: their second moment is 1 in every layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from raysweep.models.architecture import Architecture
from raysweep.models.layout import Parameter
from raysweep.models.ops import activate
from raysweep.streams import INIT, normal

__all__ = ["MeanField", "second_moment"]


@dataclass(frozen=True)
class MeanField:
    """The scaling of an architecture.

    Attributes:
        own: The architecture; its base width is not read.
    """

    own: Architecture

    @cached_property
    def architecture(self) -> Architecture:
        """The architecture, whose model has the right output scale."""
        return replace(self.own, base_width=1)

    def start(self, seed: Tensor, dtype: torch.dtype, device: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """({name: [lanes, ...]} parameters that train, {name: [lanes, ...]} biases, which stay 0).

        Args:
            seed: [lanes] int64.
        """
        seeds, bounds = seed.to(device), self.architecture.bounds()
        trained, fixed = {}, {}
        for index, p in enumerate(self.architecture.layout.parameters):
            shape = (len(seeds), *p.shape)
            if p.is_bias:
                fixed[p.name] = torch.zeros(shape, dtype=dtype, device=device)
            elif p.constant is not None:
                trained[p.name] = torch.full(shape, p.constant, dtype=dtype, device=device)
            else:
                item, spread = torch.arange(p.size, device=device), bounds[p.name] * self._gain(p)
                each = [normal(one, INIT, index, item).mul_(spread).to(dtype) for one in seeds]
                trained[p.name] = torch.stack(each).view(shape)
        return trained, fixed

    def rates(self, adaptive: bool) -> dict[str, float]:
        """{name: factor on the learning rate}, of Adam if `adaptive`, else of SGD."""
        factors = self.architecture.rates(adaptive)
        found = {}
        for p in self.architecture.layout.parameters:
            if not p.is_bias:
                gain = self._gain(p) if p.start == "uniform" else 1.0
                first = p.fan_in if p.first else 1.0
                found[p.name] = factors[p.name] * (gain / math.sqrt(first) if adaptive else gain**2 / first)
        return found

    def _gain(self, p: Parameter) -> float:
        """What makes up for the second moment of the activation that a weight is fed by."""
        return 1.0 if p.first else second_moment(self.own.activation) ** -0.5


@cache
def second_moment(activation: str) -> float:
    """E f(z)^2 of a standard normal z."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    values = activate(torch.from_numpy(nodes), activation).square().numpy()
    return float(weights @ values / weights.sum())
