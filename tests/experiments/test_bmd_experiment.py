"""The bmd experiment: its solutions are those of the problems, its flips those of the function, and theory agrees."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import polars as pl
import pytest
import torch

from raysweep.errors import SweepError
from raysweep.executors import make_executor
from raysweep.experiments import newton
from raysweep.experiments.bmd import EXPERIMENT
from raysweep.experiments.random_features import Features, drawn
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import from_mapping
from raysweep.sweep.current import cells
from raysweep.theory.bmd import activation, mean_dimension
from raysweep.theory.replica import square

FUNCTIONS = {
    "tanh": np.tanh,
    "relu": lambda u: np.maximum(u, 0),
    "erf": lambda u: torch.erf(torch.as_tensor(u)).numpy(),
    "sin": np.sin,
}


@pytest.mark.parametrize("width", [7, 20, 40])
def test_all_ridges_of_least_squares_are_solved(width: int) -> None:
    draws = drawn(1, width, 20, 9, 100, 2)
    features, labels = Features(draws, "tanh"), draws.labels(False, 0.2, 0.0)
    ridges = np.array([1e-3, 0.1, 10.0])
    fit = features.least_squares(labels, ridges)
    phi = np.tanh(draws.items @ draws.rows.T / 3) / np.sqrt(width)
    for i, ridge in enumerate(ridges):
        wanted = np.linalg.solve(phi.T @ phi + ridge * np.eye(width), phi.T @ labels)
        np.testing.assert_allclose(fit.weights[:, i], wanted, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(fit.outputs[:, i], phi @ wanted, rtol=1e-7, atol=1e-9)


def test_least_squares_without_a_ridge_says_where_it_is_singular() -> None:
    draws = drawn(1, 16, 40, 6, 100, 2)
    doubled = replace(draws, rows=np.concatenate([draws.rows[:8], draws.rows[:8]]))
    fit = Features(doubled, "tanh").least_squares(draws.labels(False, 0, 0), np.array([0.0, 1e-3]))
    assert fit.settled.tolist() == [False, True]


@pytest.mark.parametrize("width", [7, 40])
def test_the_logistic_loss_is_at_its_minimum(width: int) -> None:
    draws = drawn(2, width, 20, 9, 100, 2)
    labels, ridge = draws.labels(False, 0.2, 0.0), 1e-4
    (fit,) = newton.logistic([Features(draws, "sin")], [labels], [ridge])
    phi, w = np.sin(draws.items @ draws.rows.T / 3) / np.sqrt(width), fit.weights[:, 0].numpy()
    np.testing.assert_allclose(fit.outputs[:, 0], phi @ w, rtol=1e-8)
    pull = labels / (1 + np.exp(labels * (phi @ w)))
    assert fit.settled.all()
    np.testing.assert_allclose(phi.T @ pull, ridge * w, atol=1e-9)


@pytest.mark.parametrize("width", [7, 40])
def test_logistic_lanes_side_by_side_are_those_of_each_alone(width: int) -> None:
    """Seeds, label noises and ridges, which need different numbers of steps; repeated items, so that phi lacks rank."""
    features, labels, ridges = [], [], []
    for seed in range(3):
        draws = drawn(seed, width, 20, 9, 100, 2)
        repeated = replace(draws, items=np.concatenate([draws.items[:12], draws.items[:8]]))
        one = Features(repeated if seed == 2 else draws, "relu")
        for noise, ridge in ((0.0, 1e-6), (0.3, 1e-6), (0.3, 10.0)):
            features.append(one)
            labels.append(one.draws.labels(False, noise, 0.0))
            ridges.append(ridge)
    fits = newton.logistic(features, labels, ridges)
    for fit, *lane in zip(fits, features, labels, ridges, strict=True):
        (alone,) = newton.logistic(*([one] for one in lane))
        assert fit.settled.all()
        np.testing.assert_allclose(fit.weights, alone.weights, rtol=1e-8, atol=1e-8 * float(alone.weights.abs().max()))
        np.testing.assert_allclose(fit.outputs, alone.outputs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_flips_of_all_inputs_give_the_mean_dimension_by_enumeration(name: str) -> None:
    """BMD = sum_S |S| f_S^2 / sum_{S not empty} f_S^2 with the Walsh transform of f on all 2^D inputs."""
    dim = 7
    every = np.array(list(product([1.0, -1.0], repeat=dim)))
    draws = replace(drawn(3, 11, 30, dim, 100, 2), points=every, base=every)
    fit = Features(draws, name).least_squares(draws.labels(False, 0, 0), np.array([1e-4, 0.1]))
    measured = Features(draws, name).measured(fit.weights)
    f = FUNCTIONS[name](every @ draws.rows.T / np.sqrt(dim)) @ fit.weights.numpy() / np.sqrt(11)
    np.testing.assert_allclose(measured.outputs, f, rtol=1e-4, atol=1e-5)
    subsets = np.array(list(product([0, 1], repeat=dim)))
    walsh = (np.prod(np.where(subsets[:, None] == 1, every, 1.0), axis=2) @ f / len(every)) ** 2
    size = subsets.sum(1)
    exact = (size[:, None] * walsh).sum(0) / walsh[size > 0].sum(0)
    biased = (len(every) - 1) / len(every)  # the variance is that of a sample
    np.testing.assert_allclose(measured.mean_dimension / biased, exact, rtol=1e-4)


def test_runs_of_a_seed_share_their_draws() -> None:
    small, large = drawn(5, 4, 10, 8, 100, 3), drawn(5, 9, 30, 8, 200, 6)
    for name, count in (("rows", 4), ("items", 10), ("chance", 10), ("noise", 10), ("points", 100), ("base", 3)):
        np.testing.assert_array_equal(getattr(small, name), getattr(large, name)[:count])
    flipped = [large.labels(False, chance, 0.0) != large.labels(False, 0.0, 0.0) for chance in (0.1, 0.4)]
    assert 0 < flipped[0].sum() < flipped[1].sum()
    assert (flipped[1] | ~flipped[0]).all()
    assert not np.array_equal(small.rows, drawn(6, 4, 10, 8, 100, 3).rows)


def test_standard_errors_are_those_of_repeats() -> None:
    draws = drawn(0, 60, 40, 30, 10, 10)
    features = Features(draws, "tanh")
    fit = features.least_squares(draws.labels(False, 0, 0), np.array([0.01]))
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        points, base = (rng.choice([-1.0, 1.0], (count, 30)) for count in (500, 20))
        features.draws = replace(draws, points=points, base=base)
        measured = features.measured(fit.weights)
        found.append((measured.mean_dimension[0], measured.standard_error[0]))
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.2)


def test_measurement_agrees_with_theory() -> None:
    """The peak of both at N = P, formula and flips on the same weights, and theory: section 8 of the notes."""
    grid = {
        "dim": 60, "n_train": 120, "test_items": 4000, "flip_items": 40, "ridge": [1e-6, 0.05], "label_noise": 0.1,
        "seed": {"range": 5}, "concat": [{"activation": ["tanh", "relu"], "width": [60, 120, 240]}],
    }  # fmt: skip
    sweep, store = from_mapping({"name": "t", "experiment": "bmd", "grid": grid}), Store("memory://bmd")
    run(sweep, store, make_executor("inline"))
    table = cells(store)[0]
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    settings = frame.select(axis.name for axis in EXPERIMENT.axes if axis.name != "seed")
    theory = pl.from_arrow(EXPERIMENT.theory(settings.to_arrow(), {"bmd"}))
    assert isinstance(theory, pl.DataFrame)
    joined = frame.hstack(theory.select(pl.all().name.suffix("_theory")))
    assert joined["reason_theory"].null_count() == len(joined)
    names = ("test_error", "train_error", "mse", "train_mse", "bmd", "bmd_formula", "q_s", "norm")
    means = joined.group_by("activation", "ridge", "width").agg(
        *(pl.col(n).median() for n in names), *(pl.col(f"{n}_theory").first() for n in names)
    )
    for one in means.iter_rows(named=True):
        peak = one["width"] == 120 and one["ridge"] < 1e-3
        assert one["test_error"] == pytest.approx(one["test_error_theory"], abs=0.035)
        assert one["bmd"] == pytest.approx(one["bmd_theory"], rel=0.12 if peak else 0.06)
        if not peak:
            for name in ("mse", "train_error", "q_s", "norm"):
                assert one[name] == pytest.approx(one[f"{name}_theory"], rel=0.15, abs=0.02)
            assert one["bmd_formula"] == pytest.approx(one["bmd_formula_theory"], rel=0.06)
            assert one["train_mse"] == pytest.approx(one["train_mse_theory"], rel=0.2, abs=1e-6)
    ridgeless = means.filter(pl.col("ridge") < 1e-3).sort("activation", "width")
    for name in ("test_error", "bmd"):
        low, top, high = ridgeless[name].to_numpy().reshape(2, 3).T
        assert (top > low).all()
        assert (top > high).all()


def test_the_theory_says_where_it_has_no_value() -> None:
    one = {"activation": "tanh", "width": 30, "n_train": 300, "dim": 100, "label_noise": 0.0, "target_noise": 0.0}
    settings = [("logistic", "sign", 1e-4), ("logistic", "sign", 1e-5), ("square", "linear", 1e-5)]
    names = ("loss", "teacher", "ridge")
    table = pl.DataFrame([{**one, **dict(zip(names, each, strict=True))} for each in settings]).to_arrow()
    found = EXPERIMENT.theory(table, {"bmd"}).to_pylist()
    assert [row["reason"] for row in found] == [
        None,
        "the logistic theory takes sign teachers and ridges from 0.0001",
        "real labels have no share of missed signs",
    ]
    assert [row["bmd"] is None for row in found] == [False, True, False]
    assert found[2]["train_error"] is None


def test_a_linear_teachers_error_and_noise_are_those_of_the_theory() -> None:
    grid = {
        "dim": 60, "n_train": 120, "test_items": 4000, "flip_items": 4, "ridge": 0.05, "teacher": "linear",
        "activation": "relu", "width": [60, 240], "target_noise": [0, 0.25], "seed": {"range": 6},
    }  # fmt: skip
    store = Store("memory://bmd_linear")
    run(from_mapping({"name": "t", "experiment": "bmd", "grid": grid}), store, make_executor("inline"))
    frame = pl.from_arrow(cells(store)[0])
    assert isinstance(frame, pl.DataFrame)
    assert frame["train_error"].null_count() == len(frame)  # real labels have no sign to miss
    settings = frame.select(axis.name for axis in EXPERIMENT.axes if axis.name != "seed")
    theory = pl.from_arrow(EXPERIMENT.theory(settings.to_arrow(), {"mse", "train_mse"}))
    assert isinstance(theory, pl.DataFrame)
    names = ("mse", "train_mse")
    both = frame.hstack(theory.select(pl.col(names).name.suffix("_theory")))
    means = both.group_by("width", "target_noise").agg(pl.col(f"^({'|'.join(names)}).*$").mean())
    assert len(means) == 4
    for one in means.iter_rows(named=True):
        for name in names:
            assert one[name] == pytest.approx(one[f"{name}_theory"], rel=0.12)


@pytest.mark.parametrize(("name", "tolerance"), [("tanh", 0.04), ("relu", 0.03)])
def test_the_formula_holds_for_any_weights(name: str, tolerance: float) -> None:
    """Section 8 of the notes, no. 2: BMD by flips is that of eq. (R) with S_D, in the mean of four seeds. For random
    weights, which no theory of training knows, for trained ones at three ridges, and for weights without a linear part
    and with little else."""
    of, found = activation(name), []
    for seed in range(4):
        draws, rng = drawn(seed, 300, 300, 100, 10_000, 100), np.random.default_rng(seed)
        features, rows, w = Features(draws, name), draws.rows, rng.standard_normal(300)
        trained = features.least_squares(draws.labels(False, 0, 0), np.array([1e-6, 0.01, 0.1])).weights.numpy()
        linear = rows @ np.linalg.lstsq(rows, w, rcond=None)[0]
        weights = np.column_stack([w, trained, w - linear, rows @ draws.teacher])
        measured = features.measured(torch.as_tensor(weights)).mean_dimension
        q_s, q_w = ((rows.T @ weights) ** 2).mean(0) / 300, (weights**2).mean(0)
        found.append([measured, mean_dimension(of, q_s, q_w, of.slope_at(100))])
    flips, formula = np.array(found).transpose(1, 0, 2)
    assert (flips / formula).mean(0) == pytest.approx(np.ones(6), abs=tolerance)
    alone, *_, nonlinear, almost_linear = formula.mean(0)
    assert almost_linear < 1.15 < alone < 1.5 < 2.5 < nonlinear


@pytest.mark.parametrize("name", ["tanh", "relu"])
def test_both_curves_peak_where_the_width_is_the_number_of_items(name: str) -> None:
    """Section 8 of the notes, no. 4, on the grid of table T1 and at its P / D = 3. At its D = 100 this takes 7 s of a
    core for each activation, at D = 50 a tenth of it."""
    grid = {
        "dim": 50, "n_train": 150, "test_items": 2000, "flip_items": 30, "ridge": 1e-6, "activation": name,
        "width": [75, 120, 150, 188, 300], "seed": {"range": 5},
    }  # fmt: skip
    store = Store(f"memory://bmd_peak_{name}")
    run(from_mapping({"name": "t", "experiment": "bmd", "grid": grid}), store, make_executor("inline"))
    frame = pl.from_arrow(cells(store)[0])
    assert isinstance(frame, pl.DataFrame)
    medians = frame.group_by("width").agg(pl.col("test_error", "bmd").median()).sort("width")
    error, bmd = medians["test_error"].to_list(), medians["bmd"].to_list()
    assert np.argmax(error) == np.argmax(bmd) == 2
    assert error[2] > 1.3 * max(error[0], error[4])
    assert bmd[2] > max(bmd[0], bmd[4])


def test_degree_two_of_trained_weights_is_that_of_the_theory() -> None:
    """relu, N / P = 10: features share D (D - 1) / 2 coefficients of degree 2, and BMD by flips needs them."""
    dim, width, found = 40, 1200, []
    of = activation("relu")
    for seed in range(8):
        draws = drawn(seed, width, 120, dim, 20_000, 100)
        features = Features(draws, "relu")
        w = features.least_squares(draws.labels(False, 0, 0), np.array([0.01])).weights
        pairs = (draws.rows.T * w[:, 0].numpy()) @ draws.rows
        q_2 = (pairs[np.triu_indices(dim, 1)] ** 2).sum() * 2 / (width * dim * (dim - 1))
        q_w, q_s = float((w**2).mean()), float(((draws.rows.T @ w.numpy()) ** 2).mean() / width)
        flips = float(features.measured(w).mean_dimension[0])
        found.append(
            [q_2 / q_w, flips, *(float(mean_dimension(of, q_s, q_w, of.slope_at(dim), q)) for q in (q_2, q_w))]
        )
    ratio, flips, with_two, without = np.mean(found, axis=0)
    theory = square(of, width, 120, dim, 0.01, finite=True)
    assert ratio == pytest.approx(float(theory.q_2 / theory.q_w), rel=0.05)
    assert ratio > 1.5
    assert flips == pytest.approx(with_two, abs=0.012)
    assert flips > without + 0.015


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"teacher": "linear", "label_noise": 0.1}, "label_noise: signs are flipped under teacher: sign, but got"),
        ({"target_noise": 0.5}, "target_noise: real labels have it under teacher: linear, but got target_noise=0.5"),
        ({"loss": "logistic", "ridge": 0.0}, "a ridge of at least 1e-08"),
        ({"loss": "logistic", "teacher": "linear"}, "the logistic loss takes teacher: sign"),
    ],
)
def test_what_has_no_meaning_is_refused(grid: dict[str, object], message: str) -> None:
    sweep = from_mapping({"name": "t", "experiment": "bmd", "grid": grid})
    with pytest.raises(SweepError, match=message):
        EXPERIMENT.check(sweep.runs, None, 0.0)
