"""Shifted worlds: another distribution of items, at a known distance from the world, with its own exact posterior.

The distance is KL(shifted || world) of the joint distribution of items and classes, in nats. It survives bijections, so
that it has a closed form for shifts of the class frequencies and of the latent space:

* `imbalance`: class k has a probability proportional to w_k exp(a k); KL(v || w).
* `translation`: latents move by a vector of length d, in a direction of the world's own, in units of the base's
  standard deviation; d^2 / 2.
* `scale`: latents get Gaussian noise of variance s^2, in the same units; D (s^2 - log(1 + s^2)) / 2.
* `pixel`: items get Gaussian noise. The density of the result is not known. By convexity the KL is at most
  E[log f_y(x) - log f_y(x + noise)], and the noise is such that this bound is the distance asked for. There is no exact
  posterior either; that of the world at the noisy item stands in.

Any of them, and none, may come with Gaussian noise of a stated size on the items, as in the paper's ten settings
(appendix G, table 6). Its distance is not known and is not counted in the KL.

Source: arXiv 2602.00315, section 4.3, whose shifts are at distances that differ by orders of magnitude.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from raysweep.errors import OracleError
from raysweep.experiment import Sample, World
from raysweep.oracle.flow_world import FlowWorld
from raysweep.oracle.recipe import recipe_hash

__all__ = ["Shifted", "shifted"]

_ITEMS = 512  # for the bound of pixel noise
_STEPS = 60  # of bisection


@dataclass(frozen=True)
class Shifted:
    """A world at a distance from another one.

    Attributes:
        world: The world it is a shift of.
        kind: imbalance, translation, scale or pixel; none where only `noise` is added.
        kl: The distance in nats.
        noise: Standard deviation of Gaussian noise on the items, besides the shift.
    """

    world: FlowWorld
    kind: str
    kl: float
    noise: float = 0.0

    @property
    def classes(self) -> int:
        return self.world.classes

    @property
    def dim(self) -> int:
        return self.world.dim

    @property
    def sha(self) -> str:
        return self.world.sha

    @property
    def exact(self) -> bool:
        """Whether its posterior is its own, not that of the world it is a shift of."""
        return self.kind != "pixel" and not self.noise

    def sample(self, n: int, stream: str, temperature: float = 1.0) -> Sample:
        """n labelled items; the same draws as the world's own, so that a shift is compared in pairs."""
        return _sample(self, n, stream, temperature)

    def log_posterior(self, x: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """[n, classes] log p(k | x) in float64, exact but under `pixel` and `noise`, which it knows nothing of."""
        if self.kind == "pixel":
            return self.world.log_posterior(x, temperature)
        return self.world.log_posterior(
            x,
            temperature * self._gain,
            self._offset * temperature,
            self._log_prior if self.kind == "imbalance" else None,
        )

    def _draw(self, n: int, stream: str, temperature: float) -> Sample:
        log_prior = self._log_prior if self.kind == "imbalance" else None
        x, y = self.world.items(n, stream, temperature, self._gain, self._offset, log_prior)
        if not self.exact:
            bounded = _noise(self, temperature) if self.kind == "pixel" else 0.0
            noise = _normal(self.world, f"{stream}/pixel", x.shape)
            x = (x + math.hypot(bounded, self.noise) * noise).astype(np.float32)
        return Sample(x, y, self.log_posterior(x, temperature))

    @property
    def _gain(self) -> float:
        """Standard deviation of latents, in that of the base."""
        if self.kind != "scale":
            return 1.0
        dim = self.dim
        square = _solved(lambda s: dim * (s - math.log1p(s)) / 2, self.kl)
        return math.sqrt(1 + square)

    @property
    def _offset(self) -> Tensor:
        """[dim] how far latents move, in standard deviations of the base."""
        zero = torch.zeros(self.dim, dtype=torch.float64)
        if self.kind != "translation":
            return zero
        along: Tensor = torch.from_numpy(_normal(self.world, "translation", (self.dim,)))
        return along * (math.sqrt(2 * self.kl) / float(along.norm()))

    @property
    def _log_prior(self) -> Tensor:
        """[classes] of the shifted world."""
        base = self.world.flow.log_prior.double().cpu()
        k = torch.arange(len(base), dtype=torch.float64)

        def tilted(a: float) -> Tensor:
            return torch.log_softmax(base + a * k, 0)

        def distance(a: float) -> float:
            found = tilted(a)
            return float((found.exp() * (found - base)).sum())

        most = float(-base[-1])
        if self.kl >= most:
            raise OracleError(
                f"shift: an imbalance must be less than that of a single class, {most:.3g} nats, but got "
                f"(kl={self.kl:g}). Take less"
            )
        return tilted(_solved(distance, self.kl))


def shifted(world: World, kind: str, kl: float, noise: float = 0.0) -> World:
    """A world at a distance from another, with noise on its items; the world itself without either.

    Raises:
        OracleError: only worlds of flows can be shifted, and this is none.
    """
    if kind == "none" or kl == 0:
        kind, kl = "none", 0.0
    if kind == "none" and not noise:
        return world
    if not isinstance(world, FlowWorld):
        raise OracleError(
            f"shift: only a world of a flow has latents that can be shifted, but got {type(world).__name__}. "
            "Leave the shift out"
        )
    return Shifted(world, kind, kl, noise)


@lru_cache(maxsize=32)
def _sample(world: Shifted, n: int, stream: str, temperature: float) -> Sample:
    # The packs of one worker share their worlds.
    return world._draw(n, stream, temperature)


@lru_cache(maxsize=64)
def _noise(world: Shifted, temperature: float) -> float:
    """Standard deviation of pixel noise for which the bound of the KL is the distance asked for."""
    plain = world.world.sample(_ITEMS, "pixel bound", temperature)
    x, y = torch.from_numpy(plain.x).double(), torch.from_numpy(plain.y)
    noise = torch.from_numpy(_normal(world.world, "pixel bound", plain.x.shape))
    flow, device = world.world.flow, world.world.device

    def density(items: Tensor) -> Tensor:
        with torch.no_grad():
            return flow.log_density(items.to(device), temperature).cpu()[torch.arange(len(y)), y]

    before = density(x)
    return _solved(lambda s: float((before - density(x + s * noise)).mean()), world.kl)


def _solved(distance: Callable[[float], float], wanted: float) -> float:
    """The positive number at which a distance that grows from 0 is the one wanted."""
    high = 1e-3
    while distance(high) < wanted:
        high *= 2
    low = 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if distance(middle) < wanted else (low, middle)
    return (low + high) / 2


def _normal(world: FlowWorld, stream: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers of a world and a stream."""
    digest = hashlib.blake2b(f"{recipe_hash(world.recipe)}/shift/{stream}".encode(), digest_size=7).digest()
    return np.random.default_rng(int.from_bytes(digest)).standard_normal(shape)
