"""Changes of inputs that a classifier should withstand: FGSM, PGD and random flips.

FGSM moves every input by eps in the direction that raises the loss of its item (Goodfellow, Shlens & Szegedy 2015,
arXiv 1412.6572, section 3); PGD repeats smaller such steps inside the ball |x' - x|_inf <= eps (Madry et al. 2018,
arXiv 1706.06083, section 2.1). A flip mirrors an input at the middle of its range: -x_i for inputs in [-1, 1].

These are plain functions over the lanes of a stacked model. They never wait for the device and return tensors without a
gradient, so that a training step may call them, a captured one included. Their eps, step sizes, shares and seeds are
numbers, or tensors [lanes] where lanes differ. For the same reason, arguments are checked only where they lie on the
host: numbers, and classes on a CPU. Elsewhere a class that is no output is an item without a class, and its attack is
meaningless: check such classes before a captured step. `metrics.robustness` measures errors under attacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raysweep.errors import MetricError
from raysweep.metrics.passes import lanes_of, per_lane
from raysweep.streams import ATTACK, uniform
from raysweep.training.loss import CROSS_ENTROPY, Loss

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["check_ball", "check_share", "check_steps", "checked_targets", "fgsm", "flipped", "pgd", "targets_of"]

_START, _FLIPS = range(2)  # uses of the seed
_STEP = 2.5  # step sizes whose sum is this many times eps reach the ball's border from anywhere in it (Madry et al.)


def fgsm(
    model: Model,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    targets: Tensor,
    eps: float | Tensor,
    low: float = -1.0,
    high: float = 1.0,
    loss: Loss = CROSS_ENTROPY,
) -> Tensor:
    """x + eps sign(d loss / d x), clipped to [low, high].

    An input whose gradient is exactly 0 stays as it is. The loss is differentiated in float64 at the outputs: in
    float32, confident items have no gradient with respect to their own class's output, and so seem robust.

    Args:
        model: (parameters, x [lanes, n, d]) -> outputs [lanes, n, outputs].
        parameters: {name: [lanes, ...]}.
        x: [lanes, n, d], or [n, d] where lanes share the items; inside [low, high].
        targets: Classes, [n] or [lanes, n] integers; or targets as the loss takes them, [n, outputs] or
            [lanes, n, outputs].
        eps: Largest change of an input, in the units of x.
        low, high: Range of the inputs; infinite for inputs without one.
        loss: What the attack raises.

    Returns:
        [lanes, n, d], without a gradient.

    Raises:
        MetricError: Classes are given for a model of one output, or are none of its outputs (which is checked on a CPU
            only); or eps is negative, or the range empty.
    """
    check_ball(eps, low, high)
    start = per_lane(x, lanes_of(parameters), 3).detach()
    moved: Tensor = start + _over(eps) * _uphill(model, parameters, start, targets, loss)
    return moved.clamp_(low, high)


def pgd(
    model: Model,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    targets: Tensor,
    eps: float | Tensor,
    steps: int = 10,
    step_size: float | Tensor | None = None,
    seed: int | Tensor | None = None,
    low: float = -1.0,
    high: float = 1.0,
    loss: Loss = CROSS_ENTROPY,
    first: int = 0,
) -> Tensor:
    """Steps of FGSM, each followed by a projection to |x' - x| <= eps and to [low, high]; the last point is returned.

    Args:
        steps: Number of steps, at least 1.
        step_size: Change of an input in a step; 2.5 eps / steps if not given.
        seed: Start at a uniform point of the ball, drawn from this seed; if not given, start at x. A training step
            gives a tensor that differs from step to step.
        first: Number of the first item: its draws depend on it, not on the items beside it.
        model, parameters, x, targets, eps, low, high, loss: As for `fgsm`.

    Returns:
        [lanes, n, d], without a gradient.

    Raises:
        MetricError: As for `fgsm`; or there are no steps, or their size is negative.
    """
    check_ball(eps, low, high)
    check_steps(steps, step_size)
    start, radius = per_lane(x, lanes_of(parameters), 3).detach(), _over(eps)
    step = _STEP * radius / steps if step_size is None else _over(step_size)
    lowest, highest = (start - radius).clamp_(min=low), (start + radius).clamp_(max=high)
    found = start
    if seed is not None:
        away = 2 * _uniform(seed, _START, start, first).to(x.dtype) - 1
        found = (start + radius * away).clamp(lowest, highest)
    for _ in range(steps):
        found = (found + step * _uphill(model, parameters, found, targets, loss)).clamp(lowest, highest)
    return found


def flipped(x: Tensor, share: float | Tensor, seed: int | Tensor = 0, middle: float = 0.0, first: int = 0) -> Tensor:
    """x with each input mirrored at the middle of the range, 2 middle - x_i, with probability `share`, independently.

    With one seed, the inputs that are flipped at a smaller share are also flipped at a larger one.

    Args:
        x: [lanes, n, d], or [n, d] where lanes share the items.
        share: Probability.
        seed: The same seed gives the same flips.
        middle: Of the inputs' range: 0 for [-1, 1], where a flip changes the sign.
        first: Number of the first item: its draws depend on it, not on the items beside it.

    Returns:
        [lanes, n, d]; [n, d] where lanes share everything.

    Raises:
        MetricError: The share is no probability.
    """
    check_share(share)
    return torch.where(_uniform(seed, _FLIPS, x, first) < _over(share), 2 * middle - x, x)


def targets_of(targets: Tensor, outputs: Tensor) -> Tensor:
    """[lanes, n, outputs] targets from classes [n] or [lanes, n], as one-hot vectors, or from targets with or without a
    lane axis.

    Args:
        outputs: [lanes, n, outputs] of the model.

    Raises:
        MetricError: Classes are given for a model of one output, or, on a CPU, are none of the outputs.
    """
    lanes, _, count = outputs.shape
    if targets.is_floating_point():
        return per_lane(targets, lanes, 3)
    if targets.device.type == "cpu":  # elsewhere, looking at them would wait for the device
        check_classes(targets, count)
    if count == 1:
        raise MetricError(
            "targets: a model of one output must have real targets, but got (dtype="
            f"{str(targets.dtype).removeprefix('torch.')}). Give floating-point targets [n, 1], such as -1 and 1"
        )
    one_hot = (targets[..., None] == torch.arange(count, device=targets.device)).to(outputs.dtype)
    return per_lane(one_hot, lanes, 3)


def checked_targets(targets: Tensor, outputs: Tensor) -> Tensor:
    """`targets_of`, with classes checked on every device: it waits for the device, and so is not for a training step.

    Raises:
        MetricError: Classes are given for a model of one output, or are none of the outputs.
    """
    if not targets.is_floating_point():
        check_classes(targets, outputs.shape[-1])
    return targets_of(targets, outputs)


def check_classes(targets: Tensor, count: int) -> None:
    """Refuse classes that are none of `count` outputs.

    Raises:
        MetricError: One is.
    """
    if count == 1 or not targets.numel():
        return
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= count:
        raise MetricError(
            f"targets: `0 <= class < {count}` must hold for a model of {count} outputs, but got classes from {low} to "
            f"{high}. Number the classes from 0 in the order of the outputs"
        )


def check_ball(eps: float | Tensor, low: float, high: float) -> None:
    """Refuse a negative eps or an empty range; numbers on a device are not looked at.

    Raises:
        MetricError: As said.
    """
    if not isinstance(eps, Tensor) and not eps >= 0:
        raise MetricError(f"eps: `eps >= 0` must hold, but got ({eps=}). Give the largest change of an input")
    if not low < high:
        raise MetricError(f"low, high: `low < high` must hold, but got ({low=}, {high=}). Give the range of the inputs")


def check_steps(steps: int, step_size: float | Tensor | None) -> None:
    """Refuse an attack without steps, or with steps of a negative size.

    Raises:
        MetricError: As said.
    """
    if steps < 1:
        raise MetricError(f"steps: `steps >= 1` must hold, but got (steps={steps}). For no attack at all, use eps=0")
    if isinstance(step_size, int | float) and not step_size >= 0:
        raise MetricError(
            f"step_size: `step_size >= 0` must hold, but got ({step_size=}). Leave it out to have it chosen"
        )


def check_share(share: float | Tensor) -> None:
    """Refuse a number that is no probability.

    Raises:
        MetricError: As said.
    """
    if not isinstance(share, Tensor) and not 0 <= share <= 1:
        raise MetricError(f"share: `0 <= share <= 1` must hold, but got ({share=}). Give the probability of a flip")


def _uphill(model: Model, parameters: Mapping[str, Tensor], x: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """[lanes, n, d] signs of the gradient of the loss with respect to x."""
    with torch.enable_grad():
        items = x.detach().requires_grad_()
        outputs = model({name: p.detach() for name, p in parameters.items()}, items)
        with torch.no_grad():
            wanted = targets_of(targets, outputs)
            _, downstream = loss.value_and_gradient(outputs.double(), wanted.double())
        (gradient,) = torch.autograd.grad(outputs, items, downstream.to(outputs.dtype))
    return gradient.sign_()


def _uniform(seed: int | Tensor, use: int, x: Tensor, first: int) -> Tensor:
    """[n, d], or [lanes, n, d] where seeds differ, uniform in [0, 1) in float64."""
    n, d = x.shape[-2:]
    key = seed if isinstance(seed, Tensor) else torch.full((), seed, dtype=torch.int64, device=x.device)
    item = torch.arange(first, first + n, device=x.device)[:, None]
    return uniform(_over(key), ATTACK, use, item, torch.arange(d, device=x.device))


def _over(value: float | Tensor) -> Any:
    """A number as it is; numbers [lanes] to broadcast over [lanes, n, d]."""
    return value[:, None, None] if isinstance(value, Tensor) and value.dim() else value
