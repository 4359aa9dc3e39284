"""The class-conditional flow: one invertible net, and per class a diagonal Gaussian in its latent space.

log f_k(x) = log N(z; m_k, t^2 diag(s^2)) + log|det dz/dx|,  z = T(x)      (Theisen et al. 2021, section 3)

T and s are shared by the classes, so the Jacobian and every quadratic term cancel in Bayes' rule and the posterior
is that of a Gaussian mixture, exact at every latent temperature t. The Bayes error does not fall as t grows.
"""

from __future__ import annotations

import math

import torch
from nflows.transforms import Transform
from torch import Tensor, nn

__all__ = ["ClassFlow"]


class ClassFlow(nn.Module):
    """An invertible net with a class-conditional diagonal Gaussian base.

    Args:
        net: An nflows Transform from x to z.
        dim: Dimensions of x and z.
        log_prior: [classes] log class probabilities, normalised.
    """

    means: Tensor
    log_scale: Tensor
    log_prior: Tensor

    def __init__(self, net: Transform, dim: int, log_prior: Tensor) -> None:
        super().__init__()
        self.net = net
        self.means = nn.Parameter(torch.zeros(len(log_prior), dim))
        self.log_scale = nn.Parameter(torch.zeros(dim))
        self.register_buffer("log_prior", log_prior)

    @property
    def classes(self) -> int:
        return len(self.log_prior)

    @property
    def dim(self) -> int:
        return len(self.log_scale)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean negative log-likelihood of labelled items in nats: the training loss. x [n, dim], y [n]; 0 for n = 0."""
        return -self.log_density(x)[torch.arange(len(x), device=x.device), y].sum() / max(len(x), 1)

    def latent(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z [n, dim] and log|det dz/dx| [n], the same for every class."""
        z, log_det = self.net(x)
        return z, log_det

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """x [n, dim] from z [n, dim], the same for every class."""
        x: Tensor = self.net.inverse(z)[0]
        return x

    def log_density(self, x: Tensor, temperature: float = 1.0) -> Tensor:
        """[n, classes] log f_k(x)."""
        z, log_det = self.latent(x)
        scale = self.log_scale.exp() * temperature
        u = (z[:, None, :] - self.means) / scale
        const = 0.5 * self.dim * math.log(2 * math.pi) + scale.log().sum()
        return -0.5 * u.square().sum(-1) - const + log_det[:, None]

    def log_posterior(
        self, x: Tensor, temperature: float = 1.0, offset: Tensor | None = None, log_prior: Tensor | None = None
    ) -> Tensor:
        """[n, classes] log p(k | x) = log_softmax(log w_k - |z - m_k|^2_S / (2 t^2)); no Jacobian enters.

        Args:
            offset: [dim] by which all class means are moved, in units of the scale at temperature 1.
            log_prior: [classes] in place of the flow's own.
        """
        z, _ = self.latent(x)
        if offset is not None:
            z = z - offset * self.log_scale.exp()
        scale = self.log_scale.exp() * temperature
        u, m = z / scale, self.means / scale
        score = u @ m.T - 0.5 * m.square().sum(-1)  # |u|^2 is common to the classes
        return torch.log_softmax((self.log_prior if log_prior is None else log_prior) + score, dim=-1)

    def generate(self, y: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """[n, dim] items of classes y [n] from standard normal noise [n, dim]."""
        return self.inverse(self.means[y] + noise * self.log_scale.exp() * temperature)

    def labels(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """[n] labels of items of classes y [n]: the classes."""
        return y
