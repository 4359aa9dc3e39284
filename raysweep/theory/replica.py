"""Regularised regression on random features in the proportional limit: order parameters by the replica method.

Source: the saddle-point equations of Gerace et al. (arXiv 2002.09339). The features are those of `theory.bmd`; a
teacher u = theta . x / sqrt(D) with |theta|^2 = D gives P labels, and w minimises sum of losses + (ridge / 2) |w|^2.
Labels are sign(u), flipped with a probability, or u plus Gaussian noise. N, P and D are large at fixed ratios.

With `finite`, the features' part of degree 2 has D (D - 1) / 2 coefficients, not infinitely many: a block of their
covariance like the linear part, with an order parameter q_2 of its own, see `theory.bmd`. All else stays in the limit.

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
        q_s, q_w, q_2: As in `theory.bmd`.
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
    q_2: Array
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
        return mean_dimension(self.activation, self.q_s, self.q_w, slope, self.q_2)


@dataclass(frozen=True)
class _Setting:
    """Ratios alpha = P / N, gamma = D / N, and the ridge; arrays of one shape.

    Attributes:
        second: D (D - 1) / (2 N); infinite in the limit.
    """

    of: Activation
    alpha: Array
    gamma: Array
    second: Array
    ridge: Array

    @staticmethod
    def make(of: Activation, finite: bool, *numbers: npt.ArrayLike) -> tuple[_Setting, Array]:
        """The setting of width, n_train, dim and ridge; and the noise, in the same shape."""
        width, items, dim, ridge, noise = np.broadcast_arrays(*(np.asarray(n, dtype=np.float64) for n in numbers))
        second = dim * (dim - 1) / (2 * width) if finite else np.full_like(width, np.inf)
        ridge = np.maximum(ridge, _LEAST_RIDGE)
        return _Setting(of, items / width, dim / width, second, ridge), np.array(noise)

    def at(self, chosen: npt.NDArray[np.bool_]) -> _Setting:
        parts = (self.alpha, self.gamma, self.second, self.ridge)
        return _Setting(self.of, *(part[chosen] for part in parts))

    def variance(self, q_s: Array, q_w: Array, q_2: Array) -> Array:
        """Var f."""
        return np.asarray(self.of.k1**2 * q_s + self.of.k2 * q_w + self.of.second * (q_2 - q_w))

    def weights(self, vh: Array, qh: Array, mh: Array) -> tuple[Array, Array, Array, Array, Array]:
        """(V, m_s, q_s, q_w, q_2).

        The weights are M^-1 times a random pull, with M = stiff + b_1 F F' / N + b_2 G G' / N, where G has the products
        F_ki F_kj of two inputs as columns. t = tr M^-1 / N solves stiff t + gamma u_1 + second u_2 = 1 with
        u = b t / (1 + b t), and all order parameters are derivatives of t along the pull.
        """
        of, alpha = self.of, self.alpha
        rest = of.k2 - of.second
        stiff, spread = self.ridge + alpha * rest * vh, alpha * rest * qh
        b1, m1 = alpha * of.k1**2 / self.gamma * vh, alpha * of.k1 / self.gamma * mh
        pull1 = alpha * of.k1**2 / self.gamma * qh + m1**2
        b2, pull2 = alpha * of.second / self.second * vh, alpha * of.second / self.second * qh
        t = self._trace(stiff, b1, b2, alpha * of.second * vh)
        left1, left2 = 1 / (1 + b1 * t), 1 / (1 + b2 * t)
        # 1 - sum of gamma u^2, without its cancellation
        kept = stiff * t + self.gamma * b1 * t * left1**2 + alpha * of.second * vh * t * left2**2
        q_w = t**2 * (spread + self.gamma * pull1 * left1**2 + alpha * of.second * qh * left2**2) / kept
        v = t * (of.k1**2 * left1 + of.second * left2 + rest)
        return v, m1 * t * left1, (q_w + t**2 * pull1) * left1**2, q_w, (q_w + t**2 * pull2) * left2**2

    def _trace(self, stiff: Array, b1: Array, b2: Array, products: Array) -> Array:
        """The root t of stiff t + gamma b1 t / (1 + b1 t) + products t / (1 + b2 t) = 1.

        In closed form for b2 = 0, and by Newton's method from there: the left side is concave and at most 1 there, so
        that no step overshoots.
        """
        gamma, stiffest = self.gamma, stiff + products
        z = stiffest / b1
        b = 1 - gamma + z
        t = 1 / (stiffest * (1 + 2 * gamma / (b + np.sqrt(b**2 + 4 * gamma * z))))
        for _ in range(_NEWTON if b2.any() else 0):
            left1, left2 = 1 / (1 + b1 * t), 1 / (1 + b2 * t)
            step = 1 - t * (stiff + gamma * b1 * left1 + products * left2)
            step = step / (stiff + gamma * b1 * left1**2 + products * left2**2)
            t = t + step
            if (np.abs(step) <= 1e-13 * t).all():
                break
        return np.asarray(t)


def square(
    of: Activation,
    width: npt.ArrayLike,
    n_train: npt.ArrayLike,
    dim: npt.ArrayLike,
    ridge: npt.ArrayLike,
    noise: npt.ArrayLike = 0.0,
    linear: bool = False,
    finite: bool = False,
) -> Fitted:
    """Order parameters for the loss (y - f)^2 / 2.

    Args:
        of: Constants of the activation.
        width, n_train, dim: N, P and D, of which only ratios matter in the limit. All arrays are broadcast.
        ridge: lambda >= 0; 0 is taken as the limit from above.
        noise: Chance that a label is flipped; for a linear teacher the variance of the noise.
        linear: Labels are u plus noise, not sign(u).
        finite: Take the part of degree 2 at this D.
    """
    setting, noise = _Setting.make(of, finite, width, n_train, dim, ridge, noise)
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
    _, m_s, *base_q = setting.weights(vh, zero, mh)
    _, _, *gain_q = setting.weights(vh, zero + 1, zero)
    m = of.k1 * m_s
    # Var f = base + gain qh is linear in qh = (second + Var f - 2 pull m) / (1 + V)^2.
    base, gain = setting.variance(*base_q), setting.variance(*gain_q)
    q = (base + gain * vh**2 * (second - 2 * pull * m)) / (1 - gain * vh**2)
    qh = vh**2 * (second + q - 2 * pull * m)
    q_s, q_w, q_2 = (low + high * qh for low, high in zip(base_q, gain_q, strict=True))
    return Fitted(of, v, q, m, q_s, q_w, q_2, noise, linear, 1.0, qh)


def logistic(
    of: Activation,
    width: npt.ArrayLike,
    n_train: npt.ArrayLike,
    dim: npt.ArrayLike,
    ridge: npt.ArrayLike,
    noise: npt.ArrayLike = 0.0,
    finite: bool = False,
) -> Fitted:
    """Order parameters for the loss log(1 + exp(-y f)); see `square`. NaN where the iteration does not settle.

    Args:
        ridge: lambda >= 1e-4: below, the iteration is slow.
    """
    setting, noise = _Setting.make(of, finite, width, n_train, dim, ridge, noise)
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
    (v, q, m), q_s, q_w, q_2, mse = _updated(setting, state, noise)
    found = Fitted(of, v, q, m, q_s, q_w, q_2, noise, False, 0.5, mse)
    names = ("v", "q", "m", "q_s", "q_w", "q_2", "noise", "train_mse")
    arrays = {name: getattr(found, name).reshape(shape) for name in names}
    return replace(found, **arrays)


def _updated(setting: _Setting, state: Array, noise: Array) -> tuple[Array, Array, Array, Array, Array]:
    """One step of the logistic iteration: (V, Q, M) [3, settings], q_s, q_w, q_2 and the mean square on training items.

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
    new_v, m_s, q_s, q_w, q_2 = setting.weights(vh, qh, mh)
    new = np.stack([new_v, setting.variance(q_s, q_w, q_2), setting.of.k1 * m_s])
    return new, q_s, q_w, q_2, (chance * (margin - 1) ** 2) @ weight


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
