"""Data that make an interval wrong are spoken of, and right worlds are left alone."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from raysweep.errors import FitError
from raysweep.laws import fit, law
from raysweep.laws.choice import choose
from raysweep.laws.dependence import dependence, levels_of
from raysweep.laws.fitting import fit_groups
from raysweep.laws.forms import LAWS
from raysweep.laws.group import Data, GroupFit
from raysweep.laws.predicted import predicted
from raysweep.laws.request import Options
from raysweep.laws.resampling import tangent
from raysweep.laws.rise import _p_value, rise
from raysweep.laws.trend import trend

QUICK = Options(draws=0, holdout=0)
VALUES = np.array([0.4, 6.0, 0.45])


def clean(x):
    return law("power+floor").predict(x, VALUES)


def carried(rng, chains, points, phi):
    e = rng.standard_normal((chains, points))
    for i in range(1, points):
        e[:, i] = phi * e[:, i - 1] + np.sqrt(1 - phi**2) * e[:, i]
    return e


def fitted(name, x, y, options=QUICK, **more):
    return fit_groups(
        law(name), [Data(np.atleast_2d(x), y, **more)], list("nd")[: np.atleast_2d(x).shape[0]], "y", options
    )[0]


# Correlated rows


def test_checkpoints_of_one_run_become_blocks_and_independent_rows_stay():
    rng, x = np.random.default_rng(3), np.geomspace(50, 5e4, 60)
    options = Options(draws=200, holdout=0)
    own = fitted("power+floor", x, clean(x) * np.exp(0.02 * rng.standard_normal(60)), options)
    assert (own.n_clusters, own.cluster) == (60, "run")
    assert "correlated_rows" not in own.notes
    y = clean(x) * np.exp(0.02 * carried(rng, 1, 60, 0.9)[0])
    one, declared = (fitted("power+floor", x, y, options, run=run) for run in (None, np.arange(60)))
    assert (one.n_clusters, one.cluster) == (8, "block")
    assert "Residuals of neighbouring points along n are correlated" in one.details["correlated_rows"]
    assert "correlated_rows" not in declared.notes  # whoever names the runs is believed
    assert np.ptp(one.interval("alpha")) > 1.5 * np.ptp(declared.interval("alpha"))


def test_runs_are_found_in_a_scale_or_in_another_column():
    rng = np.random.default_rng(4)
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e8, 9), np.geomspace(1e8, 1e10, 25), indexing="ij"))
    y = law("chinchilla").predict(np.stack([n, d]), np.array([1.5, 300, 500, 0.33, 0.3]))
    joint = fitted("chinchilla", np.stack([n, d]), y * np.exp(0.01 * carried(rng, 9, 25, 0.85).ravel()))
    assert (joint.n_clusters, joint.cluster) == (9, "n")
    x = np.tile(np.geomspace(50, 5e4, 25), 4)
    y = clean(x) * np.exp(0.01 * carried(rng, 4, 25, 0.85).ravel())
    table = pl.DataFrame({"n": x, "loss": y, "job": np.repeat(list("abcd"), 25)})
    found = fit(table, "power+floor", x="n", y="loss", bootstrap=0).only
    assert (found.n_clusters, found.cluster) == (4, "job")
    named = fit(table, "power+floor", x="n", y="loss", bootstrap=0, run="job").only
    assert "correlated_rows" not in named.notes
    assert named.params == found.params


@pytest.mark.parametrize("growth", [1.0, 8.0])
def test_independent_rows_are_rarely_called_correlated(growth):
    rng, x, form = np.random.default_rng(5), np.geomspace(50, 5e4, 40), LAWS["power+floor"]
    sigma, fired, u = 0.02 * np.geomspace(growth**-0.5, growth**0.5, 40), 0, np.log(x)[None]
    centre, _, q = tangent(form, u, np.log(clean(x)), np.ones(40), VALUES)
    for _ in range(300):
        error = sigma * rng.standard_normal(40)
        y = np.exp(centre + error - q @ (q.T @ error))  # what a fit leaves of it
        fired += dependence(form, ["n"], x[None], y, np.ones(40), VALUES, {}) is not None
    assert fired <= 9  # 3 %


def test_a_column_that_follows_a_scale_is_no_set_up():
    x = np.array([[1.0, 1, 2, 2, 3, 3, 4, 4]])
    assert levels_of(np.array([0, 0, 1, 1, 2, 2, 3, 3]), x) is None
    assert levels_of(np.array([0, 0, 0, 0, 5, 5, 5, 5]), x) is None  # small and large
    assert levels_of(np.arange(8), x) is None
    assert levels_of(np.zeros(8, int), x) is None
    assert levels_of(np.array([3, 7] * 4), x).tolist() == [0, 1] * 4


# Pooled set-ups


@pytest.mark.parametrize(("shift", "speaks"), [(0.0, False), (0.08, True)])
def test_set_ups_in_a_column_that_nobody_named_are_spoken_of(shift, speaks):
    rng, x = np.random.default_rng(6), np.tile(np.geomspace(50, 5e4, 8), 4)
    optimiser, seed = np.repeat(["adam", "sgd"], 16), np.tile(np.repeat([0, 1], 8), 2)
    y = clean(x) * np.exp(shift * (optimiser == "sgd") + 0.01 * rng.standard_normal(32))
    table = pl.DataFrame({"n": x, "loss": y, "optimiser": optimiser, "seed": seed, "seconds": rng.random(32)})
    notes = fit(table, "power+floor", x="n", y="loss", bootstrap=0).only.notes
    assert [note for note in notes if note.startswith("pooled_")] == ["pooled_optimiser"] * speaks
    apart = fit(table, "power+floor", x="n", y="loss", by="optimiser", bootstrap=0)
    assert not any(note.startswith("pooled_") for group in apart for note in group.notes)


def test_set_ups_are_compared_by_clusters_where_rows_form_some():
    rng, x = np.random.default_rng(7), np.tile(np.geomspace(50, 5e4, 6), 10)
    run, arm = np.repeat(np.arange(10), 6), np.repeat(np.arange(10) % 2, 6)
    offset = 0.05 * np.repeat(rng.standard_normal(10), 6)  # runs differ, set-ups do not
    y = clean(x) * np.exp(offset + 0.01 * rng.standard_normal(60))
    same = fitted("power+floor", x, y, run=run, others={"arm": arm})
    assert "pooled_arm" not in same.notes
    assert "pooled_arm" in fitted("power+floor", x, y * np.exp(0.4 * arm), run=run, others={"arm": arm}).notes


# Flat and rising y


def test_a_constant_is_refused_and_a_flat_y_has_no_floor():
    x = np.geomspace(1e3, 1e6, 9)
    table = pl.DataFrame({"n": x, "loss": np.full(9, 0.8333)})
    with pytest.raises(FitError, match=r"y is 0\.8333 at all 9 points"):
        fit(table, "power+floor", x="n", y="loss")
    noise = np.random.default_rng(18).standard_normal(9)
    flat = fitted("power+floor", x, 0.8333 * np.exp(0.01 * noise), Options(draws=100))
    assert {"no_trend", "no_interval"} <= set(flat.notes)
    assert not {"floor_needed", "floor_not_needed"} & set(flat.notes)
    assert dict(flat.intervals) == {}
    low, high = flat.band([1e4])[0]
    assert low < 0.8333 < high
    (far,) = predicted(flat, [{flat.x[0]: 1e7}])  # as it does beyond the data, where a flat law may hold
    assert far.own is not None
    assert far.bent is not None
    assert far.bent[0] <= far.own[0] < 0.8333 < far.own[1] <= far.bent[1]
    assert "; intervals of y itself, at any scale, stay." in flat.details["no_trend"]
    line = fitted("power", x, 0.8333 * np.exp(0.01 * noise), Options(draws=100))
    assert line.interval("alpha")[0] < 0 < line.interval("alpha")[1]  # a straight line may be flat


def test_a_rising_y_is_spoken_of_where_the_law_cannot_follow_or_has_no_ceiling():
    x, noise = np.geomspace(1e3, 1e6, 9), np.exp(0.005 * np.random.default_rng(9).standard_normal(9))
    accuracy = (0.9 - 0.5 * (x / 1e3) ** -0.2) * noise
    wrong = fitted("power+floor", x, accuracy, Options(draws=100))
    assert "cannot follow" in wrong.details["rising"]
    assert "they rise, which it cannot" in wrong.details["extrapolation_untrusted"]
    assert wrong.holdout.coverage is None  # its interval is wide enough for anything
    assert "no ceiling" in fitted("power", x, accuracy).details["rising"]
    assert "rising" not in fitted("power+floor", x, 1 - accuracy).notes
    assert "rising" not in fitted("power", x, 40 * x**0.5 * noise).notes  # an optimal size against compute


@pytest.mark.parametrize("share", [lambda u: 0.9 - 0.8 * u**-0.4, lambda u: 0.1 + 0.8 / (1 + (u / 3) ** -1.5)])
def test_an_accuracy_that_saturates_rises_too_in_any_unit(share):
    x, noise = np.geomspace(1e5, 1e8, 10), np.exp(0.01 * np.random.default_rng(19).standard_normal(10))
    y = share(x / 1e5) * noise
    wrong = fitted("power+floor", x, y, Options(draws=100))
    assert "cannot follow" in wrong.details["rising"]
    assert dict(wrong.intervals) == {}
    for name in ("power", "auto"):
        table = pl.DataFrame({"n": x, "acc": 100 * y})
        percent = fit(table, name, x="n", y="acc", bootstrap=100).only
        assert "ever more slowly, while" in percent.details["rising"]
        assert dict(percent.intervals) == {}
    assert "rising" not in fitted("sigmoid", x, y).notes
    both = np.stack(np.meshgrid(x[::2], x[::2])).reshape(2, -1)
    surface = share((both[0] * both[1]) ** 0.5 / 1e5)
    assert "rising" in fitted("chinchilla", both, surface * np.exp(0.01 * np.sin(np.arange(25)))).notes


def test_a_rising_power_law_in_any_unit_and_an_optimum_are_no_saturation():
    rng, x = np.random.default_rng(20), np.geomspace(1e5, 1e8, 10)
    worlds = [Data(x[None], 40 * x**0.5 * np.exp(0.1 * rng.standard_normal(10))) for _ in range(12)]
    assert not any("rising" in group.notes for group in fit_groups(law("power"), worlds, ["n"], "y", QUICK))
    valley = np.exp(0.1 * np.log(x / 3e6) ** 2) * np.exp(0.01 * rng.standard_normal(10))
    assert "rising" not in fitted("power+floor", x, valley).notes


def test_a_rise_is_tested_at_its_level_and_seen_in_any_shape():
    assert _p_value(1 - 1e-12, 6, 6) == pytest.approx(1 / 720, rel=1e-4)  # the one order of 6 values that rises
    rng, u = np.random.default_rng(21), np.repeat(np.arange(8.0), 3)
    flat = np.array([rise(u, rng.standard_normal(24), np.ones(24)).p_value for _ in range(1000)])
    assert (flat < 0.1).mean() == pytest.approx(0.1, abs=0.03)
    step = (u > 0) + 0.05 * rng.standard_normal(24)
    found, turned = rise(u, step, np.ones(24)), rise(-u, step, np.ones(24))
    assert found.p_value < 1e-6
    assert (found.up, found.down) == pytest.approx((turned.down, turned.up))
    assert rise([0.0, 0.0, 1.0], [1.0, 2.0, 3.0], np.ones(3)) is None


def test_the_trend_is_a_straight_line_in_logs():
    rng = np.random.default_rng(10)
    x = np.exp(rng.standard_normal((2, 30)))
    exact = trend(x, 3 * x[0] ** 0.4 / x[1], np.ones(30))
    assert exact.slopes == pytest.approx([0.4, -1.0])
    flat = [trend(x, np.exp(rng.standard_normal(30)), np.ones(30)).flat for _ in range(300)]
    assert np.mean(flat) == pytest.approx(0.5, abs=0.07)  # uniform
    assert trend(x[:, :4], x[0, :4], np.ones(4)) is None


# Rows that stand twice


def test_copies_count_once_and_numbers_of_few_digits_may_agree():
    rng, x = np.random.default_rng(11), np.geomspace(50, 5e4, 10)
    y, options = clean(x) * np.exp(0.01 * rng.standard_normal(10)), Options(draws=200, holdout=0)
    once, thrice = (fitted("power+floor", np.tile(x, k), np.tile(y, k), options) for k in (1, 3))
    assert thrice.n_points == 10
    assert thrice.intervals == once.intervals
    assert thrice.details["duplicated_rows"].startswith("20 of 30 rows equal another in every number and were counted")
    some = fitted("power+floor", np.append(x, x[:2]), np.append(y, y[:2]))
    assert some.n_points == 10
    short = np.append(np.round(y, 2), np.round(y[:2], 2))
    assert fitted("power+floor", np.append(x, x[:2]), short).n_points == 12
    six = np.round(y, 5)  # most scales repeat exactly, but one is new, or lacks a copy
    new = fitted("power+floor", np.append(np.tile(x, 2), 8e4), np.append(np.tile(six, 2), 0.44))
    assert new.n_points == 11
    less = fitted("power+floor", np.tile(x, 3)[:-1], np.tile(six, 3)[:-1], options)
    assert less.n_points == 10
    assert np.ptp(less.interval("E")) == pytest.approx(np.ptp(once.interval("E")), rel=0.02)
    seeds = np.round(0.9 - 0.6 * np.tile(x / 50, 5) ** -0.3 * np.exp(0.01 * rng.standard_normal(50)), 3)
    runs = fitted("power", np.tile(x, 5), seeds)  # some of three digits agree
    assert (runs.n_points, "taken for runs" in runs.details["duplicated_rows"]) == (50, True)
    apart = {"seed": np.repeat([0, 1], 10)}
    idle = fitted("power+floor", np.tile(x, 2), np.tile(y, 2), options, others=apart)
    assert idle.intervals == once.intervals
    assert "though they differ in seed: each scale was counted once" in idle.details["no_effect"]
    other = np.append(y, y * np.where(x > 1e4, 1 + 1e-9, 1))  # a seed that changes a digit somewhere has an effect
    assert fitted("power+floor", np.tile(x, 2), other, others=apart).n_points == 20
    exact = fitted("power+floor", np.tile(x, 2), np.tile(clean(x), 2), others=apart)
    assert (exact.n_points, "no_effect" in exact.notes) == (20, False)  # no noise: nothing is too narrow


# Limits


def test_few_points_do_not_need_a_floor_by_chance():
    rng, x = np.random.default_rng(12), np.geomspace(1e3, 1e6, 4)
    worlds = [Data(x[None], 5 * x**-0.3 * np.exp(0.05 * rng.standard_normal(4))) for _ in range(50)]
    found = fit_groups(law("power"), worlds, ["n"], "y", QUICK)
    assert sum("floor_needed" in group.notes for group in found) <= 1  # nominally 1 in 1,000


def test_missing_rivals_are_spoken_of():
    rng, x = np.random.default_rng(13), np.geomspace(1e3, 1e6, 6)
    worlds = [Data(x[None], x**-0.3 * np.exp(0.05 * rng.standard_normal(6))) for _ in range(51)]
    worlds.append(Data(x[None], (1 + 50 * x**-0.5) * np.exp(0.005 * rng.standard_normal(6))))
    many = fit_groups(law("power"), worlds, ["n"], "y", Options(draws=100))
    few = fit_groups(law("power"), worlds[:3], ["n"], "y", QUICK)
    assert all("no_rivals" in group.notes for group in many)
    assert {"floor_needed", "extrapolation_untrusted"} <= set(many[-1].notes)
    for one, other in zip(many, few, strict=False):  # only a floor is tested, by the same numbers
        (alone,) = [rival for rival in one.rivals if rival.law == "power+floor"]
        (beside,) = [rival for rival in other.rivals if rival.law == "power+floor"]
        assert alone.p_value == pytest.approx(beside.p_value, rel=1e-3)
    assert "no_rivals" not in fitted("power", x, worlds[0].y).notes


def test_in_many_groups_the_form_is_tested_by_residuals_and_in_too_many_nothing_is_predicted(monkeypatch):
    """A sigmoid has no law with or without a floor beside it."""
    rng, x = np.random.default_rng(19), np.geomspace(1e3, 1e6, 12)
    rise = 0.1 + 0.6 / (1 + (x / 3e4) ** -1.2)
    right = [Data(x[None], rise * np.exp(0.01 * rng.standard_normal(12))) for _ in range(3)]
    wrong = Data(x[None], right[0].y * (1 + 0.1 * np.sin(1.2 * np.log(x))))

    def found() -> list[GroupFit]:
        return fit_groups(law("sigmoid"), [*right, wrong], ["n"], "y", Options(draws=100))

    monkeypatch.setattr("raysweep.laws.caveats.MOST_COMPARED", 2)
    many = found()
    assert ["extrapolation_untrusted" in one.notes for one in many] == [False] * 3 + [True]
    assert all("no_rivals" in one.notes and not one.rivals for one in many)
    monkeypatch.setattr("raysweep.laws.caveats.MOST_JUDGED", 3)
    for one, other in zip(found(), many, strict=True):
        assert "extrapolation_untrusted" not in one.notes
        assert "with more, neither is, and predictions have no intervals" in one.details["no_rivals"]
        assert one.intervals == other.intervals  # of parameters
        for made in predicted(one, [{"n": 1e7}, {"n": 1e4}]):  # no interval that a silent note would seem to vouch for
            assert (made.interval, made.new_run, made.own, made.bent, made.noticed) == (None,) * 5


def test_auto_takes_no_shift_that_is_nought():
    rng, x = np.random.default_rng(14), np.geomspace(50, 5e4, 20)
    worlds = [Data(x[None], clean(x) * np.exp(0.005 * rng.standard_normal(20))) for _ in range(12)]
    found = fit_groups(None, worlds, ["n"], "y", QUICK)
    assert "power+floor" in {group.law.name for group in found}
    assert not any(group.law.name == "shifted" and group.params["s"] < 1e-6 * x[0] for group in found)
    for data, group in zip(worlds, found, strict=True):  # nor anything that is power+floor by another name
        plain = fit_groups(law("power+floor"), [data], ["n"], "y", QUICK)[0]
        assert group.law.name == "power+floor" or group.rmse_log < plain.rmse_log * (1 - 1e-7)


def test_a_broken_law_and_m4_have_power_and_floor_as_a_limit():
    floor, alpha, x = 0.4, 0.45, np.geomspace(10, 1e5, 9)
    wanted = law("power+floor").predict(x, np.array([floor, 6.0, alpha]))
    at = (6.0 / floor) ** (1 / alpha)
    for values in ([0, 6.0, alpha, 0, at, 1 / alpha], [floor, 6.0, alpha, alpha, 1e3, 0.3]):
        np.testing.assert_allclose(law("broken").predict(x, np.array(values)), wanted, rtol=1e-12)
    far = 1e12
    np.testing.assert_allclose(
        law("m4").predict(x, np.array([floor, far, 6.0 * far**-0.1, alpha, 0.1])), wanted, rtol=1e-9
    )


@pytest.mark.parametrize(
    ("values", "low", "high", "points", "noise", "world", "name"),
    [((1.8, 30, 0.4), 1e3, 1e6, 10, 0.01, 3, "broken"), ((1.0, 30, 0.5), 50, 5e4, 20, 0.005, 11, "m4")],
)
def test_auto_takes_power_and_floor_where_the_best_law_comes_to_that(values, low, high, points, noise, world, name):
    """A break below all scales; a chance level of 10^7."""
    rng, x = np.random.default_rng(14), np.geomspace(low, high, points)
    y = law("power+floor").predict(x, np.array(values)) * np.exp(noise * rng.standard_normal((world + 1, points))[-1])
    found = choose(x, y)
    assert name in [law for law, score in found.scores.items() if score <= 1.05 * min(found.scores.values())]
    assert found.law.name == "power+floor"


# Scales that do not suit a law


@pytest.mark.parametrize(
    ("name", "grow", "refused"),
    [
        ("overtrained-CM", -0.2, False),  # as with swapped columns
        ("kaplan1.5", -0.2, False),
        ("kaplan", -0.2, False),
        ("chinchilla", -0.2, True),
        ("repeated+excess-epochs", 0.2, True),
    ],
)
def test_a_law_of_other_scales_warns_of_nothing_and_is_refused_in_words_where_it_has_no_numbers(name, grow, refused):
    count, steps = len(law(name).axes), 5 if len(law(name).axes) == 2 else 3
    ends = [(5, 320), (1e17, 1e20)] if count == 2 else [(1e3, 1e5)] * count
    grid = np.meshgrid(*(np.geomspace(*end, steps) for end in ends), indexing="ij")
    x = np.stack([axis.ravel() for axis in grid])
    u = np.log(x)
    u = (u - u.mean(axis=1, keepdims=True)) / u.std(axis=1, keepdims=True)
    x = np.exp(200 * u) if name in ("chinchilla", "kaplan") else x  # no scale of any run
    y = np.exp(grow * u.sum(axis=0) + 0.02 * np.random.default_rng(22).standard_normal(x.shape[1]))
    names = list("nmd")[:count]
    (found,) = fit_groups(law(name), [Data(x, y)], names, "y", Options(draws=60))  # a warning is an error here
    if refused:
        assert found.status == "FAILED"
        assert "exceeds the range of numbers" in found.error
    else:
        assert found.error is None
        assert predicted(found, [{one: window[1] for one, window in zip(names, found.window, strict=True)}])
