"""Allocations that also pay for inference: stationary, as a numerical optimiser finds them, and dual to each other."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from raysweep.errors import FitError
from raysweep.laws import law
from raysweep.laws.allocate import Cost, allocate
from raysweep.laws.draws import Draws
from raysweep.laws.serving import beside, cheapest

CHINCHILLA, KAPLAN = law("chinchilla"), law("kaplan")
HOFFMANN = np.array([1.69, 406.4, 410.7, 0.34, 0.28])
COUPLED = np.array([1.69, 400.0, 0.3, 0.25, 1.2, 1.05])
LOSSES = np.array([1.95, 2.4])
BOTH = pytest.mark.parametrize(("form", "values"), [(CHINCHILLA, HOFFMANN), (KAPLAN, COUPLED)])


@pytest.mark.parametrize("tokens", [0.0, 1e11, 1e14])
def test_the_cheapest_way_to_a_loss_is_that_of_a_numerical_optimiser(tokens):
    floor, a, b, alpha, beta = HOFFMANN
    found = cheapest(CHINCHILLA, HOFFMANN, LOSSES, Cost(tokens=tokens))
    for i, loss in enumerate(LOSSES):

        def spent(log_n, rest=loss - floor):  # Sardana et al. 2024, eq. 2, with D from the law
            n = np.exp(log_n)
            return np.log(6 * n * ((rest - a * n**-alpha) / b) ** (-1 / beta) + 2 * n * tokens)

        least = np.log(a / (loss - floor)) / alpha
        best = minimize_scalar(spent, bounds=(least + 1e-9, least + 15), method="bounded", options={"xatol": 1e-12})
        assert np.log(found.budget[i]) == pytest.approx(best.fun, abs=1e-9)
        assert np.log(found.x[i]) == pytest.approx(best.x, abs=1e-5)
    # Lagrange: the slopes of the loss are as those of the cost, (6 N D + 2 N T) / (6 N D).
    slopes = alpha * a * found.x**-alpha / (beta * b * found.t**-beta)
    assert slopes == pytest.approx(1 + tokens / (3 * found.t), rel=1e-5)


@BOTH
@pytest.mark.parametrize("cost", [Cost(tokens=1e12), Cost(4.0, 0.9, 1.1, tokens=1e12)])
def test_the_least_loss_of_a_budget_has_that_budget_as_its_least_cost(form, values, cost):
    made = allocate(form, values, [1e21, 1e23], cost)
    assert cost.flops(made.x, made.t) == pytest.approx(made.budget, rel=1e-9)
    back = cheapest(form, values, made.loss, cost)
    assert back.budget == pytest.approx(made.budget, rel=1e-8)
    assert back.x == pytest.approx(made.x, rel=1e-4)
    for x in (0.9 * made.x, 1.1 * made.x):
        other = np.exp(cost.other(np.log(x), made.budget))
        assert (form.predict(np.stack([x, other]), values) > made.loss).all()


@BOTH
def test_without_inference_nothing_is_saved_and_with_it_models_are_smaller_and_trained_for_longer(form, values):
    alone = cheapest(form, values, LOSSES)
    assert beside(alone, values).saved == pytest.approx(0, abs=1e-9)
    before = alone
    for tokens in (1e11, 1e14):
        made = cheapest(form, values, LOSSES, Cost(tokens=tokens))
        other = beside(made, values)
        assert other.x == pytest.approx(alone.x, rel=1e-6)
        assert (other.saved > 0).all()
        assert (made.x < before.x).all()
        assert (made.t > before.t).all()
        before = made


def test_intervals_of_the_cheapest_way_come_from_every_draw():
    rng = np.random.default_rng(0)
    cost = Cost(tokens=1e12)
    sample = Draws(HOFFMANN, HOFFMANN * np.exp(0.01 * rng.standard_normal((5, 5))), 1e9)
    made = cheapest(CHINCHILLA, sample, LOSSES, cost, level=0.5)
    each = np.array([cheapest(CHINCHILLA, draw, LOSSES, cost).budget for draw in sample.draws])
    for ends, share in zip(made.intervals["budget"].T, (0.25, 0.75), strict=True):
        assert ends == pytest.approx(np.quantile(each, share, axis=0), rel=0.02)
    assert made.to_json()[0]["params"][-1]["name"] == "FLOPs"


def test_what_cannot_be_reached_or_served_is_refused():
    with pytest.raises(FitError, match=r"above what the law can reach with any budget, 1\.69, but got 1\.5"):
        cheapest(CHINCHILLA, HOFFMANN, 1.5)
    with pytest.raises(FitError, match=r"Losses are positive and finite, but got \[0\.0\]"):
        cheapest(CHINCHILLA, HOFFMANN, 0)
    with pytest.raises(FitError, match="trades two scales"):
        cheapest(law("power"), [1.0, 0.5], 0.1)
    with pytest.raises(FitError, match="Tokens of inference are finite and >= 0, but got -1"):
        Cost(tokens=-1)
    floors = HOFFMANN * np.ones((10, 1))
    floors[:3, 0] = 2.0
    made = cheapest(CHINCHILLA, Draws(HOFFMANN, floors, 1e9), LOSSES[0])
    assert "3 of 10 draws" in made.details["draws_without_optimum"]
