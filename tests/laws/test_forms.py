"""A law is what its formula says, its slope its derivative, and its parameters follow the units."""

import numpy as np
import pytest

from raysweep.errors import FitError
from raysweep.laws import LAWS, law
from raysweep.laws.estimate import Status, estimate
from raysweep.laws.forms import compared

ONE = np.geomspace(10, 1e5, 16)[None]
TWO = np.stack([axis.ravel() for axis in np.meshgrid(np.geomspace(10, 1e4, 6), np.geomspace(20, 5e4, 7))])
SIZES, EPOCHS = np.geomspace(1e7, 3e9, 5), np.array([1.0, 2, 5, 12, 40])
MANY = np.stack([axis.ravel() for axis in np.meshgrid(SIZES, np.geomspace(1e8, 2e10, 4), EPOCHS)])
OWN = {  # scales at which a law says what it has to say
    "overtrained-CM": np.stack([a.ravel() for a in np.meshgrid(np.geomspace(1e17, 1e20, 6), [5.0, 20, 80, 320])]),
    "repeated": np.stack([MANY[0], MANY[1] * MANY[2], MANY[1]]),
    "repeated-epochs": np.stack([MANY[0], MANY[1] * MANY[2], MANY[2]]),
    "bnsl2": np.geomspace(10, 1e6, 40)[None],
    "bnsl3": np.geomspace(10, 1e7, 80)[None],
}
OWN |= {f"repeated+excess{end}": OWN[f"repeated{end}"] for end in ("", "-epochs")}
MUENNIGHOFF = [np.exp(0.6254804), np.exp(6.255414), np.exp(7.3049974), 0.3526596, 0.3526596, 15.387756]
TRUTHS = {
    "power": [3, 0.5],
    "power+floor": [0.3, 4, 0.4],
    "shifted": [0.2, 30, 0.7, 200],
    "m4": [0.1, 2.3, 80, 0.8, 1.5],
    "broken": [0.05, 3, 0.1, 0.7, 1000, 0.4],
    "exponential": [0.2, 2, 5000],
    "chinchilla": [1.7, 4, 5, 0.34, 0.28],
    "kaplan": [1.2, 3, 0.5, 0.4, 0.7, 0.6],
    "time": [0.1, 20, 5, 0.5, 0.3],
    "passk": [2, 0.4],
    "passk+training": [0.9, 2.5, 2.4, 70, 1.62],
    "kaplan1.5": [3, 0.5, 0.7, 0.6],
    "sigmoid": [0.1, 0.95, 1500, 1.2],
    "valley": [0.3, 0.1, 2000],
    "product": [3, 0.4, -0.2],
    "product+floor": [0.3, 3, 0.4, 0.2],
    "overtrained": [1.5, 140, 190, 0.12],
    "overtrained-CM": [1.5, 140, 190, 0.12],
    **{f"repeated{end}": MUENNIGHOFF for end in ("", "-epochs")},
    **{f"repeated+excess{end}": [*MUENNIGHOFF, 5.309743] for end in ("", "-epochs")},
    "bnsl1": [0.05, 3, 0.1, 0.7, 1000, 0.4],
    "bnsl2": [0.02, 3, 0.1, 0.8, 300, 0.3, -0.3, 3e4, 0.2],
    "bnsl3": [0.02, 9, 0.05, 0.9, 200, 0.2, 0.1, 5000, 0.3, 0.7, 2e5, 0.2],
}
EVERY = pytest.mark.parametrize("form", LAWS.values(), ids=LAWS)


def scales(form):
    return OWN.get(form.name, ONE if len(form.axes) == 1 else TWO)


def truth(form):
    return np.array(TRUTHS[form.name], dtype=float)


def formula(form, x, v):
    """The formula of the docs, written once more."""
    E, A = v[:2]
    match form.name:
        case "power" | "passk":
            return v[0] * x[0] ** -v[1]
        case "power+floor":
            return E + A * x[0] ** -v[2]
        case "shifted":
            return E + A * (x[0] + v[3]) ** -v[2]
        case "broken":
            return E + A * x[0] ** -v[2] * (1 + (x[0] / v[4]) ** (1 / v[5])) ** ((v[2] - v[3]) * v[5])
        case "exponential":
            return E + A * np.exp(-x[0] / v[2])
        case "chinchilla" | "time":
            return E + A * x[0] ** -v[3] + v[2] * x[1] ** -v[4]
        case "kaplan":
            return E + A * (x[0] ** -v[2] + v[5] * x[1] ** -v[3]) ** v[4]
        case "kaplan1.5":
            return v[0] * (x[0] ** -(v[1] / v[2]) + v[3] / x[1]) ** v[2]
        case "sigmoid":
            return v[0] + (v[1] - v[0]) / (1 + (x[0] / v[2]) ** -v[3])
        case "valley":
            return v[0] * np.exp(v[1] * np.log(x[0] / v[2]) ** 2)
        case "product":
            return v[0] * x[0] ** -v[1] * x[1] ** -v[2]
        case "product+floor":
            return E + A * x[0] ** -v[2] * x[1] ** -v[3]
        case "overtrained" | "overtrained-CM":
            compute, ratio = (6 * x[0] * x[1], x[1] / x[0]) if form.name == "overtrained" else x
            return E + (v[1] * ratio ** v[3] + v[2] * ratio ** -v[3]) * compute ** -v[3]
        case "repeated" | "repeated-epochs" | "repeated+excess" | "repeated+excess-epochs":
            size, tokens, unique = x if "epochs" not in form.name else (x[0], x[1], x[1] / x[2])
            if "excess" in form.name:  # as published: N_opt by way of the compute-optimal G
                g = (v[3] * A / v[4] / v[2]) ** (1 / (v[3] + v[4]))
                fit = np.minimum((unique * g) ** (v[4] / v[3]) * g, size)
                size = fit * (1 + v[6] * (1 - np.exp(-(size / fit - 1) / v[6])))
            worth = unique * (1 + v[5] * (1 - np.exp(-(tokens / unique - 1) / v[5])))
            return E + A * size ** -v[3] + v[2] * worth ** -v[4]
        case "bnsl1" | "bnsl2" | "bnsl3":
            y, slope = A * x[0] ** -v[2], v[2]
            for after, d, f in v[3:].reshape(-1, 3):
                y, slope = y * (1 + (x[0] / d) ** (1 / f)) ** (-(after - slope) * f), after
            return E + y
        case "passk+training":
            return v[0] * x[0] ** -(v[1] - v[2] / (1 + (x[1] / v[3]) ** v[4]))


@EVERY
def test_a_law_is_its_formula(form):
    y = form.predict(scales(form), truth(form))
    if form.name == "m4":
        floor, chance, amplitude, alpha, gamma = truth(form)
        assert (y - floor) / (chance - y) ** gamma == pytest.approx(amplitude * ONE[0] ** -alpha, rel=1e-9)
    else:
        assert y == pytest.approx(formula(form, scales(form), truth(form)), rel=1e-13)


@EVERY
def test_slopes_are_the_derivatives_in_each_parameter(form):
    u, v = np.log(scales(form)), truth(form)
    logs, rows = form.evaluate(u, v)
    for j, row in enumerate(rows):
        step = np.zeros_like(v)
        step[j] = 1e-5 * v[j]
        central = (form.evaluate(u, v + step)[0] - form.evaluate(u, v - step)[0]) / (2 * step[j])
        assert np.broadcast_to(row, logs.shape) == pytest.approx(central, rel=1e-5, abs=1e-7 * np.abs(central).max())


@EVERY
def test_many_parameter_vectors_predict_as_each_alone(form):
    many = truth(form) * np.random.default_rng(0).uniform(0.9, 1.1, (5, len(form.parameters)))
    alone = np.stack([form.predict(scales(form), values) for values in many])
    assert np.array_equal(form.predict(scales(form), many), alone)


@EVERY
def test_noise_free_points_give_back_every_law(form):
    fit = estimate(form, scales(form), form.predict(scales(form), truth(form)))
    assert fit.values[0] == pytest.approx(truth(form), rel=1e-8)
    assert fit.status[0] == Status.CONVERGED


@EVERY
def test_units_of_scales_and_measurements_change_nothing_but_units(form):
    x, noise = scales(form), np.random.default_rng(1).standard_normal(scales(form).shape[1])
    y = form.predict(x, truth(form)) * np.exp(0.01 * noise)
    units = np.where(form.centred, 1e6, 1.0)[:, None]
    one, other = estimate(form, x, y), estimate(form, x * units, y * 1e-3)
    assert other.objective == pytest.approx(one.objective, rel=1e-6)
    assert form.predict(x * units, other.values[0]) == pytest.approx(1e-3 * form.predict(x, one.values[0]), rel=1e-3)


@EVERY
def test_restored_values_give_the_same_law_in_other_units(form):
    shift = np.where(form.centred, 1.3, 0.0)
    values = form.restore(truth(form)[None], shift[None], np.array([0.7]))[0]
    x = scales(form)
    moved = form.predict(x * np.exp(shift)[:, None], values)
    assert moved == pytest.approx(np.exp(0.7) * form.predict(x, truth(form)), rel=1e-12)


@EVERY
def test_a_law_needs_one_more_point_than_it_has_parameters(form):
    assert form.fewest_scales > len(form.parameters)
    assert len(form.levels) == len(form.centred) == len(form.axes)


def test_the_compute_optimal_exponent_is_that_of_the_closed_form():
    form = law("chinchilla")
    v = truth(form)
    a = next(d for d in form.derived if d.name == "a_opt").of(v)
    assert a == pytest.approx(0.28 / (0.34 + 0.28))
    best = []
    for compute in (1e12, 1e14):
        n = np.geomspace(1e-2, 1e2, 20001) * np.sqrt(compute)
        best.append(n[form.predict(np.stack([n, compute / n]), v).argmin()])
    assert np.log(best[1] / best[0]) / np.log(100) == pytest.approx(a, abs=1e-3)


def test_a_law_is_known_by_its_exact_name_only():
    with pytest.raises(FitError, match=r"no law 'powr'.*Did you mean 'power'"):
        law("powr")


def test_a_law_fits_no_worse_than_one_it_contains():
    for one in LAWS.values():
        assert one.floorless in ("", *one.contains)
        x = TWO[: len(one.axes)] if len(one.axes) < 3 else scales(one) / 1e6
        noise = np.exp(0.05 * np.random.default_rng(0).standard_normal(x.shape[1]))
        y = (0.1 + x[0] ** -0.5 + x[-1] ** -0.3) * noise
        for part in map(compared, one.contains):
            assert part.free < one.free
            whole, inner = (estimate(form, x, y).objective[0] for form in (one, part))
            assert whole <= inner * (1 + 1e-9)
