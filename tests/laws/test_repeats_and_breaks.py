"""Repeated data, over-training and laws of several breaks: limits, recovery, choice and refusals."""

import numpy as np
import polars as pl
import pytest

from raysweep.errors import FitError
from raysweep.laws import LAWS, fit, law
from raysweep.laws.estimate import estimate
from raysweep.laws.refusal import RequestError
from raysweep.laws.saved import load_fits, save_fits

PAPER = [np.exp(0.6254804), np.exp(6.255414), np.exp(7.3049974), 0.3526596, 0.3526596]  # Muennighoff et al., C4
R_D, R_N = 15.387756, 5.309743
AXES = (np.geomspace(1e7, 1e10, 4), np.geomspace(1e8, 1e10, 4), [1.0, 3, 8, 25, 60])
N, U, EPOCHS = (axis.ravel() for axis in np.meshgrid(*AXES))
RUNS = {"N": N, "D": U * EPOCHS, "U": U, "epochs": EPOCHS}
X = np.repeat(np.geomspace(10, 1e6, 24), 2)
BUMP = [0.02, 3, 0.1, 0.8, 300, 0.3, -0.3, 3e4, 0.2]  # falls, then rises


def noisy(y, size, seed=1):
    return y * np.exp(size * np.random.default_rng(seed).standard_normal(np.shape(y)))


def test_repeated_data_has_the_constants_of_its_paper():
    form = law("repeated")
    y = form.predict(np.stack([N, U * EPOCHS, U]), np.array([*PAPER, R_D]))
    frame = pl.DataFrame({**RUNS, "y": noisy(y, 0.003)})
    found = fit(frame, law="repeated", x=["N", "D", "U"], y="y", bootstrap=60, holdout=0, level=0.9).only
    truth = dict(zip(form.names, [*PAPER, R_D], strict=True)) | {"epochs_half": 1 + R_D * np.log(2)}
    for name, value in truth.items():
        low, high = found.interval(name)
        assert low - 0.5 * (high - low) < value < high + 0.5 * (high - low), name
    low, high = found.interval("R_D")
    assert high / low < 1.3
    # Four epochs are worth 93.1 % of as many fresh tokens; that repeats decay is seen against tokens counted in full.
    worth = form.predict(np.array([[1e9], [4e9], [1e9]]), np.array([0, 0, 1, 1, 1, R_D]))[0] ** -1
    assert worth / 4e9 == pytest.approx((1 + R_D * (1 - np.exp(-3 / R_D))) / 4)
    assert {one.law: one.aicc for one in found.rivals}["chinchilla of N and D"] > 100
    by_epochs = fit(frame, law="repeated-epochs", x=["N", "D", "epochs"], y="y", bootstrap=0, holdout=0).only
    assert list(by_epochs.params.values()) == pytest.approx(list(found.params.values()), rel=1e-6)


def test_without_decay_repeated_data_are_fresh():
    x = np.stack([N, U * EPOCHS, U])
    fresh = law("chinchilla").predict(x[:2], np.array(PAPER))
    assert law("repeated").predict(x, np.array([*PAPER, 1e9])) == pytest.approx(fresh, rel=1e-6)
    assert law("repeated+excess").predict(x, np.array([*PAPER, 1e9, 1e9])) == pytest.approx(fresh, rel=1e-5)
    # Without repeats and without excess parameters nothing decays, however fast it would.
    small = np.stack([N / 1e4, U, U])
    fresh = law("chinchilla").predict(small[:2], np.array(PAPER))
    assert law("repeated+excess").predict(small, np.array([*PAPER, 0.1, 0.1])) == pytest.approx(fresh, rel=1e-12)


def test_a_run_of_less_than_an_epoch_repeats_nothing():
    part = law("repeated").predict(np.array([[1e8], [1e9], [5e9]]), np.array([*PAPER, R_D]))
    assert part == pytest.approx(law("repeated").predict(np.array([[1e8], [1e9], [1e9]]), np.array([*PAPER, R_D])))


def test_repeats_that_no_run_has_are_not_judged():
    frame = pl.DataFrame({**RUNS, "y": law("chinchilla").predict(np.stack([N, U]), np.array(PAPER))}).with_columns(
        D="U"
    )
    with pytest.raises(FitError, match="do not determine R_D"):
        fit(frame, law="repeated", x=["N", "D", "U"], y="y", bootstrap=0)


def test_over_training_is_chinchillas_law_at_a_tie():
    values = [1.5, 140, 190, 0.12]
    n, m = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 5), [5.0, 20, 80, 320]))
    runs = pl.DataFrame({"N": n, "D": m * n, "C": 6 * m * n * n, "M": m})
    y = law("overtrained-CM").predict(runs.select("C", "M").to_numpy().T, np.array(values))
    runs = runs.with_columns(y=noisy(y, 0.003))
    by_compute = fit(runs, law="overtrained-CM", x=["C", "M"], y="y", bootstrap=100).only
    by_size = fit(runs, law="overtrained", x=["N", "D"], y="y", bootstrap=0).only
    tied = fit(runs, law="chinchilla", x=["N", "D"], y="y", tie={"alpha": "beta"}, bootstrap=0).only
    assert list(by_size.params.values()) == pytest.approx(list(by_compute.params.values()), rel=1e-5)
    assert tied.params["alpha"] == pytest.approx(2 * by_size.params["eta"], rel=1e-5)
    assert tied.params["A"] == pytest.approx(by_size.params["a"] * 6 ** -by_size.params["eta"], rel=1e-4)
    low, high = by_compute.interval("M_opt")
    assert low < (190 / 140) ** (1 / 0.24) < high
    with pytest.raises(FitError, match="N and D that vary independently"):
        fit(runs, law="overtrained", x=["N", "D"], y="y", where="M = 20", bootstrap=0)


def test_one_break_is_the_broken_law():
    y = noisy(law("broken").predict(X[None], np.array([0.05, 3, 0.1, 0.7, 1000, 0.4])), 0.01)
    one, other = estimate(law("broken"), X, y), estimate(law("bnsl1"), X, y)
    assert other.objective == pytest.approx(one.objective, rel=1e-9)
    assert other.values == pytest.approx(one.values, rel=1e-4)


def test_two_breaks_are_recovered_in_order_with_intervals(tmp_path):
    y = noisy(law("bnsl2").predict(X[None], np.array(BUMP)), 0.01)
    found = fit(pl.DataFrame({"x": X, "y": y}), law="bnsl2", x="x", y="y", bootstrap=60, level=0.9, holdout=0)
    for name, value in dict(zip(law("bnsl2").names, BUMP, strict=True)).items():
        low, high = found.interval(name)
        assert low - 0.5 * (high - low) < value < high + 0.5 * (high - low), name
    low, high = found.interval("c2")
    assert low < -1.1 < high < -1
    assert (found.only.draws.draws[:, 4] < found.only.draws.draws[:, 7]).all()
    save_fits(tmp_path / "fit.json", [found])
    (again,) = load_fits(tmp_path / "fit.json")
    assert again.only.predict([50.0]) == pytest.approx(found.only.predict([50.0]))


def test_breaks_that_are_swapped_are_the_same_law():
    form, swapped = law("bnsl2"), np.array([0.02, 3, 0.1, -1.0, 3e4, 0.2, -0.3, 300, 0.3])
    back = form.restore(swapped[None], np.zeros((1, 1)), np.zeros(1))[0]
    assert back == pytest.approx(BUMP)
    assert form.predict(X[None], back) == pytest.approx(form.predict(X[None], swapped))


@pytest.mark.parametrize(
    ("name", "values"),
    [("power+floor", [0.2, 3, 0.4]), ("bnsl1", [0.05, 3, 0.1, 0.7, 1e3, 0.4]), ("bnsl2", BUMP)],
)
def test_the_number_of_breaks_is_chosen(name, values):
    frame = pl.DataFrame({"x": X, "y": noisy(law(name).predict(X[None], np.array(values)), 0.01, 2)})
    found = fit(frame, law="bnsl", x="x", y="y", bootstrap=0, holdout=0).only
    assert found.law is LAWS[name]
    assert f"{name} has the fewest breaks within 4 of the least AICc" in found.details["law_chosen"]


def test_constraints_hold_for_breaks_and_repeats():
    frame = pl.DataFrame({"x": X, "y": law("bnsl2").predict(X[None], np.array(BUMP))})
    found = fit(frame, law="bnsl2", fix={"d1": 300}, tie={"f1": "f2"}, x="x", y="y", bootstrap=0, holdout=0).only
    assert found.params["d2"] == pytest.approx(3e4, rel=0.1)
    y = law("repeated+excess").predict(np.stack([N, U * EPOCHS, U]), np.array([*PAPER, R_D, R_N]))
    frame = pl.DataFrame({**RUNS, "y": y})
    found = fit(
        frame, law="repeated+excess", tie={"alpha": "beta"}, fix={"R_N": R_N}, x=["N", "D", "U"], y="y", bootstrap=0
    ).only
    assert found.params["alpha"] == pytest.approx(PAPER[3], rel=1e-5)
    assert found.params["R_D"] == pytest.approx(R_D, rel=1e-3)


def test_a_break_needs_scales_and_a_choice_no_constraints():
    few = pl.DataFrame({"x": X[:20], "y": X[:20] ** -0.5})
    with pytest.raises(FitError, match=r"'bnsl2' .* needs at least 11 distinct scales, but got 10"):
        fit(few, law="bnsl2", x="x", y="y")
    with pytest.raises(FitError, match=r"'bnsl1' .* needs at least 8 distinct scales, but got 7"):
        fit(few[:14], law="bnsl", x="x", y="y")
    with pytest.raises(RequestError, match="law: must name one law whose parameters are constrained, but got 'bnsl'"):
        fit(few, law="bnsl", fix={"E": 0}, x="x", y="y")
