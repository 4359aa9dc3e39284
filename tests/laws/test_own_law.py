"""A law of one's own is fitted as a built-in law of the same formula is, and refused where it is none."""

import numpy as np
import polars as pl
import pytest
from scipy.optimize import approx_fprime

from raysweep.errors import FitError
from raysweep.laws import fit, law
from raysweep.laws.bootstrap import bootstrap
from raysweep.laws.estimate import Status, estimate
from raysweep.laws.own import own_law
from raysweep.laws.refusal import RequestError

ONE = np.geomspace(10, 1e6, 16)
SIZE, DATA = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
CHINCHILLA = {"E": 1.7, "A": 400, "a": 0.34, "B": 410, "b": 0.28}
KAPLAN = {"Nc": 8.8e13, "aN": 0.076, "aD": 0.095, "Dc": 5.4e13}


def noisy(y, size=0.002, seed=0):
    return y * np.exp(size * np.random.default_rng(seed).standard_normal(y.size))


@pytest.mark.parametrize(
    ("text", "positive", "truth"),
    [
        ("E + A*x**-a", "A", {"E": 0.3, "A": 4, "a": 0.4}),
        ("T - A*x**-a", "A", {"T": 0.9, "A": 0.8, "a": 0.3}),
        ("E + A*(x + s)**-a", "A s", {"E": 0.2, "A": 30, "s": 200, "a": 0.7}),
        ("(c/x)**a", "c a", {"c": 300, "a": 0.3}),
        ("C + (T - C)/(1 + (x/d)**-k)", "d k T", {"C": 0.1, "T": 0.95, "d": 3e3, "k": 1.2}),
        ("c + k*(log(x) - m)**2", "k", {"c": 2, "k": 0.3, "m": 7}),
        ("E + A*exp(-r*x)", "A r", {"E": 0.3, "A": 2, "r": 1e-4}),
        ("a - b*log10(x)", "", {"a": 5, "b": 0.2}),
        ("A*x**(-a/2)*sqrt(x + 1)", "A", {"A": 2, "a": 1.3}),
    ],
)
def test_noise_free_points_give_back_the_parameters(text, positive, truth):
    form = own_law(text, ("x",), tuple(positive.split()))
    assert dict.fromkeys(form.names) == dict.fromkeys(truth)
    x = ONE
    y = eval(text, {"x": x, "log": np.log, "log10": np.log10, "exp": np.exp, "sqrt": np.sqrt, **truth})
    found = estimate(form, x, y)
    assert found.values[0] == pytest.approx(list(truth.values()), rel=1e-6)
    assert found.status[0] == Status.CONVERGED


def test_kaplans_equation_is_recovered_in_its_own_constants():
    form = own_law("((Nc/N)**(aN/aD) + Dc/D)**aD", ("N", "D"), tuple(KAPLAN))
    x, truth = np.stack([SIZE, DATA]), np.array(list(KAPLAN.values()))
    found = estimate(form, x, form.predict(x, truth)).values[0]
    assert found == pytest.approx(truth, rel=1e-6)


def test_slopes_are_the_derivatives_in_each_parameter():
    form = own_law("E + A*exp(-(x/s)**g) + log2(1 + B*x)/sqrt(x) - C**-g", ("x",))
    values, u = np.array([3.0, 2.0, 90.0, 0.6, 0.02, 2.0]), np.log(ONE[None, :6])
    assert form.names == ("E", "A", "s", "g", "B", "C")
    rows = form.evaluate(u, values)[1]
    for i in range(u.size):
        slope = approx_fprime(values, lambda v, i=i: form.evaluate(u[:, i : i + 1], v)[0][0], 1e-7)
        assert [np.broadcast_to(row, u.size)[i] for row in rows] == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_a_formula_is_as_good_as_the_built_in_law_that_it_writes_out():
    x = np.stack([SIZE, DATA])
    own, built = own_law("E + A*N**-a + B*D**-b", ("N", "D"), ("A", "B")), law("chinchilla")
    y = noisy(built.predict(x, np.array([1.7, 400, 410, 0.34, 0.28])))
    mine, theirs = (bootstrap(form, x, y, draws=200) for form in (own, built))
    order = [own.names.index(name) for name in ("E", "A", "B", "a", "b")]
    assert mine.values[order] == pytest.approx(theirs.values, rel=1e-6)
    assert mine.interval()[order] == pytest.approx(theirs.interval(), rel=0.02)


def test_a_table_is_fitted_with_interval_hold_out_rivals_and_floor():
    x = np.stack([SIZE, DATA])
    y = noisy(law("chinchilla").predict(x, np.array([1.7, 400, 410, 0.34, 0.28])))
    frame = pl.DataFrame({"N": SIZE, "D": DATA, "loss": y})
    how = {"formula": "E + A*N**-a + B*D**-b", "positive": ["A", "B"], "x": ["N", "D"], "y": "loss"}
    found = fit(frame, **how, bootstrap=200).only
    for name, value in CHINCHILLA.items():
        low, high = found.interval(name)
        assert low < value < high
    assert found.holdout.rmse_log < 0.01
    rivals = {rival.law: rival for rival in found.rivals}
    assert rivals["formula, E = 0"].p_value < 1e-6
    assert rivals["chinchilla"].aicc == pytest.approx(rivals["formula"].aicc, abs=1e-3)
    assert found.to_json()["formula"] == "y = E + A*N**-a + B*D**-b"
    without = fit(frame, **how, fix={"E": 0}, bootstrap=0).only
    assert "floor_needed" in without.notes
    assert "floor_not_needed" not in found.notes


def test_a_floor_that_is_not_needed_is_noted():
    frame = pl.DataFrame({"x": ONE, "y": noisy(3 * ONE**-0.4, 0.05)})
    found = fit(frame, formula="E + A*x**-a", positive=["A"], x="x", y="y", bootstrap=0).only
    assert "floor_not_needed" in found.notes
    below = fit(frame, formula="E + A*x**-a", positive=["A"], bound={"E": [None, 1]}, x="x", y="y", bootstrap=0).only
    assert below.params["E"] >= 0


def test_a_level_from_which_something_is_taken_is_no_floor():
    frame = pl.DataFrame({"x": ONE, "y": noisy(0.9 - 0.8 * ONE**-0.3, 0.01)})
    found = fit(frame, formula="T - A*x**-a", positive=["A"], x="x", y="y", bootstrap=100).only
    low, high = found.interval("T")
    assert abs(found.params["T"] - 0.9) < high - low < 0.02
    assert "formula, T = 0" not in {rival.law for rival in found.rivals}
    falling = pl.DataFrame({"x": ONE, "y": 0.3 + 4 * ONE**-0.4})
    signed = fit(falling, formula="-E + A*x**-a", positive=["A"], x="x", y="y", bootstrap=0).only
    assert signed.params == pytest.approx({"E": -0.3, "A": 4, "a": 0.4}, rel=1e-6)


def test_scales_go_by_their_columns_or_by_x():
    frame = pl.DataFrame({"model size": ONE, "y": 0.3 + 4 * ONE**-0.4})
    found = fit(frame, formula="E + A*x**-a", positive=["A", "a"], x="model size", y="y", bootstrap=0).only
    assert found.params == pytest.approx({"E": 0.3, "A": 4, "a": 0.4}, rel=1e-6)
    with pytest.raises(RequestError, match=r"as its column or as x, but 'E \+ A\*z\*\*-a' does not name 'model size'"):
        fit(frame, formula="E + A*z**-a", x="model size", y="y")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('x')", "has Call"),
        ("x.real + a", "has Attribute"),
        ("a*x^-b", r"has \^. Write a power as x\*\*-a"),
        ("max(a, x)", "has the function max"),
        ("a if x > 3 else b", "has IfExp"),
        ("a + x[0]", "has Subscript"),
        ("(lambda: x)()", "has Call"),
        ("a +", "must be one expression"),
        ("x + 3", "must have 1 to 12 parameters"),
        ("x*y", "may not be called y"),
        ("x + log", "may not be called y, exp, log"),
        ("x + " + "-" * 60 + "a", "nested 40 deep"),
        ("a + x*" + "9" * 1001, "1,000 characters"),
    ],
)
def test_what_is_no_formula_of_a_law_is_refused(text, message):
    with pytest.raises(RequestError, match=message):
        own_law(text, ("x",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("E + A*B*x**-a", "do not determine A, B, which can change together"),
        ("A*x**(-a - b)", "do not determine a, b"),
        ("-(A*x**-a) + 0*E", "no parameters at which .* is positive"),
        ("A*x**-a + 0*q", "do not determine q, which does not change"),
    ],
)
def test_parameters_that_no_data_determine_are_refused(text, message):
    frame = pl.DataFrame({"x": ONE, "y": noisy(3 * ONE**-0.4)})
    with pytest.raises(FitError, match=message):
        fit(frame, formula=text, positive=["A"], x="x", y="y", bootstrap=0)


def test_groups_of_unequal_length_are_fitted_as_each_alone():
    frames = [
        pl.DataFrame({"x": ONE[:n], "y": noisy(t - 0.8 * ONE[:n] ** -0.3, seed=n), "arm": arm})
        for arm, n, t in (("a", 16, 0.9), ("b", 9, 0.95))
    ]
    how = {"formula": "T - A*x**-a", "positive": ["A"], "x": "x", "y": "y", "bootstrap": 60}
    both = fit(pl.concat(frames), by="arm", **how)
    for group, frame in zip(both, frames, strict=True):
        alone = fit(frame, **how).only
        assert group.params == alone.params
        assert group.intervals == alone.intervals
