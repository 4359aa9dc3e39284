"""Second steps: what a downstream metric is of a loss that a scaling law predicts.

Top-1 error as an exponential of loss (Gadre et al. 2024, arXiv 2403.08540, eq. 5), and accuracy as a sigmoid of it
(Bhagia et al. 2024, arXiv 2412.04403).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from raysweep.laws.definition import Array, Law, Parameter
from raysweep.laws.own import own_law
from raysweep.laws.terms import Restored, Terms, sigmoid, softplus

__all__ = ["STEPS", "Step"]


@dataclass(frozen=True)
class Step:
    """A law of a metric over a loss L.

    Attributes:
        law: Its axis is L.
        slope: d log y / d log L, [..., points], from log L, [..., points], and values, [..., parameters].
    """

    law: Law
    slope: Callable[[Array, Array], Array]


def terms(u: Array, q: Array) -> Terms:
    """1 / (1 + exp(-k (L - L0))), 1 / (1 + exp(k (L - L0))); exponents L0, k."""
    middle, k, loss = q[..., 0, None], q[..., 1, None], np.exp(u[..., 0, :])
    far = k * (loss - middle)
    before, after = sigmoid(-far), sigmoid(far)
    slopes = (0, 0, -before * k), (0, 1, before * (loss - middle)), (1, 0, after * k), (1, 1, -after * (loss - middle))
    return (-softplus(-far), -softplus(far)), slopes


def restore(q: Array, u0: Array) -> Restored:
    unit = np.exp(u0[..., 0])
    out = np.stack([q[..., 0] * unit, q[..., 1] / unit], axis=-1)
    return out, np.zeros_like(out)


def _slope_of_sigmoid(log_loss: Array, values: Array) -> Array:
    chance, top, middle, k = (values[..., j, None] for j in range(4))
    loss = np.exp(log_loss)
    after = sigmoid(k * (loss - middle))
    y = chance * after + top * (1.0 - after)
    return np.asarray((chance - top) * k * after * (1.0 - after) * loss / y)


def _slope_of_exponential(log_loss: Array, values: Array) -> Array:
    ceiling, k, rate = (values[..., j, None] for j in range(3))
    loss = np.exp(log_loss)
    part = k * np.exp(-rate * loss)
    return np.asarray(part * rate * loss / (ceiling - part))


_SIGMOID = Law(
    name="sigmoid of loss",
    formula="y = C + (T - C) / (1 + exp(k (L - L0)))",
    axes=("L",),
    amplitudes=(Parameter("C", "y", 0.0, math.inf), Parameter("T", "y", 0.0, math.inf, log=True)),
    exponents=(
        Parameter("L0", "L", 0.0, math.inf, log=True, search=tuple(np.geomspace(0.4, 2.5, 12).tolist())),
        Parameter("k", "1 / L", 1e-3, 1e3, log=True, search=tuple(np.geomspace(0.5, 100.0, 12).tolist())),
    ),
    fewest_scales=6,
    source="Bhagia et al. 2024, arXiv 2412.04403",
    when="An accuracy that rises from chance C to T as the loss falls, half way at L0.",
    terms=terms,
    restore_terms=restore,
    levels=(6,),
    starts=3,
    surrounded=("L0",),
    ceiling="T",
    proved=False,
)
_EXPONENTIAL = replace(
    own_law("eps - k * exp(-gamma * L)", ("L",), ("gamma",)),
    name="exponential of loss",
    formula="y = eps - k exp(-gamma L)",
    fewest_scales=5,
    levels=(5,),
    source="Gadre et al. 2024, arXiv 2403.08540, eq. 5",
    when="A top-1 error that rises to eps, that of chance, as the loss grows; of an accuracy, k is negative.",
    contains=(),
    floorless="",
)
STEPS = {
    "sigmoid": Step(replace(_SIGMOID, rivals=(replace(_EXPONENTIAL, rivals=()),)), _slope_of_sigmoid),
    "exponential": Step(replace(_EXPONENTIAL, rivals=(_SIGMOID,)), _slope_of_exponential),
}
