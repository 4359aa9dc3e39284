"""Regularised regression on random features in the proportional limit: order parameters by the replica method.

Source: the saddle-point equations of Gerace et al. (arXiv 2002.09339). The features are those of `theory.bmd`; a
teacher u = theta . x / sqrt(D) with |theta|^2 = D gives P labels, and w minimises sum of losses + (ridge / 2) |w|^2.
Labels are sign(u), flipped with a probability, or u plus Gaussian noise. N, P and D are large at fixed ratios.

For the square loss one scalar equation is left, with one solution, which is bisected; everything else is linear in it.
For the logistic loss the equations are iterated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy  # its parts are imported when they are first used

from raysweep.theory.bmd import Activation, mean_dimension, normal_nodes

__all__ = ["Fitted", "logistic", "square"]

Array: TypeAlias = npt.NDArray[np.float64]

_BISECTIONS = 64
_LEAST_RIDGE = 1e-13  # for a ridge of 0: what it changes is far below six digits
_NODES = 151  # of the quadrature over the student's field
_KEPT = 0.3  # share of the old value in each step of the iteration
_TOLERANCE = 1e-10
_MOST = 20_000  # steps
_NEWTON = 60


@dataclass(frozen=True)
class Fitted:
    """What is known about the fitted weights; all fields have the shape of the settings.

    Attributes:
        activation: Of the features.
        v: Variance of the output over solutions of equal loss, per unit of temperature.
        q: Var f over inputs.
        m: Covariance of f and the teacher's field u.
        q_s, q_w: As in `theory.bmd`.
        noise: Chance that a label is flipped, or variance of the noise of a linear teacher.
        linear: Whether the labels are u plus noise.
        push: -l'(0), the pull of the loss on an output of 0.
        train_mse: Mean square of label minus output over the training items.
    """

    activation: Activation
    v: Array
    q: Array
    m: Array
    q_s: Array
    q_w: Array
    noise: Array
    linear: bool
    push: float
    train_mse: Array

    @property
    def test_error(self) -> Array:
        """Chance that the sign of f is not that of u, for a new input."""
        return np.asarray(np.arccos(np.clip(self.m / np.sqrt(self.q), -1, 1)) / np.pi)

    @property
    def mse(self) -> Array:
        """Mean square of f minus the label without noise, for a new input."""
        return np.asarray(1 + self.q - 2 * (1.0 if self.linear else np.sqrt(2 / np.pi)) * self.m)

    @property
    def train_error(self) -> Array:
        """Share of training labels, flipped ones included, whose sign f misses; NaN for a linear teacher."""
        if self.linear:
            return np.full_like(self.q, np.nan)
        h = self.push * self.v / np.sqrt(self.q)
        cosine = np.clip(self.m / np.sqrt(self.q), -1 + 1e-15, 1 - 1e-15)
        below, both = scipy.special.ndtr(-h), scipy.special.owens_t(h, cosine / np.sqrt(1 - cosine**2))
        return np.asarray(np.maximum(below - 2 * (1 - 2 * self.noise) * both, 0.0))

    def bmd(self, slope: npt.ArrayLike | None = None) -> Array:
        """The Boolean mean dimension; `slope` as in `theory.bmd.mean_dimension`."""
        return mean_dimension(self.activation, self.q_s, self.q_w, slope)


@dataclass(frozen=True)
class _Setting:
    """Ratios alpha = P / N, gamma = D / N, and the ridge; arrays of one shape."""

    of: Activation
    alpha: Array
    gamma: Array
    ridge: Array

    @staticmethod
    def make(of: Activation, *numbers: npt.ArrayLike) -> tuple[_Setting, Array]:
        """The setting of width, n_train, dim and ridge; and the noise, in the same shape."""
        width, items, dim, ridge, noise = np.broadcast_arrays(*(np.asarray(n, dtype=np.float64) for n in numbers))
        return _Setting(of, items / width, dim / width, np.maximum(ridge, _LEAST_RIDGE)), np.array(noise)

    def at(self, chosen: npt.NDArray[np.bool_]) -> _Setting:
        return _Setting(self.of, self.alpha[chosen], self.gamma[chosen], self.ridge[chosen])

    def weights(self, vh: Array, qh: Array, mh: Array) -> tuple[Array, Array, Array, Array]:
        """(V, m_s, q_s, q_w) from the averages over labels.

        With mu the spectrum of F F' / D and u = int x / (x + z) dmu, all differences are written as quotients: 1 - z g
        = u = g / (1 + gamma g), where it would cancel for large z.
        """
        k1, k2, gamma = self.of.k1, self.of.k2, self.gamma
        vs, qs, ms = self.alpha * k1**2 / gamma * vh, self.alpha * k1**2 / gamma * qh, self.alpha * k1 / gamma * mh
        stiff, qw = self.ridge + self.alpha * k2 * vh, self.alpha * k2 * qh
        z = stiff / vs
        b = 1 - gamma + z
        g = 2 / (b + np.sqrt(b**2 + 4 * gamma * z))
        u = g / (1 + gamma * g)
        mixed = z * (gamma * g**2 + g) / (2 * gamma * z * g + b) / (1 + gamma * g) ** 2  # int x z / (x + z)^2
        squared = u - mixed  # int x^2 / (x + z)^2
        pull = ms**2 + qs
        v = k1**2 * u / vs + k2 / (1 + gamma * g) / stiff
        q_s = pull * squared / vs**2 + qw * mixed / (stiff * vs)
        q_w = qw * (1 / (1 + gamma * g) - gamma * mixed) / stiff**2 + gamma * pull * mixed / (stiff * vs)
        return v, ms * u / vs, q_s, q_w


def square(
    of: Activation,
    width: npt.ArrayLike,
    n_train: npt.ArrayLike,
    dim: npt.ArrayLike,
    ridge: npt.ArrayLike,
    noise: npt.ArrayLike = 0.0,
    linear: bool = False,
) -> Fitted:
    """Order parameters for the loss (y - f)^2 / 2.

    Args:
        of: Constants of the activation.
        width, n_train, dim: N, P and D, of which only ratios matter. All arrays are broadcast.
        ridge: lambda >= 0; 0 is taken as the limit from above.
        noise: Chance that a label is flipped; for a linear teacher the variance of the noise.
        linear: Labels are u plus noise, not sign(u).
    """
    setting, noise = _Setting.make(of, width, n_train, dim, ridge, noise)
    zero = np.zeros_like(noise)
    low = np.full_like(noise, np.log(1e-13))
    high = np.log((of.k1**2 + of.k2) / setting.ridge) + 1
    for _ in range(_BISECTIONS):  # V is where its own update meets it: below the update beforehand, above it afterwards
        middle = (low + high) / 2
        below = setting.weights(1 / (1 + np.exp(middle)), zero, zero)[0] > np.exp(middle)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    v = np.exp((low + high) / 2)
    pull = np.ones_like(noise) if linear else np.sqrt(2 / np.pi) * (1 - 2 * noise)
    second = 1 + noise if linear else np.ones_like(noise)  # moment of the labels
    vh, mh = 1 / (1 + v), pull / (1 + v)
    _, m_s, s_0, w_0 = setting.weights(vh, zero, mh)
    _, _, s_1, w_1 = setting.weights(vh, zero + 1, zero)
    m = of.k1 * m_s
    # Var f = base + gain qh is linear in qh = (second + Var f - 2 pull m) / (1 + V)^2.
    base, gain = of.k1**2 * s_0 + of.k2 * w_0, of.k1**2 * s_1 + of.k2 * w_1
    q = (base + gain * vh**2 * (second - 2 * pull * m)) / (1 - gain * vh**2)
    qh = vh**2 * (second + q - 2 * pull * m)
    return Fitted(of, v, q, m, s_0 + s_1 * qh, w_0 + w_1 * qh, noise, linear, 1.0, qh)


def logistic(
    of: Activation,
    width: npt.ArrayLike,
    n_train: npt.ArrayLike,
    dim: npt.ArrayLike,
    ridge: npt.ArrayLike,
    noise: npt.ArrayLike = 0.0,
) -> Fitted:
    """Order parameters for the loss log(1 + exp(-y f)); see `square`. NaN where the iteration does not settle.

    Args:
        ridge: lambda >= 1e-4: below, the iteration is slow.
    """
    setting, noise = _Setting.make(of, width, n_train, dim, ridge, noise)
    shape = noise.shape
    setting, noise = setting.at(np.ones(shape, dtype=bool)), noise.ravel()
    state = np.tile(np.array([[1.0], [0.5], [0.3]]), noise.size)  # V, Q, M
    left = np.ones(noise.size, dtype=bool)
    for _ in range(_MOST):
        mine = setting.at(left)
        after = _updated(mine, state[:, left], noise[left])[0]
        moved = np.abs(after - state[:, left]).max(axis=0) / np.maximum(np.abs(after).max(axis=0), 1.0)
        state[:, left] = _KEPT * state[:, left] + (1 - _KEPT) * after
        left[np.flatnonzero(left)[moved < _TOLERANCE]] = False
        if not left.any():
            break
    state[:, left] = np.nan
    (v, q, m), q_s, q_w, mse = _updated(setting, state, noise)
    found = Fitted(of, v, q, m, q_s, q_w, noise, False, 0.5, mse)
    arrays = {name: getattr(found, name).reshape(shape) for name in ("v", "q", "m", "q_s", "q_w", "noise", "train_mse")}
    return replace(found, **arrays)


def _updated(setting: _Setting, state: Array, noise: Array) -> tuple[Array, Array, Array, Array]:
    """One step of the logistic iteration: (V, Q, M) [3, settings], q_s, q_w and the mean square on training items.

    Both labels contribute alike by symmetry, so y = 1 is computed and counted twice.
    """
    v, q, m = state[:, :, None]
    z, weight = normal_nodes(_NODES)
    weight = 2 * weight
    field = np.sqrt(q) * z
    seen, unseen = m / np.sqrt(q) * z, np.sqrt(np.maximum(1 - m**2 / q, 1e-300))  # the teacher's field: mean and spread
    flipped = noise[:, None]
    chance = (1 - 2 * flipped) * scipy.special.ndtr(seen / unseen) + flipped
    slope = (1 - 2 * flipped) * np.exp(-((seen / unseen) ** 2) / 2) / (np.sqrt(2 * np.pi) * unseen)
    margin = _margin(field, v)
    force = scipy.special.expit(-margin)
    curvature = force * (1 - force)
    vh = (chance * curvature / (1 + v * curvature)) @ weight
    qh, mh = (chance * force**2) @ weight, (slope * force) @ weight
    new_v, m_s, q_s, q_w = setting.weights(vh, qh, mh)
    of = setting.of
    new = np.stack([new_v, of.k1**2 * q_s + of.k2 * q_w, of.k1 * m_s])
    return new, q_s, q_w, (chance * (margin - 1) ** 2) @ weight


def _margin(field: Array, v: Array) -> Array:
    """The output p that minimises (p - field)^2 / (2 v) + log(1 + exp(-p)), by Newton's method.

    The equation p = field + v / (1 + e^p) has its only inflection at 0, so that steps from there never overshoot.
    """
    p = np.zeros_like(field)
    for _ in range(_NEWTON):
        pull = scipy.special.expit(-p)
        step = (p - field - v * pull) / (1 + v * pull * (1 - pull))
        p = p - step
        if (np.abs(step) <= 1e-13 * (1 + np.abs(p))).all():
            break
    return p
