"""Searches that save work end where those that save nothing end: merged points, shared starts, known optima."""

from __future__ import annotations

import numpy as np
import pytest

from raysweep.laws import estimate as estimates
from raysweep.laws.estimate import estimate, solve
from raysweep.laws.forms import law
from raysweep.laws.merged import merged, spread
from raysweep.laws.polish import Optima, Problems, polish

N = np.geomspace(10, 1e6, 300)


def kaplan(noise: float, points: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Log scales, [1, axes, points], and log measurements, [1, points], of .5 + 3 (n^-.3 + 2 d^-.4)^.8."""
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(0, 8, points)), np.exp(rng.uniform(0, 8, points))
    y = (0.5 + 3 * (n**-0.3 + 2 * d**-0.4) ** 0.8) * np.exp(noise * rng.standard_normal(points))
    return np.log(np.stack([n, d]))[None], np.log(y)[None]


def test_points_at_equal_scales_are_their_weighted_mean() -> None:
    u = np.log(np.array([[2.0, 2.0, 2.0, 8.0, 8.0, 8.0]]))
    t, w = np.array([1.0, 2.0, 9.0, 4.0, 5.0, 6.0]), np.array([[1.0, 3.0, 0.0, 1.0, 1.0, 2.0], [0.0] * 3 + [1, 1, 2]])
    scales, means, weights = merged(u, t, w)
    assert scales.ravel() == pytest.approx(np.log([2, 8]))
    assert means == pytest.approx([7 / 4, 21 / 4])
    assert weights == pytest.approx(np.array([[4, 4], [0, 4]]))
    both = np.concatenate([u, u[:, ::-1]])  # of two scales, only equal points
    assert merged(both, t, w)[0] == pytest.approx(np.log([[2, 8], [8, 2]]))


def test_what_cannot_be_merged_is_left() -> None:
    u, t = np.linspace(0, 1, 50)[None], np.zeros(50)
    assert merged(u, t, np.ones((1, 50))) is None  # all far apart
    same = np.zeros((1, 50))
    assert merged(same, t, np.ones((1, 50))) is not None
    assert merged(same, t, np.random.default_rng(0).uniform(1, 2, (2, 50))) is None  # a mean for each weighting


@pytest.mark.parametrize(("name", "share"), [("power+floor", 1), ("shifted", 100)])
def test_many_points_have_the_estimate_of_a_search_of_all(
    name: str, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.repeat(np.geomspace(10, 1e6, 24_000 // share), share)
    y = (0.3 + 4 * (x + 20) ** -0.4) * np.exp(0.02 * np.random.default_rng(0).standard_normal(x.size))
    weights = np.stack([np.ones(x.size), x < 1e5])
    ours = estimate(law(name), x, y, weights)
    monkeypatch.setattr(estimates, "_MANY", x.size)
    plain = estimate(law(name), x, y, weights)
    np.testing.assert_allclose(ours.objective, plain.objective, rtol=1e-10)
    np.testing.assert_allclose(ours.values, plain.values, rtol=1e-4)


def test_under_hubers_loss_a_share_of_many_points_leads_to_the_estimate_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.permutation(np.geomspace(10, 1e6, 6_000))
    y = (0.3 + 4 * (x + 20) ** -0.4) * np.exp(0.02 * rng.standard_t(2, x.size))
    weights = np.stack([np.ones(x.size), x < 1e5])
    plain = estimate(law("shifted"), x, y, weights, huber=1e-2)
    monkeypatch.setattr(estimates, "_MANY", 500)
    ours = estimate(law("shifted"), x, y, weights, huber=1e-2)
    np.testing.assert_allclose(ours.objective, plain.objective, rtol=1e-10)
    np.testing.assert_allclose(ours.values, plain.values, rtol=1e-4)


def test_a_share_of_points_spreads_over_their_scales() -> None:
    x = np.tile(np.arange(1.0, 11.0), 100)  # in the given order, every 10th has the same scale
    u, t, w = spread(np.log(x)[None], np.arange(1000.0), np.ones((1, 1000)), 100)
    np.testing.assert_array_equal(np.unique(np.round(np.exp(u[0])), return_counts=True)[1], 10)
    assert (t.size, w.shape) == (100, (1, 100))
    assert spread(np.log(x)[None], x, (x < 2)[None].astype(float), 100) is None  # a weighting loses nearly all


@pytest.mark.parametrize(("huber", "points"), [(None, 120), (1e-2, 120), (1e-3, 500)])
def test_draws_that_share_their_points_have_the_optima_of_each_alone(huber: float | None, points: int) -> None:
    u, t = kaplan(0.02, points)
    w = np.random.default_rng(1).multinomial(points, np.full(points, 1 / points), size=8).astype(float)
    whole = solve(law("kaplan"), u, t, np.ones((1, points)), huber).values
    warm = solve(law("kaplan"), u, t, w, huber, np.broadcast_to(whole, (8, 6)))
    cold = solve(law("kaplan"), u, t, w, huber, known=warm.values)
    alone = [solve(law("kaplan"), u, t, row[None], huber).objective[0] for row in w]
    np.testing.assert_allclose(solve(law("kaplan"), u, t, w, huber).objective, alone, rtol=1e-6)
    np.testing.assert_allclose(np.minimum(warm.objective, cold.objective), alone, rtol=1e-6)


@pytest.mark.parametrize("huber", [None, 1e-2])
def test_a_search_stops_at_a_known_optimum_and_at_nothing_else(huber: float | None) -> None:
    form, (u, t) = law("kaplan"), kaplan(0.02)
    w = np.ones((1, 120))
    best = solve(form, u, t, w, huber)
    again = solve(form, u, t, w, huber, known=best.values)
    assert best.objective[0] * (1 - 1e-9) <= again.objective[0] <= best.objective[0] * (1 + 0.02 / 120)
    worse = best.values * [1.0, 1.1, 1.0, 1.0, 1.0, 1.0]  # no optimum, and not lower
    found = solve(form, u, t, w, huber, known=worse)
    assert found.objective[0] == pytest.approx(best.objective[0], rel=1e-6)


def test_a_known_optimum_saves_steps_and_one_elsewhere_saves_none() -> None:
    form = law("power+floor")
    u, t = np.log(N)[None, None], np.log(0.3 + 4 * N**-0.4)[None]
    t = t + 0.02 * np.random.default_rng(0).standard_normal(t.shape)
    problem = Problems(form, u, t, np.ones((1, N.size)))
    start = problem.encode(np.array([[0.2, 2.0, 0.3]]))
    optimum, cost, _ = polish(problem, start)
    known = Optima.of(problem, problem.decode(optimum))
    near, early, stopped = polish(problem, start, known=known)
    assert stopped.all()
    assert cost < early <= cost * (1 + 0.01 / N.size)  # within a hundredth of a point's share
    assert not np.array_equal(near, optimum)
    far = Optima(known.q + 1, known.cost / 2, known.matrix, known.points)
    np.testing.assert_array_equal(polish(problem, start, known=far)[0], optimum)
