"""Draws of very many points are those of all their points, from sums over runs and cells."""

import numpy as np
import pytest

from raysweep.laws import law
from raysweep.laws.binned import UNITS, binned
from raysweep.laws.bootstrap import bootstrap
from raysweep.laws.fitting import fit_groups
from raysweep.laws.group import Data
from raysweep.laws.request import Options

FLOOR, TRUTH = law("power+floor"), np.array([1.7, 1.7 * 1e6**0.35, 0.35])


def world(points: int, runs: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(np.log(1e6), np.log(1e9), points))
    noise, run = 0.02 * rng.standard_normal(points), None
    if runs:
        run = rng.integers(0, runs, points)
        noise += 0.01 * rng.standard_normal(runs)[run]
    return x, FLOOR.predict(x, TRUTH) * np.exp(noise), run


@pytest.mark.parametrize(("runs", "huber"), [(0, None), (60, None), (10, None), (0, 0.01)])
def test_intervals_from_sums_are_those_from_points(runs: int, huber: float | None) -> None:
    x, y, run = world(1500, runs)
    plain = bootstrap(FLOOR, x, y, run, draws=400, huber=huber)
    ours = binned(FLOOR, x[None], y, np.ones(x.size), plain.values, run, 400, 1, huber)
    assert ours.kind == plain.kind
    assert ours.runs == (min(UNITS, x.size) if run is None else runs)
    if huber is None:
        assert ours.spread == pytest.approx(plain.spread, rel=0.03)
    for one, other in zip(ours.interval(), plain.interval(), strict=True):
        assert np.ptp(one) == pytest.approx(np.ptp(other), rel=0.25)
        assert one.mean() == pytest.approx(other.mean(), abs=0.2 * np.ptp(other))


def test_joint_laws_and_weights_are_binned_alike() -> None:
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform([[18], [20]], [[23], [25]], (2, 1500)))
    form, values = law("chinchilla"), np.array([1.7, 400.0, 410.0, 0.34, 0.28])
    w = rng.uniform(0.5, 2, 1500)
    y = form.predict(x, values) * np.exp(0.01 * rng.standard_normal(1500) / np.sqrt(w))
    plain = bootstrap(form, x, y, weights=w, draws=300)
    ours = binned(form, x, y, w, plain.values, None, 300, 1)
    size = np.ptp(plain.interval(), axis=1)
    assert np.ptp(ours.interval(), axis=1) == pytest.approx(size, rel=0.25)


@pytest.mark.parametrize(
    ("runs", "units"), [(0, "1,000 random batches"), (2000, "1,000 random batches"), (50, "50 cl")]
)
def test_beyond_20_000_distinct_scales_there_is_an_interval(runs: int, units: str) -> None:
    x, y, run = world(20_500, runs)
    (found,) = fit_groups(FLOOR, [Data(x[None], y, run)], ["n"], "y", Options(draws=100, holdout=0))
    assert f"draws are of {units}" in found.details["binned_draws"]
    low, high = found.interval("alpha")
    assert low < 0.35 < high
    assert high - low < 0.03
