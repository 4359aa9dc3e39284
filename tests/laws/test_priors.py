"""A prior is a measurement of a parameter: without weight it changes nothing, with all the weight it fixes."""

import numpy as np
import polars as pl
import pytest

from raysweep.laws import fit
from raysweep.laws.refusal import RequestError

X = np.repeat(np.geomspace(1e2, 1e6, 8), 2)


def table(alpha=0.4, noise=0.03, seed=0):
    y = (0.3 + 5 * X**-alpha) * np.exp(noise * np.random.default_rng(seed).standard_normal(X.size))
    return pl.DataFrame({"x": X, "y": y})


def fitted(frame, prior=None, law="power+floor", **how):
    return fit(frame, law, x="x", y="y", prior=prior, **{"bootstrap": 200, "holdout": 0, **how}).only


def test_a_prior_of_no_weight_is_none_and_one_of_all_weight_is_a_fixed_value():
    frame = table(seed=1)  # whose spread does not change with scale: fits with priors take it as constant
    for prior, how in (({"alpha": (0.6, 1e6)}, {}), ({"alpha": (0.45, 1e-8)}, {"fix": {"alpha": 0.45}})):
        held, other = fitted(frame, prior), fitted(frame, **how)
        assert other.draws.growth is None
        for name in other.params:
            assert held.params[name] == pytest.approx(other.params[name], rel=1e-5)
            assert held.interval(name) == pytest.approx(other.interval(name), rel=2e-3)


def test_a_linear_law_has_the_posterior_of_its_conjugate_prior():
    u, frame = np.log(X), table(noise=0.3)
    frame = frame.with_columns(y=pl.Series(4 * X**-0.5 * (frame["y"].to_numpy() / (0.3 + 5 * X**-0.4))))
    design, t = np.stack([np.ones_like(u), -u], axis=1), np.log(frame["y"].to_numpy())
    free, squares, *_ = np.linalg.lstsq(design, t)
    variance = squares[0] / (t.size - 2)
    # log A has the prior log(6) +- 0.2, alpha 0.55 +- 0.01.
    precision = design.T @ design / variance + np.diag([1 / 0.2**2, 1 / 0.01**2])
    mean = np.linalg.solve(precision, design.T @ t / variance + [np.log(6) / 0.2**2, 0.55 / 0.01**2])
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))
    found = fitted(frame, {"A": (6, 1.2), "alpha": "0.55+-0.01"}, "power", bootstrap=4000)
    assert [np.log(found.params["A"]), found.params["alpha"]] == pytest.approx(mean, rel=1e-7)
    ends = np.array([np.log(found.interval("A")), found.interval("alpha")])
    assert np.ptp(ends, axis=1) == pytest.approx(
        2 * 1.96 * sd, rel=0.12
    )  # the residual scale has 14 degrees of freedom
    assert np.abs(free - mean).max() > 0.01


def test_a_prior_makes_three_scales_enough():
    frame = table(seed=1).filter(pl.col("x").is_in(X[[0, 6, 14]]))
    found = fitted(frame, {"alpha": (0.4, 0.05)})
    low, high = found.interval("alpha")
    assert low < 0.4 < high
    assert high - low < 4 * 0.05
    assert "without it there is no fit: The law 'power+floor'" in found.details["prior"]


def test_a_contradicted_prior_is_noted_and_others_are_not():
    frame = table()
    agreed, against = fitted(frame, {"alpha": (0.42, 0.03)}), fitted(frame, {"alpha": (0.8, 0.05)})
    assert ("prior_contradicted" in agreed.notes, "prior_contradicted" in against.notes) == (False, True)
    plain = fitted(frame)
    text = f"alpha = 0.42 +- 0.03 (normal); without it {plain.params['alpha']:.4g} "
    assert text + "[{:.4g}, {:.4g}]".format(*plain.interval("alpha")) in agreed.details["prior"]
    assert plain.params["alpha"] < against.params["alpha"] < 0.8
    assert np.ptp(agreed.interval("alpha")) < np.ptp(plain.interval("alpha"))


def test_priors_and_shared_parameters_go_together():
    frame = pl.concat([table(seed=g).with_columns(arm=pl.lit(g), y=pl.col("y") * (1 + g)) for g in range(2)])
    how = {"law": "power+floor", "x": "x", "y": "y", "by": "arm", "bootstrap": 0, "shared": "alpha", "holdout": 0}
    plain = fit(frame, **how)
    loose = fit(frame, prior={"alpha": (0.5, 1e6), "E": (1, 1e6)}, **how)
    tight = fit(frame, prior={"alpha": (0.5, 1e-9)}, **how)
    for one, other, held in zip(plain, loose, tight, strict=True):
        assert other.params == pytest.approx(one.params, rel=1e-5)
        assert held.params["alpha"] == pytest.approx(0.5)
        assert {"prior", "shared"} <= {*held.notes}
        assert [r.law for r in held.rivals] == [r.law for r in one.rivals]


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"zeta": (1, 1)}, "must name parameters of y = .* but got 'zeta'. Valid names: A, E, alpha"),
        ({"alpha": (0.5, 0)}, "alpha must have a standard deviation above 0, but got 0"),
        ({"alpha": (0.5, -1)}, "alpha must have a standard deviation above 0, but got -1"),
        ({"alpha": "0.5"}, "alpha must have a mean and a standard deviation, as in 0.5.-0.1 or .*, but got '0.5'"),
        ({"alpha": 0.5}, "alpha must have a mean and a standard deviation"),
        ({"alpha": (0.5, True)}, "alpha must have finite numbers, but got True"),
        ({"alpha": "0.5+-inf"}, "alpha must have finite numbers, but got 'inf'"),
        ({"alpha": (11, 1)}, "alpha must have a mean at or above 0 and at or below 10, its range, but got 11"),
        ({"A": (0, 1)}, "A must have a mean above 0, its range, but got 0"),
        ([1], "must be a mapping such as"),
    ],
)
def test_priors_that_are_none_are_refused(prior, message):
    with pytest.raises(RequestError, match=f"prior: {message}"):
        fitted(table(), prior)


def test_other_losses_and_auto_take_no_prior():
    for how, message in (
        ({"huber": 0.01}, "least squares"),
        ({"envelope": 0.1}, "envelope=0.1"),
        ({"law": "auto"}, "auto"),
    ):
        with pytest.raises(RequestError, match=f"prior: .*{message}"):
            fitted(table(), {"alpha": (0.4, 0.1)}, **how)
