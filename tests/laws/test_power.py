"""What the silence of a test of a law's form is worth: its power, against simulated data sets with such a bend."""

from __future__ import annotations

import numpy as np
import pytest

from raysweep.laws import law
from raysweep.laws.definition import Array
from raysweep.laws.deviation import departure
from raysweep.laws.fitting import fit_groups
from raysweep.laws.group import Data
from raysweep.laws.power import noticed
from raysweep.laws.predicted import predicted
from raysweep.laws.remains import Remains, remains
from raysweep.laws.request import Options

FLOOR, VALUES, SIGMA = law("power+floor"), np.array([1.7, 1.7 * 1e6**0.35, 0.35]), 0.01


def typical(u: Array) -> Remains:
    """Residuals whose estimate of the noise is SIGMA."""
    some = remains(u, np.random.default_rng(0).standard_normal(u.shape[1]), np.ones(u.shape[1]))
    slopes = np.stack(FLOOR.evaluate(u, VALUES)[1], axis=1)
    left = some.residual - slopes @ np.linalg.lstsq(slopes, some.residual, rcond=None)[0]
    return Remains(some.u, SIGMA * left / np.sqrt(left @ left / (left.size - 3)), some.weight, 0.0, 0)


@pytest.mark.parametrize("move", [0.1, 0.3])
def test_a_test_that_knows_the_bend_notices_it_as_often_as_is_said(move: float) -> None:
    """Whole data sets: a parabola that moves the least-squares prediction by `move`, and its t test."""
    x, far = np.geomspace(1e6, 1e9, 10)[None], np.array([[1e10]])
    u, ahead = np.log(x), np.log(far)
    said = noticed(FLOOR, VALUES, typical(u), far, np.array([move]), 0.025)[0]
    slopes, beyond = (np.stack(FLOOR.evaluate(at, VALUES)[1], axis=1) for at in (u, ahead))
    curve, there = ((at[0] - u.mean()) ** 2 for at in (u, ahead))
    followed = np.linalg.lstsq(slopes, curve, rcond=None)[0]
    size = move / (there - beyond @ followed).item()
    worlds = size * curve + SIGMA * np.random.default_rng(1).standard_normal((20_000, u.size))
    design = np.column_stack([slopes, curve])
    design /= np.linalg.norm(design, axis=0)
    coefficients, squares = np.linalg.lstsq(design, worlds.T, rcond=None)[:2]
    error = np.sqrt(squares / (u.size - 4) * np.linalg.inv(design.T @ design)[-1, -1])
    critical = 2.968687  # two-sided 2.5 % of Student's t with 6 degrees of freedom
    assert (np.abs(coefficients[-1]) / error > critical).mean() == pytest.approx(said, abs=0.012)
    assert said > 0.025


def test_the_test_that_is_made_notices_no_more() -> None:
    u = np.log(np.geomspace(1e6, 1e9, 10))[None]
    curve = (u[0] - u.mean()) ** 2
    slopes = np.stack(FLOOR.evaluate(u, VALUES)[1], axis=1)
    hat = slopes @ np.linalg.pinv(slopes)
    far, size = np.array([[1e10]]), 0.01
    beyond = np.stack(FLOOR.evaluate(np.log(far), VALUES)[1], axis=1)
    move = size * ((np.log(1e10) - u.mean()) ** 2 - (beyond @ np.linalg.pinv(slopes) @ curve).item())
    said = noticed(FLOOR, VALUES, typical(u), far, np.array([move]), 0.025)[0]
    rng, fired = np.random.default_rng(2), 0
    for _ in range(150):
        y = size * curve + SIGMA * rng.standard_normal(curve.size)
        p_value = departure(FLOOR, VALUES, remains(u, y - hat @ y, np.ones(curve.size)))
        fired += p_value is not None and p_value < 0.025
    assert 0.3 < said < 0.95
    assert said - 0.35 < fired / 150 < said + 0.08  # two standard errors


def test_a_prediction_says_it_beyond_the_data_alone_and_more_runs_raise_it() -> None:
    shares = []
    for seeds in (1, 20):
        x = np.tile(np.geomspace(1e6, 1e9, 10), seeds)[None]
        y = FLOOR.predict(x, VALUES) * np.exp(SIGMA * np.random.default_rng(3).standard_normal(x.size))
        (group,) = fit_groups(FLOOR, [Data(x, y)], ["n"], "loss", Options(draws=100))
        assert "extrapolation_untrusted" not in group.notes
        far, near = predicted(group, [{"n": 1e10}, {"n": 1e8}])
        assert (near.noticed, near.to_json()["noticed"]) == (None, None)
        assert far.noticed == far.to_json()["noticed"]
        assert far.own is not None
        assert far.noticed is not None
        move = np.array([np.log(far.own[1] / far.own[0]) / 2])
        assert group.left is not None
        values = np.array(list(group.params.values()))
        assert far.noticed == pytest.approx(noticed(FLOOR, values, group.left, np.array([[1e10]]), move, 0.025)[0])
        shares.append(noticed(FLOOR, values, group.left, np.array([[1e10]]), np.array([0.1]), 0.025)[0])
    assert shares[1] > shares[0] + 0.2
