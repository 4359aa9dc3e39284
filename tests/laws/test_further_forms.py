"""Products of any number of scales, Kaplan's equation 1.5, the step of an accuracy, the valley of a loss."""

import numpy as np
import polars as pl
import pytest

from raysweep.errors import FitError
from raysweep.laws import fit
from raysweep.laws.refusal import RequestError

GRID = {n: g.ravel() for n, g in zip("abc", np.meshgrid([1, 10, 100, 1e3], [2, 8, 32], [1, 3, 9, 27]), strict=True)}


def noisy(y, size):
    return y * np.exp(size * np.random.default_rng(1).standard_normal(np.shape(y)))


def test_a_product_of_three_scales_is_its_regression_in_logs():
    y = noisy(0.3 * GRID["a"] ** -0.4 * GRID["b"] ** 0.25 * GRID["c"] ** -0.1, 0.05)
    found = fit(pl.DataFrame({**GRID, "y": y}), law="product", x=list("abc"), y="y", bootstrap=200).only
    logs = np.stack([np.ones(y.size), *(-np.log(GRID[n]) for n in "abc")], axis=1)
    beta, rest, *_ = np.linalg.lstsq(logs, np.log(y), rcond=None)
    error = np.sqrt(np.diag(np.linalg.inv(logs.T @ logs)) * rest / (y.size - 4))
    assert list(found.params.values()) == pytest.approx([np.exp(beta[0]), *beta[1:]], rel=1e-8)
    for i in (1, 2, 3):
        low, high = found.interval(f"alpha{i}")
        assert (high - low) / 2 == pytest.approx(2.015 * error[i], rel=0.25)
    assert found.law.formula == "y = A x1^-alpha1 x2^-alpha2 x3^-alpha3"
    own = fit(
        pl.DataFrame({**GRID, "y": y}), formula="A*a**-p*b**-q*c**-r", positive=["A"], x=list("abc"), y="y", bootstrap=0
    ).only
    assert list(own.params.values()) == pytest.approx(list(found.params.values()), rel=1e-6)
    for one, other in ((found, "product+floor"), (own, "product")):
        assert other in {rival.law for rival in one.rivals}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_product_with_a_floor_is_recovered_and_its_floor_is_missed_without(count):
    names, alphas = list("abc")[:count], [0.5, 0.2, 0.3][:count]
    y = 0.3 + 4 * np.prod([GRID[n] ** -alpha for n, alpha in zip(names, alphas, strict=True)], axis=0)
    frame = pl.DataFrame({**GRID, "y": noisy(y, 1e-4)})
    with_floor, without = (
        fit(frame, law=law, x=names, y="y", bootstrap=0, holdout=0).only for law in ("product+floor", "product")
    )
    assert list(with_floor.params.values()) == pytest.approx([0.3, 4, *alphas], rel=2e-3)
    assert "floor_needed" in without.notes


def test_scales_of_a_product_that_follow_each_other_are_refused():
    x = np.geomspace(1, 1e3, 8)
    frame = pl.DataFrame({"a": x, "b": 20 * x, "y": noisy(x**-0.3, 0.01)})
    with pytest.raises(FitError, match=r"These data do not determine .*alpha1, alpha2, which can change together"):
        fit(frame, law="product", x=["a", "b"], y="y")


def test_a_product_has_one_to_eight_scales():
    with pytest.raises(RequestError, match="x: must name 1 to 8 columns, but got 9"):
        fit(pl.DataFrame({"y": [1.0]}), law="product", x=list("abcdefghi"), y="y")


def test_a_valley_gives_its_optimum_with_an_interval():
    rate = np.repeat(np.geomspace(1e-4, 1e-1, 9), 3)
    y = noisy(2.5 * np.exp(0.03 * np.log(rate / 3e-3) ** 2), 0.01)
    found = fit(pl.DataFrame({"lr": rate, "y": y}), law="valley", x="lr", y="y", bootstrap=300).only
    # The vertex of an ordinary parabola in logs.
    b, a, c = np.polyfit(np.log(rate), np.log(y), 2)
    assert found.params == pytest.approx(
        {"k": b, "x_opt": np.exp(-a / 2 / b), "A": np.exp(c - a * a / 4 / b)}, rel=1e-6
    )
    low, high = found.interval("x_opt")
    assert low < 3e-3 < high < 1.5 * low
    assert "outside_scales" not in found.notes
    side = fit(pl.DataFrame({"lr": rate, "y": y}), law="valley", x="lr", y="y", where="lr < 0.002", bootstrap=0).only
    assert "outside_scales" in side.notes


def test_an_accuracy_rises_from_chance_to_a_ceiling():
    x = np.geomspace(10, 1e6, 20)
    y = 0.1 + 0.8 / (1 + (x / 3e3) ** -1.1)
    found = fit(pl.DataFrame({"x": x, "y": noisy(y, 0.01)}), law="sigmoid", x="x", y="y", bootstrap=300).only
    for name, value in {"C": 0.1, "T": 0.9, "d": 3e3, "k": 1.1}.items():
        low, high = found.interval(name)
        assert low < value < high < 1.6 * low


def test_kaplans_constants_are_derived():
    size, data = (g.ravel() for g in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e11, 5)))
    y = ((8.8e13 / size) ** (0.076 / 0.095) + 5.4e13 / data) ** 0.095
    found = fit(pl.DataFrame({"N": size, "D": data, "y": y}), law="kaplan1.5", x=["N", "D"], y="y", bootstrap=0).only
    assert [found.params[n] for n in ("alpha", "beta")] == pytest.approx([0.076, 0.095], rel=1e-6)
    assert [10 ** found.derived[n] for n in ("log10_Nc", "log10_Dc")] == pytest.approx([8.8e13, 5.4e13], rel=1e-4)
