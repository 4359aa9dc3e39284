"""Optimisers over stacked parameters, with hyper-parameters per lane; torch's update rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from raysweep.errors import PackError
from raysweep.kernels import fused

__all__ = ["Optimiser", "Parameters", "State"]

Parameters = dict[str, Tensor]
State = dict[str, dict[str, Tensor]]

_MOMENTS = {"sgd": ("velocity",), "nesterov": ("velocity",), "adamw": ("mean", "square")}


@dataclass(frozen=True)
class Optimiser:
    """SGD with heavy-ball or Nesterov momentum (L2 penalty), or AdamW (decoupled decay).

    Attributes:
        kind: `sgd`, `nesterov` or `adamw`.
        lr: [lanes].
        momentum: [lanes]; for SGD.
        beta1, beta2, eps: [lanes]; for AdamW.
        weight_decay: [lanes], or None where no lane decays.
        clip: [lanes] largest norm of a lane's whole gradient, inf for none; None where no lane clips.
        rates: {name: factor on the learning rate, a number or [lanes]}, 1 where a name is missing; above 0, as weight
            decay follows the unscaled rate. Parameters that must not move are frozen instead (`loop.train`).

    Raises:
        PackError: a factor is not above 0.
    """

    kind: str
    lr: Tensor
    momentum: Tensor
    beta1: Tensor
    beta2: Tensor
    eps: Tensor
    weight_decay: Tensor | None = None
    clip: Tensor | None = None
    rates: Mapping[str, float | Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, factor in self.rates.items():
            if not (bool((factor > 0).all()) if isinstance(factor, Tensor) else factor > 0):
                raise PackError(
                    f"rates: `factor > 0` must hold, but got ({name}={factor}). Freeze what is not to be trained"
                )

    def take(self, lanes: Tensor) -> Optimiser:
        """The optimiser of these lanes."""
        tensors = {f.name: v[lanes] for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        rates = {name: r[lanes] if isinstance(r, Tensor) else r for name, r in self.rates.items()}
        return replace(self, rates=rates, **tensors)  # type: ignore[arg-type]  # keyed by the fields' own names

    def state(self, parameters: Parameters) -> State:
        """{moment: {name: zeros}}."""
        return {m: {name: torch.zeros_like(p) for name, p in parameters.items()} for m in _MOMENTS[self.kind]}

    @torch.no_grad()
    def step(
        self, parameters: Parameters, gradients: Parameters, state: State, lr: Tensor, dead: Tensor, step: Tensor
    ) -> None:
        """Update in place. Lanes whose rate is 0, and dead ones, keep their parameters exactly.

        Args:
            gradients: Overwritten.
            lr: [lanes] learning rates of this step.
            dead: [lanes] bool; their gradients may be anything.
            step: Updates done before.
        """
        if self.clip is not None:
            norm = sum(g.reshape(len(g), -1).square().sum(1) for g in gradients.values()) ** 0.5
            scale = (self.clip / (norm + 1e-6)).clamp(max=1)
            for g in gradients.values():
                g.mul_(_over(scale, g))
        decay = self.weight_decay
        # Checking costs nothing on a CPU, and it saves passes over the parameters.
        frozen = dead if dead.is_cuda or bool(dead.any()) else None
        for name, p in parameters.items():
            factor = self.rates.get(name, 1.0)
            scaled = isinstance(factor, Tensor) or factor != 1.0
            rate = (lr * factor).to(lr.dtype) if scaled else lr
            if self.kind != "adamw" and self.weight_decay is not None:
                decay = self.weight_decay / factor  # an L2 gradient is multiplied by the rate once more
            moments = [state[m][name] for m in _MOMENTS[self.kind]]
            if fused(p):
                self._fused(p, gradients[name], moments, lr, rate, decay, dead, step)
            elif self.kind == "adamw":
                alive = ~dead
                self._adamw(p, gradients[name], moments, lr * alive, rate * alive, frozen, step)
            else:
                self._sgd(p, gradients[name], moments, rate, decay, frozen)

    def _fused(
        self, p: Tensor, g: Tensor, moments: list[Tensor], lr: Tensor, rate: Tensor, decay: Tensor | None,
        dead: Tensor, step: Tensor,
    ) -> None:  # fmt: skip
        from raysweep.kernels import update

        if self.kind == "adamw":
            mean, square = moments
            betas = self.beta1, self.beta2, self.eps
            update.adamw(p, g, mean, square, lr, rate, *betas, decay, dead, step)
        else:
            update.sgd(p, g, moments[0], rate, self.momentum, decay, dead, self.kind == "nesterov")

    def _sgd(
        self, p: Tensor, g: Tensor, moments: list[Tensor], rate: Tensor, decay: Tensor | None, dead: Tensor | None
    ) -> None:
        (velocity,) = moments
        momentum = _over(self.momentum, p)
        if decay is not None:
            g.addcmul_(p, _over(decay, p))
        torch.addcmul(g, velocity, momentum, out=velocity)
        if dead is not None:  # zero times the NaN of a dead lane would still be NaN
            velocity.masked_fill_(_over(dead, p), 0.0)
        if self.kind == "nesterov":
            g.addcmul_(velocity, momentum)
            if dead is not None:
                g.masked_fill_(_over(dead, p), 0.0)
            p.addcmul_(g, _over(-rate, p))
        else:
            p.addcmul_(velocity, _over(-rate, p))

    def _adamw(
        self, p: Tensor, g: Tensor, moments: list[Tensor], lr: Tensor, rate: Tensor, dead: Tensor | None, step: Tensor
    ) -> None:
        mean, square = moments
        if dead is not None:
            g.masked_fill_(_over(dead, p), 0.0)
        mean.lerp_(g, _over(1 - self.beta1, p))
        if dead is not None:
            mean.masked_fill_(_over(dead, p), 0.0)
        square.mul_(_over(self.beta2, p)).addcmul_(g * g, _over(1 - self.beta2, p))
        t = (step + 1).double()
        c1, c2 = 1 - self.beta1.double() ** t, 1 - self.beta2.double() ** t
        if self.weight_decay is not None:
            p.mul_(_over(1 - lr * self.weight_decay, p))
        root = square.sqrt().mul_(_over(c2.rsqrt().to(p.dtype), p)).add_(_over(self.eps, p))
        p.addcmul_(mean / root, _over((-rate / c1).to(p.dtype), p))


def _over(values: Tensor, like: Tensor) -> Tensor:
    """[lanes] as [lanes, 1, ...], to broadcast over a parameter."""
    return values.view(-1, *[1] * (like.dim() - 1))
