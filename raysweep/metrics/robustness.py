"""The error of classifiers whose inputs are attacked, or changed at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from raysweep.errors import MetricError
from raysweep.metrics.attacks import check_ball, check_share, check_steps, checked_targets, fgsm, flipped, pgd
from raysweep.metrics.passes import lanes_of, passes
from raysweep.training.loss import CROSS_ENTROPY, Loss

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["FGSM", "PGD", "Attack", "Flips", "attacked_errors"]


class Attack(Protocol):
    """A change of the items."""

    def perturbed(
        self, model: Model, parameters: Mapping[str, Tensor], x: Tensor, targets: Tensor, first: int
    ) -> Tensor:
        """[lanes, n, d] the items after the change.

        Args:
            model, parameters: As for `fgsm`, of some lanes.
            x, targets: As for `fgsm`, of some items, with a lane axis.
            first: Number of the first item.
        """
        ...


@dataclass(frozen=True)
class FGSM:
    """See `fgsm`; what makes no sense is refused here."""

    eps: float
    low: float = -1.0
    high: float = 1.0
    loss: Loss = CROSS_ENTROPY

    def __post_init__(self) -> None:
        check_ball(self.eps, self.low, self.high)

    def perturbed(
        self, model: Model, parameters: Mapping[str, Tensor], x: Tensor, targets: Tensor, first: int
    ) -> Tensor:
        """See `Attack`."""
        return fgsm(model, parameters, x, targets, **vars(self))


@dataclass(frozen=True)
class PGD:
    """See `pgd`; unlike there, it starts at a random point if not said otherwise."""

    eps: float
    steps: int = 10
    step_size: float | None = None
    seed: int | None = 0
    low: float = -1.0
    high: float = 1.0
    loss: Loss = CROSS_ENTROPY

    def __post_init__(self) -> None:
        check_ball(self.eps, self.low, self.high)
        check_steps(self.steps, self.step_size)

    def perturbed(
        self, model: Model, parameters: Mapping[str, Tensor], x: Tensor, targets: Tensor, first: int
    ) -> Tensor:
        """See `Attack`."""
        return pgd(model, parameters, x, targets, **vars(self), first=first)


@dataclass(frozen=True)
class Flips:
    """See `flipped`; lanes see the same flips."""

    share: float
    seed: int = 0
    middle: float = 0.0

    def __post_init__(self) -> None:
        check_share(self.share)

    def perturbed(
        self, model: Model, parameters: Mapping[str, Tensor], x: Tensor, targets: Tensor, first: int
    ) -> Tensor:
        """See `Attack`."""
        return flipped(x, **vars(self), first=first)


def attacked_errors(
    model: Model,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    targets: Tensor,
    attacks: Mapping[str, Attack | None],
    chunk: int | None = None,
) -> dict[str, Tensor]:
    """The share of items that each lane classifies wrongly under each attack, and its standard error over items.

    Args:
        model, parameters, x, targets: As for `fgsm`. An item is wrong where the largest output is not at its class (the
            largest target); or, for one output, where the output's sign is not the target's.
        attacks: By name; None for the items as they are.
        chunk: Most items in a forward pass, over all lanes. It bounds the memory and changes no draw.

    Returns:
        {name: [lanes], name_se: [lanes]} in float64; NaN for a lane with an output that is NaN.

    Raises:
        MetricError: As for `fgsm`; classes are none of the outputs, on any device; there are no items; or a name is
            that of another attack's standard error.

    Example:
        >>> weight, x = torch.tensor([[[2.0, 1.0]]]), torch.tensor([[0.5, 0.5], [0.1, 0.1]])
        >>> found = attacked_errors(
        ...     lambda p, x: x @ p["w"].transpose(1, 2), {"w": weight}, x, torch.ones(2, 1),
        ...     {"clean": None, "fgsm": FGSM(0.2, loss=SQUARE)},
        ... )
        >>> found["clean"].tolist(), found["fgsm"].tolist()
        ([0.0], [0.5])
    """
    for name in attacks:
        if f"{name}_se" in attacks:
            raise MetricError(
                f"attacks: no name must be that of another with _se, which is its standard error, but got ({name}, "
                f"{name}_se). Choose another name"
            )
    lanes, n = lanes_of(parameters), x.shape[-2]
    wrong = {name: torch.zeros(lanes, dtype=torch.float64, device=x.device) for name in attacks}
    for part in passes(lanes, x, targets, chunk):
        own = part.of(parameters)
        for name, attack in attacks.items():
            seen = part.x
            if attack is not None:
                seen = attack.perturbed(model, own, part.x, part.targets, part.items.start)
            with torch.no_grad():
                outputs = model(own, seen)
                wrong[name][part.lanes] += _wrong(outputs, checked_targets(part.targets, outputs)).sum(1)
    found: dict[str, Tensor] = {}
    for name, count in wrong.items():
        share = count / n
        found |= {name: share, f"{name}_se": (share * (1 - share) / (n - 1)).sqrt()}
    return found


def _wrong(outputs: Tensor, targets: Tensor) -> Tensor:
    """[lanes, n] float64: 1 where an item is wrong, NaN where an output is."""
    if outputs.shape[-1] == 1:
        wrong = (outputs.sign() != targets.sign())[..., 0]
    else:
        wrong = outputs.argmax(-1) != targets.argmax(-1)
    return wrong.double().masked_fill_(outputs.isnan().any(-1), torch.nan)
