"""Terms of laws: the positive functions whose weighted sum a law is, their slopes, and how they take new units.

A term function takes `u = log x` of shape [..., axes, points] and exponents [..., m] and returns `(logs, slopes)`: the
log of each term, [..., points], and triples `(term, exponent, d log term / d exponent)`. A restore function turns
exponents found for scales divided by exp(u0), u0 of shape [..., axes], into those for the scales themselves, and gives
the log of what each term grew by on the way, [..., terms].
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Slopes: TypeAlias = "tuple[tuple[int, int, Array], ...]"
Terms: TypeAlias = "tuple[tuple[Array, ...], Slopes]"
Restored: TypeAlias = "tuple[Array, Array]"

_ONE = np.zeros(1)  # log of the term 1, the floor's


def softplus(z: Array) -> Array:
    """log(1 + e^z) without overflow."""
    return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))


def sigmoid(z: Array) -> Array:
    """1 / (1 + e^-z) without overflow."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


def power(u: Array, q: Array) -> Terms:
    """x^-a."""
    u = u[..., 0, :]
    return (-q[..., 0, None] * u,), ((0, 0, -u),)


def power_restore(q: Array, u0: Array) -> Restored:
    return q, q * u0


def floor_power(u: Array, q: Array) -> Terms:
    """1, x^-a."""
    u = u[..., 0, :]
    return (_ONE, -q[..., 0, None] * u), ((1, 0, -u),)


def shifted(u: Array, q: Array) -> Terms:
    """1, (x + s)^-a; exponents a, s."""
    x, (a, s) = np.exp(u[..., 0, :]), _columns(q)
    far = np.log(x + s)
    return (_ONE, -a * far), ((1, 0, -far), (1, 1, -a / (x + s)))


def shifted_restore(q: Array, u0: Array) -> Restored:
    u0 = u0[..., 0]
    grown = np.stack([np.zeros_like(q[..., 0]), q[..., 0] * u0], axis=-1)
    return np.stack([q[..., 0], q[..., 1] * np.exp(u0)], axis=-1), grown


def broken(u: Array, q: Array) -> Terms:
    """1, x^-a_0 prod_i (1 + (x/d_i)^(1/f_i))^(-(a_i - a_(i-1)) f_i): slope a_0 before the first break, a_i after the
    one at d_i; exponents a_0, then a_i, d_i, f_i of each break.
    """
    u, (before, *breaks) = u[..., 0, :], _columns(q)
    log, own, at = -before * u, -u, 0  # own: the derivative in the slope before the next break
    slopes = []
    for j in range(0, len(breaks), 3):
        a, d, f = breaks[j : j + 3]
        v = (u - np.log(d)) / f
        bend, past, turn = softplus(v), sigmoid(v), a - before
        log = log - turn * f * bend
        slopes += [(1, at, own + f * bend), (1, j + 2, turn * past / d), (1, j + 3, turn * (v * past - bend))]
        before, own, at = a, -f * bend, j + 1
    return (_ONE, log), (*slopes, (1, at, own))


def broken_restore(q: Array, u0: Array) -> Restored:
    u0 = u0[..., 0]
    out = np.array(np.broadcast_to(q, (*np.broadcast_shapes(q.shape[:-1], u0.shape), q.shape[-1])))
    out[..., 2::3] *= np.exp(u0)[..., None]
    grown = q[..., 0] * u0
    return out, np.stack([np.zeros_like(grown), grown], axis=-1)


def exponential(u: Array, q: Array) -> Terms:
    """1, exp(-x / scale)."""
    falls = -np.exp(u[..., 0, :]) / q[..., 0, None]
    return (_ONE, falls), ((1, 0, -falls / q[..., 0, None]),)


def exponential_restore(q: Array, u0: Array) -> Restored:
    return q * np.exp(u0), np.zeros((*q.shape[:-1], 2))


def separable(u: Array, q: Array) -> Terms:
    """1, x^-a, t^-b."""
    n, d = u[..., 0, :], u[..., 1, :]
    return (_ONE, -q[..., 0, None] * n, -q[..., 1, None] * d), ((1, 0, -n), (2, 1, -d))


def separable_restore(q: Array, u0: Array) -> Restored:
    """Also of one axis: `floor_power`."""
    return q, np.concatenate([np.zeros_like(q[..., :1]), q * u0], axis=-1)


def coupled(u: Array, q: Array) -> Terms:
    """1, (x^-a + R t^-b)^g; exponents a, b, g, R."""
    (a, b, g, r), n, d = _columns(q), u[..., 0, :], u[..., 1, :]
    first, second = -a * n, np.log(r) - b * d
    less = second < first
    e = np.exp(-np.abs(second - first))
    large = 1.0 / (1.0 + e)
    total = np.maximum(first, second) - np.log(large)
    share, rest = np.where(less, large, e * large), np.where(less, e * large, large)
    return (_ONE, g * total), ((1, 0, -g * share * n), (1, 1, -g * rest * d), (1, 2, total), (1, 3, g * rest / r))


def coupled_restore(q: Array, u0: Array) -> Restored:
    a, b, g = q[..., 0], q[..., 1], q[..., 2]
    out = np.array(q, dtype=np.float64)
    out[..., 3] *= np.exp(b * u0[..., 1] - a * u0[..., 0])
    return out, np.stack([np.zeros_like(a), a * g * u0[..., 0]], axis=-1)


def steepening(u: Array, q: Array) -> Terms:
    """k^-b(N), b(N) = beta - delta / (1 + (N / N0)^gamma); exponents beta, delta, N0, gamma."""
    (beta, delta, n0, gamma), k, n = _columns(q), u[..., 0, :], u[..., 1, :]
    v = gamma * (n - np.log(n0))
    early = sigmoid(-v)  # 1 / (1 + (N / N0)^gamma)
    bend = delta * early * (1.0 - early)
    slopes = (0, 0, -k), (0, 1, k * early), (0, 2, k * bend * gamma / n0), (0, 3, -k * bend * (n - np.log(n0)))
    return (-k * (beta - delta * early),), slopes


def steepening_restore(q: Array, u0: Array) -> Restored:
    out = np.array(q, dtype=np.float64)
    out[..., 2] *= np.exp(u0[..., 1])
    return out, np.zeros((*q.shape[:-1], 1))


def product(u: Array, q: Array) -> Terms:
    """x1^-a1 x2^-a2 ..."""
    return (-(q[..., None] * u).sum(axis=-2),), tuple((0, j, -u[..., j, :]) for j in range(u.shape[-2]))


def product_restore(q: Array, u0: Array) -> Restored:
    return q, (q * u0).sum(axis=-1, keepdims=True)


def floor_product(u: Array, q: Array) -> Terms:
    """1, x1^-a1 x2^-a2 ..."""
    (log,), slopes = product(u, q)
    return (_ONE, log), tuple((1, j, slope) for _, j, slope in slopes)


def floor_product_restore(q: Array, u0: Array) -> Restored:
    grown = (q * u0).sum(axis=-1)
    return q, np.stack([np.zeros_like(grown), grown], axis=-1)


def bottleneck(u: Array, q: Array) -> Terms:
    """(x^-(a/b) + R / t)^b; exponents a, b, R."""
    (a, b, r), n, d = _columns(q), u[..., 0, :], u[..., 1, :]
    first, second = -a / b * n, np.log(r) - d
    total = np.logaddexp(first, second)
    share = np.exp(first - total)
    slopes = (0, 0, -share * n), (0, 1, total + share * a / b * n), (0, 2, b * (1.0 - share) / r)
    return (b * total,), slopes


def bottleneck_restore(q: Array, u0: Array) -> Restored:
    a, b = q[..., 0], q[..., 1]
    out = np.array(np.broadcast_to(q, (*np.broadcast_shapes(q.shape[:-1], u0.shape[:-1]), q.shape[-1])))
    out[..., 2] *= np.exp(u0[..., 1] - a / b * u0[..., 0])
    return out, (a * u0[..., 0])[..., None]


def steps(u: Array, q: Array) -> Terms:
    """1 / (1 + (x/d)^k), 1 / (1 + (x/d)^-k): before and after a step at d; exponents d, k."""
    d, k = _columns(q)
    far = u[..., 0, :] - np.log(d)
    before, after = sigmoid(-k * far), sigmoid(k * far)
    slopes = (0, 0, after * k / d), (0, 1, -after * far), (1, 0, -before * k / d), (1, 1, before * far)
    return (-softplus(k * far), -softplus(-k * far)), slopes


def steps_restore(q: Array, u0: Array) -> Restored:
    out = np.array(np.broadcast_to(q, (*np.broadcast_shapes(q.shape[:-1], u0.shape[:-1]), q.shape[-1])))
    out[..., 0] *= np.exp(u0[..., 0])
    return out, np.zeros_like(out)


def valley(u: Array, q: Array) -> Terms:
    """exp(k log(x / o)^2); exponents k, o."""
    k, o = _columns(q)
    far = u[..., 0, :] - np.log(o)
    return (k * far**2,), ((0, 0, far**2), (0, 1, -2 * k * far / o))


def valley_restore(q: Array, u0: Array) -> Restored:
    out = np.array(np.broadcast_to(q, (*np.broadcast_shapes(q.shape[:-1], u0.shape[:-1]), q.shape[-1])))
    out[..., 1] *= np.exp(u0[..., 0])
    return out, np.zeros_like(out[..., :1])


def _columns(q: Array) -> tuple[Array, ...]:
    return tuple(q[..., j, None] for j in range(q.shape[-1]))
