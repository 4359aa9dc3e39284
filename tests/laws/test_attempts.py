from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import betaln

from raysweep.errors import FitError
from raysweep.laws import beyond
from raysweep.laws.attempts import attempts, inverse_failure, predict, unbiased_failure
from raysweep.laws.tail import Tail


@pytest.mark.parametrize("p", [0.05, 0.3, 0.8])
def test_the_estimate_is_unbiased_for_a_fixed_number_of_trials(p: float) -> None:
    n, k = 7, np.array([1, 2, 5, 7])
    c = np.arange(n + 1)
    chance = np.array([comb(n, int(i)) * p**i * (1 - p) ** (n - i) for i in c])
    mean = chance @ unbiased_failure(c, np.full(n + 1, n), k)
    np.testing.assert_allclose(mean, (1 - p) ** k, rtol=1e-12)


def test_it_is_the_share_of_subsets_without_a_success() -> None:
    for n, c, k in product([1, 4, 9], [0, 1, 4], [1, 3, 4]):
        if c <= n and k <= n:
            expected = comb(n - c, k) / comb(n, k)
            assert unbiased_failure([c], [n], [k])[0, 0] == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert np.isnan(unbiased_failure([1], [5], [6])).all()
    assert unbiased_failure([3], [4_000_000], [1_000_000])[0, 0] == pytest.approx(0.75**3, rel=1e-5)


def test_the_rate_is_unbiased_where_trials_end_at_the_second_success() -> None:
    p, n = 0.3, np.arange(2, 400)
    chance = (n - 1) * p**2 * (1 - p) ** (n - 2)
    mean = chance @ (1 - inverse_failure(np.full(n.size, 2), n, [1]))
    assert mean[0] == pytest.approx(p, rel=1e-9)
    np.testing.assert_array_equal(inverse_failure([0, 1, 1], [9, 9, 1], [3])[:, 0], [1.0, 1.0, 0.0])


@pytest.mark.parametrize(("a", "b", "n"), [(0.3, 50.0, 1000), (0.8, 3.0, 200), (2.0, 5.0, 40), (0.15, 2000.0, 10_000)])
def test_the_tail_is_the_maximum_of_the_likelihood(a: float, b: float, n: int) -> None:
    rng = np.random.default_rng(3)
    trials = rng.integers(n // 2, n, size=60).astype(float)
    c = rng.binomial(trials.astype(int), rng.beta(a, b, size=60)).astype(float)
    weights = np.stack([np.ones(60), rng.multinomial(60, np.full(60, 1 / 60)).astype(float)])
    found = Tail.fitted(c, trials, weights)
    assert found.settled.all()
    for row, (at_a, at_b) in zip(weights, zip(found.a, found.b, strict=True), strict=True):

        def loss(q: np.ndarray, row: np.ndarray = row) -> float:
            one, other = np.exp(q)
            return -float(row @ (betaln(one + c, other + trials - c) - betaln(one, other)))

        best = minimize(loss, np.log([at_a, at_b]) + 0.3, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
        assert loss(np.log([at_a, at_b])) <= best.fun + 1e-9 * abs(best.fun)


def beta_failure(a: float, b: float, k: object) -> np.ndarray:
    """1 - pass@k of a Beta(a, b)."""
    return np.exp(betaln(a, b + np.asarray(k, dtype=float)) - betaln(a, b))


@pytest.fixture
def no_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fits of shapes, which take nearly all of the time and give values beyond the trials, no interval."""
    monkeypatch.setattr(beyond, "SHAPES", ())


def test_no_success_and_nothing_but_success_leave_room_for_the_other() -> None:
    for c, failure in ((0, 1.0), (50, 0.0)):
        found = attempts(np.full(20, c), np.full(20, 50), [10])
        assert found.failure[0] == failure
        far = 1 - 0.025 ** (1 / 20)  # 20 problems of 20 say so with a chance of 2.5 % if this share is otherwise
        assert found.failure_interval[0].tolist() == pytest.approx([1 - far, 1] if failure else [0, far])
        assert "few_problems" in found.notes


@pytest.mark.usefixtures("no_shapes")
def test_intervals_cover_pass_at_k_and_the_exponent_as_often_as_they_say() -> None:
    a, b, n, problems, worlds = 0.6, 20.0, 300, 60, 40
    k = [1, 30, 300, 3000]
    expected = beta_failure(a, b, k)
    mesh = np.unique(np.round(np.geomspace(30, 300, 9)))
    u = np.log(mesh) - np.log(mesh).mean()
    exponent = -float(np.log(beta_failure(a, b, mesh)) @ u / (u @ u))
    held = np.zeros((worlds, len(k) + 2))
    for world in range(worlds):
        rng = np.random.default_rng(world)
        c = rng.binomial(n, rng.beta(a, b, size=problems))
        found = attempts(c, np.full(problems, n), k, draws=150, seed=world)
        held[world, : len(k)] = (found.failure_interval[:, 0] <= expected) & (expected <= found.failure_interval[:, 1])
        held[world, -2] = found.exponent_interval[0] <= exponent <= found.exponent_interval[1]
        held[world, -1] = found.tail_interval[0] <= a <= found.tail_interval[1]
    assert (held.mean(axis=0) > 0.84).all(), held.mean(axis=0)  # .95 less three standard errors


@pytest.mark.usefixtures("no_shapes")
def test_intervals_hold_where_few_problems_are_solved() -> None:
    """2 of 50 problems or so ever are: of draws of the problems one in nine has none."""
    a, b, n, problems, worlds = 0.05, 10.0, 100, 50, 60
    expected = beta_failure(a, b, [100])
    held = []
    for world in range(worlds):
        rng = np.random.default_rng(world)
        c = rng.binomial(n, rng.beta(a, b, size=problems))
        (ends,) = attempts(c, np.full(problems, n), [100], draws=2, seed=world).failure_interval
        held.append(ends[0] <= expected[0] <= ends[1])
    assert np.mean(held) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / worlds)


@pytest.mark.usefixtures("no_shapes")
def test_larger_budgets_have_an_interval_and_are_said_to_be_extrapolated() -> None:
    rng = np.random.default_rng(5)
    n, problems = 2000, 400
    c = rng.binomial(n, rng.beta(0.5, 30, size=problems))
    found = attempts(c, np.full(problems, n), [10, 2000, 20_000])
    np.testing.assert_array_equal(found.extrapolated, [False, False, True])
    truth = beta_failure(0.5, 30.0, [20_000])
    assert found.failure_interval[2, 0] < truth[0] < found.failure_interval[2, 1]
    assert set(found.notes) >= {"extrapolated"}


def test_what_was_held_out_is_predicted() -> None:
    rng = np.random.default_rng(5)
    n, problems = 2000, 400
    c = rng.binomial(n, rng.beta(0.5, 30, size=problems))
    later = predict(c, np.full(problems, n), 100)
    np.testing.assert_array_equal(later.failure, unbiased_failure(c, np.full(problems, n), later.k).mean(axis=0))
    assert (later.predicted != later.failure).all()
    assert later.k.min() > 100
    assert later.k.max() == n
    assert later.error < 0.2
    assert later.covered >= 0.8


def test_unequal_trials_are_bracketed() -> None:
    found = attempts([3, 3, 0, 3], [10, 50, 90, 30])
    assert found.trials == (10, 90)
    assert found.inverse_exponent < found.exponent
    assert set(found.notes) >= {"unequal_trials", "unsolved"}


def test_without_successes_there_is_no_tail() -> None:
    found = attempts(np.zeros(9), np.full(9, 50), [1, 10, 1000])
    assert "no_tail" in found.notes
    assert np.isnan(found.tail)
    np.testing.assert_array_equal(found.failure[:2], 1.0)
    assert np.isnan(found.failure[2])
    equal = attempts([1, 0, 1, 0, 0, 1], np.full(6, 1000))
    assert "equally hard" in equal.notes["no_tail"]


@pytest.mark.parametrize(
    ("c", "n", "more", "message"),
    [
        ([2, 1], [1, 1], {}, r"successes=2, trials=1"),
        ([0.5, 1], [1, 1], {}, r"successes=0.5"),
        ([0, 0], [0, 1], {}, r"1 to 10\^9 trials"),
        ([1, 1], [9, np.inf], {}, r"trials=inf"),
        ([1, 1], [9, 2e9], {}, r"trials=2e\+09"),
        ([1], [5], {}, "Add problems"),
        ([1, 2], [5, 5], {"k": [0]}, r"k must be whole numbers >= 1"),
        ([1, 2], [5, 5], {"window": (2, 6)}, r"low=2, high=6, fewest trials=5"),
        ([1, 0], [1, 5], {}, r"Leave out problems of one trial"),
    ],
)
def test_what_is_no_count_is_refused(c: list[float], n: list[int], more: dict, message: str) -> None:
    with pytest.raises(FitError, match=message):
        attempts(c, n, **more)
    with pytest.raises(FitError, match="holdout=5, fewest trials=5"):
        predict([1, 2], [5, 5], 5)
