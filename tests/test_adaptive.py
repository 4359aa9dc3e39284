"""Optimal designs against what linear programming gives, intervals and bends against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import t

from raysweep.adaptive import (
    BENT,
    STOPPING,
    Seen,
    Slopes,
    bend,
    choose,
    half_width,
    look,
    next_round,
    noise,
    variance,
)

U = np.log(10) * np.linspace(0, 3, 13)
LINE = np.stack([np.ones_like(U), -U], axis=-1)  # log y = log A - alpha u
CURVE = np.stack([np.exp(0.3 * U) / (1 + np.exp(0.3 * U)), *(LINE / (1 + np.exp(0.3 * U))[:, None]).T], axis=-1)
ALPHA = {2: np.array([0.0, 1.0]), 3: np.array([0.0, 0.0, 1.0])}
PLENTY = np.full(U.shape, 1e9)


def slopes(law: np.ndarray) -> Slopes:
    return Slopes(law, ALPHA[law.shape[-1]])


def sample(rng: np.random.Generator, worlds: int, count: np.ndarray, sd: np.ndarray, law: np.ndarray = 0 * U) -> Seen:
    """Runs of a world whose log y is `law` plus normal errors."""
    count = np.broadcast_to(count, (worlds, U.size)).astype(float)
    mean = law + sd / np.sqrt(count) * rng.standard_normal(count.shape)
    return Seen(count, mean, sd**2 * rng.chisquare(np.maximum(count - 1, 1e-9)) * (count > 1))


def line(seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    """Least squares: the exponents, [worlds], and mean log residuals, [worlds, points]."""
    bread = np.einsum("wp,pi,pj->wij", seen.count, LINE, LINE)
    values = np.linalg.solve(bread, np.einsum("wp,pi,wp->wi", seen.count, LINE, seen.mean)[..., None])[..., 0]
    return values[:, 1], seen.residual(values @ LINE.T)


@pytest.mark.parametrize("law", [LINE, CURVE], ids=["power", "power+floor"])
@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_choice_is_nearly_as_cheap_as_the_best_design(law: np.ndarray, power: float) -> None:
    cost, sd, wanted = np.exp(power * U), 0.05 * np.exp(-0.1 * U), 1e-6
    # Elfving: the least cost for variance v is (min sum |w| sd sqrt(cost))^2 / v over weights w, sum w law = target.
    price = sd * np.sqrt(cost)
    found = linprog(np.tile(price, 2), A_eq=np.hstack([law.T, -law.T]), b_eq=ALPHA[law.shape[1]], method="highs")
    best = found.fun**2 / wanted
    start = np.full(U.shape, 1e-3)  # next to nothing, but enough for a first variance
    add = choose(slopes(law), sd**2, start, PLENTY, cost, np.array(wanted), np.array(np.inf))
    assert variance(slopes(law), add + start, sd**2) <= wanted
    assert (add * cost).sum() <= 1.25 * best  # least squares that weigh all runs alike are not quite Elfving's


def test_the_variance_is_that_of_least_squares() -> None:
    rng, count, sd = np.random.default_rng(0), np.arange(1, 14.0), 0.05 * np.exp(0.2 * U)
    alpha, _ = line(sample(rng, 20_000, count, sd))
    assert np.std(alpha) == pytest.approx(np.sqrt(variance(slopes(LINE), count, sd**2)), rel=0.03)
    assert np.isinf(variance(slopes(LINE), np.eye(13)[0], sd**2))  # one scale has no slope


@pytest.mark.parametrize("growth", [0.0, 0.4], ids=["equal", "growing"])
def test_noise_is_found_where_it_is_equal_and_where_it_grows(growth: float) -> None:
    sd = 0.05 * np.exp(growth * (U - U[6]))
    seen = sample(np.random.default_rng(1), 300, np.full(13, 6), sd)
    found = noise(U, seen, line(seen)[1], 2)
    np.testing.assert_allclose(np.median(found, axis=0), sd**2, rtol=0.35)


def test_intervals_cover_in_a_design_of_few_large_and_many_small_runs() -> None:
    count = np.array([200, 1, 1, 1, 1, 60, 1, 1, 1, 1, 1, 1, 2])
    seen = sample(np.random.default_rng(2), 4000, count, np.full(13, 0.05))
    alpha, residual = line(seen)
    per_run = noise(U, seen, residual, 2)
    half = half_width(slopes(LINE), seen, per_run)
    assert 0.94 < np.mean(np.abs(alpha) <= half) < 0.98
    se = np.sqrt(variance(slopes(LINE), seen.count, per_run))
    np.testing.assert_allclose(half, STOPPING * t.ppf(0.975, count.sum() - 2) * se)


def test_a_bend_is_noticed_and_none_where_there_is_none() -> None:
    rng, count, sd = np.random.default_rng(3), np.full(13, 3), np.full(13, 0.05)

    def found(law: np.ndarray) -> np.ndarray:
        seen = sample(rng, 2000, count, sd, law)
        residual = line(seen)[1]
        return bend(U, slopes(LINE), seen, residual, noise(U, seen, residual, 2)).p

    none = found(0 * U)
    assert np.mean(none < 0.05) < 0.06  # the smaller of two, weighted: at most its level
    assert np.mean(none < 0.05) > 0.02
    assert np.mean(found(-0.02 * U**2) < 0.005) > 0.95
    one = Seen(np.full(13, 1.0), 0 * U, 0 * U)
    wave = bend(U, slopes(LINE), one, np.zeros(13), np.full(13, 1.0))
    assert wave.p == 1.0  # a perfect fit says nothing against a law


def test_rounding_errors_are_no_bend() -> None:
    seen = Seen(np.full(13, 2.0), LINE @ [1.0, 0.4], np.full(13, 1e-31))
    found = bend(U, slopes(LINE), seen, 1e-15 * np.sin(np.arange(13.0)), np.full(13, 1e-31))
    assert (float(found.p), float(found.unseen)) == (1.0, 0.0)


def test_what_a_bend_may_move_covers_what_it_moves() -> None:
    count = np.array([300, 1, 1, 1, 1, 100, 1, 1, 1, 1, 1, 1, 2])
    truth = -0.004 * U**2
    seen = sample(np.random.default_rng(4), 2000, count, np.full(13, 0.05), truth)
    alpha, residual = line(seen)
    per_run = noise(U, seen, residual, 2)
    whole = -np.polyfit(U, truth, 1)[0]  # what equally many runs at every scale give
    half = half_width(slopes(LINE), seen, per_run)
    assert np.mean(np.abs(alpha - whole) <= half) < 0.5
    assert np.mean(np.abs(alpha - whole) <= half + bend(U, slopes(LINE), seen, residual, per_run).unseen) > 0.95


def test_part_of_the_cost_goes_to_the_whole_grid() -> None:
    cost, sd, count = np.exp(U), np.full(13, 0.05), np.ones(13)
    for _ in range(8):
        add = next_round(slopes(LINE), sd**2, count, PLENTY, cost, np.array(1e-4))
        assert (add * cost).sum() <= 2 * (count * cost).sum()
        count = count + add
        assert count.min() * cost.sum() >= 0.3 * (count * cost).sum() * (1 - 1e-9)


def test_nothing_is_chosen_beyond_what_is_left_or_may_be_spent() -> None:
    cost, sd, left = np.exp(U), np.full(13, 0.05), np.arange(13.0)
    add = choose(slopes(LINE), sd**2, np.ones(13), left, cost, np.array(0.0), np.array(np.inf))
    assert (add <= left).all()
    assert add[-1] == left[-1]
    spend = 1.5 * cost[-1]
    few = choose(slopes(LINE), sd**2, np.ones(13), left, cost, np.array(0.0), np.array(spend))
    assert 0 < (few * cost).sum() <= spend


def test_a_sweep_stops_neither_too_early_nor_in_doubt() -> None:
    seen = sample(np.random.default_rng(5), 1, np.full(13, 4), np.full(13, 0.05))
    residual, cost = 0 * U[None], np.exp(U)  # a law that goes through all means
    at = (U, slopes(LINE), seen, residual, PLENTY, cost, np.array(0.1))
    assert look(*at, 3, np.zeros(1)).reached
    early = look(*at, 2, np.zeros(1))
    assert not early.reached
    assert 0 < (early.add * cost).sum() < (seen.count * cost).sum()
    sag = residual - 0.003 * (U - U.mean()) ** 2 + 0.003 * np.var(U)
    doubt = look(U, slopes(LINE), seen, sag, *at[4:], 3, np.zeros(1))
    assert BENT < doubt.bend.p < 0.17
    assert not doubt.reached
    np.testing.assert_array_equal(doubt.add[0], np.ones(13))  # a pass over the whole grid
    assert look(U, slopes(LINE), seen, sag, *at[4:], 3, np.full(1, 4.0)).reached
    one = Seen(np.ones((1, 13)), seen.mean, seen.within / 3)
    part = look(U, slopes(LINE), one, 2 * sag, PLENTY, np.exp(2 * U), np.array(0.1), 3, np.zeros(1))
    assert BENT < part.bend.p < 0.17
    np.testing.assert_array_equal(part.add[0], (U[-1] > U).astype(float))  # all but the largest: a third of the cost
    uneven = Seen(np.where(U[-1] > U, 2.0, 1.0)[None], seen.mean, seen.within / 2)
    part = look(U, slopes(LINE), uneven, 1.6 * sag, PLENTY, np.exp(2 * U), np.array(0.1), 3, np.zeros(1))
    assert BENT < part.bend.p < 0.17
    np.testing.assert_array_equal(part.add[0], (U[-1] == U).astype(float))  # where there are fewest, whatever it costs
