"""Random features in the proportional limit: reference numbers, closed forms in limits, and an independent formula."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from raysweep.theory.bmd import (
    ACTIVATIONS,
    activation,
    mean_dimension,
    normal_nodes,
    peak_height,
    ridgeless_ratio,
)
from raysweep.theory.replica import Fitted, logistic, square

DIM, ITEMS = 100, 300
AT = np.array([0.1, 0.5, 0.8, 0.9, 1, 1.1, 1.5, 3, 10])  # N / P


@pytest.mark.parametrize(
    ("name", "k1", "k2", "slope", "one", "many"),
    [
        ("tanh", 0.605706, 0.0274153, 0.464403, 1.1778, 3.5573),
        ("relu", 0.5, 0.0908451, 0.5, 1.4669, 2.7519),
        ("erf", 0.651470, 0.0401459, 0.569410, 1.2257, 3.6117),
        ("sin", 0.606531, 0.0644529, 0.567668, 1.3130, 3.0998),
    ],
)
def test_constants(name: str, k1: float, k2: float, slope: float, one: float, many: float) -> None:
    of = activation(name)
    assert (of.k1, of.k2, of.slope) == pytest.approx((k1, k2, slope), rel=2e-6)
    assert (of.one_neuron, of.nonlinear) == pytest.approx((one, many), abs=5e-5)
    assert mean_dimension(of, 1.0, 1.0) == pytest.approx(of.one_neuron)
    assert mean_dimension(of, 0.0, 3.0) == pytest.approx(of.nonlinear)


@pytest.mark.parametrize(
    ("name", "dim", "slope"), [("relu", 100, 0.4788), ("relu", 400, 0.4894), ("tanh", 100, 0.4651)]
)
def test_finite_slopes(name: str, dim: int, slope: float) -> None:
    assert activation(name).slope_at(dim) == pytest.approx(slope, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "function"), [("tanh", np.tanh), ("relu", lambda u: np.maximum(u, 0)), ("sin", np.sin)]
)
def test_slopes_at_finite_dimension_against_flips(
    name: str, function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
) -> None:
    """One input of many is flipped in random features of unit norm: the sum over inputs of the mean squared change."""
    rng, dim = np.random.default_rng(0), 36
    f = rng.standard_normal(400_000)
    step = f / np.sqrt(dim)
    rest = rng.standard_normal(len(f)) * np.sqrt(np.maximum(1 - step**2, 0))
    squares = dim / 4 * (function(rest + step) - function(rest - step)) ** 2
    error = squares.std() / np.sqrt(len(f))
    assert error < 0.003
    assert abs(squares.mean() - activation(name).slope_at(dim)) < 4 * error


@pytest.mark.parametrize(
    ("name", "heights"),
    [
        ("relu", [1.7847, 2.2526, 2.5835, 2.7519]),
        ("tanh", [1.6100, 2.7350, 3.3036, 3.5573]),
        ("erf", [1.6892, 2.7797, 3.3533, 3.6117]),
    ],
)
def test_height_of_the_peak(name: str, heights: list[float]) -> None:
    of = activation(name)
    assert peak_height(of, [1, 3, 10, 1e9]) == pytest.approx(heights, abs=5.1e-5)
    for noise in (0.0, 0.2):  # of whatever labels
        solved = square(of, 1000, 1000, [1000, 1000 / 3, 100], 1e-9, noise).bmd()
        assert solved == pytest.approx(heights[:3], rel=1e-3)


def test_pure_noise_below_the_threshold() -> None:
    of, share = activation("relu"), np.array([0.1, 0.3, 0.5, 0.8])
    closed = mean_dimension(of, ridgeless_ratio(of, 3 * share), 1.0)
    assert closed == pytest.approx([1.5500, 1.7501, 1.9458, 2.1580], abs=5.1e-5)
    assert square(of, 3 * share, 3, 1, 0.0, 0.5).bmd() == pytest.approx(closed, rel=1e-9)


def test_limits_of_the_width() -> None:
    for name in ACTIVATIONS:
        narrow, wide = square(activation(name), [1e-4, 1e5], 3, 1, 1e-3).bmd()
        assert narrow == pytest.approx(activation(name).one_neuron, rel=1e-3)
        assert wide == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "errors", "bmd"),
    [
        (
            "relu",
            [0.3881, 0.3143, 0.3637, 0.4007, 0.4759, 0.4026, 0.3118, 0.2272, 0.1739],
            [1.526, 1.719, 1.976, 2.103, 2.244, 2.109, 1.762, 1.350, 1.100],
        ),
        (
            "tanh",
            [0.3615, 0.2484, 0.3283, 0.3767, 0.4608, 0.3831, 0.2860, 0.2101, 0.1698],
            [1.233, 1.586, 2.149, 2.419, 2.702, 2.449, 1.876, 1.353, 1.093],
        ),
    ],
)
def test_double_descent_in_width(name: str, errors: list[float], bmd: list[float]) -> None:
    """Table T1."""
    found = square(activation(name), AT * ITEMS, ITEMS, DIM, 1e-6)
    assert found.test_error == pytest.approx(errors, abs=6e-5)
    assert found.bmd() == pytest.approx(bmd, abs=6e-4)
    if name == "tanh":
        assert (found.q_s[4], found.q_w[4]) == pytest.approx((35.8, 954), rel=2e-3)


@pytest.mark.parametrize(
    ("name", "ridges", "errors", "bmd"),
    [
        (
            "tanh",
            [0.88, 0.36, 0.091, 0.099, 0.115, 0.131, 0.160, 0.174],
            [0.4033, 0.3610, 0.2528, 0.2051, 0.1864, 0.1739, 0.1571, 0.1519],
            [1.196, 1.217, 1.284, 1.212, 1.149, 1.100, 1.031, 1.009],
        ),
        (
            "relu",
            [2.3, 1.15, 0.45, 0.35, 0.31, 0.285, 0.217, 0.150],
            [0.4196, 0.3868, 0.3121, 0.2722, 0.2480, 0.2257, 0.1813, 0.1610],
            [1.476, 1.480, 1.452, 1.387, 1.327, 1.260, 1.109, 1.039],
        ),
        (
            "tanh",
            [0.01] * 8,
            [0.4034, 0.3614, 0.2571, 0.2268, 0.2235, 0.2173, 0.1816, 0.1624],
            [1.202, 1.232, 1.384, 1.428, 1.438, 1.403, 1.170, 1.052],
        ),
    ],
)
def test_regularised(name: str, ridges: list[float], errors: list[float], bmd: list[float]) -> None:
    """Table T2: at the best ridge and at a fixed one the error falls throughout, and the BMD has a peak inside."""
    width = np.array([0.05, 0.1, 0.3, 0.5, 0.7, 1, 3, 10]) * ITEMS

    def at(factor: float) -> Fitted:
        return square(activation(name), width, ITEMS, DIM, np.array(ridges) * factor)

    found = at(1)
    assert found.test_error == pytest.approx(errors, abs=6e-5)
    assert found.bmd() == pytest.approx(bmd, abs=1.6e-3)  # the best ridge has two digits
    assert (np.diff(found.test_error) < 0).all()
    assert 0 < found.bmd().argmax() < len(width) - 1
    if ridges[0] != ridges[1]:
        assert (at(1.25).test_error > found.test_error - 2e-6).all()
        assert (at(0.8).test_error > found.test_error - 2e-6).all()


BEST = {  # activation, P / D, label noise: BMD at N / P = .02, its maximum with its N / D, or None where it only falls
    ("tanh", 10, 0.0): (1.209, (1.3306, 0.9)), ("tanh", 10, 0.2): (1.207, (1.3036, 0.9)),
    ("tanh", 3, 0.0): (1.185, (1.2837, 0.9)), ("tanh", 3, 0.2): (1.183, (1.2353, 0.8)),
    ("tanh", 1, 0.0): (1.179, (1.1895, 0.5)), ("tanh", 1, 0.2): (1.178, None),
    ("relu", 10, 0.0): (1.491, (1.5089, 0.5)), ("relu", 10, 0.2): (1.484, (1.4918, 0.4)),
    ("relu", 3, 0.0): (1.471, (1.4806, 0.4)), ("relu", 3, 0.2): (1.468, None),
    ("relu", 1, 0.0): (1.466, None), ("relu", 1, 0.2): (1.465, None),
}  # fmt: skip


@pytest.mark.parametrize(("name", "ratio", "noise"), BEST)
def test_at_the_best_ridge_of_each_width_the_error_falls_and_bmd_peaks_near_the_dimension(
    name: str, ratio: int, noise: float
) -> None:
    """The text under table T2; the peak is far from N = P where P / D is large."""
    beside = np.array([0.005, 0.1, 0.25, 1 / 3, 0.4, 0.5, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 3, 10, 30])  # N / D
    width = np.unique(np.append(beside, 0.02 * ratio)) * DIM
    found = square(activation(name), width, ratio * DIM, DIM, np.geomspace(1e-3, 30, 1000)[:, None], noise)
    best = found.test_error.argmin(axis=0), np.arange(len(width))
    bmd, (narrow, peak) = found.bmd()[best], BEST[name, ratio, noise]
    assert (np.diff(found.test_error[best]) < 1e-9).all()
    assert bmd[np.isclose(width, 0.02 * ratio * DIM)] == pytest.approx(narrow, abs=6e-4)
    top = bmd.argmax()
    if peak is None:
        assert bmd[top] - bmd[0] < 1e-3
    else:
        assert bmd[top] == pytest.approx(peak[0], abs=6e-4)
        assert width[top] / DIM == pytest.approx(peak[1], rel=0.2)  # a flat top, and scales at such distances
    assert bmd[-1] < 1.05


def test_double_descent_in_items() -> None:
    """Table T5."""
    share = np.array([0.1, 0.5, 0.9, 1, 1.1, 1.5, 2, 5, 10])
    found = square(activation("tanh"), 3 * DIM, share * 3 * DIM, DIM, 1e-6, 0.1)
    errors = [0.411, 0.353, 0.421, 0.475, 0.422, 0.339, 0.289, 0.186, 0.138]
    assert found.test_error == pytest.approx(errors, abs=6e-4)
    assert found.bmd() == pytest.approx([1.06, 1.41, 2.47, 2.72, 2.63, 2.33, 2.09, 1.55, 1.33], abs=6e-3)
    ridged = square(activation("tanh"), 3 * DIM, share * 3 * DIM, DIM, 0.01, 0.1)
    assert (np.diff(ridged.test_error) < 0).all()
    assert ridged.bmd()[5:7].max() == pytest.approx(1.713, abs=1e-3)


def test_errors_on_training_items() -> None:
    """With infinitely many items training and test agree but for the flips; without a ridge wide features fit all."""
    many = square(activation("tanh"), 3, 1e7, 1, 1e-6, [0.0, 0.1])
    flipped = many.test_error * (1 - 2 * many.noise) + many.noise
    assert many.train_error == pytest.approx(flipped, abs=1e-5)
    assert many.train_mse == pytest.approx(many.mse + 2 * np.sqrt(8 / np.pi) * many.noise * many.m, rel=1e-4)
    wide = square(activation("tanh"), 9, 3, 1, 1e-9, 0.1)
    assert (float(wide.train_error), float(wide.train_mse)) == pytest.approx((0, 0), abs=1e-6)


def test_logistic() -> None:
    found = logistic(activation("tanh"), np.array([0.1, 0.3, 0.5, 1, 3]) * ITEMS, ITEMS, DIM, 1e-3)
    assert found.test_error == pytest.approx([0.362, 0.263, 0.205, 0.163, 0.141], abs=6e-4)
    assert found.bmd() == pytest.approx([1.233, 1.361, 1.234, 1.103, 1.031], abs=6e-4)
    weak = logistic(activation("tanh"), np.array([0.25, 0.3, 0.35]) * ITEMS, ITEMS, DIM, 1e-4)
    assert (weak.test_error[1], weak.bmd()[1]) == pytest.approx((0.2765, 1.405), abs=6e-4)
    assert weak.bmd().argmax() == 1
    assert weak.train_error[0] > 0.05 > 0.005 > weak.train_error[2]
    relu = logistic(activation("relu"), 0.35 * ITEMS, ITEMS, DIM, 1e-4)
    assert float(relu.bmd()) == pytest.approx(1.665, abs=6e-4)
    noisy = logistic(activation("relu"), 0.4 * ITEMS, ITEMS, DIM, 1e-3, 0.1)
    assert float(noisy.bmd()) == pytest.approx(1.702, abs=6e-4)


def mei_montanari(p1: float, p2: float, zeta: float, chi: float) -> tuple[float, float]:
    """Bias and variance of random-feature regression on a linear teacher (arXiv 1908.05355, theorem 1).

    p1 = N / D, p2 = P / D, zeta = k1 / k*, chi = nu1 nu2 at the ridge.
    """
    c, z, pp = chi, zeta, p1 * p2
    e0 = (
        -(c**5) * z**6 + 3 * c**4 * z**4 + (pp - p2 - p1 + 1) * c**3 * z**6 - 2 * c**3 * z**4 - 3 * c**3 * z**2
        + (p1 + p2 - 3 * pp + 1) * c**2 * z**4 + 2 * c**2 * z**2 + c**2 + 3 * pp * c * z**2 - pp
    )  # fmt: skip
    e1 = p2 * c**3 * z**4 - p2 * c**2 * z**2 + pp * c * z**2 - pp
    e2 = (
        c**5 * z**6 - 3 * c**4 * z**4 + (p1 - 1) * c**3 * z**6 + 2 * c**3 * z**4 + 3 * c**3 * z**2
        - (p1 + 1) * c**2 * z**4 - 2 * c**2 * z**2 - c**2
    )  # fmt: skip
    return e1 / e0, e2 / e0


def chi_at(p1: float, p2: float, zeta: float, ridge: float) -> float:
    """nu1 nu2 of theorem 1, tracked down the imaginary axis; `ridge` is lambda / (p2 k*^2)."""
    if ridge == 0:
        psi = min(p1, p2)
        h = psi * zeta**2 - zeta**2 - 1
        return float(-(np.sqrt(h**2 + 4 * zeta**2 * psi) + h) / (2 * zeta**2))
    goal = np.sqrt(p1 * p2 * ridge)
    nu1 = nu2 = 0j
    for height in [*np.geomspace(100 * goal, goal, 60), *[goal] * 300]:
        xi = 1j * height
        for _ in range(20):
            loop = zeta**2 / (1 - zeta**2 * nu1 * nu2)
            nu1, nu2 = p1 / (-xi - nu2 - loop * nu2), p2 / (-xi - nu1 - loop * nu1)
    return float((nu1 * nu2).real)


@pytest.mark.parametrize(
    ("p1", "p2", "ridge", "known"),
    [
        (1.5, 3.0, 0.0, (0.61950, 1.11950)),
        (6.0, 3.0, 0.0, (0.17263, 0.83378)),
        (3.0, 3.0, 0.1, (0.26215, 0.45163)),
        (6.0, 3.0, 0.1, (0.16274, 0.32562)),
        (2.0, 3.0, 1.0, (0.53883, 0.57131)),
    ],
)
def test_against_mei_and_montanari(p1: float, p2: float, ridge: float, known: tuple[float, float]) -> None:
    of = activation("relu")
    bias, variance = mei_montanari(
        p1, p2, of.k1 / np.sqrt(of.k2), chi_at(p1, p2, of.k1 / np.sqrt(of.k2), ridge / (p2 * of.k2))
    )
    noise: npt.NDArray[np.float64] = np.array([0.0, 0.5])
    found = square(of, p1, p2, 1, ridge, noise, linear=True).mse
    assert found == pytest.approx(known, abs=6e-6)
    assert found == pytest.approx(bias + noise * variance, rel=1e-5)


def test_the_part_of_degree_two_has_its_limit_and_none_for_odd_functions() -> None:
    sizes, ridge, noise = np.array([3000.0, 300.0, 100.0]), 1e-2, 0.1
    for name in ("tanh", "erf", "sin"):
        both = (square(activation(name), *sizes, ridge, noise, finite=finite) for finite in (False, True))
        assert float(next(both).bmd()) == float(next(both).bmd())
    relu = activation("relu")
    z, weight = normal_nodes(180)
    assert relu.second == pytest.approx((weight @ ((z**2 - 1) * np.maximum(z, 0))) ** 2 / 2, rel=0.02)
    for solve in (square, logistic):
        limit, large = solve(relu, *sizes, ridge, noise), solve(relu, *(1e5 * sizes), ridge, noise, finite=True)
        here = solve(relu, *sizes, ridge, noise, finite=True)
        for name in ("v", "q", "m", "q_s", "q_w", "q_2"):
            assert float(getattr(large, name)) == pytest.approx(float(getattr(limit, name)), rel=1e-3)
        assert float(limit.q_2) == float(limit.q_w)
        assert float(here.q_2) > 1.1 * float(here.q_w)
        assert float(here.bmd()) > float(limit.bmd())
        parts = relu.k1**2 * here.q_s + relu.k2 * here.q_w + relu.second * (here.q_2 - here.q_w)
        assert float(here.q) == pytest.approx(float(parts))
