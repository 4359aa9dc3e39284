"""The Boolean mean dimension (BMD) of random features from a few numbers of the activation and of the weights.

Source: arXiv 2401.12610. The model is f(x) = N^-1/2 sum_k w_k sigma(D^-1/2 F_k . x) of x uniform on {-1, +1}^D, with
N fixed Gaussian rows F_k. Its BMD follows from q_w = |w|^2 / N and q_s = |F' w|^2 / (N D):

    BMD = [k1^2 q_s + (S - k1^2) q_w] / [k1^2 q_s + k2 q_w]

with z a standard normal number, k1 = E[sigma'(z)], k2 = Var sigma(z) - k1^2 and S = E[sigma'(z)^2]. The part of
degree 1 adds up over features as q_s does; the parts of higher degree are orthogonal between features as D grows.
Weights of any training may be put in. For weights of a ridge regression, `theory.replica` gives q_s and q_w.

At finite D, the part of degree 2 has only D (D - 1) / 2 coefficients, in which N features overlap: where N / D^2 is
not small, W_2 q_2 takes the place of W_2 q_w, with W_2 the weight of sigma at degree 2 and
q_2 = 2 / (N D (D - 1)) sum_{i<j} (sum_k w_k F_ki F_kj)^2 (derived for this package, and checked by simulation).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy  # its parts are imported when they are first used

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "activation",
    "mean_dimension",
    "normal_nodes",
    "peak_height",
    "ridgeless_ratio",
]

Array: TypeAlias = npt.NDArray[np.float64]

ACTIVATIONS = ("tanh", "relu", "erf", "sin")
_NODES = 180  # of the quadrature over the normal distribution: 1e-12 for tanh, whose poles are nearest
_NODES_OF_PAIRS = 80


@dataclass(frozen=True)
class Activation:
    """What the theory of random features needs of an activation sigma; z is a standard normal number.

    Attributes:
        k1: E[z sigma(z)] = E[sigma'(z)]; its square is the weight at degree 1.
        k2: Var sigma(z) - k1^2, the weight at all higher degrees together (k*^2 in the literature).
        slope: S = E[sigma'(z)^2], the sum of all weights times their degree.
        second: W_2 = E[(z^2 - 1) sigma(z)]^2 / 2, the weight at degree 2.
    """

    name: str
    k1: float
    k2: float
    slope: float
    second: float = 0.0

    @property
    def one_neuron(self) -> float:
        """The BMD of a single feature, S / (k1^2 + k2)."""
        return self.slope / (self.k1**2 + self.k2)

    @property
    def nonlinear(self) -> float:
        """The BMD without a linear part, the mean degree of the rest: (S - k1^2) / k2."""
        return (self.slope - self.k1**2) / self.k2

    def slope_at(self, dim: int) -> float:
        """S_D, which replaces S at finite D: a flip of one input is a step of 2 F_ki / sqrt(D), not a derivative.

        S_D = (D / 4) E[(sigma(r + e) - sigma(r - e))^2] with e = F / sqrt(D), r ~ N(0, 1 - F^2 / D). For relu, the
        first two orders in D^-1/2.
        """
        if self.name == "relu":
            return float(0.5 - 2 / (3 * np.pi * np.sqrt(dim)))
        z, weight = normal_nodes(_NODES_OF_PAIRS)
        step = z[:, None] / np.sqrt(dim)
        rest = np.sqrt(np.maximum(1 - step**2, 0.0)) * z
        jump = _FUNCTIONS[self.name](rest + step) - _FUNCTIONS[self.name](rest - step)
        return float(dim / 4 * (weight @ jump**2 @ weight))


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "erf": lambda u: np.asarray(scipy.special.erf(u)),
    "sin": np.sin,
}
_DERIVATIVES: dict[str, Callable[[Array], Array]] = {
    "tanh": lambda u: np.asarray(1 / np.cosh(u) ** 2),
    "erf": lambda u: np.asarray(2 / np.sqrt(np.pi) * np.exp(-(u**2))),
    "sin": np.cos,
}


@cache
def activation(name: str) -> Activation:
    """The constants of one of `ACTIVATIONS`: closed forms for relu, quadrature for the others, all of which are odd."""
    if name == "relu":
        return Activation("relu", 0.5, 0.25 - 1 / (2 * np.pi), 0.5, 1 / (4 * np.pi))
    z, weight = normal_nodes(_NODES)
    slopes = _DERIVATIVES[name](z)
    k1 = float(weight @ slopes)
    return Activation(name, k1, float(weight @ _FUNCTIONS[name](z) ** 2) - k1**2, float(weight @ slopes**2))


@cache
def normal_nodes(nodes: int) -> tuple[Array, Array]:
    """Nodes and weights of E[g(z)] ~ weight @ g(nodes)."""
    z, weight = np.polynomial.hermite_e.hermegauss(nodes)
    return z, weight / weight.sum()


def mean_dimension(
    of: Activation,
    q_s: npt.ArrayLike,
    q_w: npt.ArrayLike,
    slope: npt.ArrayLike | None = None,
    q_2: npt.ArrayLike | None = None,
) -> Array:
    """The BMD of random features, eq. (R) of the module.

    Args:
        q_s, q_w: Squared linear part and squared norm of the weights, see the module; of one shape.
        slope: S; `of.slope_at(D)` for a finite D.
        q_2: The squared part of degree 2 for a finite D; q_w if not given.
    """
    q_s, q_w = np.asarray(q_s, dtype=np.float64), np.asarray(q_w, dtype=np.float64)
    s = of.slope if slope is None else np.asarray(slope, dtype=np.float64)
    linear, beyond = of.k1**2 * q_s, 0.0 if q_2 is None else of.second * (np.asarray(q_2, dtype=np.float64) - q_w)
    return np.asarray((linear + (s - of.k1**2) * q_w + 2 * beyond) / (linear + of.k2 * q_w + beyond))


def ridgeless_ratio(of: Activation, width_per_dim: npt.ArrayLike) -> Array:
    """q_s / q_w of features fitted to pure noise without a ridge, for any N / D with N <= P.

    At N = P noise decides on the weights whatever the labels are, so that this is the ratio at the peak.
    """
    gamma = 1 / np.asarray(width_per_dim, dtype=np.float64)
    z = gamma * of.k2 / of.k1**2
    b = 1 - gamma + z
    return np.asarray(2 * z / (b + np.sqrt(b**2 + 4 * gamma * z)))


def peak_height(of: Activation, items_per_dim: npt.ArrayLike) -> Array:
    """The BMD at N = P as the ridge goes to 0, for P / D; it depends neither on the teacher nor on label noise."""
    ratio = ridgeless_ratio(of, items_per_dim)
    return mean_dimension(of, ratio, np.ones_like(ratio))
