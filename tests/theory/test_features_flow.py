"""The features model: golden values, its limits, gradient descent of the model itself, exponents."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.integrate import solve_ivp

from raysweep.theory.exponents import time_exponent
from raysweep.theory.features import Modes, alike, flow, modes_of_width, power_law_modes

# alpha, beta, gamma; L at t = 1, 10, 100, 1000; rho(1000), by LSODA at a relative tolerance of 1e-9, 1,000 modes.
GOLDEN = [
    (1.5, 0.5, 0, (0.509860, 0.182578, 0.0565589, 0.0143373), 30.6981),
    (1.5, 0.5, 1, (0.474657, 0.124892, 0.0239742, 0.00182237), 9.30691),
    (1.5, 0.5, 10, (0.337386, 0.064238, 0.00907269, 9.3319e-5), 3.90984),
    (2, 0.5, 0, (0.473108, 0.176283, 0.0593713, 0.0185917), 29.3536),
    (2, 0.5, 1, (0.436482, 0.125288, 0.0285317, 0.00551421), 9.39984),
    (2, 0.25, 1, (0.637353, 0.323959, 0.124447, 0.031856), 26.9008),
    (1.5, 1.5, 0, (0.233645, 0.0117756, 4.44219e-4, 1.45084e-5), 2.23054),
    (1.5, 1.5, 1, (0.170095, 0.00519244, 1.58979e-4, 4.76157e-6), 1.08537),
]
# alpha, beta, gamma; -d log L / d log t in [1, 10], [10, 100] and so on, without a width.
SLOPES = [
    (1.5, 0.25, 0, (0.221, 0.241, 0.248, 0.250, 0.250, 0.250, 0.250)),
    (1.5, 0.25, 1, (0.286, 0.363, 0.390, 0.397, 0.399, 0.400, 0.401)),
    (1.5, 0.5, 0, (0.437, 0.481, 0.496, 0.500, 0.500, 0.500, 0.500)),
    (1.5, 0.5, 0.1, (0.463, 0.550, 0.606, 0.634, 0.649, 0.658, 0.662)),
    (1.5, 0.5, 1, (0.567, 0.644, 0.660, 0.661, 0.663, 0.665, 0.666)),
    (1.5, 0.5, 10, (0.697, 0.684, 0.671, 0.667, 0.666, 0.666, 0.666)),
    (1.5, 0.75, 1, (0.820, 0.876, 0.875, 0.863, 0.858, 0.856, 0.855)),
    (1.5, 1.25, 0, (1.08, 1.19, 1.23, 1.25, 1.25)),
    (1.5, 1.25, 1, (1.28, 1.30, 1.29, 1.27, 1.26)),
    (1.5, 1.5, 0, (1.30, 1.43, 1.48, 1.50, 1.50)),
    (1.5, 1.5, 10, (1.61, 1.53, 1.52, 1.51, 1.50)),
    (2, 0.75, 0, ()),
    (2, 0.75, 1, ()),
]
Array = npt.NDArray[np.float64]


def test_golden_values() -> None:
    modes = [power_law_modes(alpha, beta, 1000, 1000) for alpha, beta, *_ in GOLDEN]
    found = flow(modes, [one[2] for one in GOLDEN], [1, 10, 100, 1000])
    np.testing.assert_allclose(found.loss, [one[3] for one in GOLDEN], rtol=1e-4)
    np.testing.assert_allclose(found.rho[:, -1], [one[4] for one in GOLDEN], rtol=1e-4)


def test_without_richness_every_mode_decays_by_itself() -> None:
    modes = [power_law_modes(1.5, 0.5), power_law_modes(2, 1.25)]
    times = np.geomspace(1e-6, 1e6, 25)
    expected = [(m.mass * np.exp(-2 * m.x * times[:, None])).sum(1) for m in modes]
    np.testing.assert_allclose(flow(modes, 0.0, times).loss, expected, rtol=1e-12)
    lazy, hardly = flow(modes, 0.0, times), flow(modes, 1e-9, times)  # in closed form, and integrated
    np.testing.assert_allclose(hardly.loss, expected, rtol=1e-5)
    np.testing.assert_allclose(hardly.rho, lazy.rho, rtol=1e-4)


def test_merging_close_modes_changes_nothing() -> None:
    modes = modes_of_width(2, [0.5, 1.25], 256, 1024, np.random.default_rng(1))
    times = np.geomspace(1e-2, 1e6, 17)
    merged, apart = flow(modes, 1.0, times), flow(modes, 1.0, times, 1e-30)  # modes with noise are not merged
    np.testing.assert_allclose(merged.loss, apart.loss, rtol=3e-5)
    np.testing.assert_allclose(merged.rho, apart.rho, rtol=3e-5)


def test_models_of_different_widths_and_of_none_side_by_side_are_those_alone() -> None:
    models = [power_law_modes(1.5, 0.5), power_law_modes(2, 0.8, 40, 40)]
    models += modes_of_width(2, [0.5, 1.25], 24, 64, np.random.default_rng(0))
    gamma, times = [1.0, 0.1, 0.0, 10.0], [1e-3, 0.1]
    together = flow(models, gamma, times)
    for i, (one, own) in enumerate(zip(models, gamma, strict=True)):
        alone = flow([one], own, times)
        np.testing.assert_allclose(together.loss[i], alone.loss[0], rtol=1e-12)
        np.testing.assert_allclose(together.rho[i], alone.rho[0], rtol=1e-12)


def test_lanes_share_a_part_while_little_of_it_is_empty_and_it_is_not_too_large() -> None:
    sizes = [400, 50, 60, *[70] * 500, 400]
    parts = alike(sizes)
    assert sorted(lane for part in parts for lane in part) == list(range(len(sizes)))
    held = [[sizes[lane] for lane in part] for part in parts]
    assert held[0][:3] == [50, 60, 70]  # of different models
    assert held[-1] == [400, 400]  # 330 empty modes in every other lane of its part would be more work than its own
    assert all(sum(max(part) - size for size in part) <= 4000 and len(part) * max(part) <= 2**15 for part in held)
    assert len(parts) == 3
    assert alike([2**16]) == [[0]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("alpha", "beta"), [(10, 10), (10, 3), (3, 8)])
def test_modes_at_the_ends_of_the_axes_are_finite_and_keep_their_mass(alpha: float, beta: float) -> None:
    """Masses of late bins are below the smallest double."""
    modes = power_law_modes(alpha, beta)
    assert np.isfinite(modes.x).all()
    assert (np.diff(modes.x) < 0).all()
    assert modes.mass.sum() == pytest.approx(1)
    early = power_law_modes(alpha, beta, 400, 400)
    found, expected = (flow([m], [1.0], [1e-3, 1, 30]).loss for m in (modes, early))
    np.testing.assert_allclose(found, expected + 401 ** (-alpha * beta) * (1 - expected), rtol=2e-3)
    assert flow([modes], [1.0], [1.0], 1e4).loss[0, 0] == np.inf  # noise that grows without bound


def test_modes_hardly_learned_add_their_noise_as_one() -> None:
    """Without the modes beyond k = 1,000 the noise at t = 1 lacks their part of sum x^2."""
    many, few = (power_law_modes(1.5, 2.5, last, 40) for last in (1e12, 1e3))
    losses = [float(flow([m], 0.0, [1.0], 0.1).loss[0, 0]) for m in (many, few)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    apart = power_law_modes(1.5, 2.5, 1e3, 1000)
    exact = _noisy(apart, 1.0, 0.1)
    assert losses[0] == pytest.approx(exact, rel=1e-4)


def _noisy(modes: Modes, t: float, noise: float, gamma: float = 0.0) -> float:
    """The loss with noise, by another integrator of the same equations."""
    n = len(modes.x)

    def rates(_: float, state: Array) -> Array:
        r, extra, rho = state[:n], state[n:-1], state[-1]
        growth, s = (modes.mass * r * (1 - r)).sum(), 1 + gamma * rho
        fed = noise * s**2 * modes.count * modes.x**2 * ((modes.mass * r**2).sum() + extra.sum())
        return np.concatenate([
            -s * modes.x * r - gamma * growth / s * (1 - r), -2 * s * modes.x * extra + fed, [2 * growth]
        ])  # fmt: skip

    start = np.concatenate([np.ones(n), np.zeros(n + 1)])
    end = solve_ivp(rates, (0, t), start, "DOP853", rtol=1e-9, atol=1e-12).y[:, -1]
    return float((modes.mass * end[:n] ** 2).sum() + end[n:-1].sum())


@pytest.mark.parametrize(("gamma", "noise"), [(0.0, 0.5), (1.0, 0.02), (3.0, 0.02)])
def test_noise_grows_with_the_kernel(gamma: float, noise: float) -> None:
    """The kernel's scale s counts twice: by step size and gradient."""
    modes = power_law_modes(1.5, 0.5, 60, 60)
    found = flow([modes], gamma, [30.0], noise).loss[0, 0]
    assert found == pytest.approx(_noisy(modes, 30.0, noise, gamma), rel=1e-4)
    assert found > 1.02 * flow([modes], gamma, [30.0]).loss[0, 0]


def test_local_exponents_in_time() -> None:
    """In each decade, and in the last that of the theory."""
    modes = [power_law_modes(alpha, beta, 1e14) for alpha, beta, *_ in SLOPES]
    loss = flow(modes, [gamma for _, _, gamma, _ in SLOPES], 10.0 ** np.arange(8)).loss
    found = -np.diff(np.log10(loss), axis=1)
    for own, (alpha, beta, gamma, expected) in zip(found, SLOPES, strict=True):
        np.testing.assert_allclose(own[: len(expected)], expected, atol=0.01, err_msg=f"{alpha=} {beta=} {gamma=}")
        assert own[-1] == pytest.approx(time_exponent(beta, rich=gamma > 0), abs=0.01)


def random_model(width: int, features: int) -> tuple[Array, Array, Array]:
    """A0 [width, features], the spectrum and the target of a task of alpha = 2 and beta = .5."""
    k = np.arange(1, features + 1, dtype=float)
    spectrum = k**-2.0
    mass = k**-1.0 - (k + 1) ** -1.0
    y = np.random.default_rng(1).standard_normal((width, features))
    return y, spectrum, np.sqrt(mass / mass.sum() / spectrum)


@pytest.mark.parametrize("gamma", [0.3, 3.0])
def test_gradient_flow_of_the_model_keeps_its_invariants(gamma: float) -> None:
    """B B' = I + (gamma / N) w w' and |theta|^2 = rho (1 + gamma rho), by steps of Runge and Kutta's fourth order."""
    width, dt = 32, 0.02
    y, spectrum, target = random_model(width, 256)

    def rates(w: Array, b: Array) -> tuple[Array, Array]:
        g = y @ (spectrum * (target - y.T @ (b.T @ w) / width))
        return b @ g, gamma / width * np.outer(w, g)

    w, b, seen, times = np.zeros(width), np.eye(width), [], (1.0, 10.0, 30.0)
    for step in range(1, 1501):
        k1 = rates(w, b)
        k2 = rates(w + dt / 2 * k1[0], b + dt / 2 * k1[1])
        k3 = rates(w + dt / 2 * k2[0], b + dt / 2 * k2[1])
        k4 = rates(w + dt * k3[0], b + dt * k3[1])
        w, b = (v + dt / 6 * (r1 + 2 * r2 + 2 * r3 + r4)
                for v, r1, r2, r3, r4 in zip((w, b), k1, k2, k3, k4, strict=True))  # fmt: skip
        if step in (50, 500, 1500):
            rho, theta = w @ w / width, b.T @ w / np.sqrt(width)
            assert theta @ theta == pytest.approx(rho * (1 + gamma * rho), rel=1e-6)
            np.testing.assert_allclose(b @ b.T, np.eye(width) + gamma / width * np.outer(w, w), atol=1e-6)
            seen.append((spectrum @ (target - y.T @ (b.T @ w) / width) ** 2, rho))
    found = flow(modes_of_width(2, [0.5], width, 256, np.random.default_rng(1)), gamma, times)
    np.testing.assert_allclose([found.loss[0], found.rho[0]], np.transpose(seen), rtol=1e-4)
    assert 1 + seen[-1][1] * gamma > 1.5  # the kernel has grown


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_the_reduction_is_gradient_descent_of_the_model(gamma: float) -> None:
    """B and w of f = w' B A0 psi / N trained by small steps."""
    width, features, eta, steps = 64, 512, 0.01, 3000
    y, spectrum, target = random_model(width, features)
    w, b = np.zeros(width), np.eye(width)
    at = {}
    for step in range(steps + 1):
        residual = target - y.T @ (b.T @ w) / width
        if step in (100, 1000, 3000):
            at[step] = float(spectrum @ residual**2)
        g = y @ (spectrum * residual)
        w, b = w + eta * (b @ g), b + eta * gamma / width * np.outer(w, g)
    modes = modes_of_width(2, [0.5], width, features, np.random.default_rng(1))
    expected = flow(modes, gamma, eta * np.array([100, 1000, 3000])).loss[0]
    np.testing.assert_allclose([at[100], at[1000], at[3000]], expected, rtol=0.01)


def test_the_noise_of_minibatches() -> None:
    """Ratios of loss to gradient flow at t = 300 as measured with 24 seeds, and the late slope 2 - 1/alpha."""
    modes = [
        power_law_modes(1.5, 2.5, 200, 200),
        power_law_modes(2, 2.5, 200, 200),
        power_law_modes(1.5, 0.5, 200, 200),
    ]
    ratio = flow(modes, 0, [300], [0.1 / 8, 0.1 / 2, 0.1 / 8]).loss / flow(modes, 0, [300]).loss
    np.testing.assert_allclose(ratio[:, 0], [3.4, 3.9, 1.02], rtol=0.03)
    late = flow([power_law_modes(1.5, 2.5), power_law_modes(2, 2.5)], 1, [1e5, 1e6], 0.05).loss
    np.testing.assert_allclose(np.log10(late[:, 0] / late[:, 1]), [2 - 1 / 1.5, 1.5], atol=0.005)


def test_the_mass_of_a_target_is_in_the_modes_or_out_of_reach() -> None:
    hard, easy = modes_of_width(1.5, [0.5, 1.5], 32, 256, np.random.default_rng(7))
    np.testing.assert_array_equal(hard.x, easy.x)
    for one in (hard, easy):
        assert one.mass.sum() + one.unreachable == pytest.approx(1)
    assert hard.unreachable > easy.unreachable


def test_a_random_target_has_the_power_law_as_its_mean_and_the_spread_of_gaussian_coefficients() -> None:
    draws = 600
    times = np.array([30.0, 3000.0])
    mean = power_law_modes(2, 0.5, 3000, 3000)
    expected = flow([mean], 0.0, times).loss[0]
    weights = mean.mass[:, None] * np.exp(-2 * mean.x[:, None] * times)
    spread = np.sqrt(2 * (weights**2).sum(0))  # the variance of a chi-square of one degree of freedom is 2
    for single in (40, 3000):  # in bins with as many degrees of freedom as modes, and mode by mode
        rng = np.random.default_rng(4)
        drawn = [power_law_modes(2, 0.5, 3000, single, rng) for _ in range(draws)]
        loss = flow(drawn, 0.0, times).loss
        np.testing.assert_allclose(loss.mean(0), expected, atol=0, rtol=4 * (spread / expected).max() / draws**0.5)
        np.testing.assert_allclose(loss.std(0), spread, rtol=4 / (2 * draws) ** 0.5)


def test_a_random_target_of_a_width_is_a_sum_of_what_its_modes_have_and_what_they_lack() -> None:
    means = modes_of_width(1.5, [0.5], 32, 256, np.random.default_rng(7))
    rng = np.random.default_rng(8)
    drawn = [modes_of_width(1.5, [0.5], 32, 256, np.random.default_rng(7), rng)[0] for _ in range(50)]
    total = np.array([one.mass.sum() + one.unreachable for one in drawn])
    mass = power_law_modes(1.5, 0.5, 256, 256).mass
    assert total.mean() == pytest.approx(1, abs=4 * np.sqrt(2 * (mass**2).sum() / len(drawn)))
    assert np.mean([one.unreachable for one in drawn]) == pytest.approx(means[0].unreachable, rel=0.2)
