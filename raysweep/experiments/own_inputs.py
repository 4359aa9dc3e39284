"""The mean dimension of lanes on random inputs of their own: intervals over seeds hold the error of the draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raysweep.metrics.mean_dimension import mean_dimension
from raysweep.metrics.measures import Measure
from raysweep.training.optim import Parameters
from raysweep.training.precision import products

if TYPE_CHECKING:
    from raysweep.models.architecture import Model

__all__ = ["Dimensions", "mean_dimensions"]

Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Dimensions:
    """Mean dimensions of lanes; NaN where a lane's function is constant.

    Attributes:
        value, error: [lanes] pooled over outputs, and its standard error over the inputs drawn.
        contributions: [lanes, inputs] whose sums are `value`.
    """

    value: Array
    error: Array
    contributions: Array


def mean_dimensions(
    model: Model,
    own: Parameters,
    seeds: Sequence[int],
    inputs: int,
    points: int,
    variance_points: int,
    measure: Measure | None = None,
) -> Dimensions:
    """Those of each lane on the inputs of its seed: lanes of one seed share their inputs, so that differences between
    them have smaller errors, and lanes of different seeds are independent.

    In float32 at least: the changes of a rounded output are mostly rounding.

    Args:
        own: {name: [lanes, ...]}.
        seeds: [lanes].
        inputs, points, variance_points, measure: See `metrics.mean_dimension`.
    """
    found = Dimensions(np.empty(len(seeds)), np.empty(len(seeds)), np.empty((len(seeds), inputs)))
    every = np.asarray(seeds)
    with products("float32"):
        for seed in np.unique(every).tolist():
            (here,) = np.nonzero(every == seed)
            lanes = torch.from_numpy(here)
            part: dict[str, Tensor] = {name: p[lanes.to(p.device)] for name, p in own.items()}
            one = mean_dimension(
                model, inputs, parameters=part, measure=measure, points=points, variance_points=variance_points,
                seed=seed,
            )  # fmt: skip
            found.value[here] = one.value.cpu().numpy()
            found.error[here] = one.error.cpu().numpy()
            found.contributions[here] = one.contributions.cpu().numpy()
    return found
