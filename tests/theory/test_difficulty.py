from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from scipy.integrate import quad
from scipy.special import erf, gamma, gammaln, ndtr

from raysweep.theory import difficulty
from raysweep.theory.difficulty import log_precision_density, rates, success

# Quadrature on another mesh: beta, D, r, and L at k = 1, 10, 100, 1000.
REFERENCE = [
    (2.5, 1.0, 0.0, (3.59390e-1, 1.07418e-2, 4.93792e-5, 1.62403e-7)),
    (2.5, 1.0, 0.1, (3.81913e-1, 1.09295e-2, 4.93934e-5, 1.62404e-7)),
    (2.5, 1.0, 1.0, (5.16531e-1, 4.36440e-2, 4.61439e-3, 1.22821e-3)),
    (2.5, 0.1, 0.3, (9.33178e-1, 5.24405e-1, 2.04565e-2, 4.45375e-4)),
    (4.5, 1.0, 0.1, (2.34039e-1, 6.70601e-4, 5.10100e-8, 5.32169e-12)),
]
CASES = [(2.5, 1.0, 0.1), (2.5, 0.1, 30.0), (2.5, 1.0, 1e4), (1.5, 0.1, 1.0), (4.5, 1.0, 0.3), (0.5, 1.0, 0.5)]


@pytest.mark.parametrize(("beta", "tolerance", "risk", "expected"), REFERENCE)
def test_reference_values(beta: float, tolerance: float, risk: float, expected: tuple[float, ...]) -> None:
    found = rates(beta, tolerance, risk, most=1e4).failure([1, 10, 100, 1000])
    # Six digits are known; of the smallest five, as its reference ends b at eight standard deviations.
    np.testing.assert_allclose(found, expected, rtol=5e-6 if expected[-1] > 1e-10 else 5e-5)


@pytest.mark.parametrize("most", [8.0, 1e6])
@pytest.mark.parametrize("prior", difficulty.PRIORS)
@pytest.mark.parametrize(("beta", "tolerance", "risk"), CASES)
def test_a_finer_mesh_says_the_same(
    beta: float, tolerance: float, risk: float, prior: str, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    k = np.geomspace(1, most, 25)
    found = rates(beta, tolerance, risk, prior, most).failure(k)
    monkeypatch.setattr(difficulty, "_STEPS", tuple(step / 2 for step in difficulty._STEPS))
    monkeypatch.setattr(difficulty, "_SPACING", difficulty._SPACING / 2)
    monkeypatch.setattr(difficulty, "_NEGLIGIBLE", difficulty._NEGLIGIBLE + 8)
    monkeypatch.setattr(difficulty, "_LEAST_K_LAMBDA", difficulty._LEAST_K_LAMBDA / 100)
    np.testing.assert_allclose(rates(beta, tolerance, risk, prior, most).failure(k), found, rtol=1e-8)


@pytest.mark.parametrize("prior", difficulty.PRIORS)
@pytest.mark.parametrize("beta", [0.05, 0.1, 0.3])
def test_instances_too_hard_for_doubles_never_hit(beta: float, prior: str) -> None:
    """As beta goes to 0 nearly all are; the rest is a distribution still."""
    found = rates(beta, 1.0, 0.1, prior, 1e3)
    assert found.weight.sum() == pytest.approx(1, abs=1e-9)
    more = rates(beta * 1.001, 1.0, 0.1, prior, 1e3).failure([1, 100])
    assert ((found.failure([1, 100]) > more) & (found.failure([1, 100]) < more + 0.01)).all()


def test_a_failure_below_what_doubles_hold_has_no_exponent() -> None:
    failure, exponent = rates(50.0, 1000.0, 0.1, most=1e12).curve(np.geomspace(1, 1e12, 1000))
    assert failure[-1] == 0
    assert np.isnan(exponent[-1])
    assert np.isfinite(exponent[failure > 1e-289]).all()


@pytest.mark.parametrize("most", [300.0, 1e4, 1e12])
@pytest.mark.parametrize("prior", difficulty.PRIORS)
@pytest.mark.parametrize(("beta", "tolerance", "risk"), CASES)
def test_many_budgets_are_read_off_few(beta: float, tolerance: float, risk: float, prior: str, most: float) -> None:
    k = np.geomspace(1, most, 1000)
    found = rates(beta, tolerance, risk, prior, most)
    decay = np.exp(-np.multiply.outer(k, found.rate))
    failure, exponent = found.curve(k)
    np.testing.assert_allclose(failure, decay @ found.weight, rtol=1e-8)
    np.testing.assert_allclose(exponent, k * (decay @ (found.weight * found.rate)) / failure, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("k", [1.0, 30.0, 1000.0])
def test_adaptive_quadrature_agrees(k: float) -> None:
    beta, tolerance, risk = 2.5, 1.0, 0.5

    def given(u: float) -> float:
        """The failure at precision e^u."""
        tau = np.exp(u)

        def at(z: float) -> float:
            s = float(ndtr(np.sqrt(tau) * (tolerance - b(z))) - ndtr(np.sqrt(tau) * (-tolerance - b(z))))
            return float(np.exp(-(z**2) / 2 + k * np.log1p(-min(s, 1 - 1e-16))))

        def b(z: float) -> float:
            return z * np.sqrt(risk)

        inner = 2 / np.sqrt(2 * np.pi) * quad(at, 0, 10, epsabs=0, epsrel=1e-11, limit=400)[0]
        return float(np.exp(beta / 2 * u - tau) / gamma(beta / 2) * inner)

    expected = quad(given, -45, 4.5, epsabs=0, epsrel=1e-10, limit=800)[0]
    assert rates(beta, tolerance, risk, most=1e4).failure([k])[0] == pytest.approx(expected, rel=2e-8)


def failure_sampled(
    k: Sequence[float], beta: float, tolerance: float, risk: float, count: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The chance of failure for the Gamma prior by importance sampling, without a mesh; and its standard error.

    Failures at large k have two causes, each rare: a small tau, and a large b at a tau that is not small. Both are
    drawn from mixtures that visit them: tau from Gamma(1/4, 1) and Gamma(2, 1/2), b from N(0, r) and N(0, 9 r), half
    of the instances each. (Sampling small tau alone misses the second: at beta = 2.5, D = 1, r = 0.3, k = 10^4 it finds
    only 0.6 % of the failures, and gives a standard error of 1.5 % of that.)

    Args:
        k: Budgets, [budgets].
        beta, tolerance, risk: As `rates`.
        count: Instances drawn.
        rng: Their source.
    """
    small, wide = rng.random((2, count)) < 0.5
    tau = np.where(small, rng.gamma(0.25, size=count), rng.gamma(2.0, 2.0, size=count))
    z = rng.standard_normal(count) * np.where(wide, 3.0, 1.0)
    drawn = (_gamma_density(tau, 0.25, 1.0) + _gamma_density(tau, 2.0, 2.0)) / 2
    ratio = _gamma_density(tau, beta / 2, 1.0) / drawn
    ratio *= 2 / (1 + np.exp(z**2 / 2 * (1 - 1 / 9)) / 3)  # N(0, 1) over the mixture
    hit = success(tau, np.abs(z) * np.sqrt(risk), tolerance)
    with np.errstate(divide="ignore"):
        each = ratio * np.exp(np.multiply.outer(np.asarray(k, dtype=np.float64), np.log1p(-hit)))
    return each.mean(axis=1), each.std(axis=1) / np.sqrt(count)


def _gamma_density(tau: npt.NDArray[np.float64], shape: float, scale: float) -> npt.NDArray[np.float64]:
    return np.asarray(np.exp((shape - 1) * np.log(tau) - tau / scale - gammaln(shape) - shape * np.log(scale)))


@pytest.mark.parametrize(("beta", "tolerance", "risk"), [(2.5, 1.0, 0.3), (2.5, 0.1, 3.0), (1.5, 1.0, 0.0)])
def test_importance_sampling_agrees(beta: float, tolerance: float, risk: float) -> None:
    k = [1, 10, 100, 1000, 10_000]
    found, error = failure_sampled(k, beta, tolerance, risk, 200_000, np.random.default_rng(1))
    exact = rates(beta, tolerance, risk, most=1e4).failure(k)
    assert (np.abs(found - exact) < 4.5 * error).all()
    assert (error < 0.05 * exact).all()


def test_attempts_drawn_for_real_agree() -> None:
    """Instances, predictions' errors and k attempts each, drawn one by one."""
    rng = np.random.default_rng(2)
    n, beta, tolerance, risk, ks = 100_000, 2.5, 1.0, 0.3, [1, 3, 10]
    tau = rng.gamma(beta / 2, size=n)
    b = rng.standard_normal(n) * np.sqrt(risk)
    best = np.full(n, np.inf)
    exact = rates(beta, tolerance, risk).failure(ks)
    for attempt in range(1, max(ks) + 1):
        best = np.minimum(best, np.abs(b - rng.standard_normal(n) / np.sqrt(tau)))
        if attempt in ks:
            share = float((best > tolerance).mean())
            expected = float(exact[ks.index(attempt)])
            assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize("prior", difficulty.PRIORS)
def test_it_is_a_distribution_of_rates(prior: str) -> None:
    found = rates(2.5, 1.0, 2.0, prior, 1e6)
    assert found.weight.sum() == pytest.approx(1, abs=1e-10)
    k = np.geomspace(1, 1e6, 200)
    failure = found.failure(k)
    assert ((failure > 0) & (failure < 1)).all()
    assert (np.diff(failure) < 0).all()
    nearby = np.log(found.failure(k * 1.001) / found.failure(k / 1.001)) / (2 * np.log(1.001))
    np.testing.assert_allclose(found.exponent(k), -nearby, rtol=1e-4)


def test_the_density_of_the_precision_is_one() -> None:
    u = np.arange(-60, 6, 0.001)
    for prior, upto in (("gamma", 6.0), ("bounded", 0.0)):
        density = np.exp(log_precision_density(u[u <= upto], 2.5, prior))
        assert density.sum() * 0.001 == pytest.approx(1, abs=2e-3)


def test_success_is_exact_where_it_is_tiny() -> None:
    tau, tolerance = np.array([1e-24, 1e-12, 1e-7, 1e-6, 1e-5, 1.0]), 1.0
    b = np.zeros(1)
    expected = erf(np.sqrt(tau / 2))
    np.testing.assert_allclose(success(tau, b, tolerance), expected, rtol=1e-12)
