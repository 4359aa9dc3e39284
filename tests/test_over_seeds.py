"""Intervals over seeds in analyses: coverage with a few seeds, and draws without a finite value."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import t as student


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "analysis")
    return importlib.import_module("common")


@pytest.mark.parametrize("seeds", [3, 4, 6, 12, 32])
def test_intervals_cover_a_mean_and_a_ratio(common: ModuleType, seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    values = rng.normal(1.0, 2.0, (1500, seeds))
    _, (low, high) = common.over_seeds(values, lambda v: v.mean(-1))
    assert 0.92 < ((low <= 1) & (high >= 1)).mean() < 0.99
    both = np.exp(rng.normal(0.0, 0.5, (2, 1500, seeds)))
    value, (low, high) = common.over_seeds(both, lambda v: v[0].mean(-1) / v[1].mean(-1), log=True)
    assert 0.92 < ((low <= 1) & (high >= 1)).mean() < 0.99
    assert ((low > 0) & (low <= value) & (value <= high)).all()


@pytest.mark.parametrize("seeds", [8, 32])
def test_a_normal_mean_has_student_s_interval(common: ModuleType, seeds: int) -> None:
    values = np.random.default_rng(seeds).normal(size=(400, seeds))
    value, (low, high) = common.over_seeds(values, lambda v: v.mean(-1))
    half = student.ppf(0.975, seeds - 1) * values.std(-1, ddof=1) / np.sqrt(seeds)
    assert ((high - low) / (2 * half)).mean() == pytest.approx(1, abs=0.04)
    assert ((high + low) / 2 - value).mean() == pytest.approx(0, abs=0.02)


def test_a_value_lies_within_its_interval_and_its_bounds(common: ModuleType) -> None:
    values = np.random.default_rng(0).exponential(size=12)
    value, (low, high) = common.over_seeds(values, lambda v: np.unique(v).size)  # no draw has as many
    assert low < value == high
    share = (values > values.min()).astype(float)
    value, (low, high) = common.over_seeds(share, np.mean, bounds=(0, 1))
    assert low < value < high == 1


def test_draws_without_a_finite_value(common: ModuleType) -> None:
    drawn = np.arange(200) / 100 - 1
    known = common.interval(0.0, drawn, 5)
    assert np.array_equal(common.interval(0.0, np.append(drawn, np.full(50, np.nan)), 5), known)
    never = np.append(drawn, np.full(50, np.inf))  # a fifth of the draws: more than lie beyond the upper end
    low, high = common.interval(0.0, never, 5)
    assert -np.inf < low < 0
    assert high == np.inf
    low, high = common.interval(1.0, np.exp(never), 5, log=True)
    assert 0 < low < 1
    assert high == np.inf
    assert np.isfinite(common.interval([0.0, 1.0], np.stack([drawn, drawn + 1], 1), 5)).all()


def test_an_interval_needs_two_seeds(common: ModuleType) -> None:
    with pytest.raises(ValueError, match="at least 2 seeds, but there are 1"):
        common.over_seeds(np.ones((3, 1)), np.mean)
