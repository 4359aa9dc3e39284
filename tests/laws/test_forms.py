"""A law is a sum of amplitudes times multiplicative basis functions, and its slope is its derivative."""

import numpy as np
import pytest

from raysweep.errors import FitError
from raysweep.laws import LAWS, law

U = np.linspace(-2.0, 3.0, 7)


def exponents(form):
    return np.linspace(0.3, 0.9, len(form.exponents))


def test_power_is_amplitude_times_a_negative_power():
    x = np.array([1.0, 4.0, 9.0])
    assert law("power").predict(x, np.array([3.0, 0.5])) == pytest.approx(3.0 / np.sqrt(x), rel=1e-15)


def test_power_with_floor_tends_to_its_floor():
    x = np.array([1.0, 4.0, 1e300])
    assert law("power+floor").predict(x, np.array([0.2, 3.0, 0.5])) == pytest.approx([3.2, 1.7, 0.2], rel=1e-15)


@pytest.mark.parametrize("form", LAWS.values(), ids=LAWS)
def test_basis_of_a_sum_of_logs_is_the_product_of_bases(form):
    product = form.basis(U, exponents(form)) * form.basis(np.array([1.7]), exponents(form))
    assert form.basis(U + 1.7, exponents(form)) == pytest.approx(product, rel=1e-13)


@pytest.mark.parametrize("form", LAWS.values(), ids=LAWS)
def test_slope_is_the_derivative_of_the_basis_in_each_exponent(form):
    slope = form.slope(U, exponents(form))
    for j, nudge in enumerate(1e-6 * np.eye(len(form.exponents))):
        central = (form.basis(U, exponents(form) + nudge) - form.basis(U, exponents(form) - nudge)) / 2e-6
        assert slope[..., j] == pytest.approx(central, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("form", LAWS.values(), ids=LAWS)
def test_many_parameter_vectors_predict_as_each_alone(form):
    many = np.random.default_rng(0).uniform(0.1, 1.0, (5, len(form.parameters)))
    alone = np.stack([form.predict(np.exp(U), values) for values in many])
    assert np.array_equal(form.predict(np.exp(U), many), alone)


@pytest.mark.parametrize("form", LAWS.values(), ids=LAWS)
def test_a_law_needs_one_more_scale_than_it_has_parameters(form):
    assert form.fewest_scales == len(form.parameters) + 1


def test_a_law_is_known_by_its_exact_name_only():
    with pytest.raises(FitError, match=r"no law 'powr'.*Did you mean 'power'"):
        law("powr")
