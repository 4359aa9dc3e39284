"""Errors of measurement in x flatten a law that takes x as exact; stated, they no longer do."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from raysweep.errors import FitError
from raysweep.laws import fit, law
from raysweep.laws.fitting import fit_groups
from raysweep.laws.group import Data, GroupFit
from raysweep.laws.inexact import slopes
from raysweep.laws.request import Options

POWER = np.array([3.0, 0.4])


def measured(points: int, of_x: float, of_y: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x with errors of `of_x` in logs, and 3 x^-.4 of the true x, with errors of `of_y`."""
    rng = np.random.default_rng(seed)
    true = np.geomspace(1e2, 1e6, points)
    x = true * np.exp(of_x * rng.standard_normal(points))
    return x, law("power").predict(true, POWER) * np.exp(of_y * rng.standard_normal(points))


def fitted(x: np.ndarray, y: np.ndarray, se: np.ndarray | None, draws: int = 0) -> GroupFit:
    data = Data(x[None], y, x_se=None if se is None else se[None])
    return fit_groups(law("power"), [data], ["x"], "y", Options(draws=draws, holdout=0))[0]


def test_a_power_law_has_the_slope_of_known_error_variance() -> None:
    """Fuller 1987, section 1.2: the slope is Sxy / (Sxx - error variance), Sxx and Sxy with n - 1 in place of n - 2."""
    x, y = measured(400, 1.0, 0.2)
    found = fitted(x, y, x)  # standard error x: 1 in logs
    u, t = np.log(x), np.log(y)
    covariance = np.cov(u, t)
    corrected = -covariance[0, 1] / (covariance[0, 0] - 1.0)
    assert found.params["alpha"] == pytest.approx(corrected, rel=2e-3)  # their degrees of freedom differ
    assert abs(found.params["alpha"] - 0.4) < 0.3 * abs(fitted(x, y, None).params["alpha"] - 0.4)
    assert found.window == ((x.min(), x.max()),)  # as measured, not as moved
    assert "with x as exact" in found.details["errors_in_x"]


def test_exact_x_changes_nothing() -> None:
    x, y = measured(20, 0.0, 0.1)
    exact, plain = fitted(x, y, np.zeros(20), draws=100), fitted(x, y, None, draws=100)
    assert exact.params == pytest.approx(plain.params, rel=1e-6)
    np.testing.assert_allclose(list(exact.intervals.values()), list(plain.intervals.values()), rtol=1e-4)


def test_intervals_cover_where_exact_ones_do_not() -> None:
    covered = []
    worlds = [measured(40, 1.0, 0.05, seed) for seed in range(60)]
    for with_errors in (True, False):
        data = [Data(x[None], y, x_se=x[None] if with_errors else None) for x, y in worlds]
        found = fit_groups(law("power"), data, ["x"], "y", Options(draws=100, holdout=0))
        ends = np.array([one.interval("alpha") for one in found])
        covered.append(((ends[:, 0] <= 0.4) & (ends[:, 1] >= 0.4)).mean())
    ours, plain = covered
    assert ours > 0.85
    assert plain < 0.7


def test_slopes_are_derivatives_in_each_log_scale() -> None:
    u = np.log(np.array([[10.0, 100.0], [5.0, 50.0]]))
    values = np.array([0.0, 2.0, 3.0, 0.5, 0.25])
    a, b = 2 * np.exp(-0.5 * u[0]), 3 * np.exp(-0.25 * u[1])
    expected = np.stack([-0.5 * a, -0.25 * b]) / (a + b)
    np.testing.assert_allclose(slopes(law("chinchilla"), u, values), expected, rtol=1e-6)


def test_errors_that_the_residuals_contradict_are_noted() -> None:
    x, y = measured(30, 0.0, 0.02)
    assert "x_errors_too_large" in fitted(x, y, 0.5 * x).notes
    assert "x_errors_too_large" not in fitted(*measured(30, 0.5, 0.02), 0.5 * x).notes


def test_a_table_names_the_errors_of_each_scale() -> None:
    x, y = measured(40, 0.5, 0.05)
    frame = pl.DataFrame({"x": x, "y": y, "sx": 0.5 * x, "zero": 0.0, "group": [0, 1] * 20})
    both = fit(frame, "power", x="x", y="y", x_se="sx", by="group", bootstrap=100)
    assert all("errors_in_x" in group.notes for group in both)
    json.dumps(both.to_json(), allow_nan=False)
    missing = frame.with_columns(sx=pl.when(pl.col("x") > 1e3).then("sx"))
    assert fit(missing, "power", x="x", y="y", x_se="sx", bootstrap=0).only.n_points == (x > 1e3).sum()
    with pytest.raises(FitError, match="one that is exact"):
        fit(frame, "power", x="x", y="y", x_se=["sx", "zero"])
    with pytest.raises(FitError, match="must be finite and >= 0"):
        fit(frame.with_columns(-pl.col("sx")), "power", x="x", y="y", x_se="sx")
    with pytest.raises(FitError, match="no column 'nowhere'"):
        fit(frame, "power", x="x", y="y", x_se="nowhere")
