"""What moves together is resampled together, and intervals keep to the symmetries of the data."""

import numpy as np
import pytest

from raysweep.errors import FitError
from raysweep.laws import law
from raysweep.laws.bootstrap import bootstrap, resample
from raysweep.laws.differences import compare
from raysweep.laws.estimate import estimate
from raysweep.laws.resampling import residuals

POWER, FLOOR, CHINCHILLA = law("power"), law("power+floor"), law("chinchilla")


def design(scales, runs):
    return np.repeat(2.0 ** np.arange(4, 4 + scales), runs)


def grid(levels):
    mesh = np.meshgrid(np.geomspace(1e8, 1e10, levels), np.geomspace(1e9, 1e11, levels), indexing="ij")
    return np.stack([m.ravel() for m in mesh])


def noisy(form, truth, x, sigma, seed=0):
    points = np.atleast_2d(x).shape[1]
    return form.predict(x, np.array(truth)) * np.exp(sigma * np.random.default_rng(seed).standard_normal(points))


def alpha(values):
    return values[..., -1]


def checkpoints(runs, seed=0):
    """A run's luck tilts its whole curve."""
    rng, steps = np.random.default_rng(seed), 2.0 ** np.arange(8)
    x, run = np.tile(steps, runs), np.repeat(np.arange(runs), steps.size)
    luck = rng.normal(0, 0.1, runs)
    return x, 3.0 * x ** -(0.7 + luck[run]) * np.exp(0.01 * rng.standard_normal(x.size)), run


# The unit is the run


def test_a_run_given_twice_adds_no_certainty():
    x = design(8, 3)
    y = noisy(POWER, [3.0, 0.7], x, 0.1)
    runs = np.arange(x.size)
    once = bootstrap(POWER, x, y, runs, draws=200).interval()
    twice = bootstrap(POWER, np.tile(x, 2), np.tile(y, 2), np.tile(runs, 2), draws=200).interval()
    assert twice == pytest.approx(once, rel=1e-6)


def test_checkpoints_of_a_run_move_together():
    x, y, run = checkpoints(8)
    sample = resample(POWER, x, y, estimate(POWER, x, y).values[0], run, draws=50)
    assert (sample.runs, sample.spent) == (8, 1)
    left = residuals(POWER, np.log(x)[None], np.log(y), np.ones(x.size), estimate(POWER, x, y).values[0], run)
    factor = (np.log(sample.y) - left.centre) / left.own
    by_run = factor.reshape(50, 8, -1)
    assert by_run == pytest.approx(np.broadcast_to(by_run[..., :1], by_run.shape), rel=1e-6)


def test_clustered_checkpoints_give_wider_intervals_than_loose_ones():
    x, y, run = checkpoints(8)
    clustered, loose = (np.ptp(bootstrap(POWER, x, y, r, draws=300).interval()[1]) for r in (run, None))
    assert clustered > 1.5 * loose


def test_many_checkpoints_at_one_width_do_not_stand_for_runs_of_other_widths():
    x = np.stack([np.repeat(np.geomspace(1e8, 1e10, 8), 6), np.tile(np.geomspace(1e9, 1e11, 6), 8)])
    y = noisy(CHINCHILLA, [1.7, 400.0, 410.0, 0.34, 0.28], x, 0.01)
    sample = resample(CHINCHILLA, x, y, estimate(CHINCHILLA, x, y).values[0], np.repeat(np.arange(8), 6), draws=10)
    assert sample.runs - sample.spent == 8 - 5


# Draws


def test_wild_draws_are_centred_on_the_fit_and_as_wide_as_the_residuals():
    x, count = design(6, 3), 40_000
    y = noisy(POWER, [3.0, 0.7], x, 0.1)
    fitted = estimate(POWER, x, y).values[0]
    sample = resample(POWER, x, y, fitted, draws=count)
    assert sample.kind == "wild"
    away = np.log(sample.y) - np.log(POWER.predict(x, fitted))
    freedom = x.size - 2
    assert away.mean(axis=0) == pytest.approx(np.zeros(x.size), abs=5 * 0.2 / np.sqrt(count))
    # Student's t of nu degrees of freedom has variance nu / (nu - 2); HC3 adds at most 1 / (1 - h) to the rest.
    ratio = (away**2).mean() / (sample.spread**2 * freedom / (freedom - 2))
    assert 0.97 < ratio < 1.25


def test_case_draws_are_multiplicities_of_whole_runs():
    x, y, run = checkpoints(40)
    fitted = estimate(POWER, x, y).values[0]
    sample = resample(POWER, x, y, fitted, run, draws=20)
    assert sample.kind == "case"
    assert sample.y is None
    counts = sample.weights.reshape(20, 40, 8)
    assert (counts == counts[..., :1]).all()
    assert (counts == np.round(counts)).all()
    assert (counts[..., 0].sum(axis=1) == 40).all()
    drawn = np.repeat(np.arange(x.size), sample.weights[0].astype(int))
    again = estimate(POWER, x[drawn], y[drawn]).values[0]
    assert bootstrap(POWER, x, y, run, draws=20).draws[0] == pytest.approx(again, rel=1e-6)


def test_the_enlarged_residual_of_a_run_is_what_a_law_fitted_without_it_leaves():
    x, y, run = checkpoints(6)
    fitted = estimate(POWER, x, y).values[0]
    left = residuals(POWER, np.log(x)[None], np.log(y), np.ones(x.size), fitted, run)
    for r in range(6):
        without = estimate(POWER, x[run != r], y[run != r]).values[0]
        expected = np.log(y[run == r]) - np.log(POWER.predict(x[run == r], without))
        assert left.own[run == r] == pytest.approx(expected, rel=1e-6)  # a power law is linear in logs


def test_the_spread_is_unbiased_whatever_the_leverage():
    x, sigma = np.array([1.0, 2.0, 4.0, 1e4]), 0.1
    squares = []
    for world in range(600):
        y = noisy(POWER, [3.0, 0.7], x, sigma, world)
        fitted = np.polyfit(np.log(x), np.log(y), 1)
        values = np.array([np.exp(fitted[1]), -fitted[0]])
        squares.append(residuals(POWER, np.log(x)[None], np.log(y), np.ones(4), values, np.arange(4)).spread ** 2)
    assert np.mean(squares) == pytest.approx(sigma**2, rel=0.15)


def test_the_same_seed_gives_the_same_draws_and_another_seed_others():
    x = design(6, 3)
    y = noisy(FLOOR, [0.2, 3.0, 0.7], x, 0.05)
    one, same, other = (bootstrap(FLOOR, x, y, draws=50, seed=seed).draws for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_every_kept_draw_has_enough_scales_and_redrawn_ones_are_counted():
    x = np.concatenate([np.full(28, 16.0), [32.0, 64.0, 128.0]])
    y = noisy(POWER, [3.0, 0.7], x, 0.1)
    sample = bootstrap(POWER, x, y, draws=2000)
    # Draws that miss all three single scales: (28 / 31)^31 of them.
    expected = 2000 * (28 / 31) ** 31
    assert sample.redrawn == pytest.approx(expected, abs=4 * np.sqrt(expected))
    assert sample.discarded == 0
    assert sample.draws.shape == (2000, 2)
    assert np.isfinite(sample.draws).all()


# Symmetries


@pytest.mark.parametrize(("runs", "labelled"), [(3, True), (3, False), (8, True), (8, False)])
def test_the_order_of_rows_does_not_matter(runs, labelled):
    x = design(6, runs)
    y = noisy(FLOOR, [0.2, 3.0, 0.7], x, 0.05)
    run, w = np.arange(x.size) // 2, np.random.default_rng(1).uniform(0.5, 2, x.size)
    order = np.random.default_rng(2).permutation(x.size)
    one = bootstrap(FLOOR, x, y, run if labelled else None, w, draws=50)
    other = bootstrap(FLOOR, x[order], y[order], run[order] if labelled else None, w[order], draws=50)
    assert np.array_equal(one.draws, other.draws)


@pytest.mark.parametrize("runs", [3, 8])
def test_units_do_not_matter(runs):
    x = design(6, runs)
    y = noisy(FLOOR, [0.2, 3.0, 0.7], x, 0.05)
    one = bootstrap(FLOOR, x, y, draws=300).interval()
    other = bootstrap(FLOOR, x * 1e12, y * 1e-3, draws=300).interval()
    assert other[2] == pytest.approx(one[2], rel=1e-4)
    assert other[0] == pytest.approx(one[0] * 1e-3, rel=1e-4)


@pytest.mark.parametrize("runs", [3, 8])
def test_only_ratios_of_weights_matter_and_points_without_weight_are_none(runs):
    x = design(6, runs)
    y = noisy(POWER, [3.0, 0.7], x, 0.1)
    w = np.random.default_rng(1).uniform(0.5, 2, x.size)
    once = bootstrap(POWER, x, y, weights=w, draws=100).interval()
    assert bootstrap(POWER, x, y, weights=7 * w, draws=100).interval() == pytest.approx(once, rel=1e-6)
    more = bootstrap(POWER, np.append(x, 1e3), np.append(y, 5.0), weights=np.append(w, 0.0), draws=100).interval()
    assert more == pytest.approx(once, rel=1e-6)


def test_the_interval_of_a_monotone_function_is_the_function_of_the_interval():
    x = grid(4)
    sample = bootstrap(CHINCHILLA, x, noisy(CHINCHILLA, [1.7, 400.0, 410.0, 0.34, 0.28], x, 0.01), draws=999)
    parameters = sample.interval(0.9)  # whose ends are draws: shares 0.05 and 0.95 of 999 + 1
    assert sample.interval_of(lambda v: v, 0.9)[:1] == pytest.approx(parameters[:1], rel=1e-9)
    assert sample.interval_of(lambda v: np.exp(-v[..., 3]), 0.9) == pytest.approx(
        np.exp(-parameters[3])[::-1], rel=1e-9
    )
    a_opt, b_opt = (sample.interval_of(d.of, 0.9) for d in CHINCHILLA.derived)
    assert a_opt == pytest.approx(1 - b_opt[::-1], rel=1e-9)


# Intervals


@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_intervals_hold_the_estimate_and_respect_bounds(sigma):
    x = design(6, 3)
    y = noisy(FLOOR, [0.0, 3.0, 0.7], x, sigma)
    sample = bootstrap(FLOOR, x, y, draws=200)
    low, high = sample.interval().T
    assert (low <= sample.values).all()
    assert (sample.values <= high).all()
    assert low[0] >= 0.0
    assert low[1] > 0.0
    assert sample.values == pytest.approx(estimate(FLOOR, x, y).values[0], rel=1e-9, abs=1e-12)


def test_a_floor_that_may_be_none_leaves_the_exponent_of_the_law_without_it_in_the_interval():
    x = design(6, 3)
    y = noisy(FLOOR, [0.0, 3.0, 0.7], x, 0.05, seed=4)
    sample = bootstrap(FLOOR, x, y, draws=1000)
    assert sample.values[0] > 0
    assert (sample.draws[:, 0] == 0).mean() > 0.025
    without = estimate(POWER, x, y).values[0, 1]
    low, high = sample.interval()[2]
    assert low < without < high


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


def test_a_new_run_scatters_about_the_mean_law():
    x = grid(3)
    sample = bootstrap(CHINCHILLA, x, noisy(CHINCHILLA, [1.7, 400.0, 410.0, 0.34, 0.28], x, 0.01), draws=500)
    band, new = sample.band(4 * x), sample.prediction(4 * x)
    assert (new[:, 0] < band[:, 0]).all()
    assert (new[:, 1] > band[:, 1]).all()
    assert sample.prediction(4 * x, noise=0.0) == pytest.approx(band, rel=1e-12)
    assert sample.prediction(4 * x, noise=sample.spread) == pytest.approx(new, rel=1e-12)
    noisier = sample.prediction(4 * x, noise=np.full(9, 0.05))
    assert (np.ptp(noisier, axis=1) > np.ptp(new, axis=1)).all()


def test_a_draw_without_the_quantity_lies_beyond_either_end():
    x = design(6, 3)
    sample = bootstrap(POWER, x, noisy(POWER, [3.0, 0.7], x, 0.1), draws=999)
    low, high = sample.interval_of(alpha, 0.9)
    lost = np.argsort(alpha(sample.draws))[400:420]

    def partly(values):
        out = np.array(alpha(values))
        if out.ndim:
            out[lost] = np.nan
        return out

    ordered = np.sort(np.delete(alpha(sample.draws), lost))
    assert sample.interval_of(partly, 0.9) == pytest.approx([ordered[49 - 20], ordered[-(50 - 20)]], rel=1e-12)
    assert ordered[29] < low < high < ordered[-30]


# Comparisons


def arms(share, run):
    """Bootstraps of two arms whose runs have `share` of their noise's variance in common."""
    x, rng = design(6, 3), np.random.default_rng(0)
    common = np.sqrt(share) * rng.standard_normal(x.size)
    out = []
    for own in rng.standard_normal((2, x.size)):
        y = 3.0 * x**-0.5 * np.exp(0.05 * (common + np.sqrt(1 - share) * own))
        out.append(bootstrap(POWER, x, y, run, draws=500))
    return out


def test_arms_that_share_runs_are_told_apart_better_than_independent_ones():
    labels = np.array([f"seed{i:02}" for i in range(18)])
    paired, loose = compare(*arms(0.9, labels), alpha), compare(*arms(0.9, None), alpha)
    assert (paired.paired, loose.paired) == (True, False)
    assert paired.value == loose.value
    assert paired.high - paired.low < 0.6 * (loose.high - loose.low)


def test_a_comparison_pairs_nothing_that_is_not_shared():
    one, other = arms(0.0, np.arange(18))
    paired, loose = compare(one, other, alpha), compare(*arms(0.0, None), alpha)
    assert paired.high - paired.low == pytest.approx(loose.high - loose.low, rel=0.35)
    x = design(6, 3)
    y = noisy(POWER, [3.0, 0.5], x, 0.05)
    assert not compare(one, bootstrap(POWER, x, y, np.arange(1, 19), draws=500), alpha).paired
    assert not compare(one, bootstrap(POWER, x, y, np.arange(18), draws=500, seed=1), alpha).paired


def test_a_comparison_changes_sign_with_its_arms_and_an_arm_does_not_differ_from_itself():
    one, other = arms(0.5, np.arange(18))
    ahead, back = compare(one, other, alpha), compare(other, one, alpha)
    assert (ahead.value, ahead.low, ahead.high) == pytest.approx((-back.value, -back.high, -back.low), rel=1e-9)
    same = compare(one, one, alpha)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


# Refusals


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
