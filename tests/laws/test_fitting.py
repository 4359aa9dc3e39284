"""Many groups fitted together are each fitted as if alone, and say what a reader must know."""

import json

import numpy as np
import pytest
from scipy import optimize, special

from raysweep.errors import FitError
from raysweep.laws import law
from raysweep.laws.bootstrap import resample
from raysweep.laws.differences import compare
from raysweep.laws.estimate import estimate
from raysweep.laws.fitting import fit_groups
from raysweep.laws.group import Data
from raysweep.laws.request import Options

X = np.repeat(np.geomspace(64, 8192, 8), 3)
QUICK = Options(draws=0)


def world(seed, sigma=0.05, values=(3.0, 0.5), form="power", x=X):
    noise = np.random.default_rng(seed).standard_normal(x.shape[-1])
    return law(form).predict(x, np.array(values)) * np.exp(sigma * noise)


def test_groups_of_unequal_length_are_fitted_as_if_alone():
    lengths = [24, 12, 9, 21, *[18] * 70]
    groups = [Data(X[None, :n], world(i)[:n], group={"i": i}) for i, n in enumerate(lengths)]
    together = fit_groups(law("power+floor"), groups, ["n"], "y", QUICK)
    assert [g.group["i"] for g in together] == list(range(len(lengths)))
    for data, found in zip(groups, together, strict=True):
        (alone,) = fit_groups(law("power+floor"), [data], ["n"], "y", QUICK)
        assert found.params == pytest.approx(alone.params, rel=1e-6, abs=1e-9)
        assert found.n_points == data.y.size


def test_draws_solved_together_are_those_solved_alone():
    groups = [Data(X[None], world(i)) for i in range(3)]
    options = Options(draws=100, holdout=0)
    together = fit_groups(law("power"), groups, ["n"], "y", options)
    for data, found in zip(groups, together, strict=True):
        (alone,) = fit_groups(law("power"), [data], ["n"], "y", options)
        for name in ("A", "alpha"):
            assert found.interval(name) == pytest.approx(alone.interval(name), rel=1e-6)


def test_the_order_of_rows_changes_nothing():
    order = np.random.default_rng(0).permutation(X.size)
    y, run = world(0), np.arange(X.size) % 3
    options = Options(draws=200)
    (one,) = fit_groups(law("power"), [Data(X[None], y, run)], ["n"], "y", options)
    (other,) = fit_groups(law("power"), [Data(X[None, order], y[order], run[order])], ["n"], "y", options)
    assert one.to_json() == other.to_json()


def test_the_holdout_is_a_second_fit_that_never_saw_the_top_scales():
    y = world(1)
    (found,) = fit_groups(law("power"), [Data(X[None], y)], ["n"], "y", Options(draws=400, holdout=0.3))
    seen = np.unique(X)[:5].max() * 1.01 > X
    second = estimate(law("power"), X[seen], y[seen])
    assert list(found.holdout.params.values()) == pytest.approx(second.values[0], rel=1e-9)
    missed = np.log(law("power").predict(X[~seen], second.values[0]) / y[~seen])
    assert found.holdout.rmse_log == pytest.approx(np.sqrt(np.mean(missed**2)), rel=1e-9)
    assert found.holdout.n_points == 9
    assert found.holdout.cut == pytest.approx(X[seen].max())
    everything = estimate(law("power"), X, y)
    assert list(found.params.values()) == pytest.approx(everything.values[0], rel=1e-9)  # all points


def test_new_measurements_fall_into_their_interval_as_often_as_it_says():
    groups = [Data(X[None], world(i)) for i in range(150)]
    found = fit_groups(law("power"), groups, ["n"], "y", Options(draws=300))
    inside = np.mean([g.holdout.coverage for g in found])
    assert 0.92 < inside < 0.98  # 1,350 points in 150 worlds, 2 s.e. about 0.025


def test_known_evaluation_noise_weighs_points():
    """Points of ten times the noise add next to nothing; the intervals of an unweighted fit are wider."""
    noisy = np.isin(X, np.unique(X)[::2])  # no trend that residuals would show
    data = []
    for seed in range(60):
        noise = np.random.default_rng(seed).standard_normal(X.size) * np.where(noisy, 0.3, 0.03)
        y = law("power").predict(X, np.array([3, 0.5])) * np.exp(noise)
        data += [Data(X[None], y, se=y * np.where(noisy, 0.3, 0.03)), Data(X[None], y)]
    found = [g.params["alpha"] - 0.5 for g in fit_groups(law("power"), data, ["n"], "y", QUICK)]
    with_se, without = np.sqrt(np.mean(np.square(np.reshape(found, (-1, 2))), axis=0))
    assert with_se < 0.75 * without  # weights differ by at most 10, where 100 would be best


def test_equal_standard_errors_change_no_estimate():
    y = world(3)
    found = fit_groups(law("power"), [Data(X[None], y, se=0.01 * y), Data(X[None], y)], ["n"], "y", QUICK)
    assert found[0].params == pytest.approx(found[1].params, rel=1e-6)


def test_hubers_loss_is_that_of_hoffmann_and_others():
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e11, 5)))
    x = np.stack([n, d])
    y = world(4, 0.01, (1.7, 400, 410, 0.34, 0.28), "chinchilla", x)
    (found,) = fit_groups(law("chinchilla"), [Data(x, y)], ["N", "D"], "loss", Options(draws=0, huber=1e-3))

    def objective(q):
        parts = np.stack([np.full(25, q[0]), q[1] - q[3] * np.log(n), q[2] - q[4] * np.log(d)])
        return special.huber(1e-3, special.logsumexp(parts, axis=0) - np.log(y)).sum()

    own = np.array([*(np.log(found.params[k]) for k in "EAB"), found.params["alpha"], found.params["beta"]])
    best = min(
        optimize.minimize(objective, own + shift, method="Nelder-Mead", options={"maxiter": 4000, "fatol": 1e-14}).fun
        for shift in (0.0, 0.02)
    )
    assert objective(own) <= best * (1 + 1e-6)
    assert found.derived["a_opt"] == pytest.approx(
        found.params["beta"] / (found.params["alpha"] + found.params["beta"])
    )


def test_a_refusal_is_a_failed_fit_with_its_reason_and_leaves_the_others():
    groups = [Data(X[None], world(0)), Data(X[None], -world(0)), Data(X[None, :2], world(0)[:2])]
    sound, negative, few = fit_groups(law("power"), groups, ["n"], "y", QUICK)
    assert sound.status == "CONVERGED"
    assert negative.status == few.status == "FAILED"
    assert "positive, finite y" in negative.error
    assert "at least 3 distinct scales" in few.error
    json.dumps([g.to_json() for g in (sound, negative, few)], allow_nan=False)


def test_one_level_of_a_scale_is_refused_for_a_joint_law():
    x = np.stack([X, np.full(X.size, 7.0)])
    (found,) = fit_groups(law("chinchilla"), [Data(x, world(0))], ["N", "D"], "y", QUICK)
    assert "at least 3 distinct D, but there are 1" in found.error


def test_notes_tell_floor_from_none():
    (power,) = fit_groups(law("power+floor"), [Data(X[None], world(5))], ["n"], "y", QUICK)
    assert {"floor_not_needed", "parameter_at_bound"} & set(power.notes)
    floored = Data(X[None], world(5, 0.02, (0.2, 3.0, 0.5), "power+floor"))
    (found,) = fit_groups(law("power"), [floored], ["n"], "y", QUICK)
    assert {"floor_needed", "lack_of_fit"} <= set(found.notes)
    assert found.rivals[0].law != "power"


def test_a_law_is_chosen_for_each_group_by_holdout():
    x = np.geomspace(10, 1e6, 24)
    flat = world(6, 0.01, (0.1, 30, 0.5, 300.0), "shifted", x)
    found = fit_groups(None, [Data(x[None], flat), Data(x[None, :4], flat[:4])], ["n"], "y", QUICK)
    assert [g.law.name in ("shifted", "m4", "broken") for g in found] == [True, False]
    assert all("law_chosen" in g.notes for g in found)


def test_batches_of_many_runs_give_the_estimate_of_all_rows():
    x = np.repeat(np.geomspace(64, 8192, 8), 8000)
    y = world(7, 0.5, x=x)
    options = Options(draws=200)
    (found,) = fit_groups(law("power"), [Data(x[None], y)], ["n"], "y", options)
    assert "batched_runs" in found.notes
    assert list(found.params.values()) == pytest.approx(estimate(law("power"), x, y).values[0], rel=1e-9)
    low, high = found.interval("alpha")
    assert low < found.params["alpha"] < high
    spread = 0.5 / np.sqrt(((np.log(x) - np.log(x).mean()) ** 2).sum())  # standard error of ordinary least squares
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.25)


def test_two_groups_are_compared_by_the_runs_they_share():
    rng = np.random.default_rng(0)
    luck = rng.standard_normal(X.size)
    run = np.array([f"run {i}" for i in range(X.size)])
    arms = [Data(X[None], world(0, 0) * np.exp(0.05 * luck + 0.005 * rng.standard_normal(X.size)), run) for _ in "ab"]
    other = Data(X[None], world(9), np.array([f"other {i}" for i in range(X.size)]))
    a, b, c = fit_groups(law("power"), [*arms, other], ["n"], "y", Options(draws=500, holdout=0))
    paired, apart = (compare(a.draws, d.draws, lambda v: v[..., 1]) for d in (b, c))
    assert (paired.paired, apart.paired) == (True, False)
    assert paired.high - paired.low < 0.4 * (apart.high - apart.low)


def test_a_law_that_does_not_reach_the_held_out_scales_says_so():
    x = np.repeat(np.geomspace(10, 1e5, 12), 4)
    y = (0.05 + 3.0 * x**-0.7) * np.exp(0.02 * np.random.default_rng(0).standard_normal(x.size))
    wrong, right = (
        fit_groups(law(n), [Data(x[None], y)], ["n"], "y", Options(draws=200))[0] for n in ("power", "power+floor")
    )
    assert "holdout_missed" in wrong.notes
    assert "holdout_missed" not in right.notes


def test_sizes_and_data_on_one_line_are_refused_for_a_joint_law():
    n = np.repeat(np.geomspace(1e7, 1e9, 8), 2)
    x = np.stack([n, 20 * n * np.exp(0.02 * np.random.default_rng(0).standard_normal(n.size))])
    y = world(0, 0.01, (1.7, 400, 410, 0.34, 0.28), "chinchilla", x)
    (found,) = fit_groups(law("chinchilla"), [Data(x, y)], ["N", "D"], "loss", QUICK)
    assert "cannot be distinguished" in found.error


def test_too_few_draws_for_the_level_are_refused():
    with pytest.raises(FitError, match="at least 40 draws, but got bootstrap=39"):
        fit_groups(law("power"), [Data(X[None], world(0))], ["n"], "y", Options(draws=39))


def test_copied_rows_are_pointed_out():
    y = np.repeat(world(0)[::2], 2)
    (found,) = fit_groups(law("power"), [Data(np.repeat(X[::2], 2)[None], y)], ["n"], "y", QUICK)
    assert "duplicated_rows" in found.notes


def test_draws_find_the_basin_that_the_estimate_is_not_in():
    """A tenth of these draws have a better optimum than the one a search from the estimate ends in."""
    n, d = (np.repeat(a.ravel(), 2) for a in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))
    x, form = np.stack([n, d]), law("kaplan")
    y = world(2, 0.08, (2.0, 17.0, 0.45, 1.27, 0.2, 1e8), "kaplan", x)
    (found,) = fit_groups(form, [Data(x, y)], ["N", "D"], "loss", Options(draws=60, holdout=0))
    w = resample(form, x, y, found.draws.values, draws=60).weights
    cold, warm = (estimate(form, x, y, w, start=start, relative=1e-6).objective for start in (None, found.draws.values))
    missed = np.log(form.predict(x, found.draws.draws)) - np.log(y)
    stuck = (warm > 1.001 * cold).mean()
    assert stuck > 0.1  # or these data would prove nothing
    assert ((w * missed**2).sum(axis=1) > 1.001 * cold).mean() < 0.5 * stuck
