"""A solvable two-layer model that learns features: its gradient flow. Its exponents are in `theory.exponents`.

The model (Bordelon, Atanasov and Pehlevan, arXiv 2409.17858) has features psi with eigenvalues lambda_k ~ k^-alpha and
a target whose mass beyond k falls as k^(-alpha beta); gamma is the richness. Its gradient flow from w = 0 reduces
exactly, for any width, to one residual r_i per eigenvalue x_i of the initial kernel and one scalar rho = |w|^2 / N:

    dr_i/dt = -s x_i r_i - (gamma G / s) (1 - r_i),  G = sum_i m_i r_i (1 - r_i),  drho/dt = 2 G,  s = 1 + gamma rho
    L(t) = L_inf + sum_i m_i r_i^2

because |B|^2 grows along w alone. At infinite width x_i = lambda_k and m_i is the target's mass in mode k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline

__all__ = [
    "Flow",
    "Modes",
    "alike",
    "flow",
    "modes_of_width",
    "power_law_modes",
]

Array = npt.NDArray[np.float64]
_SINGLE = 40  # modes that are not merged with others
_DRAWN = 4096  # the same where their masses are drawn one by one
_PER_DECADE = 24  # bins of merged modes
_FIRST = 1e-4  # the time from which a flow is integrated; before it, modes decay by themselves
_STEP = 0.01  # of log time; the loss is extrapolated from this step and its half
_CLOSE = 0.2  # of log x: closer modes are merged
_SLOW = 1e-3  # of x times the clock at the last time: modes below it are merged
_HELD = 2**15  # modes of all lanes that are integrated at a time: they stay in the processor's cache
_PADDING = 4000  # of them empty: as much work as the calls that a step makes, whatever it holds


@dataclass(frozen=True)
class Modes:
    """Eigenvalues of an initial kernel, and what the target has of each; modes that are close are merged.

    Attributes:
        x: [modes] eigenvalues, positive.
        mass: [modes] of the target, summed over the merged modes.
        count: [modes] how many are merged.
        unreachable: The target's mass that no mode reaches: the loss at infinite time.
    """

    x: Array
    mass: Array
    count: Array
    unreachable: float = 0.0


@dataclass(frozen=True)
class Flow:
    """A loss curve.

    Attributes:
        loss: [lanes, times].
        rho: [lanes, times] |w|^2 / N.
    """

    loss: Array
    rho: Array


def power_law_modes(
    alpha: float,
    beta: float,
    last: float | None = None,
    single: int | None = None,
    target: np.random.Generator | None = None,
) -> Modes:
    """The modes of infinite width: lambda_k = k^-alpha and a target whose mass beyond k is (k + 1)^(-alpha beta).

    The first modes stand alone. Later ones are merged into bins of equal width in log k, whose mass is exact
    and whose eigenvalue is the mean over that mass.

    Args:
        alpha: Capacity, above 1.
        beta: Source, positive; below 1 the task is hard.
        last: The last k. By default 1e14, or later where the target has more than 1e-8 of its mass beyond.
        single: Modes that are not merged: by default 40, or 4,096 of a drawn target; all of them if not below `last`.
        target: Draws Gaussian coefficients of the target, whose mean squares are the power law: a mode's mass is then
            its mean times chi-square / n, with as many degrees of freedom n as modes are merged. None for the mean.
    """
    last = max(1e14, 10 ** (8 / (alpha * beta))) if last is None else last
    single = single or (_SINGLE if target is None else _DRAWN)
    k = np.arange(1, min(single, last) + 1)
    tail = np.concatenate([k, [k[-1] + 1]]).astype(float) ** (-alpha * beta)
    x, mass, count = k.astype(float) ** -alpha, -np.diff(tail), np.ones(len(k))
    if last > single:
        number = max(1, round(_PER_DECADE * np.log10(last / single)))
        edge = np.geomspace(single + 1, last, number + 1)
        low, high = edge[:-1], edge[1:]
        # What is left within a bin, as a ratio, so that masses too small for a double leave the mean as it is.
        left, left_of_x = (-np.expm1(-power * np.log(high / low)) for power in (alpha * beta, alpha * (1 + beta)))
        mean = beta / (1 + beta) * low**-alpha * left_of_x / left
        own = low ** (-alpha * beta) * left
        x, mass, count = np.append(x, mean), np.append(mass, own), np.append(count, high - low)
    drawn = 1.0 if target is None else target.gamma(count / 2, 2 / count)
    return Modes(x, mass / mass.sum() * drawn, count)


def modes_of_width(
    alpha: float,
    betas: Sequence[float],
    width: int,
    inputs: int,
    rng: np.random.Generator,
    target: np.random.Generator | None = None,
) -> list[Modes]:
    """The modes of one random model of a width, for each of several targets.

    Its kernel has the spectrum of A0 Lambda A0' / N for Gaussian A0 [N, M].

    Args:
        width: N.
        inputs: M, several times N; targets are cut there, and their mass normalised.
        rng: Draws A0.
        target: Draws the targets' coefficients, as in `power_law_modes`; the same numbers for all targets.
    """
    k = np.arange(1, inputs + 1, dtype=float)
    y = rng.standard_normal((width, inputs)) * (k ** (-alpha / 2) / np.sqrt(width))
    x, vectors = np.linalg.eigh(y @ y.T)
    x = np.maximum(x[::-1], np.finfo(float).tiny)
    basis = (vectors[:, ::-1].T @ y) / np.sqrt(x)[:, None]  # e_i = Y' u_i / sqrt(x_i)
    drawn = np.ones(inputs) if target is None else target.gamma(0.5, 2.0, inputs)
    found = []
    for beta in betas:
        mass = k ** (-alpha * beta) - (k + 1) ** (-alpha * beta)
        mass = mass / mass.sum() * drawn
        own = (basis @ np.sqrt(mass)) ** 2  # of Lambda^(1/2) w*; its signs do not matter, as those of A0 are random
        found.append(Modes(x, own, np.ones(width), max(0.0, float(mass.sum() - own.sum()))))
    return found


def flow(modes: Sequence[Modes], gamma: npt.ArrayLike, times: npt.ArrayLike, noise: npt.ArrayLike = 0.0) -> Flow:
    """Loss curves of several models at once: in closed form where nothing couples the modes, else integrated.

    The integrator is an exponential midpoint rule in log time, extrapolated from two steps. It merges modes that are
    hardly learned by the last time, and without noise those that are close. The relative error of the loss stays below
    1e-4.

    Args:
        modes: One entry per lane.
        gamma: Richness, a number or [lanes]; 0 is the lazy limit.
        times: [times] positive.
        noise: eta / B of minibatch SGD, a number or [lanes]: adds the noise of each mode in its Volterra form,
            dn_i/dt = -2 s x_i n_i + (eta / B) s^2 x_i^2 L. It is inf where the noise grows without bound.

    Returns:
        The loss relative to the target's mass, and rho.
    """
    at = np.asarray(times, dtype=float)
    g, c = (np.broadcast_to(np.asarray(v, dtype=float), (len(modes),)) for v in (gamma, noise))
    loss, rho = np.empty((len(modes), len(at))), np.empty((len(modes), len(at)))
    coupled = (g > 0) | (c > 0)
    for i, one in enumerate(modes):
        if not coupled[i]:
            loss[i], rho[i] = _lazy(one, at)
    if coupled.any():
        held = [one for one, is_coupled in zip(modes, coupled, strict=True) if is_coupled]
        loss[coupled], rho[coupled] = _coupled(held, g[coupled], c[coupled], at)
    return Flow(loss, rho)


def _lazy(modes: Modes, times: Array) -> tuple[Array, Array]:
    """Loss and rho [times] without richness and noise: r = exp(-x t)."""
    learned = -np.expm1(-modes.x * times[:, None])
    return modes.unreachable + (1 - learned) ** 2 @ modes.mass, learned**2 @ (modes.mass / modes.x)


def _coupled(modes: Sequence[Modes], gamma: Array, noise: Array, times: Array) -> tuple[Array, Array]:
    """Loss and rho [lanes, times] by the integrator."""
    last = max(float(times.max()), 2 * _FIRST)
    reach = [_reach(one, g, last) for one, g in zip(modes, gamma, strict=True)]
    used = [_apart(one, far) if c else (*_merged(one, far), np.zeros(1))
            for one, far, c in zip(modes, reach, noise, strict=True)]  # fmt: skip
    steps = max(8, int(np.ceil(np.log(last / _FIRST) / _STEP)))
    grid = np.geomspace(_FIRST, last, 2 * steps + 1)
    out = np.empty((2, len(modes), len(times)))
    for lanes in alike([len(columns[0]) for columns in used]):
        x, mass, square = (np.zeros((len(lanes), len(used[lanes[-1]][0]))) for _ in range(3))
        for i, lane in enumerate(lanes):
            for held, values in zip((x, mass, square), used[lane], strict=True):
                held[i, : len(values)] = values
        floor = np.array([modes[lane].unreachable for lane in lanes])
        with np.errstate(over="ignore", invalid="ignore"):  # of noise that grows without bound
            coarse = _integrate(x, mass, square, floor, gamma[lanes], noise[lanes], grid[::2])
            fine = _integrate(x, mass, square, floor, gamma[lanes], noise[lanes], grid)
            for kept, half, whole in zip(out, fine, coarse, strict=True):
                kept[lanes] = _read(half, whole, grid[::2], times)
    early = times < _FIRST
    for i, one in enumerate(modes):
        out[0][i, early], out[1][i, early] = _lazy(one, times[early])
    return out[0], out[1]


def alike(sizes: Sequence[int]) -> list[list[int]]:
    """Lanes in parts that are integrated at a time, each padded to its largest; smaller ones first.

    A step of a part costs some calls besides its modes, so that lanes of different models share one as long as little
    of it is empty.

    Args:
        sizes: [lanes] number of modes.
    """
    parts: list[list[int]] = []
    empty = 0
    for lane in np.argsort(sizes, kind="stable").tolist():
        part = parts[-1] if parts else []
        empty += len(part) * (sizes[lane] - sizes[part[-1]]) if part else 0
        if part and empty <= _PADDING and (len(part) + 1) * sizes[lane] <= _HELD:
            part.append(lane)
        else:
            parts, empty = [*parts, [lane]], 0
    return parts


def _read(half: Array, whole: Array, grid: Array, times: Array) -> Array:
    """A quantity [lanes, times] from its values [lanes, steps] at half and whole steps; inf once it is not finite."""
    best = np.log(half[:, ::2]) + (np.log(half[:, ::2]) - np.log(whole)) / 3  # errors of order step^2 cancel
    wanted = np.log(np.maximum(times, _FIRST))
    value = np.full((len(best), len(times)), np.inf)
    for i, own in enumerate(best):
        good = np.isfinite(own).cumprod().astype(bool)
        if good.sum() > 3:
            inside = wanted <= np.log(grid[good][-1]) + 1e-12
            value[i, inside] = np.exp(CubicSpline(np.log(grid[good]), own[good])(wanted[inside]))
    return value


def _reach(modes: Modes, gamma: float, last: float) -> float:
    """More than the clock, the integral of s, at a time: rho grows most without richness."""
    return last * (1 + gamma * float(_lazy(modes, np.array([last]))[1][0]))


def _apart(modes: Modes, reach: float) -> tuple[Array, Array, Array]:
    """Eigenvalues, masses and sums of squared eigenvalues: of each mode, and of all that are hardly learned as one."""
    slow = modes.x * reach < _SLOW
    square = modes.count * modes.x**2
    if not slow.any():
        return modes.x, modes.mass, square
    mass = modes.mass[slow] + np.finfo(float).tiny
    rest = (mass @ modes.x[slow] / mass.sum(), mass.sum(), square[slow].sum())
    x, own, square = (np.append(v[~slow], r) for v, r in zip((modes.x, modes.mass, square), rest, strict=True))
    return x, own, square


def _merged(modes: Modes, reach: float) -> tuple[Array, Array]:
    """Eigenvalues and masses of fewer modes. The largest stand alone; close ones become two, Gauss's nodes of their
    mass, which keep it and the first three moments of its eigenvalues.

    Args:
        reach: An upper bound of the clock, the integral of s, at the last time. Modes that it hardly reaches are close.
    """
    order = np.argsort(-modes.x, kind="stable")
    x, mass = modes.x[order], modes.mass[order]
    rest, weight = x[_SINGLE:], mass[_SINGLE:] + np.finfo(float).tiny
    if not len(rest):
        return x, mass
    bins = np.floor(np.log(x[_SINGLE - 1] / rest) / _CLOSE)
    bins[rest * reach < _SLOW] = np.inf
    group = np.cumsum(np.append(False, bins[1:] != bins[:-1]))

    def mean(values: Array) -> Array:
        return np.bincount(group, weight * values) / own

    own = np.bincount(group, weight)
    middle = mean(rest)
    off = rest - middle[group]
    sd = np.sqrt(mean(off**2))
    spread = np.where(sd > 1e-9 * middle, sd, np.inf)
    half = mean(off**3) / spread**3 / 2  # of the skewness
    root = np.hypot(1, half)
    far = np.where(half > 0, half + root, 1 / (root - half))
    upper = (1 - half / root) / 2
    nodes = np.concatenate([middle + sd * far, np.maximum(middle - sd / far, 0.0)])
    return np.append(x[:_SINGLE], nodes), np.concatenate([mass[:_SINGLE], own * upper, own * (1 - upper)])


def _integrate(
    x: Array, mass: Array, square: Array, floor: Array, gamma: Array, noise: Array, grid: Array
) -> tuple[Array, Array]:
    """Loss and rho [lanes, grid] from eigenvalues, masses and sums of squared eigenvalues [lanes, modes]."""
    r = np.exp(-x * grid[0])
    rho = (mass * x).sum(1) * grid[0] ** 2
    extra = np.zeros_like(x) if noise.any() else None
    losses, rhos = np.empty((len(x), len(grid))), np.empty((len(x), len(grid)))
    for j, t in enumerate(grid):
        if j:
            dt = t - grid[j - 1]
            middle, between = _advance(x, mass, r, rho, r, rho, gamma, dt / 2)
            if extra is not None:
                s = 1 + gamma * between
                own = floor + (mass * middle**2).sum(1)
                decay, mean = _decay(2 * x * (s * dt)[:, None])
                fed = square * mean * (noise * s**2 * dt)[:, None]
                guess = extra * decay + fed * (own + extra.sum(1))[:, None]
                # Noise feeds noise: its mean over the step takes the place of its start.
                extra = extra * decay + fed * (own + (extra.sum(1) + guess.sum(1)) / 2)[:, None]
            r, rho = _advance(x, mass, r, rho, middle, between, gamma, dt)
        losses[:, j] = floor + (mass * r**2).sum(1) + (0.0 if extra is None else extra.sum(1))
        rhos[:, j] = rho
    return losses, rhos


def _advance(
    x: Array, mass: Array, r: Array, rho: Array, at: Array, at_rho: Array, gamma: Array, dt: float
) -> tuple[Array, Array]:
    """r and rho after dt with the scalars s and gamma G / s frozen at another state; exact for frozen scalars."""
    growth = (mass * at * (1 - at)).sum(1)
    s = 1 + gamma * at_rho
    c = gamma * growth / s
    decay, mean = _decay(x * (s * dt)[:, None] - (c * dt)[:, None])
    decay *= r
    if gamma.any():
        mean *= (c * dt)[:, None]
        decay -= mean
    return decay, rho + 2 * growth * dt


def _decay(rate: Array) -> tuple[Array, Array]:
    """exp(-rate), and its mean over the step, (1 - exp(-rate)) / rate."""
    decay = np.exp(-rate)
    small = np.abs(rate) < 1e-5
    mean = (1 - decay) / np.where(small, 1.0, rate)
    np.copyto(mean, 1 - rate / 2, where=small)
    return decay, mean
