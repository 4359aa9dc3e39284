"""A lower envelope: the expectile of log y about the law."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize

from raysweep.laws import fit, law
from raysweep.laws.refusal import RequestError

X = np.repeat(np.geomspace(1e2, 1e6, 8), 3)


def table(noise=0.05, seed=0):
    y = (0.3 + 5 * X**-0.4) * np.exp(noise * np.random.default_rng(seed).standard_normal(X.size))
    return pl.DataFrame({"x": X, "y": y})


def fitted(frame, tau, **how):
    return fit(
        frame, **{"law": "power+floor", "x": "x", "y": "y", "envelope": tau, "bootstrap": 0, "holdout": 0} | how
    ).only


def test_equal_weights_are_least_squares():
    half, plain = fitted(table(), 0.5), fitted(table(), None)
    assert half.params == pytest.approx(plain.params, rel=1e-9)


@pytest.mark.parametrize("tau", [0.02, 0.1, 0.9])
def test_the_optimum_is_that_of_an_independent_optimiser(tau):
    u, t = np.log(X), np.log(table()["y"].to_numpy())

    def loss(q):
        away = t - np.log(q[0] + np.exp(q[1] - q[2] * u))
        return (np.where(away > 0, tau, 1 - tau) * away**2).sum() * 1e3

    found = fitted(table(), tau)
    here = loss([found.params["E"], np.log(found.params["A"]), found.params["alpha"]])
    best = minimize(
        loss, [0.3, 1.6, 0.4], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}
    )
    assert here == pytest.approx(best.fun, rel=1e-7)
    assert found.status == "CONVERGED"


def test_a_law_without_slope_is_the_expectile_of_numbers():
    # A constant: the share-weighted sums of residuals above and below cancel.
    y = np.exp(np.random.default_rng(1).standard_normal(40))
    frame = pl.DataFrame({"x": np.geomspace(1, 10, 40), "y": y})
    found = fitted(frame, 0.2, law="power", fix={"alpha": 0})
    away = np.log(y) - np.log(found.params["A"])
    assert 0.2 * away[away > 0].sum() == pytest.approx(-0.8 * away[away < 0].sum(), rel=1e-9)


def test_smaller_weights_above_make_a_lower_law():
    frame = table()
    laws = [fitted(frame, tau).predict(X) for tau in (0.01, 0.1, 0.5, 0.9)]
    assert all((low < high).all() for low, high in pairwise(laws))
    assert (frame["y"].to_numpy() < laws[0]).mean() < 0.15


def test_an_interval_surrounds_the_envelope_and_no_new_run():
    noise = 0.05
    found = fitted(table(noise), 0.1, bootstrap=300, holdout=0.3)
    lower = -0.8616 * noise  # the .1 expectile of a normal distribution
    low, high = found.interval("E")
    assert low < found.params["E"] < high
    assert low < 0.3 * np.exp(lower) < high
    assert found.draws.kind == "case"
    above = (table(noise)["y"].to_numpy() > found.predict(table(noise)["x"].to_numpy())).mean()
    both = 0.1 * above + 0.9 * (1 - above), 0.01 * above + 0.81 * (1 - above)
    assert found.draws.runs == round(both[0] ** 2 / both[1] * table(noise).height)  # Kish's effective number
    assert np.isnan(found.prediction(1e7)).all()
    assert not np.isnan(found.band(1e7)).any()
    assert (found.holdout.coverage, found.rivals, "envelope" in found.notes) == (None, (), True)
    assert found.to_json()["envelope"] == 0.1


def test_replicates_of_a_draw_are_not_averaged_before_they_are_weighed():
    x = np.repeat([1.0, 10, 100, 1000], 6)
    y = law("power").predict(x[None], np.array([2.0, 0.3])) * np.tile([1, 1, 1, 1, 1, 1.5], 4)
    found = fitted(pl.DataFrame({"x": x, "y": y, "run": np.arange(24) % 6}), 0.1, law="power", run="run", bootstrap=100)
    assert found.params["A"] == pytest.approx(2 * 1.5 ** (0.1 / (0.1 + 5 * 0.9)), rel=1e-6)


@pytest.mark.parametrize(
    ("tau", "how", "message"),
    [
        *((tau, {}, r"must lie in \(0, 1\), below .5 for the law of the lowest y") for tau in (0.0, 1.0, -1.0, np.nan)),
        (0.1, {"huber": 0.01}, "must not come with huber, another loss, but got huber=0.01"),
        (0.1, {"law": "auto"}, "must come with one law, but got 'auto'"),
    ],
)
def test_what_is_no_envelope_is_refused(tau, how, message):
    with pytest.raises(RequestError, match=f"envelope: {message}"):
        fitted(table(), tau, **how)
