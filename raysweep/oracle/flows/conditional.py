"""A flow that is conditional on the class as a world's density: Bayes' rule needs one pass per class.

log f_k(x) = log N(z; 0, t^2 I) + log|det dz/dx|,  z = T_k(x);   p(k | x) = softmax_k(log w_k + log f_k(x))
(arXiv 2602.00315, equations 1 and 2). Labels may pass through a channel that confuses classes with known chances:
p(label j | x) = sum_k M_kj p(k | x), which is exact too. It makes classes overlap by a stated amount.
"""

from __future__ import annotations

import math

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import Transform
from torch import Tensor

__all__ = ["ConditionalFlow", "symmetric_channel"]

_ITEMS, _NUMBERS = 1 << 11, 1 << 22  # sequences in a pass, and numbers in them: some GiB of activations at most


class ConditionalFlow(Flow):  # type: ignore[misc]
    """An nflows Flow whose context is the class.

    Args:
        transform: From items to z, given classes as context.
        shape: Of an item's z.
        log_prior: [classes] log class probabilities, normalised.
        channel: [classes, classes] chances of each label (columns) for each class (rows); None: labels are classes.

    Attributes:
        at_once: Items, or items times classes, in a pass of `generate` or `log_density`. Memory bounds it.
    """

    log_prior: Tensor
    channel: Tensor | None

    def __init__(
        self, transform: Transform, shape: tuple[int, ...], log_prior: Tensor, channel: Tensor | None = None
    ) -> None:
        super().__init__(transform, StandardNormal(shape))
        self.shape = shape
        self.at_once = max(1, min(_ITEMS, _NUMBERS // self.dim))
        self.register_buffer("log_prior", log_prior)
        self.register_buffer("channel", channel)

    @property
    def classes(self) -> int:
        return len(self.log_prior)

    @property
    def dim(self) -> int:
        return math.prod(self.shape)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean negative log-likelihood in nats of items given their classes: the training loss; 0 for no items."""
        total: Tensor = self.log_prob(x, y).sum()
        return -total / max(len(x), 1)

    def latent(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """z [n, dim] of items of classes y, and log|det dz/dx| [n]."""
        z, log_det = self._transform(x, y)
        return z.flatten(1), log_det

    def inverse(self, z: Tensor, y: Tensor) -> Tensor:
        """Items x [n, dim] from z [n, dim] and classes y [n]."""
        x: Tensor = self._transform.inverse(z.unflatten(1, self.shape), y)[0]
        return x.flatten(1)

    def log_density(self, x: Tensor, temperature: float = 1.0, offset: Tensor | None = None) -> Tensor:
        """[n, classes] log f_k(x), a bounded number of items and classes at a time.

        Args:
            offset: [dim] the mean of z, 0 if not given.
        """
        size = max(1, self.at_once // self.classes)
        return torch.cat([self._log_density(part, temperature, offset) for part in x.split(size)])

    def _log_density(self, x: Tensor, temperature: float, offset: Tensor | None) -> Tensor:
        labels = torch.arange(self.classes, device=x.device)
        const = 0.5 * self.dim * math.log(2 * math.pi) + self.dim * math.log(temperature)
        found = []
        for part in labels.split(self.at_once):
            z, log_det = self.latent(x.repeat_interleave(len(part), 0), part.repeat(len(x)))
            moved = z.double() if offset is None else z.double() - offset
            energy = 0.5 * (moved / temperature).square().sum(1)
            found.append((log_det.double() - energy - const).unflatten(0, (len(x), len(part))))
        return torch.cat(found, 1)

    def log_posterior(
        self, x: Tensor, temperature: float = 1.0, offset: Tensor | None = None, log_prior: Tensor | None = None
    ) -> Tensor:
        """[n, classes] log p(label | x), in float64.

        Args:
            offset: See `log_density`.
            log_prior: [classes] in place of the flow's own.
        """
        prior = (self.log_prior if log_prior is None else log_prior).double()
        log_r = torch.log_softmax(prior + self.log_density(x, temperature, offset), dim=-1)
        return log_r if self.channel is None else (log_r.exp() @ self.channel.double()).log()

    def generate(self, y: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """[n, dim] items of classes y [n] from standard normal noise [n, dim], a bounded number at a time."""
        parts = zip(noise.split(self.at_once), y.split(self.at_once), strict=True)
        return torch.cat([self.inverse(z * temperature, k) for z, k in parts])

    def labels(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """[n] labels of items of classes y [n], drawn from the channel."""
        if self.channel is None:
            return y
        return torch.multinomial(self.channel.to(y.device)[y], 1, generator=generator)[:, 0]


def symmetric_channel(classes: int, confusion: float) -> Tensor:
    """[classes, classes] chances of labels: another class than the own with chance `confusion`, all others alike."""
    other = confusion / max(classes - 1, 1)
    return torch.full((classes, classes), other, dtype=torch.float64).fill_diagonal_(1 - confusion)
