"""The class-conditional flow: one invertible net, and per class a diagonal Gaussian in its latent space.

log f_k(x) = log N(z; m_k, t^2 diag(s^2)) + log|det dz/dx|,  z = T(x)      (Theisen et al. 2021, section 3)

T and s are shared by the classes, so the Jacobian and every quadratic term cancel in Bayes' rule and the posterior
is that of a Gaussian mixture, exact at every latent temperature t. The Bayes error does not fall as t grows.
"""

from __future__ import annotations

import math

import torch
from nflows.nn.nets import ResidualNet
from nflows.transforms import AffineCouplingTransform, CompositeTransform, RandomPermutation, Transform
from torch import Tensor, nn

__all__ = ["ClassFlow", "coupling_net"]


class _BoundedNet(ResidualNet):  # type: ignore[misc]
    """Scale parameters and shifts in (-1, 1), whatever the weights: no tails that a float32 item could not hold."""

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.tanh(super().forward(inputs, context))


def coupling_net(dim: int, layers: int, hidden: int, blocks: int, seed: int, bounded: bool = False) -> Transform:
    """Random permutations and affine couplings whose scale is bounded, so that fresh base samples invert.

    Args:
        dim: Dimensions, at least 2.
        layers: Couplings; each transforms every other feature.
        hidden, blocks: Width and residual blocks of a coupling's net.
        seed: Seed of the permutations and initial weights; the global generator is not changed.
        bounded: Whether to bound the shifts too, for weights that are drawn, not trained.
    """
    mask = torch.arange(dim) % 2
    kind = _BoundedNet if bounded else ResidualNet

    def net(inputs: int, outputs: int) -> ResidualNet:
        return kind(inputs, outputs, hidden_features=hidden, num_blocks=blocks)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: list[Transform] = []
        for _ in range(layers):
            parts += [RandomPermutation(dim), AffineCouplingTransform(mask, net)]
    return CompositeTransform(parts)


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

    def latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z [n, dim] and log|det dz/dx| [n]."""
        z, log_det = self.net(x)
        return z, log_det

    def log_density(self, x: Tensor, temperature: float = 1.0) -> Tensor:
        """[n, classes] log f_k(x)."""
        z, log_det = self.latent(x)
        scale = self.log_scale.exp() * temperature
        u = (z[:, None, :] - self.means) / scale
        const = 0.5 * self.dim * math.log(2 * math.pi) + scale.log().sum()
        return -0.5 * u.square().sum(-1) - const + log_det[:, None]

    def log_posterior(self, x: Tensor, temperature: float = 1.0) -> Tensor:
        """[n, classes] log p(k | x) = log_softmax(log w_k - |z - m_k|^2_S / (2 t^2)); no Jacobian enters."""
        z, _ = self.latent(x)
        scale = self.log_scale.exp() * temperature
        u, m = z / scale, self.means / scale
        score = u @ m.T - 0.5 * m.square().sum(-1)  # |u|^2 is common to the classes
        return torch.log_softmax(self.log_prior + score, dim=-1)

    def generate(self, y: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """[n, dim] items of classes y [n] from standard normal noise [n, dim]."""
        z = self.means[y] + noise * self.log_scale.exp() * temperature
        x: Tensor = self.net.inverse(z)[0]
        return x
