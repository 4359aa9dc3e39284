"""nflows' stock Glow, as stock code trains it: eager, unconditional, levels of steps of its own parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from nflows import distributions, flows, nn, transforms
from torch import Tensor

from raysweep.data import channels_and_side
from raysweep.oracle import likelihood
from raysweep.oracle.image_flow import ImageRecipe

__all__ = ["HIDDEN", "LAYERS", "LEVELS", "STEPS", "Rival"]

LEVELS, STEPS, HIDDEN, LAYERS = 3, 8, 96, 3


def glow(channels: int, side: int, levels: int) -> flows.Flow:
    """Levels of squeezing, then steps of activation norm, 1x1 convolution and affine coupling."""
    whole = transforms.MultiscaleCompositeTransform(num_transforms=levels)
    shape: Any = (channels, side, side)
    for _ in range(levels):
        squeezed = transforms.SqueezeTransform()
        c, h, w = squeezed.get_output_shape(*shape)
        mask = torch.ones(c)
        mask[::2] = -1

        def net(i: int, o: int) -> Any:
            return nn.nets.ConvResidualNet(in_channels=i, out_channels=o, hidden_channels=HIDDEN, num_blocks=LAYERS)

        step = [
            transforms.CompositeTransform(
                [
                    transforms.ActNorm(c),
                    transforms.OneByOneConvolution(c),
                    transforms.AffineCouplingTransform(mask=mask, transform_net_create_fn=net),
                ]
            )
            for _ in range(STEPS)
        ]
        level = transforms.CompositeTransform([squeezed, *step, transforms.OneByOneConvolution(c)])
        new = whole.add_transform(level, (c, h, w))
        shape = new or shape
    return flows.Flow(whole, distributions.StandardNormal((channels * side**2,)))


class Rival:
    """The Glow in training; a call takes one step."""

    def __init__(self, own: ImageRecipe, device: str) -> None:
        self.images = likelihood._Images.of(own, False, device)
        self.shape = channels_and_side(self.images.x.shape[1])
        self.flow = glow(*self.shape, LEVELS).to(device)
        self.optimiser = torch.optim.Adam(self.flow.parameters(), lr=5e-4)
        self.batches: Iterator[tuple[Tensor, Tensor]] = self.images.batches(0, 10**7, 0, 1)

    def log_prob(self, x: Tensor, _: Tensor | None = None) -> Tensor:
        """[n], of flat images; their classes are of no use to it."""
        found: Tensor = self.flow.log_prob(x.view(len(x), self.shape[0], self.shape[1], self.shape[1]))
        return found

    def __call__(self) -> None:
        x, _ = next(self.batches)
        self.optimiser.zero_grad(set_to_none=True)
        loss = -self.log_prob(x).mean() / x.shape[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.flow.parameters(), 1.0)
        self.optimiser.step()
