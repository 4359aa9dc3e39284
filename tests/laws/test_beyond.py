from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import betaln
from scipy.stats import binom, norm

from raysweep.laws.attempts import attempts, predict
from raysweep.laws.beyond import beyond
from raysweep.laws.mesh import Mesh, merged
from raysweep.laws.shapes import SHAPES, Shaped
from raysweep.laws.tail import Tail
from raysweep.laws.unshaped import extremes


def counts(rates: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(seed).binomial(n, rates).astype(float), np.full(rates.size, float(n))


def test_a_cell_s_chances_sum_to_1_and_average_the_binomial() -> None:
    n = 12
    c = np.arange(n + 1.0)
    mesh = Mesh.over(c, np.full(n + 1, float(n)), np.array([40.0]), 0.25)
    np.testing.assert_allclose(mesh.chance.sum(axis=0), 1, rtol=1e-4)
    np.testing.assert_allclose(mesh.upto, np.cumsum(mesh.chance, axis=0), atol=1e-3)
    at = int(np.argmin(np.abs(mesh.odds + 1)))
    ends = mesh.odds[at] - 0.125, mesh.odds[at] + 0.125
    for j in (0, 3, 12):
        mean = quad(lambda odds, j=j: binom.pmf(j, n, 1 / (1 + np.exp(-odds))), *ends)[0] / 0.25
        assert mesh.chance[j, at] == pytest.approx(mean, rel=1e-4, abs=1e-8)
    mean = quad(lambda odds: (1 + np.exp(odds)) ** -40.0, *ends)[0] / 0.25
    assert mesh.failure[at, 0] == pytest.approx(mean, rel=1e-4, abs=1e-6)


def test_many_distinct_counts_are_merged_where_that_loses_little() -> None:
    c = np.concatenate([np.arange(31), np.arange(100, 3000)]).astype(float)
    pairs, _, weights = merged(c, np.full(c.size, 5000.0))
    assert pairs.size < 1000
    assert weights.sum() == c.size
    np.testing.assert_array_equal(pairs[:31], np.arange(31))
    assert weights @ pairs == pytest.approx(c.sum(), rel=1e-2)
    assert merged(c[:40], np.full(40, 5000.0))[2].tolist() == [1.0] * 40


def test_bounds_of_problems_that_were_never_solved_are_exact() -> None:
    """The chance of no success, F(n)^m, is at least 0.05; by Jensen's inequality F(2 n) >= F(n)^2, and F may stay 1."""
    m, n = 30, 50
    found = beyond(np.zeros(m), np.full(m, float(n)), np.array([2.0 * n]), 0.95)
    assert found.interval[0, 0] == pytest.approx(0.05 ** (2 / m), abs=3e-3)
    assert found.interval[0, 1] == pytest.approx(1, abs=1e-3)
    assert np.isnan(found.failure[0])


def test_bounds_are_those_of_a_small_problem_by_search() -> None:
    """Two cells beside the atom: mixtures lie in a triangle, which can be searched."""
    mesh = Mesh(
        c=np.array([0.0, 2.0]), n=np.array([4.0, 4.0]), odds=np.array([-np.inf, -3.0, 0.0]), step=1.0,
        chance=np.array([[1.0, 0.8, 0.1], [0.0, 0.02, 0.4]]), failure=np.array([[1.0, 0.3], [0.6, 0.05], [0.0, 0.01]]),
    )  # fmt: skip
    weights, drop = np.array([20.0, 10.0]), 2.0
    side = np.linspace(0, 1, 801)
    one, other = (part.ravel() for part in np.meshgrid(side, side))
    mix = np.stack([1 - one - other, one, other], axis=1)[one + other <= 1]
    with np.errstate(divide="ignore"):
        log = np.log(mix @ mesh.chance.T) @ weights
    value = mix[log >= log.max() - drop] @ mesh.failure
    expected = np.stack([value.min(axis=0), value.max(axis=0)], axis=1)
    np.testing.assert_allclose(extremes(mesh, weights, drop), expected, atol=4e-3)


def test_shapes_are_fitted_by_maximum_likelihood() -> None:
    rng = np.random.default_rng(2)
    c, n = counts(rng.beta(0.8, 8, 200) * (rng.random(200) > 0.3), 60, 4)
    pairs, trials, weights = merged(c, n)
    k = np.array([60.0, 600.0])
    mesh = Mesh.over(pairs, trials, k, 0.1)
    plain, inflated, normal, _ = (Shaped.fitted(shape, mesh, weights, 2.0) for shape in SHAPES)
    most = Tail.fitted(c, n)
    fitted = most.a.item(), most.b.item()
    np.testing.assert_allclose(plain.failure, beta(k, *fitted), rtol=0.02)
    assert inflated.impossible == pytest.approx(0.3, abs=0.15)
    assert inflated.interval[1, 0] < 0.3 + 0.7 * beta(k)[1] < inflated.interval[1, 1]

    def aicc(mean: float, spread: float) -> float:
        odds = np.linspace(mean - 9 * spread, mean + 9 * spread, 1001)
        weight = norm.pdf(odds, mean, spread) * (odds[1] - odds[0])
        likely = [weight @ binom.pmf(j, 60, 1 / (1 + np.exp(-odds))) for j in pairs]
        return 4 - 2 * float(weights @ np.log(likely)) + 12 / (200 - 3)

    best = minimize(lambda q: aicc(q[0], float(np.exp(q[1]))), [-3.0, 0.5], method="Nelder-Mead").fun
    assert normal.aicc == pytest.approx(best, abs=0.05)


def beta(k: np.ndarray, a: float = 0.8, b: float = 8.0) -> np.ndarray:
    """1 - pass@k of a Beta(a, b)."""
    return np.exp(betaln(a, b + k) - betaln(a, b))


RATES = np.array([0.002, 0.02, 0.2, 0.6])
WORLDS = {
    "beta": (lambda r, m: r.beta(0.8, 8, m), beta),
    "impossible": (lambda r, m: r.beta(0.8, 8, m) * (r.random(m) > 0.2), lambda k: 0.2 + 0.8 * beta(k)),
    "discrete": (lambda r, m: r.choice(RATES, m), lambda k: np.mean((1 - RATES) ** k[:, None], axis=1)),
}


@pytest.mark.parametrize("world", WORLDS)
def test_bounds_hold_whatever_the_rates_and_the_beta_is_rejected_only_where_it_is_wrong(world: str) -> None:
    rates, failure = WORLDS[world]
    k, worlds = np.array([1000.0, 10_000.0]), 8
    truth, held, rejected = failure(k), [], []
    for seed in range(worlds):
        found = beyond(*counts(rates(np.random.default_rng(seed), 300), 100, seed), k, 0.95)
        held.append((found.interval[:, 0] <= truth) & (truth <= found.interval[:, 1]))
        rejected.append("beta_rejected" in found.notes)
        value = found.failure[np.isfinite(found.failure)]
        assert (value >= 0).all()
        assert (value <= 1).all()
        assert np.isnan(found.failure).any() == ("no_shape" in found.notes)
    assert np.mean(held, axis=0).min() >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / worlds)
    if world != "impossible":  # 300 problems show those in some worlds only
        assert np.mean(rejected) == pytest.approx(float(world == "discrete"), abs=0.26)


def test_extrapolation_without_a_shape_is_an_interval_and_no_value() -> None:
    c, n = counts(np.random.default_rng(0).choice([0.002, 0.02, 0.2, 0.6], 100), 100, 0)
    found = attempts(c, n, [10, 100_000], draws=100)
    assert np.isfinite(found.failure[0])
    assert np.isnan(found.failure[1])
    assert 0 <= found.failure_interval[1, 0] < found.failure_interval[1, 1] < 0.5
    assert set(found.notes) >= {"extrapolated", "beta_rejected", "no_shape"}
    later = predict(c, n, 20, draws=100)
    assert later.covered == 1


def test_unequal_trials_and_large_counts_keep_a_beta() -> None:
    rng = np.random.default_rng(4)
    n = rng.integers(50, 5000, 300).astype(float)
    c = rng.binomial(n.astype(int), rng.beta(0.5, 30, 300)).astype(float)
    assert "beta_rejected" not in beyond(c, n, np.array([]), 0.95).notes
    c, n = counts(rng.beta(0.5, 30, 1000), 10**6, 5)
    assert "beta_rejected" not in beyond(c, n, np.array([]), 0.95).notes
