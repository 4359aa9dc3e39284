"""The lazy limit of the features model at finite width or data: deterministic equivalents of random-matrix theory.

Sources: Bordelon, Atanasov and Pehlevan, arXiv 2402.01092, in Laplace form. With R = R1 R3 and

    H_k(z) = 1 / (z + lambda_k R),  R1 = 1 - (1/P) sum_k lambda_k R / (z + lambda_k R),  R3 the same with 1/N,

training online (P infinite) has L(t) = sum_k m_k h_k(2t), where h_k is the inverse Laplace transform of H_k. For a
single model the width's cap on the exponent of the plateau is alpha, not 2 alpha as for data.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from raysweep.theory.features import Modes

__all__ = ["data_plateau", "ensemble_plateau", "lazy_curve", "reused_data_curve", "width_plateau"]

Array = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]
_NODES = 14  # of half a contour; more lose digits, as the terms grow with e^nodes
_NODES_TWICE = 9  # where there are two contours
_NEWTON = 200


def lazy_curve(modes: Modes, times: npt.ArrayLike, width: float) -> Array:
    """The mean loss of a random-feature model of a width under gradient flow on fresh data, [times].

    Args:
        modes: At infinite width.
        width: N; inf gives sum_k m_k exp(-2 lambda_k t).
    """
    at = np.asarray(times, dtype=float)
    if np.isinf(width):
        return np.asarray(modes.unreachable + (modes.mass * np.exp(-2 * modes.x * at[:, None])).sum(1))
    z, weight = _contour(2 * at, _NODES)
    r = _response(modes, z.ravel(), width).reshape(z.shape)
    h = (modes.mass / (z[..., None] + modes.x * r[..., None])).sum(-1)
    return np.asarray(modes.unreachable + (weight * h).real.sum(1))


def reused_data_curve(modes: Modes, times: npt.ArrayLike, items: float) -> Array:
    """The mean loss at infinite width of full-batch gradient flow on P items that are used again, [times]."""
    at = np.asarray(times, dtype=float)
    z, weight = _contour(at, _NODES_TWICE)
    out = np.empty(len(at))
    for i, (nodes, weights) in enumerate(zip(z, weight, strict=True)):
        both, of_both = np.concatenate([nodes, nodes.conj()]), np.concatenate([weights, weights.conj()]) / 2
        r = _response(modes, both, items)
        g = 1 / (both[:, None] + modes.x * r[:, None])
        overlap = (g * (modes.count * modes.x**2)) @ g.T * np.outer(r, r) / items
        signal = (g * modes.mass) @ g.T
        out[i] = (of_both @ (signal / (1 - overlap)) @ of_both).real
    return modes.unreachable + out


def width_plateau(modes: Modes, width: float) -> float:
    """The loss that training online ends at; see `exponents.width_plateau_exponent`."""
    kappa = _kappa(modes, width)
    return float(modes.unreachable + (modes.mass * kappa / (modes.x + kappa)).sum())


def ensemble_plateau(modes: Modes, width: float) -> float:
    """The same of the mean of infinitely many models, ~ N^(-alpha min(2, beta))."""
    kappa = _kappa(modes, width)
    return float(modes.unreachable + (modes.mass * (kappa / (modes.x + kappa)) ** 2).sum())


def data_plateau(modes: Modes, items: float) -> float:
    """The loss at infinite width that training on P items ends at; see `exponents.data_plateau_exponent`."""
    kappa = _kappa(modes, items)
    if kappa == 0:  # as many items as modes
        return modes.unreachable
    seen = (modes.count * (modes.x / (modes.x + kappa)) ** 2).sum() / items
    return float(modes.unreachable + (modes.mass * (kappa / (modes.x + kappa)) ** 2).sum() / (1 - seen))


def _kappa(modes: Modes, size: float) -> float:
    """The ridge at which the effective dimension, sum_k lambda_k / (lambda_k + kappa), equals a size."""
    if size >= modes.count.sum():
        return 0.0

    def excess(log_kappa: float) -> float:
        return float((modes.count * modes.x / (modes.x + np.exp(log_kappa))).sum() - size)

    high = np.log((modes.count * modes.x).sum() / size) + 1
    return float(np.exp(brentq(excess, np.log(modes.x.min()) - 60, high, xtol=1e-13)))


def _response(modes: Modes, z: Complex, size: float) -> Complex:
    """R(z) = 1 - (1/size) sum_k lambda_k R / (z + lambda_k R), [z]: Newton's method from R = 1, damped."""
    r = np.ones_like(z)
    x, count = modes.x, modes.count
    for _ in range(_NEWTON):
        below = z[:, None] + x * r[:, None]
        value = r - 1 + (count * x * r[:, None] / below).sum(1) / size
        slope = 1 + (count * x * z[:, None] / below**2).sum(1) / size
        step = value / slope
        size_of_step = np.abs(step)
        r = r - step * np.minimum(1.0, 0.5 * np.abs(r) / np.maximum(size_of_step, 1e-300))
        if (size_of_step < 1e-13 * np.abs(r)).all():
            break
    return r


def _contour(times: Array, nodes: int) -> tuple[Complex, Complex]:
    """Nodes and weights [times, nodes] of an inverse Laplace transform: f(t) = sum Re(weight F(z)).

    The modified Talbot contour of Weideman and Trefethen (Math. Comp. 76, 2007, p. 1341), its upper half.
    """
    theta = (np.arange(nodes) + 0.5) * np.pi / nodes
    s, c = np.sin(0.6407 * theta), np.cos(0.6407 * theta)
    z = 2 * nodes * (-0.4814 + 0.6122 * theta * c / s + 0.2645j * theta)
    slope = 2 * nodes * (0.6122 * c / s - 0.6122 * 0.6407 * theta / s**2 + 0.2645j)
    weight = np.exp(z) * slope / (1j * nodes)
    at: Array = 1 / times[:, None]
    return np.asarray(z * at), np.asarray(weight * at)
