"""Difficulty of a task from the spectrum of a kernel: alpha, beta, and the learning curves that they predict.

Source: arXiv 2409.17858 and 2402.01092. With lambda_k the eigenvalues of a network's kernel at its start, largest
first, and C(k) the share of the target's power beyond mode k - 1,

    lambda_k ~ k^-alpha,   C(k) ~ lambda_k^beta.

beta is fitted to log C against log lambda, so that it does not depend on how modes are counted. Below 1 the task is
hard, and feature learning raises the exponent of the loss in time from beta to 2 beta / (1 + beta).

On a sample of P items only modes k far below P resemble those of the whole population: exponents are fitted to
k = 5 to P / 20, and beyond that the modes are continued by their power laws (`continued`). A network of finite width
mixes modes, which lowers beta where it is above 1. The error falls as 1 / S with the number S of networks whose kernels
are averaged, so that the jackknife over networks estimates it, and it is taken off (`estimate`).

Far above beta = 1 that correction fails: nearly all of C(k) has leaked from the largest modes, with a slope of its own
near 1 - 1 / alpha that hides the target's. `check` measures this and what else speaks against a power law, of the
target or of the kernel, and `verdict` heeds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from raysweep.errors import FitError
from raysweep.theory.features import Modes

__all__ = [
    "LAST",
    "Check",
    "Estimate",
    "Spectrum",
    "check",
    "continued",
    "estimate",
    "exponents",
    "verdict",
    "window_of",
]

Array = npt.NDArray[np.float64]

_FIRST, _SHARE = 5, 20  # the window of modes: from this one to this part of the items
_FEWEST = 200  # items: a window of 5 to 10
_POINTS = 40  # of a fit, at equal steps of log k: the many modes of large k do not outweigh the others
_RESOLVED = 3e-8  # of an eigenvalue over the largest: kernels are in single precision
_BEND = 1.5  # largest ratio of alpha in the two halves of a window: on the circle ReLU's is 1.2 to 1.4
_LEAK = 1 / 3  # largest share of C(k) that mixing may have put there, for a slope below 1 to be the target's
LAST = 1e-16  # the smallest eigenvalue of the continuation, relative to the largest
_PER_DECADE = 24  # bins of it


@dataclass(frozen=True)
class Spectrum:
    """The modes of a kernel on a sample.

    Attributes:
        values: [modes] eigenvalues, largest first.
        mass: [modes] share of the target's power in each.
    """

    values: Array
    mass: Array

    @property
    def beyond(self) -> Array:
        """[modes] C(k): the share of the power in mode k and all smaller ones."""
        return np.asarray(1.0 - np.concatenate([[0.0], np.cumsum(self.mass)[:-1]]))


@dataclass(frozen=True)
class Estimate:
    """An exponent with its uncertainty.

    Attributes:
        value: The estimate, corrected for the mixing of modes.
        low, high: Ends of the interval.
        level: Its nominal coverage, before it is widened by `drift`.
        raw: The estimate from the average kernel, uncorrected.
        mixing: The bias that the jackknife over networks finds: `value` is `raw` less this.
        seed_error, item_error: Standard errors from networks and from items.
        drift: The estimate from all items less the mean of those from halves.
        sizes: (items, mean estimate) of quarters, halves and all items.
    """

    value: float
    low: float
    high: float
    level: float
    raw: float
    mixing: float
    seed_error: float
    item_error: float
    drift: float
    sizes: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Check:
    """What shows whether the target's power follows a power law in the window.

    Attributes:
        leaked: Largest share of C(k) in the window that the mixing of modes by finite networks has put there.
        noise: The slope that a target of pure noise has on as many items.
        parts: beta in the window's two halves (halves in log k), from the average kernel.
        alphas: alpha in them.
        smallest: The window's last eigenvalue over the largest of all.
    """

    leaked: float
    noise: float
    parts: tuple[float, float]
    alphas: tuple[float, float]
    smallest: float

    @property
    def hidden(self) -> bool:
        """Whether so much has leaked that a slope below 1 need not be the target's."""
        return self.leaked > _LEAK


def window_of(items: int) -> tuple[int, int]:
    """The modes that exponents are fitted to.

    Raises:
        FitError: There are too few items.
    """
    if items < _FEWEST:
        raise FitError(f"items: `items >= {_FEWEST}` must hold for a window of modes, but got (items={items})")
    return _FIRST, items // _SHARE


def exponents(spectrum: Spectrum, window: tuple[int, int]) -> tuple[float, float]:
    """(alpha, beta), by least squares in logs over the modes of a window, its ends included.

    Raises:
        FitError: The kernel has fewer modes than the window, or the target has no power beyond it.
    """
    low, high = window
    if not 1 <= low < high <= len(spectrum.values) or spectrum.values[high - 1] <= 0:
        raise FitError(
            f"window: `1 <= low < high` must hold, and the kernel must have that many positive eigenvalues, but got "
            f"(low={low}, high={high}, positive={(spectrum.values > 0).sum()}). Take fewer items: the window ends at a "
            f"mode of 1 / {_SHARE} of them"
        )
    k = _places(window)
    value, beyond = spectrum.values[k - 1], spectrum.beyond[k - 1]
    if beyond[-1] <= 1e-12:
        raise FitError(
            f"window: the target must have power beyond mode {high}, but it has none: the kernel's largest modes hold "
            "all of it, and there is no power law to fit"
        )
    return -_slope(np.log(k), np.log(value)), _slope(np.log(value), np.log(beyond))


def _places(window: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Modes k at equal steps of log k, the window's ends included."""
    return np.unique(np.round(np.geomspace(*window, _POINTS)).astype(np.int64))


def _slope(x: Array, y: Array) -> float:
    x = x - x.mean()
    return float(x @ y / (x @ x))


def estimate(
    items: int,
    whole: float,
    networks: npt.ArrayLike,
    blocks: npt.ArrayLike,
    halves: npt.ArrayLike,
    quarters: npt.ArrayLike,
    level: float = 0.95,
) -> Estimate:
    """An exponent, and an interval over networks, items and sizes.

    Two jackknives, one that leaves out a network and one that leaves out a block of items, give standard errors, and
    Student's t an interval (degrees of freedom by Welch and Satterthwaite). It is widened on both sides by the drift
    between halves and the whole: what more items would still change.

    Args:
        items: P.
        whole: From the average kernel on all items.
        networks: From the averages of all kernels but one, for each network.
        blocks: From the average kernel on all items but a block of several equal ones, for each block.
        halves, quarters: From the average kernel on disjoint parts of the items, over the same modes.
    """
    left = [np.asarray(some, dtype=float) for some in (networks, blocks)]
    mixing = (len(left[0]) - 1) * float(left[0].mean() - whole)
    seeds, sampled = ((len(some) - 1) * float(some.var()) for some in left)
    total = seeds + sampled
    freedom = total**2 / max(seeds**2 / (len(left[0]) - 1) + sampled**2 / (len(left[1]) - 1), 1e-300)
    drift = whole - float(np.mean(np.asarray(halves, dtype=float)))
    value = whole - mixing
    half = float(stdtrit(max(freedom, 1.0), (1 + level) / 2)) * total**0.5 + abs(drift)
    sizes = ((items // 4, float(np.mean(np.asarray(quarters)))), (items // 2, whole - drift), (items, whole))
    return Estimate(value, value - half, value + half, level, whole, mixing, seeds**0.5, sampled**0.5, drift, sizes)


def continued(spectrum: Spectrum, high: int, alpha: float, beta: float) -> Modes:
    """The modes of the population: those up to k = `high` as measured, the others by their power laws.

    Eigenvalues are relative to the largest, and so are the times of a flow on them: lambda_1 t.

    Raises:
        FitError: An exponent is not positive.
    """
    if alpha <= 0 or beta <= 0:
        raise FitError(
            f"exponents must be positive to predict with, but got (alpha={alpha:.3g}, beta={beta:.3g}): the spectrum "
            "is no power law. Check the data, or take more items"
        )
    x, mass = spectrum.values[:high] / spectrum.values[0], spectrum.mass[:high]
    edge = x[-1] * np.geomspace(1.0, LAST / x[-1], max(2, round(_PER_DECADE * np.log10(x[-1] / LAST))))
    share = (edge / x[-1]) ** beta * (1.0 - mass.sum())
    own = share[:-1] - share[1:]
    mean = beta / (1 + beta) * (share[:-1] * edge[:-1] - share[1:] * edge[1:]) / own
    place = high * (x[-1] / edge) ** (1 / alpha)
    mass = np.append(mass, own)
    return Modes(np.append(x, mean), mass / mass.sum(), np.append(np.ones(high), np.diff(place)))


def check(spectrum: Spectrum, networks: Sequence[Spectrum], items: int, window: tuple[int, int]) -> Check:
    """What speaks for and against a power law of the target's power in a window.

    The power that S networks leak into the modes from k on is proportional to 1 / S, so that the jackknife gives it:
    (S - 1) (C(k) of S - 1 networks - C(k) of all). Noise has the same power in every mode: C(k) = 1 - (k - 1) / P.

    Args:
        spectrum: From the average kernel.
        networks: From the averages of all kernels but one, for each network.
        items: P.
        window: As `exponents` takes it.
    """
    k = _places(window)
    left = np.mean([one.beyond[k - 1] for one in networks], axis=0)
    leaked = (len(networks) - 1) * (left / spectrum.beyond[k - 1] - 1)
    noise = _slope(np.log(spectrum.values[k - 1]), np.log1p(-(k - 1) / items))
    middle = round(float(np.sqrt(window[0] * window[1])))
    first, second = (exponents(spectrum, part) for part in ((window[0], middle), (middle, window[1])))
    smallest = float(spectrum.values[window[1] - 1] / spectrum.values[0])
    return Check(max(0.0, float(leaked.max())), noise, (first[1], second[1]), (first[0], second[0]), smallest)


def verdict(beta: Estimate, checked: Check) -> tuple[str, str]:
    """Whether feature learning can raise the exponent of the loss in time: `can`, `cannot` or `undecided`, and why.

    Leaked power lowers a beta above 1 and never lifts one above it: it speaks against `can` alone.
    """
    interval = f"the interval of beta, {beta.value:.3g} [{beta.low:.3g}, {beta.high:.3g}],"
    if beta.low <= max(checked.noise, 0.0):
        return "undecided", (
            f"{interval} is not wholly above {max(checked.noise, 0.0):.2g}, the slope of pure noise: no power law is "
            "found"
        )
    if beta.low <= 1 <= beta.high:
        return "undecided", f"{interval} contains 1"
    if checked.smallest < _RESOLVED:
        return "undecided", (
            f"the kernel's eigenvalues fall to {checked.smallest:.1g} of the largest within the window, which single "
            "precision does not resolve: this kernel has no power law, or one that is too steep. Take an activation "
            "with a kink, such as relu"
        )
    first, second = checked.alphas
    if not 0 < max(checked.alphas) < _BEND * min(checked.alphas):
        return "undecided", (
            f"alpha is {first:.3g} in the first half of the window and {second:.3g} in the second: the kernel has no "
            "single power law. Take another depth or activation, or more items"
        )
    hard = beta.high < 1
    split = any((part < 1) != hard for part in checked.parts)
    if checked.hidden and (hard or split):
        return "undecided", (
            f"up to {min(checked.leaked, 1.0):.0%} of the target's power beyond a mode of the window has leaked there "
            "from larger modes, which hides how fast the target's own power falls"
        )
    if split:
        return "undecided", (
            f"beta is {checked.parts[0]:.3g} in the first half of the window and {checked.parts[1]:.3g} in the second, "
            "on both sides of 1: no single power law is found"
        )
    return ("can" if hard else "cannot"), f"{interval} lies {'between 0 and' if hard else 'above'} 1"
