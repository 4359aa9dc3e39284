"""An interval of a law that may bend: its limits, what it covers; the note where data speak against the form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.stats import t as student

from raysweep.errors import FitError
from raysweep.laws import deviation as module
from raysweep.laws import fit, law
from raysweep.laws.deviation import departure, deviation
from raysweep.laws.fitting import fit_groups
from raysweep.laws.group import Data
from raysweep.laws.misfit import UNTRUSTED, bent_band
from raysweep.laws.predicted import predicted
from raysweep.laws.remains import Remains, remains
from raysweep.laws.request import Options
from raysweep.laws.saved import load_fits, save_fits

X = np.geomspace(1e3, 1e6, 10)
OPTIONS = Options(draws=100, holdout=0)


def floored(x):
    return 1.7 + 1.7 * (x / 1e3) ** -0.35


def bend(x):
    return 0.3 + 2 * (x / 1e3) ** -0.6 * (1 + (x / 3e4) ** (1 / 0.3)) ** (0.45 * 0.3)


def worlds(truth, x, sigma, count, form="power+floor", seed=0):
    rng = np.random.default_rng(seed)
    data = [Data(x[None], truth(x) * np.exp(sigma * rng.standard_normal(x.size))) for _ in range(count)]
    return fit_groups(law(form), data, ["x"], "y", OPTIONS)


def power_fit(x, t, weights=None):
    """The estimate of a power law by weighted least squares, and what it leaves."""
    weights = np.ones(x.size) if weights is None else weights
    columns = np.stack([np.ones(x.size), -np.log(x)], axis=1)
    log_a, alpha = np.linalg.lstsq(columns * weights[:, None] ** 0.5, t * weights**0.5, rcond=None)[0]
    left = remains(np.log(x)[None], t - log_a + alpha * np.log(x), weights)
    return columns, np.array([np.exp(log_a), alpha]), left


def walk(a, b):
    """The covariance of an integrated random walk from 0 by quadrature of its definition, two-sided."""
    s = np.linspace(0, max(np.abs(a).max(), np.abs(b).max()), 40_001)
    ramps = [np.maximum(np.abs(one)[:, None] - s, 0.0) for one in (a, b)]
    return ramps[0] @ ramps[1].T * (s[1] - s[0]) * (np.sign(a)[:, None] == np.sign(b))


@pytest.mark.parametrize("ratio", [1e-12, 0.3, 50.0])
def test_the_interval_is_that_of_universal_kriging_and_without_a_deviation_that_of_least_squares(monkeypatch, ratio):
    rng, ahead = np.random.default_rng(1), np.array([3e1, 2e4, 1e7, 1e8])
    weights = rng.uniform(0.5, 2, X.size)
    weights /= weights.mean()
    t = np.log(5 * X**-0.3) + 0.02 * rng.standard_normal(X.size) / weights**0.5
    columns, values, left = power_fit(X, t, weights)
    middle = (np.log10(X[0]) + np.log10(X[-1])) / 2
    here, there = np.log10(X) - middle, np.log10(ahead) - middle
    among, cross, own = walk(here, here), walk(here, there), np.diagonal(walk(there, there))

    plane = np.linalg.qr(columns * weights[:, None] ** 0.5, mode="complete")[0][:, 2:]
    size = np.linalg.eigvalsh(plane.T @ (among * np.sqrt(np.outer(weights, weights))) @ plane)[-1]
    monkeypatch.setattr(module, "_RATIOS", np.array([ratio * size]))
    found = np.log(deviation(law("power"), values, left).interval(ahead[None], 0.9))

    inverse = np.linalg.inv(np.diag(1 / weights) + ratio * among)
    gram = np.linalg.inv(columns.T @ inverse @ columns)
    beta = gram @ columns.T @ inverse @ t
    rest = t - columns @ beta
    at = np.stack([np.ones(4), -np.log(ahead)], axis=1)
    mean = at @ beta + ratio * cross.T @ inverse @ rest
    bare = at - ratio * cross.T @ inverse @ columns
    variance = ratio * own - ratio**2 * np.einsum("ij,ik,kj->j", cross, inverse, cross)
    variance = (variance + np.einsum("ij,jk,ik->i", bare, gram, bare)) * (rest @ inverse @ rest) / 8
    half = student.ppf(0.95, 8) * np.sqrt(variance)
    np.testing.assert_allclose(found, np.stack([mean - half, mean + half], axis=1), rtol=2e-4, atol=1e-6)


def test_the_interval_has_the_units_of_its_data_and_widens_with_distance():
    t = np.log(5 * X**-0.3) + 0.02 * np.random.default_rng(2).standard_normal(X.size)
    far = np.array([1e6, 1e7, 1e8, 1e9])
    (_, one, left), (_, other, scaled) = power_fit(X, t), power_fit(1e4 * X, t + np.log(7))
    ends = deviation(law("power"), one, left).interval(far[None], 0.95)
    again = deviation(law("power"), other, scaled).interval(1e4 * far[None], 0.95)
    np.testing.assert_allclose(again, 7 * ends, rtol=1e-6)
    assert (np.diff(np.log(ends[:, 1] / ends[:, 0])) > 0).all()
    new = deviation(law("power"), one, left).interval(far[None], 0.95, noise=True)
    assert (new[:, 0] < ends[:, 0]).all()
    assert (new[:, 1] > ends[:, 1]).all()


def test_it_holds_the_laws_own_interval_of_one_scale_and_of_two():
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    y = law("chinchilla").predict(np.stack([n, d]), np.array([1.7, 400.0, 410.0, 0.34, 0.28]))
    y = y * np.exp(0.01 * np.random.default_rng(0).standard_normal(y.size))
    (joint,) = fit_groups(law("chinchilla"), [Data(np.stack([n, d]), y)], ["n", "d"], "y", OPTIONS)
    (single,) = worlds(floored, X, 0.01, 1)
    for group, x in ((single, np.geomspace(1e2, 1e8, 7)[None]), (joint, np.array([[1e8, 1e10], [1e10, 1e12]]))):
        own, wide = group.band(x), bent_band(group, x)
        assert (wide[:, 0] <= own[:, 0]).all()
        assert (wide[:, 1] >= own[:, 1]).all()


def test_a_bend_is_covered_and_a_right_law_stays_near():
    far = np.array([[1e7]])
    for truth, most in ((floored, 0.3), (bend, 0.9)):
        found = worlds(truth, X, 0.01, 25)
        plain, wide = (
            np.log([ends(g)[0] for g in found]) for ends in (lambda g: g.band(far), lambda g: bent_band(g, far))
        )
        y = np.log(truth(far[0]))
        held = [float(((ends[:, 0] <= y) & (y <= ends[:, 1])).mean()) for ends in (plain, wide)]
        assert held[1] >= 0.9
        assert np.median(np.ptp(wide, axis=1)) < most  # a factor of e^.3 from end to end
        assert held[0] >= 0.8 if truth is floored else held[0] <= 0.2


def test_the_p_value_of_the_form_is_uniform_under_the_law_and_small_under_a_bend():
    rng = np.random.default_rng(3)
    x = np.repeat(X, 2)

    def p_value(truth):
        _, values, left = power_fit(x, np.log(truth(x)) + 0.02 * rng.standard_normal(x.size))
        return departure(law("power"), values, left)

    right = np.array([p_value(lambda x: 5 * x**-0.3) for _ in range(120)])
    for share in (0.1, 0.3):
        assert abs((right < share).mean() - share) < 3 * np.sqrt(share * (1 - share) / right.size)
    assert max(p_value(floored) for _ in range(10)) < 0.01


def test_merged_residuals_keep_their_squares_and_their_weights():
    rng = np.random.default_rng(4)
    u, weights = np.log(np.tile(X, 3))[None], rng.uniform(0.5, 2, 30)
    residual = rng.standard_normal(30)
    left = remains(u, residual, weights)
    scaled = weights / weights.mean()
    assert left.residual.size == 10
    assert left.spare == 20
    assert (left.weight * left.residual**2).sum() + left.within == pytest.approx((scaled * residual**2).sum())
    again = Remains.of(left.to_json())
    np.testing.assert_array_equal(again.residual, left.residual)
    places = rng.uniform(0, 9, (2, 3000))
    many = remains(places, places.sum(axis=0), np.ones(3000))
    assert many.u.shape == (2, 200)
    assert many.weight.sum() == pytest.approx(3000)
    assert many.spare == 2800
    assert many.within < 0.05 * 3000 * places.sum(axis=0).var()  # cells are small


def test_where_the_data_speak_against_the_form_its_interval_beyond_them_is_withheld(tmp_path):
    y = floored(X) * np.exp(0.005 * np.random.default_rng(7).standard_normal(X.size))
    points = [{"x": 1e5}, {"x": 1e7}]
    wrong, right = (
        fit(pl.DataFrame({"x": X, "y": y}), form, x="x", y="y", bootstrap=100) for form in ("power", "power+floor")
    )
    assert UNTRUSTED in wrong.notes
    assert UNTRUSTED not in right.notes
    inside, beyond = predicted(wrong.only, points)
    assert inside.interval is not None
    assert (beyond.own, beyond.own_new) == (None, None)
    assert beyond.to_json()["own_low"] is None
    assert beyond.new_run[0] < beyond.interval[0] < floored(1e7) < beyond.interval[1] < beyond.new_run[1]
    assert all(one.own is not None for one in predicted(right.only, points))
    for absurd in (1e300, 1e-9):
        with pytest.raises(FitError, match=r"prediction\'s x must lie within a factor of 1e\+12 of the scales"):
            predicted(right.only, [*points, {"x": absurd}])
    save_fits(tmp_path / "fit.json", [wrong])
    assert predicted(load_fits(tmp_path / "fit.json")[0].only, points) == (inside, beyond)


def test_rows_of_one_run_are_not_judged_and_correlated_ones_are_not_trusted():
    rng = np.random.default_rng(6)
    x = np.geomspace(1e3, 1e6, 40)
    y = bend(x) * np.exp(0.01 * rng.standard_normal(x.size))
    runs = Data(x[None], y, run=np.arange(40) % 4)
    for data, expected in ((runs, False), (replace(runs, run=np.arange(40)), True), (replace(runs, run=None), True)):
        (group,) = fit_groups(law("power+floor"), [data], ["x"], "y", OPTIONS)
        assert (UNTRUSTED in group.notes) is expected


def test_without_draws_or_freedom_there_is_none():
    (group,) = fit_groups(
        law("power+floor"), [Data(X[None], floored(X) + 0.01 * np.sin(X))], ["x"], "y", replace(OPTIONS, draws=0)
    )
    assert predicted(group, [{"x": 1e7}])[0].bent is None
    _, values, left = power_fit(X[:3], np.log(5 * X[:3] ** -0.3) + np.array([0.01, -0.01, 0.02]))
    assert deviation(law("power"), values, left) is None
    assert departure(law("power"), values, left) is None
