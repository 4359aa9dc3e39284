"""A metric over a loss over scales: exact slopes, recovery, and intervals that carry both steps."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from raysweep.errors import FitError
from raysweep.laws import law
from raysweep.laws.chain import fit_chain
from raysweep.laws.estimate import estimate
from raysweep.laws.refusal import RequestError
from raysweep.laws.request import FitRequest, Options
from raysweep.laws.steps import STEPS

HOFFMANN = np.array([1.69, 406.4, 410.7, 0.34, 0.28])
N, M = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 5), [10.0, 20, 40, 80]))
X = np.stack([N, N * M])
FAR = np.array([[1e10], [2e11]])
STEP = {"sigmoid": [0.25, 0.85, 2.6, 3.5], "exponential": [0.8, 1.4, 0.6]}
EACH = pytest.mark.parametrize("name", STEPS)


def metric(name, loss):
    v = STEP[name]
    return (
        v[0] + (v[1] - v[0]) / (1 + np.exp(v[3] * (loss - v[2])))
        if name == "sigmoid"
        else v[0] - v[1] * np.exp(-v[2] * loss)
    )


def runs(name, of_loss=0.003, of_metric=0.01, seed=0, x=X):
    rng = np.random.default_rng(seed)
    loss = law("chinchilla").predict(x, HOFFMANN) * np.exp(of_loss * rng.standard_normal(x.shape[1]))
    y = metric(name, loss) * np.exp(of_metric * rng.standard_normal(x.shape[1]))
    return pl.DataFrame({"N": x[0], "D": x[1], "loss": loss, "acc": y})


def request(name, **options):
    how = Options(**{"draws": 60, "holdout": 0, "level": 0.9} | options)
    return FitRequest(x=("N", "D"), y="loss", law="chinchilla", options=how, then=name, metric="acc")


@EACH
def test_a_step_is_its_formula_and_its_slopes_are_derivatives(name):
    step, values, loss = STEPS[name], np.array(STEP[name]), np.linspace(2.0, 5.0, 12)
    assert step.law.predict(loss, values) == pytest.approx(metric(name, loss))
    u, h = np.log(loss)[None], 1e-5
    for j, row in enumerate(step.law.evaluate(u, values)[1]):
        move = np.eye(len(values))[j] * h
        central = (step.law.evaluate(u, values + move)[0] - step.law.evaluate(u, values - move)[0]) / (2 * h)
        assert row == pytest.approx(central, rel=1e-6, abs=1e-9)
    central = (step.law.evaluate(u + h, values)[0] - step.law.evaluate(u - h, values)[0]) / (2 * h)
    assert step.slope(u[0], values) == pytest.approx(central, rel=1e-6)
    found = estimate(step.law, loss * 3, metric(name, loss))  # in other units of the loss
    scaled = values * {"sigmoid": [1, 1, 3, 1 / 3], "exponential": [1, 1, 1 / 3]}[name]
    assert found.values[0] == pytest.approx(scaled, rel=1e-6)


@EACH
def test_both_steps_are_recovered_and_the_chain_has_their_slopes(name):
    first, second = fit_chain(runs(name, 0.0, 0.0), request(name, draws=0))
    chain = second.only
    truth = np.array([*HOFFMANN, *STEP[name]])
    assert list(chain.params.values()) == pytest.approx(truth, rel=1e-4)
    assert chain.predict(FAR) == pytest.approx(metric(name, law("chinchilla").predict(FAR, HOFFMANN)), rel=1e-5)
    assert list(first.only.params.values()) == pytest.approx(HOFFMANN, rel=1e-6)
    u = np.log(X)
    for j, row in enumerate(chain.law.evaluate(u, truth)[1]):
        move = np.eye(len(truth))[j] * 1e-5 * truth[j]
        central = (chain.law.evaluate(u, truth + move)[0] - chain.law.evaluate(u, truth - move)[0]) / (2 * move[j])
        assert row == pytest.approx(central, rel=1e-5, abs=1e-7 * np.abs(central).max())


@pytest.mark.parametrize("rows", [20, 40], ids=["wild", "case"])
def test_an_interval_carries_the_uncertainty_of_both_steps(rows):
    x = np.repeat(X, rows // 20, axis=1)
    loss, metric_alone, both = (
        fit_chain(runs("exponential", *noise, x=x), request("exponential"))[1].only
        for noise in ((0.006, 1e-5), (1e-5, 0.02), (0.006, 0.02))
    )
    assert both.draws.kind == ("wild" if rows == 20 else "case")
    widths = [float(np.ptp(np.log(one.band(FAR)))) for one in (loss, metric_alone, both)]
    assert min(widths) > 0.01
    assert widths[2] == pytest.approx(np.hypot(*widths[:2]), rel=0.35)
    truth = metric("exponential", law("chinchilla").predict(FAR, HOFFMANN))
    assert np.abs(np.log(both.predict(FAR) / truth)) < widths[2]  # twice half of its 90 %
    # A new run also has a loss of its own, and a metric of its own.
    slope, draws = both.law.slope(FAR, both.draws.values), both.draws
    far_loss = law("chinchilla").predict(FAR, draws.values[:5])[None]
    of_loss, own = (1.0 if g is None else g.at(at) for g, at in ((draws.grows, FAR), (draws.grows_then, far_loss)))
    noise = np.hypot(slope * draws.of_loss * of_loss, draws.spread * own)
    assert both.draws.of_loss == pytest.approx(0.006, rel=0.5)
    assert both.prediction(FAR) == pytest.approx(both.draws.prediction(FAR, 0.9, noise))
    assert np.ptp(both.prediction(FAR)) > np.ptp(both.band(FAR))


def test_the_largest_scales_are_predicted_through_both_steps():
    made = [fit_chain(runs("sigmoid", seed=i), request("sigmoid", holdout=0.3))[1].only for i in range(5)]
    held = made[0].holdout
    rest = runs("sigmoid").filter(pl.col("N") * pl.col("D") <= held.cut * (1 + 1e-9))
    alone = fit_chain(rest, request("sigmoid"))[1].only
    assert held.params == pytest.approx(dict(alone.params), rel=1e-6)
    assert held.n_points == X.shape[1] - rest.height > 4
    assert np.mean([one.holdout.coverage for one in made]) >= 0.5


def test_rows_without_a_metric_count_for_the_loss():
    frame = runs("exponential").with_row_index("i").with_columns(acc=pl.when(pl.col("i") % 4 > 0).then("acc"))
    first, second = fit_chain(frame, request("exponential", draws=0))
    assert (first.only.n_points, second.only.n_points) == (20, 15)
    assert "5 of 20 rows have no finite acc" in second.only.details["dropped_no_metric"]


def test_groups_are_chained_each_and_may_fail_alone():
    good, bad = runs("exponential"), runs("exponential", seed=1).with_columns(acc=pl.lit(0.5))
    frame = pl.concat([good.with_columns(arm=pl.lit("a")), bad.with_columns(arm=pl.lit("b"))])
    asked = replace(request("exponential", draws=0), law="kaplan", by=("arm",))
    one, other = fit_chain(frame, asked)[1]
    assert "gamma_then" in one.params  # kaplan has a gamma of its own
    assert "exp(-gamma_then L)" in one.law.formula
    assert other.error.startswith("From loss to acc: A law needs a y that changes")


def test_a_chain_that_no_table_can_answer_is_refused():
    with pytest.raises(RequestError, match=r"then: must be sigmoid or exponential, but got 'sigmid'\. Did you mean"):
        request("sigmid")
    with pytest.raises(RequestError, match="metric: must be a column that is neither x, y nor in by, but got 'D'"):
        replace(request("sigmoid"), metric="D")
    small = runs("sigmoid").with_row_index("i").with_columns(acc=pl.when(pl.col("i") < 4).then("acc"))
    with pytest.raises(FitError, match=r"From loss to acc: .* needs at least 6 distinct scales, but got 4"):
        fit_chain(small, request("sigmoid"))
    with pytest.raises(FitError, match="The metric must be a column of numbers, but 'acc' holds String"):
        fit_chain(runs("sigmoid").with_columns(acc=pl.lit("good")), request("sigmoid"))


@pytest.mark.parametrize("rows", [20, 40], ids=["wild", "case"])
def test_errors_that_both_steps_share_cancel(rows):
    """A metric of the law's loss, not of the run's own: the step's residuals undo those of the loss."""
    x = np.repeat(X, rows // 20, axis=1)
    frame = runs("exponential", 0.006, 0.0, x=x)
    truth = metric("exponential", law("chinchilla").predict(x, HOFFMANN))
    shared = fit_chain(frame.with_columns(acc=pl.Series(truth)), request("exponential", draws=200))[1].only
    split = np.random.default_rng(0).permutation(200)
    k = len(shared.law.first.parameters)
    mixed = np.concatenate([shared.draws.draws[:, :k], shared.draws.draws[split, k:]], axis=1)
    inside = np.array([[3e8], [1e10]])
    together, apart = (np.log(shared.law.predict(inside, draws)).std() for draws in (shared.draws.draws, mixed))
    assert together < 0.6 * apart


def test_few_seeds_give_an_interval_though_no_two_runs_have_the_same_loss():
    x = np.tile(np.geomspace(1e3, 1e8, 12), 3)
    rng = np.random.default_rng(0)
    loss = (1.8 + 30 * x**-0.3) * np.exp(0.003 * rng.standard_normal(x.size))
    y = metric("sigmoid", loss) * np.exp(0.01 * rng.standard_normal(x.size))
    frame = pl.DataFrame({"x": x, "seed": np.repeat([0, 1, 2], 12), "loss": loss, "acc": y})
    asked = FitRequest(x=("x",), y="loss", law="power+floor", run="seed", then="sigmoid", metric="acc")
    found = fit_chain(frame, replace(asked, options=Options(draws=100, holdout=0)))[1].only
    low, high = found.band([1e9])[0]
    assert low < metric("sigmoid", 1.8 + 30 * 1e9**-0.3) < high < 1.3 * low
