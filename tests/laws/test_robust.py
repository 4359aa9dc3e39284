"""Laws fitted by Huber's loss are compared by it: its likelihood, and an F test of its losses."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad

from raysweep.laws import law, robust
from raysweep.laws.choice import evidence

R = 0.02 * np.random.default_rng(0).standard_normal(40)
W = np.ones(40)
X = np.repeat(np.geomspace(1e6, 1e9, 8), 3)


def test_a_delta_beyond_every_residual_is_least_squares() -> None:
    squares = float((R**2).sum())
    assert robust.loss(R, W, 1.0) == pytest.approx(squares)
    assert robust.noise(R, W, 1.0) == pytest.approx(squares)
    assert robust.deviance(R, W, 1.0) == pytest.approx(40 * (np.log(2 * np.pi * squares / 40) + 1), rel=1e-8)


def test_the_deviance_is_that_of_a_density_at_its_best_scale() -> None:
    delta = 0.01

    def minus(scale: float) -> float:
        def rho(r: float) -> float:
            return 0.5 * r**2 if abs(r) <= delta else delta * (abs(r) - delta / 2)

        area = sum(quad(lambda r: np.exp(-rho(r) / scale**2), *ends)[0] for ends in ((0, delta), (delta, np.inf)))
        return 2 * sum(rho(r) / scale**2 + np.log(2 * area) for r in R)

    each = [minus(scale) for scale in np.geomspace(0.005, 0.05, 60)]
    assert robust.deviance(R, W, delta) == pytest.approx(min(each), abs=0.05)
    assert robust.deviance(R, W, delta) <= min(each) + 1e-6


def worlds(floor: float) -> list[np.ndarray]:
    """A power with or without a floor, and one measurement in twelve that is far too high."""
    rng, out = np.random.default_rng(1), []
    for _ in range(30):
        noise = 0.02 * rng.standard_normal(X.size)
        noise[rng.choice(X.size, 2, replace=False)] += 0.5
        out.append((floor + 5 * (X / 1e6) ** -0.3) * np.exp(noise))
    return out


@pytest.mark.parametrize("huber", [1e-3, 0.03])
def test_a_floor_is_seen_despite_outliers_and_not_where_there_is_none(huber: float) -> None:
    form = replace(law("power"), rivals=("power+floor",))

    def p_values(floor: float, loss: float | None) -> np.ndarray:
        tables = (evidence(form, X[None], y, None, 0, loss) for y in worlds(floor))
        return np.array([next(e.p_value for e in table if e.law == "power+floor") for table in tables])

    assert np.mean(p_values(0.4, huber) < 0.001) > 0.9
    assert np.mean(p_values(0.4, None) < 0.001) < 0.3  # least squares: hidden by the outliers
    assert np.mean(p_values(0.0, huber) < 0.05) < 0.15
