"""A constrained law is the law with its constraints put in: fewer parameters, the same numbers elsewhere."""

import numpy as np
import polars as pl
import pytest
from test_forms import EVERY, scales, truth

from raysweep.laws import fit, law
from raysweep.laws.constrained import constrained
from raysweep.laws.constraint import Constraints
from raysweep.laws.estimate import estimate
from raysweep.laws.refusal import RequestError

SIZE, DATA = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6)))


def table(alpha, beta):
    y = law("chinchilla").predict(np.stack([SIZE, DATA]), np.array([1.7, 400, 410, alpha, beta]))
    y = y * np.exp(0.002 * np.random.default_rng(0).standard_normal(y.size))
    return pl.DataFrame({"N": SIZE, "D": DATA, "loss": y})


def fitted(frame, **how):
    return fit(frame, law="chinchilla", x=["N", "D"], y="loss", **{"bootstrap": 100, **how}).only


@EVERY
def test_every_law_is_recovered_with_any_parameter_fixed(form):
    x, values = scales(form), truth(form)
    y = form.predict(x, values)
    for j, p in enumerate(form.parameters):
        one = constrained(form, Constraints(fix=((p.name, values[j]),)))
        assert one.names == (*form.names[:j], *form.names[j + 1 :])
        assert estimate(one, x, y).values[0] == pytest.approx(np.delete(values, j), rel=1e-6)


def test_a_value_fixed_at_the_estimate_leaves_the_others_where_they_were():
    frame = table(0.34, 0.28)
    free = fitted(frame)
    held = fitted(frame, fix={"alpha": free.params["alpha"]})
    assert held.params == pytest.approx({n: v for n, v in free.params.items() if n != "alpha"}, rel=1e-5)
    assert held.derived == pytest.approx(free.derived, rel=1e-5)
    wide, narrow = (np.subtract(*one.interval("A")[::-1]) for one in (free, held))
    assert narrow < wide / 5  # A and alpha trade against each other
    assert "constraint_contradicted" not in held.notes


def test_a_tie_is_kept_by_data_that_have_it_and_contradicted_by_others():
    same, other = (fitted(table(0.3, beta), tie={"beta": "alpha"}) for beta in (0.3, 0.26))
    low, high = same.interval("alpha")
    assert low < 0.3 < high
    assert same.law.formula == "y = E + A N^-alpha + B D^-alpha"
    assert (same.derived["a_opt"], same.law.free) == (0.5, 4)
    assert "constraint_contradicted" not in same.notes
    assert "constraint_contradicted" in other.notes
    p = {rival.law: rival.p_value for rival in same.rivals}["chinchilla"]
    assert p > 0.05


def test_the_likelihood_ratio_of_a_true_tie_is_uniform():
    frame, values = table(0.3, 0.3), np.array([1.7, 400, 410, 0.3, 0.3])
    rng, mean = np.random.default_rng(1), law("chinchilla").predict(np.stack([SIZE, DATA]), values)
    below = []
    for _ in range(30):
        noisy = frame.with_columns(loss=mean * np.exp(0.002 * rng.standard_normal(mean.size)))
        one = fitted(noisy, tie={"beta": "alpha"}, bootstrap=0, holdout=0)
        below.append({rival.law: rival.p_value for rival in one.rivals}["chinchilla"] < 0.3)
    assert np.mean(below) < 0.5  # halved, as on the edge of a range, about 0.6 would be


def test_a_bound_holds_and_is_noted_where_the_estimate_lies_on_it():
    found = fitted(table(0.34, 0.28), bound={"alpha": [None, 0.3]})
    assert found.params["alpha"] == pytest.approx(0.3)
    assert max(found.interval("alpha")) <= 0.3
    assert (found.status, "parameter_at_bound" in found.notes) == ("BOUND_HIT", True)


def test_a_plain_power_is_its_regression_with_the_exponent_fixed():
    x = np.geomspace(1e3, 1e9, 9)
    y = 2e4 * x**-0.5 * np.exp(0.1 * np.random.default_rng(3).standard_normal(9))
    found = fit(pl.DataFrame({"x": x, "y": y}), law="power", x="x", y="y", fix={"alpha": 0.5}, bootstrap=400).only
    mean, spread = np.log(y * x**0.5).mean(), np.log(y * x**0.5).std(ddof=1)
    assert found.params == pytest.approx({"A": np.exp(mean)}, rel=1e-9)
    ends = np.exp(mean + np.array([-1, 1]) * 2.306 * spread / 3)  # Student's t of 8 degrees of freedom
    assert found.interval("A") == pytest.approx(ends, rel=0.05)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"fix": {"gamma": 1}}, "fix: must name parameters of .*Valid names: A, B, E, alpha, beta"),
        ({"fix": {"alpha": "x"}}, "fix: alpha must be a finite number, but got 'x'"),
        ({"fix": {"alpha": True}}, "fix: alpha must be a finite number, but got True"),
        ({"fix": {"alpha": -1}}, "fix: alpha must lie at or above 0 and at or below 10, but got -1"),
        ({"fix": {"A": 0}}, "fix: A must lie above 0, but got 0"),
        ({"fix": {"E": 1, "A": 1, "B": 1, "alpha": 1, "beta": 1}}, "fix: must leave a parameter"),
        ({"fix": {"alpha": 1}, "tie": {"alpha": "beta"}}, "fix: alpha must not be tied, too"),
        ({"tie": {"alpha": "alpha"}}, "tie: must name two parameters"),
        ({"tie": {"alpha": 3}}, "tie: alpha must be tied to the name of a parameter, but got 3"),
        ({"bound": {"alpha": [1, 1]}}, "bound: alpha must have a lowest value below the highest"),
        ({"bound": {"alpha": 1}}, "bound: alpha must have a lowest and a highest value"),
        ({"bound": {"alpha": [11, 12]}}, "bound: alpha must lie at or above 0 and at or below 10"),
        ({"fix": {"alpha": 1}, "bound": {"alpha": [0, 2]}}, "bound: alpha must be free, but it is fixed at 1"),
        ({"fix": [1]}, "fix: must be a mapping"),
        ({"law": "auto", "fix": {"alpha": 1}, "x": "N"}, "law: must name one law"),
        ({"positive": ["A"]}, "positive: must come with a formula"),
        ({"formula": "a*N + D"}, "law: must be 'formula' where a formula is given"),
    ],
)
def test_constraints_that_make_no_law_are_refused(what, message):
    with pytest.raises(RequestError, match=message):
        fit(table(0.3, 0.3), **{"law": "chinchilla", "x": ["N", "D"], "y": "loss", **what})
