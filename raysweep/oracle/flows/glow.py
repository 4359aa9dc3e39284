"""A multiscale flow of images: 1x1 convolutions and affine couplings, conditional on the class.

Source: Kingma and Dhariwal 2018, arXiv 1807.03039. What differs: activation normalisation and 1x1 convolution are one
affine map of each pixel's channels, which starts as a permutation and does not look at data; log-scales are bounded, so
that fresh base samples invert; the class enters every coupling and the base. Log-determinants are sums over all
dimensions. Squeezing, splitting and composition are nflows'.
"""

from __future__ import annotations

import torch
from nflows.transforms import CompositeTransform, MultiscaleCompositeTransform, SqueezeTransform, Transform
from torch import Tensor, nn
from torch.nn.functional import conv2d

from raysweep.errors import OracleError
from raysweep.oracle.flows.block import Block

__all__ = ["ClassBase", "Coupling", "Mixing", "Step", "Unflattened", "glow"]

_BOUND = 2.0  # of log-scales


class Unflattened(Transform):  # type: ignore[misc]
    """Flat images [n, channels * side^2] to [n, channels, side, side]."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.shape = (channels, side, side)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return inputs.unflatten(1, self.shape), inputs.new_zeros(len(inputs))

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return inputs.flatten(1), inputs.new_zeros(len(inputs))


class Mixing(Transform):  # type: ignore[misc]
    """An invertible affine map of each pixel's channels, W (x - b) with W = P L U.

    P is a fixed permutation, L unit lower triangular, and U upper triangular with diagonal exp(a), |a| < 2: the
    log-determinant is the sum of a, and the inverse takes two triangular solves of the size of a pixel.

    Args:
        channels: Of a pixel.
    """

    order: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.scale = nn.Parameter(torch.zeros(channels))
        self.lower = nn.Parameter(torch.zeros(channels, channels))
        self.upper = nn.Parameter(torch.zeros(channels, channels))
        self.register_buffer("order", torch.randperm(channels))

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper, log_scale = self._factors()
        with torch.autocast(inputs.device.type, enabled=False):
            outputs = conv2d(inputs - self.shift[:, None, None], (lower @ upper)[self.order, :, None, None])
        return outputs, self._log_det(log_scale, inputs)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper, log_scale = self._factors()
        turned = torch.eye(len(self.order), dtype=inputs.dtype, device=inputs.device)[:, self.order]
        half = torch.linalg.solve_triangular(lower, turned, upper=False, unitriangular=True)
        weight = torch.linalg.solve_triangular(upper, half, upper=True)
        outputs = conv2d(inputs, weight[:, :, None, None]) + self.shift[:, None, None]
        return outputs, -self._log_det(log_scale, inputs)

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        log_scale = _bounded(self.scale)
        one = torch.eye(len(log_scale), dtype=log_scale.dtype, device=log_scale.device)
        return self.lower.tril(-1) + one, self.upper.triu(1) + log_scale.exp().diag(), log_scale

    @staticmethod
    def _log_det(log_scale: Tensor, pixels: Tensor) -> Tensor:
        return (log_scale.sum() * (pixels.shape[2] * pixels.shape[3])).expand(len(pixels))


class _Residual(nn.Module):
    """Two convolutions beside the identity, at which it starts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor) -> Tensor:
        added: Tensor = self.outer(self.inner(h.relu()).relu())
        return h + added


class Coupling(Transform):  # type: ignore[misc]
    """z = (x - b) exp(-a) of the second half of the channels, with a, b from the first half and the class.

    Args:
        channels: An even number.
        width, layers: Channels and residual blocks of the convolutional net.
        classes: Number of classes; each has a learned vector, added to every pixel's channels in the net.
    """

    def __init__(self, channels: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.read = nn.Conv2d(channels // 2, width, 3, padding=1)
        self.label = nn.Embedding(classes, width)
        self.layers = nn.Sequential(*(_Residual(width) for _ in range(layers)))
        self.write = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)  # type: ignore[arg-type]

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, changed = inputs.chunk(2, 1)
        a, b = self._scale_and_shift(kept, context)
        return torch.cat([kept, (changed - b) * (-a).exp()], 1), -a.flatten(1).sum(1)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, changed = inputs.chunk(2, 1)
        a, b = self._scale_and_shift(kept, context)
        return torch.cat([kept, changed * a.exp() + b], 1), a.flatten(1).sum(1)

    def _scale_and_shift(self, kept: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """In the items' type even where the net computes in bfloat16."""
        h = self.read(kept) + self.label(_classes(context))[:, :, None, None]
        a, b = self.write(self.layers(h).relu()).to(kept.dtype).chunk(2, 1)
        return _bounded(a), b


class Step(Block):
    """Glow's step: mixing of channels, then a coupling."""

    def __init__(self, channels: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.mixing, self.coupling = Mixing(channels), Coupling(channels, width, layers, classes)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mixed, one = self.mixing(inputs)
        outputs, other = self.coupling(mixed, context)
        return outputs, one + other

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mixed, one = self.coupling.inverse(inputs, context)
        outputs, other = self.mixing.inverse(mixed)
        return outputs, one + other


class ClassBase(Transform):  # type: ignore[misc]
    """A diagonal Gaussian per class as the base: z = (u - m_y) exp(-s_y) of flat u [n, dim], |s| < 2."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.mean, self.scale = (nn.Parameter(torch.zeros(classes, dim)) for _ in range(2))

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = _classes(context)
        s = _bounded(self.scale[y])
        return (inputs - self.mean[y]) * (-s).exp(), -s.sum(1)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = _classes(context)
        s = _bounded(self.scale[y])
        return inputs * s.exp() + self.mean[y], s.sum(1)


def _bounded(scale: Tensor) -> Tensor:
    return _BOUND * torch.tanh(scale / _BOUND)


def _classes(context: Tensor | None) -> Tensor:
    if context is None:
        raise OracleError("context: a flow with classes needs those of its items, but got (context=None)")
    return context


def glow(
    channels: int, side: int, levels: int, depth: int, width: int, layers: int, classes: int, seed: int
) -> CompositeTransform:
    """Levels of squeezing and steps; after each but the last, half of the channels leave for the base.

    Maps flat images [n, channels * side^2] to z of the same shape; `context` [n]: classes.

    Args:
        levels: side must be a multiple of 2^levels.
        depth: Steps of a level.
        width, layers: Of each coupling's net.
        seed: Of the initial weights and permutations; the global generator is not changed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole, now, along = MultiscaleCompositeTransform(levels), channels, side
        for _ in range(levels):
            now, along = 4 * now, along // 2
            steps = [Step(now, width, layers, classes) for _ in range(depth)]
            whole.add_transform(CompositeTransform([SqueezeTransform(), *steps]), (now, along, along))
            now //= 2
        dim = channels * side**2
        return CompositeTransform([Unflattened(channels, side), whole, ClassBase(dim, classes)])
