"""Exponents of a task from a kernel's spectrum, against tasks whose exponents are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtrit
from threadpoolctl import threadpool_limits

from raysweep.errors import FitError
from raysweep.theory.features import flow, power_law_modes
from raysweep.theory.spectrum import Check, Spectrum, check, continued, estimate, exponents, verdict, window_of


@pytest.fixture(autouse=True)
def one_thread():
    """Small eigenproblems wait for threads most of the time where cores are busy."""
    with threadpool_limits(1):
        yield


def exact(alpha, beta, modes=2000):
    """lambda_k = k^-alpha, and a target whose power beyond mode k - 1 is k^(-alpha beta)."""
    k = np.arange(1, modes + 1.0)
    return Spectrum(k**-alpha, k ** (-alpha * beta) - (k + 1) ** (-alpha * beta))


def measured(kernel, y):
    values, vectors = np.linalg.eigh(kernel / len(y))
    mass = (vectors.T @ y) ** 2
    return Spectrum(values[::-1], mass[::-1] / mass.sum())


def sampled(alpha, beta, items, width, networks, rng):
    """An estimate of beta from random-feature networks of a width, and that of infinite width on the same items."""
    inputs = 3 * items
    k = np.arange(1, inputs + 1.0)
    features = rng.standard_normal((items, inputs)) * k ** (-alpha / 2)
    tail = k ** (-alpha * beta) - (k + 1) ** (-alpha * beta)
    y = features @ (np.sqrt(tail * k**alpha) * rng.choice([-1.0, 1.0], inputs))
    kernels = []
    for _ in range(networks):
        hidden = features @ rng.standard_normal((inputs, width)) / width**0.5
        kernels.append(hidden @ hidden.T)
    mean, window = np.mean(kernels, axis=0), window_of(items)

    def beta_of(kernel, at=slice(None)):
        return exponents(measured(kernel[at][:, at], y[at]), window)[1]

    half, quarter = items // 2, items // 4
    found = estimate(
        items,
        beta_of(mean),
        [beta_of((mean * networks - one) / (networks - 1)) for one in kernels],
        [beta_of(mean, np.arange(items) % 6 != i) for i in range(6)],
        [beta_of(mean, slice(i * half, (i + 1) * half)) for i in range(2)],
        [beta_of(mean, slice(i * quarter, (i + 1) * quarter)) for i in range(4)],
    )
    return found, beta_of(features @ features.T)


@pytest.mark.parametrize(("alpha", "beta"), [(1.2, 0.1), (1.5, 0.5), (2.0, 1.0), (1.5, 2.5)])
def test_exponents_of_an_exact_power_law_are_exact(alpha, beta):
    np.testing.assert_allclose(exponents(exact(alpha, beta), (5, 100)), (alpha, beta), rtol=1e-6)


def test_beta_does_not_depend_on_how_modes_are_counted():
    """Two modes for each eigenvalue, as on a circle."""
    one = exact(1.5, 0.5)
    twice = Spectrum(np.repeat(one.values, 2), np.repeat(one.mass / 2, 2))
    assert exponents(twice, (10, 200))[1] == pytest.approx(0.5, abs=0.01)


def test_intervals_cover_the_truth_of_random_networks():
    rng = np.random.default_rng(0)
    found = [sampled(1.5, 0.5, 240, 480, 2, rng)[0] for _ in range(8)]
    assert sum(one.low <= 0.5 <= one.high for one in found) >= 7
    assert abs(np.mean([one.value for one in found]) - 0.5) < 0.08
    assert all(one.high - one.low < 1.2 for one in found)


def test_the_mixing_of_modes_by_a_finite_width_is_taken_off():
    rng = np.random.default_rng(0)
    found = [sampled(1.5, 1.5, 240, 200, 4, rng) for _ in range(8)]
    raw, left = (np.mean([getattr(one, name) - wide for one, wide in found]) for name in ("raw", "value"))
    assert raw < -0.1
    assert abs(left) < 0.6 * abs(raw)


def test_an_estimate_by_hand():
    parts = [[0.4, 0.5, 0.3], [0.5, 0.52], [0.55, 0.45], [0.4, 0.6, 0.4, 0.6]]
    one = estimate(800, 0.5, *parts, level=0.95)
    assert one.mixing == pytest.approx(2 * (0.4 - 0.5))
    assert one.value == pytest.approx(0.7)
    assert one.seed_error**2 == pytest.approx(2 / 3 * 0.02)
    assert one.item_error**2 == pytest.approx(0.5 * 2 * 0.01**2)
    assert one.drift == pytest.approx(0.0)
    seeds, items = 0.04 / 3, 0.0001
    freedom = (seeds + items) ** 2 / (seeds**2 / 2 + items**2)
    assert (one.high - one.value) / (seeds + items) ** 0.5 == pytest.approx(stdtrit(freedom, 0.975))
    assert 2 < freedom < 3
    assert 3.182 < stdtrit(freedom, 0.975) < 4.303  # Student's t of 3 and of 2 degrees
    assert one.sizes == ((200, 0.5), (400, 0.5), (800, 0.5))
    moved = estimate(800, 0.5, *parts[:2], [0.3, 0.3], parts[3], level=0.95)
    assert moved.high - one.high == pytest.approx(0.2)


def test_modes_continue_as_the_power_law():
    alpha, beta, times = 1.5, 0.5, np.geomspace(1, 1e5, 11)
    modes = continued(exact(alpha, beta), 50, alpha, beta)
    assert modes.mass.sum() == pytest.approx(1.0)
    assert modes.count[:50].sum() == 50
    whole = power_law_modes(alpha, beta)
    for gamma in (0.0, 1.0):
        found, wanted = (flow([m], gamma, times).loss[0] for m in (modes, whole))
        np.testing.assert_allclose(found, wanted, rtol=0.03)


def near(beta):
    """An estimate with an interval of about 0.1 on both sides."""
    return estimate(400, beta, [beta, beta], [beta - 0.02, beta + 0.02], *[[beta] * 2] * 2)


@pytest.mark.parametrize(
    ("beta", "leaked", "parts", "wanted", "reason"),
    [
        (0.5, 0.0, (0.4, 0.6), "can", "between 0 and 1"),
        (1.0, 0.0, (0.9, 1.1), "undecided", "contains 1"),
        (1.6, 0.0, (1.5, 1.7), "cannot", "above 1"),
        (0.05, 0.0, (0.05, 0.05), "undecided", "not wholly above 0.01, the slope of pure noise"),
        (-0.5, 0.0, (-0.5, -0.5), "undecided", "no power law"),
        (0.5, 0.4, (0.4, 0.6), "undecided", "40% of the target's power"),
        (1.6, 0.9, (1.5, 1.7), "cannot", "above 1"),  # leaks only lower a beta above 1
        (1.6, 0.9, (2.6, 0.6), "undecided", "has leaked there"),
        (0.5, 0.0, (0.2, 1.2), "undecided", "0.2 in the first half of the window and 1.2 in the second"),
        (1.6, 0.0, (2.6, 0.6), "undecided", "no single power law"),
    ],
)
def test_a_verdict_needs_an_interval_on_one_side_of_1_and_a_power_law(beta, leaked, parts, wanted, reason):
    found, why = verdict(near(beta), Check(leaked, 0.01, parts, (2.0, 2.1), 1e-4))
    assert found == wanted
    assert reason in why


def test_what_networks_leak_is_measured_against_a_leak_that_is_known():
    """C(k) = true + leak / S, for S networks in the average."""
    k, true = np.arange(1, 401.0), exact(1.5, 2.5, 400)
    leak = 0.01 * (k**-0.5 - (k + 1) ** -0.5)

    def averaged(networks):
        return Spectrum(true.values, true.mass + (leak - leak.sum() * (k == 1)) / networks)

    whole = averaged(4)
    found = check(whole, [averaged(3)] * 4, 2000, (5, 100))
    share = 1 - true.beyond / whole.beyond
    assert found.leaked == pytest.approx(share[4:100].max())
    assert found.hidden
    assert found.parts[0] > found.parts[1] + 0.2
    clean = check(exact(1.5, 0.5), [exact(1.5, 0.5)] * 4, 2000, (5, 100))
    assert clean.leaked == 0
    assert not clean.hidden
    assert clean.parts == pytest.approx((0.5, 0.5))


def test_the_slope_of_noise_is_that_of_equal_power_in_every_mode():
    flat = Spectrum(np.arange(1, 2001.0) ** -1.2, np.full(2000, 1 / 2000))
    assert check(flat, [flat] * 2, 2000, (5, 100)).noise == pytest.approx(exponents(flat, (5, 100))[1])


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ((0, 10), "`1 <= low < high` must hold"),
        ((5, 5), "low=5, high=5"),
        ((5, 5000), "positive=2000"),
    ],
)
def test_windows_that_make_no_sense_are_refused(window, message):
    with pytest.raises(FitError, match=message):
        exponents(exact(1.5, 0.5), window)


def test_too_few_items_and_targets_without_a_tail_are_refused():
    assert window_of(2000) == (5, 100)
    with pytest.raises(FitError, match=r"items >= 200.*items=199"):
        window_of(199)
    simple = Spectrum(np.arange(1, 101.0) ** -1.5, np.eye(100)[2])
    with pytest.raises(FitError, match="must have power beyond mode 20, but it has none"):
        exponents(simple, (5, 20))
    with pytest.raises(FitError, match="must be positive to predict with"):
        continued(exact(1.5, 0.5), 50, 1.5, -0.1)


@pytest.mark.parametrize(
    ("alphas", "smallest", "why"),
    [
        ((7.3, 6.6), 5e-9, "does not resolve"),
        ((3.9, 2.3), 1e-4, "no single power law"),
        ((1.0, -0.1), 1e-4, "no single"),
    ],
)
def test_a_kernel_without_a_power_law_has_no_verdict(alphas: tuple[float, float], smallest: float, why: str) -> None:
    found, reason = verdict(near(0.5), Check(0.0, 0.01, (0.5, 0.5), alphas, smallest))
    assert found == "undecided"
    assert why in reason
