from __future__ import annotations

import numpy as np
import pytest

from raysweep.theory import lid
from raysweep.theory.difficulty import rates


def slope(beta: float, tolerance: float, risk: float, low: float, high: float, prior: str = "gamma") -> float:
    """Least-squares exponent over a window of k."""
    k = np.geomspace(low, high, 9)
    return float(-np.polyfit(np.log(k), np.log(rates(beta, tolerance, risk, prior, high).failure(k)), 1)[0])


@pytest.mark.parametrize(
    ("beta", "tolerance", "expected"), [(2.5, 1.0, 5.1582), (2.5, 0.1, 1631.2), (1.5, 1.0, 2.0295), (4.5, 1.0, 56.717)]
)
def test_amplitude_of_a_perfect_predictor(beta: float, tolerance: float, expected: float) -> None:
    assert lid.amplitude(beta, tolerance) == pytest.approx(expected, rel=5e-5)
    k = 1e6
    exact = rates(beta, tolerance, 0.0, most=k).failure([k])[0]
    assert lid.amplitude(beta, tolerance) * k**-beta == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize(("tolerance", "within"), [(1.0, (0.33, 0.35, 0.044, 0.005)), (0.1, (0.05, 0.05, 0.05, 0.05))])
def test_failure_of_a_perfect_predictor(tolerance: float, within: tuple[float, ...]) -> None:
    k = np.array([1.0, 10.0, 100.0, 1000.0])
    ratio = lid.perfect_failure(k, 2.5, tolerance) / rates(2.5, tolerance, 0.0).failure(k)
    assert (np.abs(ratio - 1) <= within).all()
    assert lid.perfect_failure(1e-9, 2.5, 1.0) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("share", "expected", "at_1e7"),
    [
        (1, 0.2, 0.270),
        (2, 0.4, 0.481),
        (3, 0.6, 0.687),
        (5, 1.0, 1.094),
        (8, 1.6, 1.698),
        (12.5, 2.5, 2.5),
        (16, 2.5, 2.5),
    ],
)
def test_the_papers_theorem_holds_for_a_bounded_precision(share: float, expected: float, at_1e7: float) -> None:
    """As k grows, and slowly: logarithms keep the exponent above min(beta, 1 / r) at any k there is."""
    beta = 2.5
    risk = lid.noise_variance(beta, 1.0, "bounded") / share  # far beyond d, L_gen = noise d / n
    assert lid.bounded_exponent(risk, beta) == pytest.approx(expected)
    early, late, last = (slope(beta, 0.1, risk, low, 10 * low, "bounded") for low in (1e7, 1e14, 1e40))
    assert early == pytest.approx(at_1e7, rel=0.01)
    assert early >= late - 1e-3 >= last - 2e-3
    assert last == pytest.approx(expected, abs=0.03 + 0.08 * expected)
    assert lid.saturation(1.0, beta, 1.0, 1, "bounded") == pytest.approx(12.5)


@pytest.mark.parametrize("risk", [100.0, 10.0, 3.0, 1.0, 0.5])
def test_the_gamma_prior_has_an_exponent_of_its_own_that_falls_with_k(risk: float) -> None:
    early, found, late = (slope(2.5, 1.0, risk, low, 10 * low) for low in (1e4, 1e12, 1e40))
    assert found == pytest.approx(float(lid.gamma_exponent(10**12.5, risk, 1.0)), rel=0.25)
    assert late == pytest.approx(float(lid.gamma_exponent(10**40.5, risk, 1.0)), rel=0.15)
    assert early > found > late
    # The paper's theorem would say 1 / r, of r^-1 instead of r^-1/2.
    assert found != pytest.approx(float(lid.bounded_exponent(risk, 2.5)), rel=0.3)


@pytest.mark.parametrize(("risk", "k"), [(0.3, 710), (0.2, 2.7e3), (0.15, 9.0e3), (0.1, 1.0e5)])
def test_the_crossover_has_the_right_order(risk: float, k: float) -> None:
    measured = rates(2.5, 0.1, risk, most=1e9)
    mesh = np.geomspace(10, 1e8, 2000)
    bends = mesh[np.flatnonzero((measured.exponent(mesh) < 1.25) & (mesh > 100))[0]]
    assert bends == pytest.approx(k, rel=0.2)
    assert 5 < bends / lid.crossover(risk, 2.5, 0.1) < 17


def test_generalisation_and_its_limits() -> None:
    assert lid.noise_variance(2.5, 2.0) == pytest.approx(16.0)
    assert lid.noise_variance(2.0) == float("inf") == lid.saturation(1e4, 1.5, 1.0, 50)
    np.testing.assert_allclose(lid.generalisation([50, 151], 50, 4.0), [np.nan, 2.0])
    assert lid.saturation(1e4, 2.5, 0.1, 1) == pytest.approx(41.8, abs=0.1)


@pytest.mark.parametrize("ridge", [0.0, 1e-9, 1e-3])
@pytest.mark.parametrize("n", [5.0, 20.0, 45.0, 100.0, 400.0])
def test_the_excess_risk_solves_its_equations(n: float, ridge: float) -> None:
    spectrum = np.arange(1, 51) ** -2.0
    kappa = lid._effective_ridge(spectrum, n, ridge)
    kept = spectrum / (spectrum + kappa)
    left = n * ridge / kappa if kappa else 0.0
    assert kept.sum() + left == pytest.approx(min(n, 50) if ridge == 0 else n, rel=1e-9)
    noiseless, noisy = (lid.excess_risk(n, 50, 1.0, noise, ridge) for noise in (0.0, 0.3))
    share = (kept**2).sum() / n
    assert noisy - noiseless == pytest.approx(0.3 * share / (1 - share))


def test_limits_of_the_excess_risk() -> None:
    # Beyond d without a ridge: noise d / (n - d), of which noise d / (n - d - 1) is exact.
    assert lid.excess_risk(400, 50, 1.0, 0.3) == pytest.approx(0.3 * 50 / 350)
    assert lid.excess_risk(6400, 50, 1.0, 0.3) == pytest.approx(float(lid.generalisation(6400, 50, 0.3)), rel=2e-4)
    assert lid.excess_risk(50, 50, 1.0, 0.3) == float("inf")
    # At n = d, under a small ridge, kappa^2 = n ridge / sum 1 / lambda.
    for ridge in (1e-16, 1e-32, 1e-300):
        kappa = np.sqrt(50 * ridge / (np.arange(1, 51) ** 2.0).sum())
        spare = 2 * kappa * (np.arange(1, 51) ** 2.0).sum() / 50
        assert lid.excess_risk(50, 50, 1.0, 0.3, ridge) == pytest.approx(0.3 / spare, rel=1e-4)
    # Nothing is learned under an infinite ridge.
    power = (np.arange(1, 51) ** -2.0).sum()
    assert lid.excess_risk(20, 50, 1.0, 0.3, 1e9) == pytest.approx(power, rel=1e-6)
    # Far below d it is the tail of the spectrum, up to a factor that n hardly changes.
    spectrum = np.arange(1, 4001) ** -2.0
    ratio = [lid.excess_risk(n, 4000, 1.0, 0.0) / spectrum[n:].sum() for n in (20, 40, 80)]
    assert max(ratio) / min(ratio) < 1.1
