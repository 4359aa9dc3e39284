"""Intervals hold the truth as often as they say, and what moves together is resampled together."""

import numpy as np
import pytest

from raysweep.errors import FitError
from raysweep.laws import law
from raysweep.laws.bootstrap import bootstrap
from raysweep.laws.estimate import estimate

POWER, FLOOR = law("power"), law("power+floor")


def design(scales, runs):
    return np.repeat(2.0 ** np.arange(4, 4 + scales), runs)


def noisy(form, truth, x, sigma, seed=0):
    return form.predict(x, np.array(truth)) * np.exp(sigma * np.random.default_rng(seed).standard_normal(x.size))


def coverage(form, truth, x, sigma, worlds, draws):
    """How often the 95 % interval of each parameter, and the band at 8 times the largest x, hold the truth."""
    ahead = np.array([8.0 * x.max()])
    hits = []
    for world in range(worlds):
        sample = bootstrap(form, x, noisy(form, truth, x, sigma, world), draws=draws, seed=world)
        ends = np.concatenate([sample.interval(0.95), sample.band(ahead, 0.95)])
        true = [*truth, *form.predict(ahead, np.array(truth))]
        hits.append((ends[:, 0] <= true) & (true <= ends[:, 1]))
    return np.mean(hits, axis=0)


@pytest.mark.parametrize(("scales", "runs", "worlds"), [(8, 5, 200), (6, 3, 200), (8, 1, 100), (4, 2, 100)])
def test_95_percent_intervals_of_a_power_law_cover_the_truth(scales, runs, worlds):
    covered = coverage(POWER, [3.0, 0.7], design(scales, runs), sigma=0.1, worlds=worlds, draws=150)
    assert ((covered >= 0.90) & (covered <= 0.99)).all(), covered


def test_95_percent_intervals_of_a_floored_power_law_cover_the_truth():
    covered = coverage(FLOOR, [0.2, 3.0, 0.7], design(8, 3), sigma=0.03, worlds=200, draws=200)
    assert ((covered >= 0.90) & (covered <= 0.99)).all(), covered


def test_a_run_given_twice_adds_no_certainty():
    x = design(8, 3)
    y = noisy(POWER, [3.0, 0.7], x, 0.1)
    runs = np.arange(x.size)
    once = bootstrap(POWER, x, y, runs, draws=200).interval()
    twice = bootstrap(POWER, np.tile(x, 2), np.tile(y, 2), np.tile(runs, 2), draws=200).interval()
    assert twice == pytest.approx(once, rel=1e-9)


def test_checkpoints_of_a_run_share_its_luck_and_cover_only_as_clusters():
    steps, runs, hits = 2.0 ** np.arange(8), 8, []
    x, run = np.tile(steps, runs), np.repeat(np.arange(runs), steps.size)
    for world in range(60):
        rng = np.random.default_rng(world)
        luck = rng.normal(0, 0.1, runs)
        y = 3.0 * x ** -(0.7 + luck[run]) * np.exp(0.01 * rng.standard_normal(x.size))
        clustered, loose = (bootstrap(POWER, x, y, r, draws=120, seed=world).interval()[1] for r in (run, None))
        hits.append([low <= 0.7 <= high for low, high in (clustered, loose)])
    clusters, rows = np.mean(hits, axis=0)
    assert 0.90 <= clusters <= 0.99
    assert rows < clusters


def test_the_same_seed_gives_the_same_draws_and_another_seed_others():
    x = design(6, 3)
    y = noisy(FLOOR, [0.2, 3.0, 0.7], x, 0.05)
    one, same, other = (bootstrap(FLOOR, x, y, draws=50, seed=seed).draws for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_intervals_hold_the_estimate_and_respect_bounds(sigma):
    x = design(6, 3)
    sample = bootstrap(FLOOR, x, noisy(FLOOR, [0.0, 3.0, 0.7], x, sigma), draws=200)
    low, high = sample.interval().T
    assert (low <= sample.values).all()
    assert (sample.values <= high).all()
    assert low[0] >= 0.0
    assert low[1] > 0.0
    assert np.array_equal(sample.values, estimate(FLOOR, x, noisy(FLOOR, [0.0, 3.0, 0.7], x, sigma)).values[0])


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e24])
def test_a_curve_without_a_trend_leaves_finite_intervals_in_any_unit(unit):
    x = design(6, 3)
    y = np.exp(0.1 * np.random.default_rng(0).standard_normal(x.size))
    sample = bootstrap(FLOOR, x * unit, y, draws=200)
    assert np.isfinite(sample.interval()).all()
    assert np.isfinite(sample.band(x * unit)).all()


def test_a_wider_level_gives_a_wider_interval():
    x = design(6, 3)
    sample = bootstrap(POWER, x, noisy(POWER, [3.0, 0.7], x, 0.1), draws=500)
    widths = [np.ptp(sample.interval(level)[1]) for level in (0.5, 0.8, 0.95, 0.99)]
    assert widths == sorted(widths)


def test_every_kept_draw_has_enough_scales_and_redrawn_ones_are_counted():
    x = design(4, 1)
    y = noisy(POWER, [3.0, 0.7], x, 0.1)
    sample = bootstrap(POWER, x, y, draws=2000)
    # One scale of four drawn four times: 4 / 4^4 of all draws.
    assert sample.redrawn == pytest.approx(2000 / 64, abs=20)
    assert sample.discarded == 0
    assert sample.draws.shape == (2000, 2)
    assert np.isfinite(sample.draws).all()


@pytest.mark.parametrize(
    ("x", "run", "message"),
    [
        (design(3, 1), None, r"more than 3 runs, but there are 3 runs at 3 scales"),
        (design(6, 1), np.zeros(6), r"all points come from 1 run"),
    ],
)
def test_an_interval_without_independent_runs_is_refused(x, run, message):
    with pytest.raises(FitError, match=message):
        bootstrap(POWER, x, x**-0.5, run)
