from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom, t

from raysweep.laws.proportion import mean_interval


def test_it_is_clopper_and_pearson_of_the_effective_number_of_answers() -> None:
    values = np.random.default_rng(0).beta(0.3, 2.0, size=40)
    mean, variance = values.mean(), values.var(ddof=1) / 40
    count = mean * (1 - mean) / variance
    count *= (t.ppf(0.05, count - 1) / t.ppf(0.05, 39)) ** 2
    low, high = mean_interval(values, 0.9)
    assert low == pytest.approx(beta.ppf(0.05, count * mean, count * (1 - mean) + 1))
    assert high == pytest.approx(beta.ppf(0.95, count * mean + 1, count * (1 - mean)))
    assert low < mean < high


@pytest.mark.parametrize("yes", [1, 3, 25, 49])
def test_of_yes_or_no_it_is_nearly_the_binomial_one(yes: int) -> None:
    values = np.repeat([1.0, 0.0], [yes, 50 - yes])
    binomial = beta.ppf(0.025, yes, 51 - yes), beta.ppf(0.975, yes + 1, 50 - yes)
    assert mean_interval(values) == pytest.approx(binomial, rel=0.1, abs=0.003)


def test_it_turns_with_its_values_and_widens_with_its_level() -> None:
    values = np.random.default_rng(1).beta(0.2, 5.0, size=30)
    low, high = mean_interval(values)
    assert mean_interval(1 - values) == pytest.approx((1 - high, 1 - low))
    wide = mean_interval(values, 0.99)
    assert wide[0] < low < high < wide[1]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 30])
def test_levels_are_nested_and_the_mean_is_inside(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(200):
        values = rng.beta(0.3, 0.7, size=n) if rng.random() < 0.5 else (rng.random(n) < 0.4).astype(float)
        ends = np.array([mean_interval(values, level) for level in (0.5, 0.8, 0.95, 0.999)])
        assert (np.diff(ends[:, 0]) <= 1e-9).all()
        assert (np.diff(ends[:, 1]) >= -1e-9).all()
        assert ends[0, 0] - 1e-12 <= values.mean() <= ends[0, 1] + 1e-12


@pytest.mark.parametrize(("n", "p"), [(3, 0.3), (3, 0.5), (4, 0.3), (6, 0.1)])
def test_of_few_yes_or_no_it_holds_as_often_as_it_says(n: int, p: float) -> None:
    held = 0.0
    for yes in range(n + 1):
        low, high = mean_interval(np.repeat([1.0, 0.0], [yes, n - yes]), 0.95)
        held += binom.pmf(yes, n, p) * (low <= p <= high)
    assert held >= 0.95


def test_values_that_agree() -> None:
    unseen = 1 - 0.025 ** (1 / 20)  # 20 of 20 say so with a chance of 2.5 % if this share is otherwise
    assert mean_interval(np.zeros(20)) == pytest.approx((0.0, unseen))
    assert mean_interval(np.ones(20)) == pytest.approx((1 - unseen, 1.0))
    assert mean_interval(np.full(20, 0.3)) == pytest.approx((0.3, 0.3))
    low, high = mean_interval(np.repeat([4e-13, 7e-14], 10))  # small, but not equal
    assert low < 2.35e-13 < high < 4e-13
