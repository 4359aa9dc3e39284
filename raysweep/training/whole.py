"""Full batches: every step sees all items of a lane once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raysweep.errors import PackError
from raysweep.training.batches import Batches

__all__ = ["Whole"]


@dataclass(frozen=True)
class Whole:
    """The data set of each lane as one batch, gathered once: for data sets that are small enough to be copied per lane.

    Attributes:
        x: [lanes, n, d].
        targets: [lanes, n, outputs].
        n: [lanes] the size of the data sets, which is the same in all lanes.
        real: Whether targets are real numbers.
    """

    x: Tensor
    targets: Tensor
    n: Tensor
    real: bool = False

    @staticmethod
    def of(batches: Batches) -> Whole:
        """All items of each lane, with the labels that batches of them would have.

        Raises:
            PackError: lanes have data sets of different sizes, or inputs are noisy, which differs from step to step.
        """
        sizes = sorted(set(batches.n.tolist()))
        if len(sizes) > 1 or batches.input_noise is not None:
            raise PackError(
                "whole: data sets must have one size and inputs no noise, but got "
                f"(n={sizes}, input_noise={batches.input_noise is not None}). Train on minibatches instead"
            )
        return Whole(*batches.items(0, sizes[0]), batches.n, batches.real)

    def __len__(self) -> int:
        return len(self.n)

    def take(self, lanes: Tensor) -> Whole:
        """The batches of these lanes."""
        return Whole(self.x[lanes], self.targets[lanes], self.n[lanes], self.real)

    def at(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """x [lanes, n, d] and targets [lanes, n, outputs] of any step."""
        return self.x, self.targets

    def power(self) -> Tensor:
        """[lanes] float64 mean over a lane's items of the sum of squared targets."""
        squares: Tensor = self.targets.double().square().sum(-1)
        return squares.mean(1)
