"""How sharply the training loss rises around a network's parameters.

Everything is batched over lanes and computed in float64: differences of small losses lose most of float32's digits.
Random directions are the same for all lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raysweep.metrics.attacks import checked_targets
from raysweep.metrics.norms import squared_norm
from raysweep.metrics.passes import Pass, lanes_of, passes
from raysweep.streams import COMPLEXITY, normal
from raysweep.training.loss import CROSS_ENTROPY, Loss

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

    Vector = dict[str, Tensor]
    """{name: [lanes, ...]} one number per parameter."""

__all__ = ["sharpness"]

_START, _NOISE = range(2)  # uses of the seed
_STEP = 1e-6  # of central differences: errors of its square, and rounding over it, are small, and few ReLUs switch


@torch.no_grad()
def sharpness(
    model: Model,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    targets: Tensor,
    loss: Loss = CROSS_ENTROPY,
    *,
    trained: Collection[str] | None = None,
    radius: float = 0.01,
    noise: float = 0.05,
    draws: int = 8,
    iterations: int = 100,
    tolerance: float = 1e-4,
    seed: int = 0,
    chunk: int | None = None,
) -> dict[str, Tensor]:
    """The largest curvature of the loss L at the parameters w, and how much L rises when w is changed.

    Args:
        model: (parameters, x [lanes, n, d]) -> outputs [lanes, n, outputs]; it is called in float64, so a ResNet must
            have another `conv` than `fused`.
        parameters: {name: [lanes, ...]}.
        x: [lanes, n, d], or [n, d] where lanes share the items: the training set, or a part of it.
        targets: Classes, [n] or [lanes, n] integers; or targets as the loss takes them, [n, outputs] or
            [lanes, n, outputs].
        trained: Names of the parameters that are changed; all if not given.
        radius: Length of the worst change in units of |w|.
        noise: Standard deviation of random changes, in units of each parameter.
        draws: Number of random changes.
        iterations: Most steps of the power iteration.
        tolerance: It ends, for each lane, once a step changes the eigenvalue by less than this share of it.
        seed: Of the random directions.
        chunk: Most items in a pass, over all lanes.

    Returns:
        {name: [lanes]} in float64:

        * `hessian_eigenvalue`: the largest eigenvalue of the Hessian of L, by power iteration with
          Hessian-vector products. Where the eigenvalue of largest size is
          negative, the iteration is repeated on the Hessian minus that eigenvalue. (Keskar et al. 2016, arXiv
          1609.04836, on what sharpness says of generalisation.)
        * `worst_case_sharpness`: L(w + e) - L(w) with e = radius |w| g / |g| along the gradient g, to first order the
          worst change of this length (Foret et al. 2020, arXiv 2010.01412, equation 2). Keskar et al. search a box.
        * `average_sharpness`: the mean of L(w + noise |w_i| u_i) - L(w) over standard normal u (Jiang et al. 2019,
          arXiv 1912.02178, magnitude-aware perturbations).
    """
    names = list(parameters) if trained is None else [name for name in parameters if name in trained]
    wide = {name: p.detach().double() for name, p in parameters.items()}
    w = {name: wide[name] for name in names}
    frozen = {name: p for name, p in wide.items() if name not in w}
    surface = _Surface(model, frozen, x.double(), targets, loss, chunk)
    here = surface.value(w)
    gradient = surface.gradient(w)
    reach = radius * (squared_norm(w) / squared_norm(gradient)).sqrt().nan_to_num(nan=0.0, posinf=0.0)
    worst = surface.value(_plus(w, gradient, reach))
    rise = torch.zeros_like(here)
    for draw in range(draws):
        u = _normal(w, seed, _NOISE, draw)
        rise += surface.value({name: p + noise * p.abs() * u[name] for name, p in w.items()}) - here
    return {
        "hessian_eigenvalue": _largest_eigenvalue(
            lambda v: surface.curvature(w, v), _normal(w, seed, _START), iterations, tolerance
        ),
        "worst_case_sharpness": worst - here,
        "average_sharpness": rise / draws,
    }


@dataclass(frozen=True)
class _Surface:
    """The loss as a function of the parameters w that train; see `sharpness`."""

    model: Model
    frozen: Mapping[str, Tensor]
    x: Tensor
    targets: Tensor
    loss: Loss
    chunk: int | None

    def value(self, w: Vector) -> Tensor:
        """[lanes] the loss."""
        total = torch.zeros(lanes_of(w), dtype=torch.float64, device=self.x.device)
        for part in self._parts(w):
            outputs = self._outputs(part.of(w), part)
            total[part.lanes] += part.share * self._loss(outputs, part)[0]
        return total

    def gradient(self, w: Vector) -> Vector:
        """Its gradient."""
        total = {name: torch.zeros_like(p) for name, p in w.items()}
        for part in self._parts(w):
            own = {name: p.requires_grad_() for name, p in part.of(w).items()}
            with torch.enable_grad():
                outputs = self._outputs(own, part)
            _, downstream = self._loss(outputs, part)
            found = torch.autograd.grad(outputs, list(own.values()), part.share * downstream)
            for t, g in zip(total.values(), found, strict=True):
                t[part.lanes] += g
        return total

    def curvature(self, w: Vector, v: Vector) -> Vector:
        """The product of its Hessian with unit vectors v, by central differences: in float64, to about nine digits."""
        step = _STEP * (1 + squared_norm(w).sqrt())
        ahead, behind = (self.gradient(_plus(w, v, way)) for way in (step, -step))
        nothing = {name: torch.zeros_like(p) for name, p in w.items()}
        return _plus(nothing, _plus(ahead, behind, torch.full_like(step, -1)), 0.5 / step)

    def _parts(self, w: Vector) -> Iterator[Pass]:
        return passes(lanes_of(w), self.x, self.targets, self.chunk)

    def _outputs(self, own: Vector, part: Pass) -> Tensor:
        return self.model({**part.of(self.frozen), **own}, part.x)

    def _loss(self, outputs: Tensor, part: Pass) -> tuple[Tensor, Tensor]:
        return self.loss.value_and_gradient(outputs, checked_targets(part.targets, outputs).double())


def _largest_eigenvalue(times: Callable[[Vector], Vector], start: Vector, iterations: int, tolerance: float) -> Tensor:
    """[lanes] the largest eigenvalue of the symmetric matrix that `times` multiplies by."""
    largest = _dominant(times, start, iterations, tolerance)
    below = largest.clamp(max=0)
    if (below < 0).any():
        shifted = _dominant(lambda v: _plus(times(v), v, -below), start, iterations, tolerance) + below
        return torch.where(below < 0, shifted, largest)
    return largest


def _dominant(times: Callable[[Vector], Vector], start: Vector, iterations: int, tolerance: float) -> Tensor:
    """[lanes] the eigenvalue of largest size; a lane that is done keeps its value, whatever others still need."""
    v = _unit(start)
    value = torch.full_like(squared_norm(v), torch.inf)
    done = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(iterations):
        product = times(v)
        quotient = torch.stack([(v[name] * t).flatten(1).sum(1) for name, t in product.items()]).sum(0)
        settled = (quotient - value).abs() <= tolerance * quotient.abs()
        value = torch.where(done, value, quotient)
        done |= settled | quotient.isnan()
        if done.all():
            break
        v = _unit(product)
    return value


def _unit(v: Vector) -> Vector:
    """v / |v|; 0 where that is 0."""
    size = squared_norm(v).sqrt()
    return _plus({name: torch.zeros_like(t) for name, t in v.items()}, v, torch.where(size > 0, 1 / size, 0.0))


def _plus(w: Vector, v: Vector, times: Tensor) -> Vector:
    """w + times v, times [lanes]."""
    return {name: p + times.view(-1, *[1] * (p.dim() - 1)) * v[name] for name, p in w.items()}


def _normal(like: Vector, seed: int, use: int, draw: int = 0) -> Vector:
    """Standard normal numbers, the same for all lanes."""
    found, order = {}, sorted(like)
    for name, p in like.items():
        key, number = torch.tensor(seed, device=p.device), torch.arange(p[0].numel(), device=p.device)
        one = normal(key, COMPLEXITY, use, draw, order.index(name), number).double()
        found[name] = one.view(1, *p.shape[1:]).expand_as(p)
    return found
