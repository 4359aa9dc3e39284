"""Random features of binary inputs, fitted to a teacher's labels: draws, weights, and what the fitted function does.

f(x) = N^-1/2 sum_k w_k sigma(D^-1/2 F_k . x) with F fixed; w minimises sum of losses + (ridge / 2) |w|^2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raysweep.theory.bmd import activation as constants_of

__all__ = ["SINGULAR", "Array", "Draws", "Features", "Fit", "Measured", "drawn"]

Array: TypeAlias = npt.NDArray[np.float64]

SINGULAR = 1e13  # condition number beyond which double precision is meaningless
_TEACHER, _ROWS, _ITEMS, _FLIPS, _NOISE, _POINTS, _BASE = range(7)  # the random streams of a seed, by use
_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.clamp_min,
    "erf": torch.erf,
    "sin": torch.sin,
}
_HELD = 2**19  # pre-activations held at a time: they stay in the cache
_RANK = 1e-14  # eigenvalues below this share of the largest are 0


@dataclass(frozen=True)
class Draws:
    """What a seed stands for. Smaller sizes are prefixes of larger ones, so that runs of one seed are paired.

    Attributes:
        teacher: theta with |theta|^2 = D, [D].
        rows: F, [N, D].
        items: Training inputs, [P, D] of -1 and 1.
        field: u = theta . x / sqrt(D) of the training items, [P].
        chance: A uniform number per item, below the label noise where its label is flipped, [P].
        noise: A standard normal number per item, [P].
        points: Inputs for the error and the variance, [T, D].
        base: Inputs whose bits are flipped, [M, D].
    """

    teacher: Array
    rows: Array
    items: Array
    field: Array
    chance: Array
    noise: Array
    points: Array
    base: Array

    def labels(self, linear: bool, flips: float, spread: float) -> Array:
        """[P]: u plus noise of this variance, or sign(u), flipped with this chance."""
        if linear:
            return np.asarray(self.field + np.sqrt(spread) * self.noise)
        return np.asarray(_sign(self.field) * np.where(self.chance < flips, -1.0, 1.0))


def drawn(seed: int, width: int, items: int, dim: int, points: int, base: int) -> Draws:
    """The draws of a seed in float64, on the host."""

    def stream(use: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[seed, use]))

    def bits(use: int, count: int) -> Array:
        drawn = np.frombuffer(stream(use).bytes(count * dim), dtype=np.uint8)
        return np.asarray(1.0 - 2.0 * (drawn & 1)).reshape(count, dim)

    teacher = stream(_TEACHER).standard_normal(dim)
    teacher *= np.sqrt(dim / (teacher @ teacher))
    x = bits(_ITEMS, items)
    return Draws(
        teacher,
        stream(_ROWS).standard_normal((width, dim)),
        x,
        x @ teacher / np.sqrt(dim),
        stream(_FLIPS).random(items),
        stream(_NOISE).standard_normal(items),
        bits(_POINTS, points),
        bits(_BASE, base),
    )


def _sign(u: Array) -> Array:
    return np.where(u >= 0, 1.0, -1.0)


@dataclass(frozen=True)
class Fit:
    """Weights of one labelling, for some ridges.

    Attributes:
        weights: [N, ridges].
        outputs: f of the training items, [P, ridges].
        condition: Condition number of each problem, [ridges].
        settled: Whether the solution is one, [ridges].
    """

    weights: Tensor
    outputs: Tensor
    condition: Array
    settled: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """What fitted functions do on new inputs; a column per function, [functions].

    Attributes:
        outputs: f of the points, [T, functions].
        variance: Var f over the points.
        influence: Sum over bits of ((f(x) - f(x with the bit flipped)) / 2)^2 for each base point, [M, functions].
    """

    outputs: Array
    variance: Array
    influence: Array

    def split(self, counts: Sequence[int]) -> list[Measured]:
        """The same for consecutive numbers of functions."""
        ends = np.cumsum(counts)[:-1]
        parts = (np.split(a, ends, axis=-1) for a in (self.outputs, self.variance, self.influence))
        return [Measured(*each) for each in zip(*parts, strict=True)]

    @property
    def mean_dimension(self) -> Array:
        """The BMD: total influence over variance. The two come from different inputs: the variance needs far more."""
        return np.asarray(self.influence.mean(axis=0) / self.variance)

    @property
    def standard_error(self) -> Array:
        """Of the BMD, from the finite number of inputs, to first order (delta method)."""
        away = (self.outputs - self.outputs.mean(axis=0)) ** 2
        spread = (
            one.var(axis=0, ddof=1) / len(one) / one.mean(axis=0) ** 2 for one in (self.influence, away)
        )  # relative variances of both means
        return np.asarray(self.mean_dimension * np.sqrt(sum(spread)))


class Features:
    """The features of a seed's draws.

    Fits are in float64. At new inputs features are in float32, whose rounding is 1e-7 of f and the same in every pack,
    and their sums in float64.
    """

    def __init__(self, draws: Draws, activation: str, device: str = "cpu") -> None:
        self.draws, self.device = draws, device
        self.constants, self.sigma = constants_of(activation), _FUNCTIONS[activation]
        self._more = (0.0,) if activation == "relu" else ()
        self.width, self.dim = draws.rows.shape
        rows = torch.as_tensor(draws.rows, device=device) / np.sqrt(self.dim)
        self.phi = self.sigma(torch.as_tensor(draws.items, device=device) @ rows.T, *self._more) / np.sqrt(self.width)
        self.rows = rows.float()
        self.dual = self.width > len(draws.items)
        gram = self.phi @ self.phi.T if self.dual else self.phi.T @ self.phi
        values, vectors = torch.linalg.eigh(gram)
        self.values: Tensor = values.clamp_min(0.0)
        self.vectors: Tensor = vectors

    def least_squares(self, labels: Array, ridges: Array) -> Fit:
        """Weights for the square loss at every ridge, from the one eigendecomposition."""
        y, ridge = (torch.as_tensor(a, device=self.device) for a in (labels, ridges))
        low, high = self.values[0].item(), self.values[-1].item()
        with np.errstate(divide="ignore", invalid="ignore"):
            condition = (high + ridges) / (low + ridges)
        shrunk = self.values[:, None] + ridge
        if self.dual:
            dual = self.vectors @ ((self.vectors.T @ y)[:, None] / shrunk)
            weights, outputs = self.phi.T @ dual, y[:, None] - ridge * dual
        else:
            weights = self.vectors @ ((self.vectors.T @ (self.phi.T @ y))[:, None] / shrunk)
            outputs = self.phi @ weights
        return Fit(weights, outputs, condition, condition < SINGULAR)

    @property
    def basis(self) -> Tensor:
        """Features of the training items in min(N, P) coordinates v, [P, min(N, P)]: a minimum needs no others."""
        basis: Tensor = self.vectors * self._scale() if self.dual else self.phi
        return basis

    def from_basis(self, v: Tensor) -> Tensor:
        """The weights [N] of coordinates v [min(N, P)], of the same norm."""
        if not self.dual:
            return v
        scale = self._scale()
        weights: Tensor = self.phi.T @ (self.vectors @ torch.where(scale > 0, v / scale, 0.0))
        return weights

    def _scale(self) -> Tensor:
        return torch.where(self.values > self.values[-1] * _RANK, self.values, 0.0).sqrt()

    def measured(self, weights: Tensor) -> Measured:
        """What functions of these weights [N, functions] do on new inputs."""
        weights = weights / np.sqrt(self.width)
        points, base = (
            torch.as_tensor(a, dtype=torch.float32, device=self.device) for a in (self.draws.points, self.draws.base)
        )
        outputs = self._outputs(points, weights)
        influence = []
        for part in self._parts(base, self.dim):
            before = part @ self.rows.T  # a flip adds -2 x_i F_ki to the pre-activations: no product of its own
            flipped = torch.addcmul(before[:, None], part[:, :, None], self.rows.T, value=-2.0)
            change = self._sum(before, weights)[:, None] - self._sum(flipped.flatten(0, 1), weights).unflatten(
                0, flipped.shape[:2]
            )
            influence.append((change**2).sum(1) / 4)
        values = outputs.cpu().numpy()
        return Measured(values, values.var(axis=0, ddof=1), torch.cat(influence).cpu().numpy())

    def values_at(self, points: Tensor, weights: Tensor) -> Tensor:
        """f [points, functions] of weights [N, functions] at any inputs [points, D] in float32."""
        return self._outputs(points, weights / np.sqrt(self.width))

    def _outputs(self, points: Tensor, weights: Tensor) -> Tensor:
        return torch.cat([self._sum(part @ self.rows.T, weights) for part in self._parts(points, 1)])

    def _parts(self, points: Tensor, each: int) -> Iterator[Tensor]:
        yield from points.split(max(1, _HELD // (self.width * each)))

    def _sum(self, before: Tensor, weights: Tensor) -> Tensor:
        """f [points, functions] from pre-activations [points, N], which are overwritten."""
        features = self.sigma(before, *self._more, out=before).double()
        return features @ weights
