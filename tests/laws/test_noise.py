"""Noise that grows or falls with scale is seen, weighted by, and carried beyond the data; constant noise is left."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from raysweep.laws import fit, law
from raysweep.laws.batch import Group
from raysweep.laws.estimate import estimate
from raysweep.laws.fitting import fit_groups
from raysweep.laws.group import Data
from raysweep.laws.growth import Growth
from raysweep.laws.noise import followed, growth
from raysweep.laws.request import Options
from raysweep.laws.saved import load_fits, save_fits

FLOOR, TRUTH = law("power+floor"), np.array([1.7, 1.7 * 1e6**0.35, 0.35])
X = np.tile(np.geomspace(1e6, 1e9, 10), 3)
FAR = np.array([[1e10]])


def worlds(count: int, factor: float, x: np.ndarray = X, mean: np.ndarray | None = None) -> list[Data]:
    """Noise of 1 % at the middle of x that changes by `factor` over its range."""
    u = np.log(x)
    sigma = 0.01 * factor ** ((u - (u.min() + u.max()) / 2) / np.ptp(u))
    noise = np.random.default_rng(0).standard_normal((count, x.size))
    mean = FLOOR.predict(x, TRUTH) if mean is None else mean
    return [Data(x[None], mean * np.exp(sigma * one)) for one in noise]


def fitted(data: Data) -> Group:
    values = estimate(FLOOR, data.x, data.y).values[0]
    run = np.arange(data.y.size) if data.run is None else data.run
    return Group(FLOOR, data, run, np.ones(data.y.size), values, 0, {})


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_the_slope_of_the_spread_is_without_bias_and_its_error_is_known(factor: float) -> None:
    groups = followed([fitted(data) for data in worlds(60, factor, np.tile(X, 3))], ["n"], None)
    found = [group.growth for group in groups if group.growth is not None]
    assert len(found) == 60
    z = np.array([(one.slope - 2 * np.log(factor) / np.log(1e3)) / one.error for one in found])
    assert abs(z.mean()) < 3 / np.sqrt(60) + 0.1  # a bias of the order 1 / n
    assert 0.75 < z.std() < 1.25
    for group in groups:
        assert "noise_grows" in group.details or factor < 1
        assert group.weights.mean() == pytest.approx(1)
        assert np.ptp(group.weights * group.growth.at(group.data.x) ** 2) < 1e-9


def test_constant_noise_is_left_alone() -> None:
    data = worlds(200, 1.0)
    found = fit_groups(FLOOR, data, ["n"], "y", Options(draws=0, holdout=0))
    alone = [estimate(FLOOR, one.x, one.y).values[0] for one in data]
    spoke = np.array([any(note.startswith("noise_") for note in g.notes) for g in found])
    assert spoke.sum() <= 6  # a size of .01: more in one of 200 such tests
    for one, values in zip(np.flatnonzero(~spoke), np.array(alone)[~spoke], strict=True):
        assert list(found[one].params.values()) == pytest.approx(values, rel=1e-6)


def test_intervals_and_held_out_points_follow_growing_noise() -> None:
    found = fit_groups(FLOOR, worlds(100, 10.0), ["n"], "y", Options(draws=200))
    truth = FLOOR.predict(FAR, TRUTH)[0]
    bands = np.array([g.band(FAR)[0] for g in found])
    assert np.mean((bands[:, 0] <= truth) & (truth <= bands[:, 1])) >= 0.9
    assert np.mean(["noise_grows" in g.notes for g in found]) > 0.7
    assert np.mean(["holdout_missed" in g.notes for g in found]) < 0.12  # .77 with one spread for all scales
    errors = np.log([g.params["E"] / TRUTH[0] for g in found])
    plain = np.log([estimate(FLOOR, d.x, d.y).values[0, 0] / TRUTH[0] for d in worlds(100, 10.0)])
    assert errors.std() < 0.85 * plain.std()


def test_a_spread_extrapolates_upwards_only() -> None:
    grows = Growth((1.0, 0.0), 1.0, 0.1, 2.0, (0.0, 4.0), 0.001, True)
    x = np.exp(np.array([[-5.0, 0.0, 2.0, 6.0], [9.0, 9.0, 9.0, 9.0]]))
    assert np.log(grows.at(x)) == pytest.approx([-1, -1, 0, 2])
    falls = Growth((1.0, 0.0), -1.0, 0.1, 2.0, (0.0, 4.0), 0.001, True)
    assert np.log(falls.at(x)) == pytest.approx([3.5, 1, 0, -1])
    assert (grows.factor, falls.factor) == pytest.approx((np.exp(2), np.exp(-2)))


def test_of_two_scales_the_one_that_the_noise_follows_is_named() -> None:
    form, values = law("chinchilla"), np.array([1.7, 400.0, 410.0, 0.34, 0.28])
    n, d = (np.repeat(axis.ravel(), 2) for axis in np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(1e9, 1e11, 6)))
    x, rng = np.stack([n, d]), np.random.default_rng(3)
    y = form.predict(x, values) * np.exp(0.003 * (d / 1e9) ** 0.5 * rng.standard_normal(n.size))
    (found,) = fit_groups(form, [Data(x, y)], ["N", "D"], "y", Options(draws=0, holdout=0))
    assert "grows with D, by a factor of" in found.details["noise_grows"]


def test_what_runs_share_and_what_a_wrong_law_leaves_is_no_noise() -> None:
    """Runs that tilt their whole curves, and a bend that replicates contradict: both residuals follow scale."""
    rng, u = np.random.default_rng(1), np.log(X) - np.log(X).mean()
    x, away, run = np.tile(X, 2), np.tile(u, 2), np.repeat(np.arange(6), 10)
    tilted = []
    for _ in range(100):
        noise = 0.005 * rng.standard_normal(60) + 0.01 * rng.standard_normal(6)[run] * np.maximum(away, 0) / 3
        tilted.append(Data(x[None], FLOOR.predict(x, TRUTH) * np.exp(noise), run=run))
    found = [growth(fitted(data), np.ones(60)) for data in tilted]
    assert sum(one is not None and one.found for one in found) <= 10
    bend = 0.3 + 2 * (X / 1e6) ** -0.6 * (1 + (X / 3e7) ** (1 / 0.3)) ** (0.45 * 0.3)
    found = [growth(fitted(data), np.ones(30)) for data in worlds(100, 1.0, mean=bend)]
    assert sum(one is not None and one.found for one in found) <= 5


def test_a_saved_fit_keeps_how_its_noise_grows(tmp_path: Path) -> None:
    (data,) = worlds(1, 10.0, np.tile(X, 3))
    law = fit(pl.DataFrame({"n": data.x[0], "y": data.y}), "power+floor", x="n", y="y", bootstrap=60)
    save_fits(tmp_path / "fit.json", [law])
    (back,) = load_fits(tmp_path / "fit.json")
    assert back.only.draws.growth == law.only.draws.growth is not None
    np.testing.assert_array_equal(back.only.prediction(FAR), law.only.prediction(FAR))
    near, far = np.ptp(np.log(law.only.prediction([1e6, 1e9])), axis=1)
    assert far > 5 * near  # tenfold, but for the error of the law


def test_points_missed_are_those_outside_their_interval_and_rare_ones_are_called_so() -> None:
    (found,) = fit_groups(FLOOR, worlds(1, 1.0), ["n"], "y", Options(draws=400))
    x, sample = np.tile(np.geomspace(1e9, 3e9, 5), 2)[None], found.draws
    ends = sample.prediction(x)
    inside, outside = np.sqrt(ends[:, 0] * ends[:, 1]), 1.1 * ends[:, 1]
    assert sample.missed(x, inside) == (0.0, 1.0)
    assert sample.missed(x, outside) == (1.0, pytest.approx(0.0, abs=0.02))
    share, p_value = sample.missed(x, np.where(np.arange(10) < 1, outside, inside))
    assert share == pytest.approx(0.1)
    assert 0.1 < p_value < 0.6  # of ten points, one outside is usual


def test_a_new_run_carries_the_error_of_the_slope() -> None:
    """Single runs whose noise grows tenfold; without that error, and where a curve silences the growth: .82."""
    x = np.geomspace(1e6, 1e9, 20)
    found = fit_groups(FLOOR, worlds(200, 10.0, x), ["n"], "y", Options(draws=200, holdout=0))
    ends = np.log([g.prediction(FAR)[0] for g in found])
    sigma = 0.01 * 10 ** (0.5 + 1 / 3)
    new = np.log(FLOOR.predict(FAR, TRUTH)) + sigma * np.random.default_rng(1).standard_normal(len(found))
    assert np.mean((ends[:, 0] <= new) & (new <= ends[:, 1])) >= 0.88
    one = Growth((1.0,), 0.5, 0.2, 2.0, (0.0, 4.0), 0.001, True)
    factors = np.log(one.varied(np.exp(np.array([[2.0, 6.0]])), 4000, np.random.default_rng(0)))
    assert factors[:, 0] == pytest.approx(0.0)
    assert factors[:, 1].std() == pytest.approx(0.5 * 0.2 * 4, rel=0.05)
