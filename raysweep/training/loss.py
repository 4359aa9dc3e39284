"""Losses of a stack of lanes, each with its gradient by the outputs; what one counts as divergence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from raysweep.kernels import fused

__all__ = ["CROSS_ENTROPY", "LOGISTIC", "SQUARE", "Loss", "signed"]

_APART = 1e6  # outputs this far from their targets, in units of the targets, mean that training diverged


@dataclass(frozen=True)
class Loss:
    """A loss: a mean over items of a function of outputs and targets.

    Attributes:
        name: Name in messages.
        unit: Unit of its values.
        bound: A lane whose loss is above it, or not finite, has diverged.
        relative: Whether the bound is in units of the loss of predicting 0 on the lane's data, which depends only on
            those data (where that loss is 0, in units of 1).
        targets: What targets may be: `probabilities`, `real`, or either.
        value_and_gradient: (outputs, targets), both [lanes, batch, outputs] -> the loss [lanes], in float32 at least,
            and d loss / d outputs [lanes, batch, outputs] in the outputs' type and layout.
    """

    name: str
    unit: str
    bound: float
    relative: bool
    targets: tuple[str, ...]
    value_and_gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def limits(self, power: Tensor) -> Tensor | float:
        """The bound in the loss's own units.

        Args:
            power: [lanes] mean over a lane's items of the sum of squared targets; read where the bound is relative.
        """
        if not self.relative:
            return self.bound
        return self.bound * torch.where(power > 0, power / 2, torch.ones_like(power))

    @property
    def rule(self) -> str:
        """The rule for divergence, in words."""
        bound = f"{self.bound:.0e}".replace("e+0", "e").replace("e+", "e")
        return f"not finite or above {bound} " + ("times that of predicting 0" if self.relative else self.unit)


def _wide(outputs: Tensor) -> Tensor:
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def _cross_entropy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if fused(outputs):
        from raysweep.kernels import loss

        return loss.cross_entropy(outputs, targets)
    wide = _wide(outputs).transpose(1, 2)
    across = targets.transpose(1, 2)  # items last: few classes would not fill a vector
    log_q = torch.log_softmax(wide, 1)
    batch = targets.shape[1]
    value = -(log_q * across).sum((1, 2)) / batch
    gradient = log_q.exp_().sub_(across).div_(batch)
    return value, gradient.transpose(1, 2).to(outputs.dtype)


def _square(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if fused(outputs):
        from raysweep.kernels import loss

        return loss.square(outputs, targets)
    gap = _wide(outputs) - targets
    batch = targets.shape[1]
    return gap.square().sum((1, 2)) / (2 * batch), gap.div_(batch).to(outputs.dtype)


def _logistic(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if fused(outputs):
        from raysweep.kernels import loss

        return loss.logistic(outputs, targets)
    margin = _wide(outputs) * targets
    batch = targets.shape[1]
    value = -F.logsigmoid(margin).sum((1, 2)) / batch
    return value, torch.sigmoid(-margin).mul_(targets).div_(-batch).to(outputs.dtype)


CROSS_ENTROPY = Loss("cross-entropy", "nats", _APART, False, ("probabilities",), _cross_entropy)
"""-sum_k t_k log q_k with q the softmax of the outputs; each item's targets sum to 1. Gradient (q - t) / batch."""

SQUARE = Loss("square", "", _APART**2, True, ("probabilities", "real"), _square)
"""sum_k (f_k - t_k)^2 / 2, so that its gradient is (f - t) / batch.

Targets have any unit, hence the relative bound; outputs a million times as large as the targets give 1e12 times the
loss of predicting 0. The loss at initialisation is no suitable scale: dividing the outputs by a small richness makes it
arbitrarily large, and it then falls."""

LOGISTIC = Loss("logistic", "nats", _APART, False, ("real",), _logistic)
"""sum_k log(1 + exp(-t_k f_k)) with every target +1 or -1. Gradient -t / (1 + exp(t f)) / batch."""


def signed(loss: Loss) -> Loss:
    """A loss of one output for two classes, whose target is -1 for the first class and +1 for the second.

    Args:
        loss: One that takes real targets.
    """

    def of_classes(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return loss.value_and_gradient(outputs, targets[..., 1:] - targets[..., :1])

    return replace(loss, targets=("probabilities",), value_and_gradient=of_classes)
