"""Power-law targets on the circle, and the neural tangent kernel of infinitely wide networks there.

Source: arXiv 2409.17858, section 6; the kernels' recursion is Jacot et al. 2018 (arXiv 1806.07572), with the arc-cosine
kernels of Cho and Saul 2009. Networks have no biases, Gaussian weights of unit variance in mean-field scaling,
activations of unit second moment and inputs of unit mean square, so that the kernel at equal angles is
1 + s (1 + s (...)), H + 1 terms, with s = 1 for ReLU and the tilted absolute value max(h, -h / 2), and 4/3 for the
square of ReLU.

An activation whose derivative of order p has a jump at 0, as ReLU(h)^p, has kernel eigenvalues that fall as k^(-2 p),
and the target sum_k k^-q cos(k theta) a tail that falls as k^-(2 q - 1): hence alpha = 2 p, and
beta = (2 q - 1) / (2 p).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from raysweep.theory.features import Modes

__all__ = ["POWERS", "amplitudes", "kernel_spectrum", "modes"]

Array = npt.NDArray[np.float64]

POWERS = {"relu": 1, "relu2": 2, "tilted": 1}  # p of the activations whose kernels have a power law
# Of kinked activations a h + b |h|: a^2 / (a^2 + b^2), the share that the linear part has in the second moment.
_LINEAR = {"relu": 1 / 2, "tilted": 1 / 10}
_ANGLES = 2**18
_SINGLE, _BINS = 64, 160  # harmonics that are not merged, and bins of the others


def amplitudes(activation: str, beta: float, harmonics: int) -> Array:
    """[harmonics] k^-q: the target's coefficients of cos(k theta), for a source exponent beta."""
    q = (1 + 2 * POWERS[activation] * beta) / 2
    return np.arange(1, harmonics + 1, dtype=float) ** -q


@cache
def kernel_spectrum(activation: str, depth: int) -> Array:
    """Eigenvalues of the kernel for k = 0, 1, ... under the uniform measure; the smallest are rounding errors.

    Args:
        activation: A name in `POWERS`.
        depth: Hidden layers.
    """
    angle = 2 * np.pi * np.arange(_ANGLES) / _ANGLES
    covariance = np.cos(angle)
    kernel = covariance.copy()
    for _ in range(depth):
        theta = np.arccos(np.clip(covariance, -1.0, 1.0))
        derivative, covariance = _moments(activation, theta)
        kernel = kernel * derivative + covariance
    return np.asarray(np.fft.rfft(kernel).real / _ANGLES)


def _moments(activation: str, theta: Array) -> tuple[Array, Array]:
    """E[f'(u) f'(v)] and E[f(u) f(v)] of standard normal u, v at an angle theta, for f of unit second moment."""
    if activation in _LINEAR:
        linear = _LINEAR[activation]
        signs = 1 - 2 * theta / np.pi  # E[sign(u) sign(v)]; of |u| |v| next
        even = 2 / np.pi * (np.sin(theta) + (np.pi / 2 - theta) * np.cos(theta))
        return linear + (1 - linear) * signs, linear * np.cos(theta) + (1 - linear) * even
    first = (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / np.pi
    second = 3 * np.sin(theta) * np.cos(theta) + (np.pi - theta) * (1 + 2 * np.cos(theta) ** 2)
    return 4 / 3 * first, second / (3 * np.pi)


def modes(activation: str, depth: int, beta: float, harmonics: int) -> Modes:
    """Eigenvalues, and the target's share of each, at infinite width; harmonics beyond the first are merged in bins."""
    mass = amplitudes(activation, beta, harmonics) ** 2
    x = np.maximum(kernel_spectrum(activation, depth)[1 : harmonics + 1], np.finfo(float).tiny)
    single = np.arange(min(_SINGLE, harmonics))
    bins = np.geomspace(_SINGLE, harmonics, _BINS + 1)[:-1].astype(int) if harmonics > _SINGLE else single
    first = np.unique(np.concatenate([single, bins]))
    own = np.add.reduceat(mass, first)
    count = np.diff(np.append(first, harmonics)).astype(float)
    return Modes(np.add.reduceat(mass * x, first) / own, own / mass.sum(), count)
