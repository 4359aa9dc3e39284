"""M4: the law (y - E) / (I - y)^g = A x^-a between a floor E and the level I of chance.

Alabdulmohsin, Neyshabur & Zhai 2022, arXiv 2209.06640, estimator M4. It gives y only implicitly. With
y = E + (I - E) sigmoid(z) the condition becomes `g log(1 + e^z) - log(1 + e^-z) = h(x)`, whose left side rises from
slope 1 to slope g, so Newton's method on z needs a few steps from either asymptote. Parameters: E, I, A, alpha, gamma.
"""

from __future__ import annotations

import numpy as np

from raysweep.laws.terms import Array, softplus

__all__ = ["BLOCKS", "evaluate", "restore", "starts"]

_STEPS = 7  # Newton steps from either asymptote to the last digit
_FLOORS = (0.0, 0.5, 0.8, 0.95, 0.995)  # E over the least y, in the search of starts
_CHANCES = (1.005, 1.05, 1.3, 3.0, 30.0)  # I over the largest y
_POWERS = (0.3, 1.0, 2.0, 5.0)
BLOCKS = len(_POWERS)  # the fastest index of the mesh


def evaluate(u: Array, values: Array) -> tuple[Array, list[Array]]:
    """log y, [..., points], and its derivative in each parameter, of [..., points]; see `Law.evaluate`."""
    u = u[..., 0, :]
    floor, chance, amplitude, a, g = (values[..., j, None] for j in range(5))
    span = np.log(chance - floor)
    h = np.log(amplitude) - a * u - (1 - g) * span
    z = np.where(h < 0, h, h / g)
    for _ in range(_STEPS):
        e = np.exp(-np.abs(z))
        tail, more = np.log1p(e), np.where(z >= 0, 1.0, e) / (1.0 + e)  # softplus and sigmoid of z and of -z
        wrong = g * (np.maximum(z, 0.0) + tail) - np.maximum(-z, 0.0) - tail - h
        z = z - wrong / (1.0 - more + g * more)
    up, down = np.exp(span - softplus(-z)), np.exp(span - softplus(z))  # y - E, I - y
    y = floor + up
    both = y * (down + g * up)
    slope = up * down / both  # derivative of log y in log A
    return np.log(y), [down / both, g * up / both, slope / amplitude, -slope * u, slope * (span - softplus(z))]


def restore(values: Array, u0: Array, t0: Array) -> Array:
    """Parameters for x and y, from those for x / exp(u0) and y / exp(t0)."""
    out = np.array(np.broadcast_to(values, (*np.broadcast_shapes(values.shape[:-1], t0.shape), 5)))
    out[..., :2] *= np.exp(t0)[..., None]
    out[..., 2] *= np.exp((1 - out[..., 4]) * t0 + out[..., 3] * u0[..., 0])
    return out


def starts(u: Array, t: Array, w: Array) -> tuple[Array, Array]:
    """Parameters of a mesh over (E, I, g), A and a solved by regression, [problems, mesh, 5], and their objective.

    Args:
        u: Log scales, [problems or 1, 1, points].
        t: Log measurements, [problems or 1, points].
        w: Weights, [problems, points]; points of weight 0 do not count.
    """
    there = w > 0
    y = np.broadcast_to(np.exp(t), w.shape)
    least = np.where(there, y, np.inf).min(axis=1)[:, None]
    most = np.where(there, y, 0.0).max(axis=1)[:, None]
    y = np.clip(y, least, most)[:, None]
    floor, chance, g = (part[:, :, None] for part in _mesh(least, most))  # [problems, mesh, 1]
    u = np.broadcast_to(u[:, 0], w.shape)[:, None]
    up, down = y - floor, chance - y
    v = np.log(up) - g * np.log(down)
    per_log = y / up + g * y / down  # dv / d log y: the residual of v over it is one of log y
    weight = w[:, None] / per_log**2
    total = weight.sum(axis=2, keepdims=True)
    u_mean, v_mean = ((weight * z).sum(axis=2, keepdims=True) / total for z in (u, v))
    a = -(weight * (u - u_mean) * (v - v_mean)).sum(axis=2) / (weight * (u - u_mean) ** 2).sum(axis=2)
    a = np.maximum(a, 1e-3)
    log_a = v_mean[..., 0] + a * u_mean[..., 0]
    objective = (weight * (v - log_a[..., None] + a[..., None] * u) ** 2).sum(axis=2)
    found = np.stack([floor[..., 0], chance[..., 0], np.exp(log_a), a, np.broadcast_to(g[..., 0], a.shape)], axis=2)
    return found, objective


def _mesh(least: Array, most: Array) -> tuple[Array, Array, Array]:
    """E, I [problems, mesh] and g [1, mesh]; `_POWERS` varies fastest."""
    floors, chances, powers = np.meshgrid(_FLOORS, _CHANCES, _POWERS, indexing="ij")
    return floors.ravel() * least, chances.ravel() * most, powers.ravel()[None]
