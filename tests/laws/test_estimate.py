"""Variable projection and the polish on log residuals, against closed forms and reference solvers."""

import numpy as np
import pytest
from scipy import optimize

from raysweep.errors import FitError
from raysweep.laws import law
from raysweep.laws.estimate import Status, estimate
from raysweep.laws.start import nnls

POWER, FLOOR = law("power"), law("power+floor")
X = np.repeat(2.0 ** np.arange(4, 12), 3)


def noisy(form, values, sigma=0.1, seed=0):
    return form.predict(X, np.array(values)) * np.exp(sigma * np.random.default_rng(seed).standard_normal(X.size))


@pytest.mark.parametrize(
    ("form", "truth"),
    [
        (POWER, [3.0, 0.7]),
        (POWER, [3.0, -0.2]),
        (FLOOR, [0.2, 3.0, 0.7]),
        (FLOOR, [0.01, 3.0, 0.05]),
        (FLOOR, [1e-3, 8.0, 2.0]),
    ],
)
@pytest.mark.parametrize("x_unit", [1.0, 1e9, 1e-9])
@pytest.mark.parametrize("y_unit", [1.0, 1e-6])
def test_noise_free_points_give_back_the_law_in_any_units(form, truth, x_unit, y_unit):
    scaled = np.array(truth)
    scaled[-2] *= x_unit ** scaled[-1]
    scaled[:-1] *= y_unit
    fit = estimate(form, X * x_unit, form.predict(X * x_unit, scaled))
    assert fit.values[0] == pytest.approx(scaled, rel=1e-8)
    assert fit.status[0] == Status.CONVERGED


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_power_is_ordinary_least_squares_of_logs(sigma):
    y = noisy(POWER, [3.0, 0.7], sigma)
    slope, intercept = np.polyfit(np.log(X), np.log(y), 1)
    assert estimate(POWER, X, y).values[0] == pytest.approx([np.exp(intercept), -slope], rel=1e-12)


def test_weighted_power_is_weighted_least_squares_of_logs():
    y, w = noisy(POWER, [3.0, 0.7]), np.random.default_rng(1).uniform(0.1, 5.0, X.size)
    slope, intercept = np.polyfit(np.log(X), np.log(y), 1, w=np.sqrt(w))
    assert estimate(POWER, X, y, w).values[0] == pytest.approx([np.exp(intercept), -slope], rel=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_floored_power_minimises_the_sum_of_squared_log_residuals(seed):
    y = noisy(FLOOR, [0.2, 3.0, 0.7], 0.3, seed)

    def objective(alpha):
        def at(q):
            return np.log(q[0] + np.exp(q[1]) * X**-alpha) - np.log(y)

        best = optimize.least_squares(at, [0.1, 1.0], bounds=([0, -np.inf], np.inf), xtol=1e-14, ftol=1e-14)
        return 2 * best.cost

    brute = min(objective(alpha) for alpha in np.geomspace(0.05, 5, 40))
    fit = estimate(FLOOR, X, y)
    assert fit.objective[0] <= brute * (1 + 1e-9)
    residual = np.log(FLOOR.predict(X, fit.values[0]) / y)
    assert fit.objective[0] == pytest.approx(residual @ residual, rel=1e-12)


@pytest.mark.parametrize("form", [POWER, FLOOR], ids=["power", "power+floor"])
def test_many_weight_vectors_at_once_equal_one_at_a_time(form):
    y = noisy(FLOOR, [0.2, 3.0, 0.7])
    w = np.random.default_rng(2).multinomial(X.size, np.full(X.size, 1 / X.size), size=40).astype(float)
    together = estimate(form, X, y, w)
    alone = np.concatenate([estimate(form, X, y, row).values for row in w])
    assert together.values == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("form", [POWER, FLOOR], ids=["power", "power+floor"])
def test_a_weight_of_two_is_the_point_given_twice(form):
    y, w = noisy(FLOOR, [0.2, 3.0, 0.7]), np.random.default_rng(3).integers(1, 4, X.size)
    weighted = estimate(form, X, y, w)
    repeated = estimate(form, np.repeat(X, w), np.repeat(y, w))
    assert weighted.values == pytest.approx(repeated.values, rel=1e-7)
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-10)


def test_the_scale_of_the_weights_changes_the_objective_only():
    y = noisy(FLOOR, [0.2, 3.0, 0.7])
    one, many = estimate(FLOOR, X, y), estimate(FLOOR, X, y, np.full(X.size, 1e-8))
    assert many.values == pytest.approx(one.values, rel=1e-9)
    assert many.objective == pytest.approx(1e-8 * one.objective, rel=1e-9)


def test_a_curve_that_bends_down_has_its_floor_at_zero_and_is_then_a_power_law():
    y = 3.0 * X**-0.7 * np.exp(-0.02 * np.log(X) ** 2)
    fit = estimate(FLOOR, X, y)
    assert fit.status[0] == Status.BOUND_HIT
    assert fit.values[0, 0] == 0.0
    assert fit.values[0, 1:] == pytest.approx(estimate(POWER, X, y).values[0], rel=1e-7)


@pytest.mark.parametrize("y", [np.ones_like(X), X**0.3], ids=["flat", "rising"])
def test_a_curve_that_does_not_fall_hits_a_bound_of_the_floored_law(y):
    assert estimate(FLOOR, X, y).status[0] == Status.BOUND_HIT


@pytest.mark.parametrize("k", [1, 2, 3])
def test_nnls_by_supports_equals_lawson_and_hanson(k):
    rng = np.random.default_rng(k)
    matrix, target = rng.standard_normal((50, 8, k)), rng.standard_normal((50, 8))
    gram, moment = np.swapaxes(matrix, 1, 2) @ matrix, np.einsum("npk,np->nk", matrix, target)
    solution, gain = nnls(gram, moment)
    for i in range(50):
        reference, norm = optimize.nnls(matrix[i], target[i])
        assert solution[i] == pytest.approx(reference, abs=1e-10)
        assert target[i] @ target[i] - gain[i] == pytest.approx(norm**2, abs=1e-10)


@pytest.mark.parametrize(("name", "bad"), [("y", -2.0), ("y", 0.0), ("y", np.nan), ("x", -2.0), ("x", np.inf)])
def test_values_without_a_logarithm_are_refused_and_counted(name, bad):
    values = {"x": X.copy(), "y": X**-0.5}
    values[name][[2, 5]] = bad
    with pytest.raises(FitError, match=rf"positive, finite {name}, but 2 of 24 .*first is {bad:g}"):
        estimate(POWER, **values)


@pytest.mark.parametrize(("form", "need"), [(POWER, 3), (FLOOR, 4)], ids=["power", "power+floor"])
def test_too_few_distinct_scales_are_refused_however_many_points(form, need):
    x = np.repeat(2.0 ** np.arange(1, need), 9)
    with pytest.raises(FitError, match=rf"at least {need} distinct scales, but got {need - 1}\. Add scales"):
        estimate(form, x, x**-0.5)


@pytest.mark.parametrize("weights", [np.ones(3), -np.ones(X.size), np.zeros(X.size), np.full(X.size, np.nan)])
def test_weights_that_are_no_weights_are_refused(weights):
    with pytest.raises(FitError, match="Weights must be finite, >= 0 and not all 0"):
        estimate(POWER, X, X**-0.5, weights)
