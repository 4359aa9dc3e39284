"""Allocations are where a law is least along a budget, and refused where it is not least anywhere."""

import numpy as np
import pytest

from raysweep.errors import FitError
from raysweep.laws import law
from raysweep.laws.allocate import Cost, allocate, fit_cost, minimum
from raysweep.laws.bootstrap import bootstrap
from raysweep.laws.draws import Draws
from raysweep.laws.frontier import joint
from raysweep.laws.split import Tradeoff, split

CHINCHILLA, KAPLAN, TIME = law("chinchilla"), law("kaplan"), law("time")
HOFFMANN = np.array([1.69, 406.4, 410.7, 0.34, 0.28])
COUPLED = np.array([1.69, 400.0, 0.3, 0.25, 1.2, 1.05])  # E, A, alpha, beta, gamma, R
BUDGETS = np.array([1e18, 5.76e23])
# The paper's 2.5 - 2.4 / (1 + 1e-3 N^1.62) (lid.md 4.3).
RISING = {"beta": 2.5, "delta": 2.4, "n0": 1000 ** (1 / 1.62), "gamma": 1.62}


def slope(form, values, x, budget, cost, step=1e-4):
    """d log loss / d log x along a budget, by central differences."""
    log_x = np.log(x) + step * np.array([-1.0, 1.0])
    low, high = form.evaluate(np.stack([log_x, cost.other(log_x, np.full(2, budget))]), values)[0]
    return (high - low) / (2 * step)


@pytest.mark.parametrize("cost", [Cost(), Cost(3.0, 0.8, 1.1)])
@pytest.mark.parametrize(("form", "values"), [(CHINCHILLA, HOFFMANN), (TIME, HOFFMANN), (KAPLAN, COUPLED)])
def test_an_allocation_spends_the_budget_where_the_loss_is_stationary(form, values, cost):
    found = allocate(form, values, BUDGETS, cost)
    assert cost.flops(found.x, found.t) == pytest.approx(BUDGETS, rel=1e-9)
    for x, t, loss, budget in zip(found.x, found.t, found.loss, BUDGETS, strict=True):
        assert slope(form, values, x, budget, cost) == pytest.approx(0.0, abs=1e-7)
        assert loss == pytest.approx(form.predict(np.array([[x], [t]]), values)[0])
        for nearby in (0.9 * x, 1.1 * x):
            other = np.exp(cost.other(np.log(nearby), budget))
            assert form.predict(np.array([[nearby], [other]]), values)[0] > loss


def test_the_optimum_of_chinchilla_is_the_papers_closed_form():
    _, a, b, alpha, beta = HOFFMANN
    found = allocate(CHINCHILLA, HOFFMANN, BUDGETS)
    g = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    assert found.x == pytest.approx(g * (BUDGETS / 6) ** (beta / (alpha + beta)), rel=1e-12)
    assert found.t == pytest.approx((BUDGETS / 6) ** (alpha / (alpha + beta)) / g, rel=1e-12)


def test_the_search_agrees_with_the_closed_form_of_what_it_covers():
    # Inside a monotone function Kaplan's law is a separable one, with amplitudes 1 and R.
    _, _, alpha, beta, _, r = COUPLED
    inner = np.array([0.0, 1.0, r, alpha, beta])
    for cost in (Cost(), Cost(3.0, 0.8, 1.1)):
        exact = allocate(CHINCHILLA, inner, BUDGETS, cost)
        assert allocate(KAPLAN, COUPLED, BUDGETS, cost).x == pytest.approx(exact.x, rel=1e-6)


def test_intervals_come_from_every_draw():
    rng = np.random.default_rng(0)
    for form, values in ((CHINCHILLA, HOFFMANN), (KAPLAN, COUPLED)):
        sample = Draws(values, values * np.exp(0.01 * rng.standard_normal((300, values.size))), 1e9)
        found = allocate(form, sample, BUDGETS)
        alone = np.array([allocate(form, draw, BUDGETS).x for draw in sample.draws[:20]])
        together = allocate(form, Draws(values, sample.draws[:20], 1e9), BUDGETS, level=0.5)
        low, high = together.intervals["x"].T
        assert low == pytest.approx(np.quantile(alone, 0.25, axis=0), rel=0.02)
        assert high == pytest.approx(np.quantile(alone, 0.75, axis=0), rel=0.02)
        for key in ("x", "t", "loss"):
            low, high = found.intervals[key].T
            assert (low < getattr(found, key)).all()
            assert (getattr(found, key) < high).all()
        # x and t move against each other along a budget.
        assert found.intervals["x"][:, 0] * found.intervals["t"][:, 1] == pytest.approx(BUDGETS / 6, rel=1e-6)


def test_a_bootstrap_is_allocated_as_its_frontier_says():
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(1e9, 1e12, 6)))
    noise = 0.003 * np.random.default_rng(0).standard_normal(n.size)
    scales = np.stack([n, d])
    sample = bootstrap(CHINCHILLA, scales, CHINCHILLA.predict(scales, HOFFMANN) * np.exp(noise), draws=200)
    found, frontier = allocate(CHINCHILLA, sample, BUDGETS), joint(CHINCHILLA, sample, 6 * n * d)
    assert found.x == pytest.approx(frontier.n(BUDGETS), rel=1e-9)
    assert found.intervals["x"] == pytest.approx(frontier.n_interval(BUDGETS), rel=1e-9)
    assert found.intervals["t"] == pytest.approx(frontier.d_interval(BUDGETS), rel=1e-9)
    truth = allocate(CHINCHILLA, HOFFMANN, BUDGETS)
    for key in ("x", "t", "loss"):
        low, high = found.intervals[key].T
        assert ((low < getattr(truth, key)) & (getattr(truth, key) < high)).all()


def test_an_allocation_says_how_far_it_extrapolates():
    found = allocate(CHINCHILLA, HOFFMANN, [1e17, 1e23], window=(1e18, 1e21))
    assert found.notes == ("extrapolated",)
    assert "1e+23 is 100 times the largest (1e+21)" in found.details["extrapolated"]
    assert "1e+17 is 10 times below the least (1e+18)" in found.details["extrapolated"]
    assert allocate(CHINCHILLA, HOFFMANN, [1e18, 1e21], window=(1e18, 1e21)).notes == ()


def test_json_has_one_record_a_budget():
    sample = Draws(HOFFMANN, HOFFMANN * np.linspace(0.99, 1.01, 50)[:, None], 50.0)
    first, second = allocate(CHINCHILLA, sample, BUDGETS).to_json()
    assert (first["budget"], second["budget"]) == tuple(BUDGETS)
    assert [p["name"] for p in first["params"]] == ["N*", "D*", "loss"]
    assert all(p["ci_low"] <= p["value"] <= p["ci_high"] for p in first["params"])
    bare = allocate(CHINCHILLA, HOFFMANN, 1e21).to_json()[0]
    assert [p["ci_low"] for p in bare["params"]] == [None] * 3


@pytest.mark.parametrize("form", [CHINCHILLA, KAPLAN])
@pytest.mark.parametrize("exponent", ["alpha", "beta"])
def test_a_law_that_does_not_fall_along_a_scale_has_no_optimum(form, exponent):
    values = (HOFFMANN if form is CHINCHILLA else COUPLED).copy()
    values[form.names.index(exponent)] = 0.0
    with pytest.raises(FitError, match=rf"{exponent}=0.*no_interior_optimum"):
        allocate(form, values, 1e21)


def test_draws_without_an_optimum_are_counted():
    draws = np.tile(HOFFMANN, (100, 1))
    draws[:7, 3] = 0.0
    found = allocate(CHINCHILLA, Draws(HOFFMANN, draws, 50.0), 1e21)
    assert "7 of 100 draws" in found.details["draws_without_optimum"]
    low, high = found.intervals["x"][0]
    assert low < 1e-6 * found.x[0]
    assert high == pytest.approx(found.x[0])


def test_what_cannot_be_allocated_is_refused():
    with pytest.raises(FitError, match=r"is over x\. Fit a joint law"):
        allocate(law("power"), [1.0, 0.5], 1e21)
    with pytest.raises(FitError, match="Budgets are positive"):
        allocate(CHINCHILLA, HOFFMANN, [1e21, 0.0])
    with pytest.raises(FitError, match="needs c, p, q > 0, but got c=6, p=1, q=0"):
        Cost(q=0.0)


def test_a_cost_model_is_read_off_measured_flops():
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(4, 6, 40), 10 ** rng.uniform(5, 8, 40)
    cost = fit_cost(n, d, 5.0 * n**0.9 * d)
    assert (cost.c, cost.p, cost.q) == pytest.approx((5.0, 0.9, 1.0), rel=1e-9)
    assert cost.r2 == pytest.approx(1.0, abs=1e-12)
    assert cost.misfit == pytest.approx(0.0, abs=1e-9)
    assert cost.details == {}
    # A part that does not scale with n, as embeddings or attention have, is no power law.
    poor = fit_cost(n, d, 6 * (n + 3e5) * d)
    assert poor.misfit > 0.2
    assert list(poor.details) == ["cost_model_poor"]
    assert "cost_model_poor" in allocate(CHINCHILLA, HOFFMANN, 1e21, poor).notes
    # Anything the model gets wrong shows: the largest misfit is that of a run.
    ratio = poor.flops(n, d) / (6 * (n + 3e5) * d)
    assert poor.misfit == pytest.approx(np.abs(ratio - 1).max())


def test_flops_that_cannot_tell_the_scales_apart_are_refused():
    n = np.array([1e4, 1e5, 1e6])
    with pytest.raises(FitError, match="vary independently"):
        fit_cost(n, 20 * n, 120 * n**2)
    with pytest.raises(FitError, match="vary independently"):
        fit_cost(n, np.full(3, 1e6), 6e6 * n)
    with pytest.raises(FitError, match="positive and finite"):
        fit_cost(n, n[::-1], [1.0, 2.0, 0.0])


def test_a_minimum_is_found_in_every_row_at_once():
    centre = np.array([[0.3, -0.7], [1.2, 5.0]])
    found, inside = minimum(lambda x: (x - centre[..., None]) ** 4, np.full((2, 2), -2.0), np.full((2, 2), 2.0), 65)
    assert inside.tolist() == [[True, True], [True, False]]
    assert found[inside] == pytest.approx(centre[inside], abs=1e-3)
    assert found[1, 1] == pytest.approx(2.0, abs=1e-6)


# lid.md 4.3, to the digits given there; at C = 1e4 it gives N* = 9753, and 4.2's condition gives 9752.4.
@pytest.mark.parametrize(
    ("budget", "n", "k", "digits"), [(100, 75.3, 24.7, 1), (300, 261, 39, 0), (1e3, 933, 67, 0), (1e4, 9752, 248, 0)]
)
def test_training_against_inference_under_a_rising_exponent(budget, n, k, digits):
    found = split(Tradeoff(train=1.0, attempts=1.0, **RISING), budget)
    assert round(found.n[0], digits) == n
    assert round(found.k[0], digits) == k
    assert found.n + found.k == pytest.approx(budget)
    assert found.notes == ()
    if budget == 100:
        assert round(found.exponent[0], 2) == 1.36


@pytest.mark.parametrize(
    ("weight", "rising", "fixed_there", "saturated"),
    [(1.0, 75.3, 62.1, 83.7), (0.1, 71.9, 34.6, 71.3), (0.01, 71.5, 14.7, 53.1), (0.001, 71.4, 5.2, 32.1)],
)
def test_a_rising_exponent_trains_longer_than_the_fixed_exponent_of_its_optimum(weight, rising, fixed_there, saturated):
    found = split(Tradeoff(train=weight, attempts=1.0, **RISING), 100)
    assert round(found.n[0], 1) == rising
    baseline = split(Tradeoff(train=weight, attempts=1.0, beta=found.exponent[0]), 100)
    assert round(baseline.n[0], 1) == fixed_there
    assert found.n > baseline.n
    asymptotic = split(Tradeoff(train=weight, attempts=1.0, beta=2.5), 100)
    assert round(asymptotic.n[0], 1) == saturated
    # Against the exponent's limit training gains only where it weighs little.
    assert (found.n[0] > asymptotic.n[0]) == (weight <= 0.1)


@pytest.mark.parametrize(
    ("beta", "shares"),
    [(0.27, (0.140, 0.028)), (0.5, (0.211, 0.075)), (1.0, (0.5, 0.5)), (1.5, (0.762, 0.893)), (2.5, (0.935, 0.991))],
)
def test_training_shares_of_a_fixed_exponent_part_ways_at_1(beta, shares):
    found = split(Tradeoff(train=1.0, attempts=1.0, beta=beta), [1e3, 1e5])
    assert tuple(np.round(found.share, 3)) == shares


def test_attempts_after_saturation_follow_the_closed_form():
    # lid.md 4.4: k* = (beta P c_N N^2 / (R a c_k))^(1 / (beta + 1)).
    for beta in (0.5, 2.5):
        found = split(Tradeoff(train=0.3, attempts=2.0, beta=beta, cost_n=5.0, cost_k=0.1), [1e3, 1e6])
        expected = (beta * 2.0 * 5.0 * found.n**2 / (0.3 * 0.1)) ** (1 / (beta + 1))
        assert found.k == pytest.approx(expected, rel=1e-6)
        assert 5.0 * found.n + 0.1 * found.k == pytest.approx(found.budget)


def test_the_split_is_stationary():
    # lid.md 4.2, with b' by central differences.
    law_of = Tradeoff(train=0.05, attempts=3.0, g=0.8, cost_n=2.0, cost_k=0.5, **RISING)
    found = split(law_of, [300.0, 1e4])
    n, k, b = found.n, found.k, found.exponent
    rise = (law_of.exponent(n + 1e-4) - law_of.exponent(n - 1e-4)) / 2e-4
    gained = 0.05 * 0.8 * n**-1.8
    paid = 3.0 * k**-b * (b * 2.0 / (0.5 * k) - rise * np.log(k))
    assert gained == pytest.approx(paid, rel=1e-5)
    for factor in (0.99, 1.01):
        other = law_of.loss(factor * n, (found.budget - 2.0 * factor * n) / 0.5)
        assert (other > found.loss).all()


def test_draws_are_split_as_one_array():
    beta = np.array([0.27, 1.0, 2.5])
    together = split(Tradeoff(train=1.0, attempts=1.0, beta=beta), [1e3, 1e5])
    alone = [split(Tradeoff(train=1.0, attempts=1.0, beta=b), [1e3, 1e5]).n for b in beta]
    assert together.n == pytest.approx(np.array(alone), rel=1e-9)
    sample = Draws(np.array([1.0]), beta[:, None], 30.0)
    ends = sample.interval_of(lambda v: split(Tradeoff(train=1.0, attempts=1.0, beta=v[..., 0]), [1e3, 1e5]).n, 0.5)
    assert ends.shape == (2, 2)


def test_splits_without_an_inside_are_noted_or_refused():
    # If failures alone count and the exponent is fixed, nothing is worth training for (lid.md 4.4).
    with pytest.raises(FitError, match="no_interior_optimum"):
        split(Tradeoff(train=0.0, attempts=1.0, beta=2.5), 1e3)
    rising = split(Tradeoff(train=0.0, attempts=1.0, **RISING), [1e4, 1e6])
    # ... and after saturation every further unit goes to attempts.
    assert rising.share[1] < rising.share[0] / 5
    with pytest.raises(FitError, match=r"exceed the cost of one attempt, 1, but the least is 0\.5"):
        split(Tradeoff(train=1.0, attempts=1.0, beta=2.5), [10.0, 0.5])
    trained = split(Tradeoff(train=1.0, attempts=1e-9, beta=2.5), 100.0)
    assert trained.notes == ("one_attempt",)
    assert trained.k[0] == pytest.approx(1.0, abs=1e-5)
