"""Random features of real images, the digits, with one output per class: table T8 of the notes on arXiv 2401.12610.

f_c(x) = N^-1/2 sum_k w_kc sigma(D^-1/2 F_k . x) with D = 64 pixels in [-1, 1] and F fixed; w_c minimises the squares to
the 0 and 1 of class c + (ridge / 2) |w_c|^2. Mean dimensions pool the outputs, sum_c A_c / sum_c Var_c: over bits, by
flips, and over the pixels' marginals in the training images, by new draws of one pixel at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raysweep.data import load
from raysweep.experiments.bmd_check import CLASSES, MOST_ITEMS, PIXELS
from raysweep.experiments.random_features import Array, Features, Fit, drawn
from raysweep.metrics.mean_dimension import mean_dimension
from raysweep.metrics.measures import Marginals
from raysweep.theory.bmd import mean_dimension as formula

__all__ = ["Digits", "digits"]

_ORDER, _CLASS = 7, 8  # the random streams of a seed after those of `random_features`

Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Digits:
    """The images and features of a seed.

    Attributes:
        features: Of its training images, which are a prefix of those of a larger set.
        classes: Of the training images, [P].
        others: The class that a training label becomes where it is noise, [P].
        tests, test_classes: Images for testing, [T, D], and their classes, [T].
        points: Inputs for the variance under the pixels' marginals.
        base: Inputs whose pixels are drawn again there.
        seed: Of these inputs.
    """

    features: Features
    classes: Classes
    others: Classes
    tests: Array
    test_classes: Classes
    points: int
    base: int
    seed: int

    def labels(self, noise: float) -> Classes:
        """[P]: each class, or with this chance one of all ten with equal chances."""
        return np.where(self.features.draws.chance < noise, self.others, self.classes)

    def fit(self, labels: Classes, ridges: Array) -> tuple[Tensor, Fit]:
        """The weights [N, settled ridges, classes], and the fit to the last class, whose condition is that of all."""
        fits = [self.features.least_squares((labels == c).astype(float), ridges) for c in range(CLASSES)]
        settled = np.flatnonzero(fits[-1].settled)
        return torch.stack([fit.weights[:, settled] for fit in fits], dim=2), fits[-1]

    def metrics(self, labels: Classes, weights: Tensor) -> dict[str, Array]:
        """Metrics of weights [N, ridges, classes], [ridges] each."""
        draws, width = self.features.draws, self.features.width
        flat, shape = weights.flatten(1), weights.shape[1:]

        def at(x: Array | Tensor) -> Tensor:
            inputs = torch.as_tensor(x, dtype=torch.float32, device=self.features.device)
            return self.features.values_at(inputs, flat)

        tests, trained = (at(x).unflatten(1, shape).cpu().numpy() for x in (self.tests, draws.items))
        found = self.features.measured(flat)
        influence = found.influence.reshape(-1, *shape).sum(2)
        away = ((found.outputs - found.outputs.mean(0)) ** 2).reshape(-1, *shape).sum(2)
        bmd = influence.mean(0) / found.variance.reshape(shape).sum(1)
        spread = sum(one.var(0, ddof=1) / len(one) / one.mean(0) ** 2 for one in (influence, away))
        marginal = mean_dimension(
            at, PIXELS, measure=Marginals(torch.as_tensor(draws.items)), points=self.base + self.base % 2,
            variance_points=self.points, seed=self.seed,
        )  # fmt: skip
        variance = marginal.variance.unflatten(0, shape)
        # The output of a class without training items is constant, has no mean dimension, and adds nothing.
        changed = (marginal.each.unflatten(0, shape) * variance).nansum(1) / variance.sum(1)
        w = weights.cpu().numpy()
        q_w = (w**2).mean(0).sum(1)
        q_s = (np.einsum("kd,krc->drc", draws.rows, w) ** 2).mean(0).sum(1) / width
        return {
            "test_error": (tests.argmax(2) != self.test_classes[:, None]).mean(0),
            "mse": ((tests - _one_hot(self.test_classes)) ** 2).mean((0, 2)),
            "train_error": (trained.argmax(2) != labels[:, None]).mean(0),
            "train_mse": ((trained - _one_hot(labels)) ** 2).mean((0, 2)),
            "bmd": bmd,
            "bmd_se": bmd * np.sqrt(spread),
            "bmd_formula": formula(self.features.constants, q_s, q_w),
            "bmd_marginal": changed.cpu().numpy(),
            "q_w": q_w,
            "q_s": q_s,
            "norm": np.sqrt(q_w * width),
        }


def digits(seed: int, activation: str, width: int, items: int, points: int, base: int, device: str = "cpu") -> Digits:
    """The images and features of a seed: a permutation of all digits, of which the first are for training."""
    table = load("digits")

    def stream(use: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[seed, use]))

    order = stream(_ORDER).permutation(len(table.x))
    x, y = table.x[order] / 8.0 - 1.0, table.y[order]
    draws = replace(drawn(seed, width, items, PIXELS, points, base), items=x[:items])
    return Digits(
        Features(draws, activation, device),
        y[:items],
        stream(_CLASS).integers(0, CLASSES, items),
        x[MOST_ITEMS:],
        y[MOST_ITEMS:],
        points,
        base,
        seed,
    )


def _one_hot(labels: Classes) -> Array:
    """[items, 1, classes]."""
    return np.eye(CLASSES)[labels][:, None]
