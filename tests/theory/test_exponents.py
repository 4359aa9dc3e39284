"""Exponents by regime against the model: random-matrix theory, the exact flow, and the balance of two terms."""

from __future__ import annotations

import numpy as np
import pytest

from raysweep.theory.exponents import (
    clock_exponent,
    compute_optimal,
    crossover_exponent,
    data_plateau_exponent,
    mode_exponent,
    noise_exponent,
    phase,
    time_exponent,
    transient_exponent,
    width_plateau_exponent,
)
from raysweep.theory.features import flow, power_law_modes
from raysweep.theory.kernel_limit import data_plateau, ensemble_plateau, lazy_curve, width_plateau

TASKS = [(1.5, 0.5), (2.0, 0.5), (2.0, 1.25), (1.5, 1.5), (2.0, 2.5)]


@pytest.mark.parametrize(("alpha", "beta"), TASKS)
def test_plateaus_fall_with_width_and_data(alpha: float, beta: float) -> None:
    modes, sizes = power_law_modes(alpha, beta, last=1e10), (1e4, 1e5)
    for plateau, theory in (
        (width_plateau, width_plateau_exponent),
        (data_plateau, data_plateau_exponent),
        (ensemble_plateau, data_plateau_exponent),  # the mean over models has the cap of data
    ):
        low, high = (plateau(modes, size) for size in sizes)
        assert np.log10(low / high) == pytest.approx(theory(alpha, beta), rel=0.02)


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 1.25), (2.0, 2.5), (1.5, 2.5), (4.0, 0.5), (1.5, 0.5)])
def test_a_width_adds_its_transient_before_its_plateau(alpha: float, beta: float) -> None:
    """In lazy training, by random-matrix theory: N^-1 t^-p. At (1.5, .5) it grows with time."""
    modes, t = power_law_modes(alpha, beta), np.array([1.0, 10.0]) * 300**alpha  # 300 modes learned and more
    added = [lazy_curve(modes, t, width) - lazy_curve(modes, t, np.inf) for width in (1e7, 1e8)]
    np.testing.assert_allclose(np.log10(added[0] / added[1]), 1, atol=1e-3)
    assert np.log10(added[1][0] / added[1][1]) == pytest.approx(transient_exponent(alpha, beta, False), abs=0.01)


def test_the_transient_meets_the_plateau_when_the_last_mode_is_learned() -> None:
    """On hard tasks, lazy and rich: N^-1 t^-p at t = N^(mode_exponent) falls with N as the plateau does."""
    for alpha, beta in ((1.5, 0.5), (2.0, 0.5), (4.0, 0.75)):
        for rich in (False, True):
            at_the_end = 1 + transient_exponent(alpha, beta, rich) * mode_exponent(alpha, beta, rich)
            assert at_the_end == pytest.approx(width_plateau_exponent(alpha, beta))


def test_what_small_noise_adds() -> None:
    """By the Volterra form of the flow: 2 - 1/alpha on super-easy tasks, else a share that grows with the kernel."""
    tasks = [(2.0, 2.5, 0.0), (2.0, 0.5, 0.0), (2.0, 0.5, 1.0), (1.5, 0.75, 1.0)]
    modes = [power_law_modes(alpha, beta, last=1e6) for alpha, beta, _ in tasks]
    richness, noise = [gamma for *_, gamma in tasks] * 2, np.repeat([1e-5, 0.0], len(tasks))
    noisy, still = np.split(flow(modes * 2, richness, [1e3, 1e4], noise).loss, 2)
    found = np.log10((noisy - still)[:, 0] / (noisy - still)[:, 1])
    theory = [noise_exponent(alpha, beta, gamma > 0) for alpha, beta, gamma in tasks]
    np.testing.assert_allclose(theory, [1.5, 0.5, 1 / 3, 5 / 7])
    np.testing.assert_allclose(found, theory, atol=0.01)


def test_the_clock_is_that_of_the_kernels_growth() -> None:
    """rho grows as t^(clock - 1) on hard tasks, and 1 / gamma is passed at gamma^-(crossover)."""
    betas, t = (0.25, 0.5), np.geomspace(1e4, 1e6, 9)
    modes = [power_law_modes(2, beta) for beta in betas]
    rich, weak = np.split(flow(modes * 2, [1.0, 1.0, 1e-8, 1e-8], t).rho, 2)
    grows = np.log(rich[:, -1] / rich[:, 0]) / np.log(t[-1] / t[0])
    np.testing.assert_allclose(grows, [clock_exponent(beta, True) - 1 for beta in betas], atol=0.01)
    # While the kernel hardly grows, rho ~ t^(1 - beta): it is 1 / gamma at t = gamma^(-1 / (1 - beta)).
    grows = np.log(weak[:, -1] / weak[:, 0]) / np.log(t[-1] / t[0])
    np.testing.assert_allclose(1 / grows, [crossover_exponent(beta) for beta in betas], rtol=0.02)
    assert (clock_exponent(1.5, True), crossover_exponent(1.0)) == (1, np.inf)


@pytest.mark.parametrize(
    ("alpha", "beta", "rich", "name", "expected"),
    [
        (1.5, 0.5, False, "hard", (0.300, 0.400)),
        (1.5, 0.5, True, "hard", (0.353, 0.471)),
        (2, 0.5, True, "hard", (0.400, 0.400)),
        (2, 1.25, True, "easy", (0.714, 0.429)),
        (1.5, 2.5, False, "super-easy", (0.667, 0.500)),
    ],
)
def test_the_compute_optimal_table(
    alpha: float, beta: float, rich: bool, name: str, expected: tuple[float, float]
) -> None:
    assert phase(alpha, beta) == name
    edges = (0.99, "hard"), (1.0, "easy"), (1.99 - 1 / alpha, "easy"), (2.01 - 1 / alpha, "super-easy")
    assert [phase(alpha, at) for at, _ in edges] == [said for _, said in edges]
    assert compute_optimal(alpha, beta, rich) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("rich", [False, True])
@pytest.mark.parametrize(("alpha", "beta"), TASKS)
def test_compute_is_best_spent_where_two_terms_balance(alpha: float, beta: float, rich: bool) -> None:
    """N^-a t^-b of each term, at N = C^y and t = C^(1 - y), falls as C^-x."""
    time, transient = (0.0, time_exponent(beta, rich)), (1.0, transient_exponent(alpha, beta, rich))
    plateau, noise = (width_plateau_exponent(alpha, beta), 0.0), (0.0, noise_exponent(alpha, beta, rich))
    terms = {"hard": (time, plateau), "easy": (time, transient), "super-easy": (transient, noise)}[phase(alpha, beta)]
    x, y = compute_optimal(alpha, beta, rich)
    assert [a * y + b * (1 - y) for a, b in terms] == pytest.approx([x, x])
