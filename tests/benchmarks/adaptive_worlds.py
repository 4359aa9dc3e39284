"""Simulated worlds for adaptive.py: laws with known noise and cost, many worlds at once, and designs that rival it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog
from scipy.special import ndtr, ndtri, stdtrit

from raysweep.adaptive import LEAST_ROUNDS, Seen, Slopes, choose, look, variance
from raysweep.laws.definition import Law
from raysweep.laws.forms import law as law_of

Array = npt.NDArray[np.float64]

PER_DECADE = 4
NOISE = 0.05  # standard deviation of log y between runs
VALUES = {"power": (3.0, 0.35), "power+floor": (0.1, 3.0, 0.35)}
_ROUNDS = 20
_RANDOM = 200  # random subsets


@dataclass(frozen=True)
class World:
    """A law over a grid of scales, and what runs cost there.

    Attributes:
        law: Its name; the truth is `VALUES`.
        decades: Of the grid, which starts at scale 1.
        power: Cost of a run as a power of the scale.
        growth: The noise's standard deviation as a power of the scale.
        bend: By how much the slope of log y changes in the middle of the grid.
    """

    law: str
    decades: int
    power: int
    growth: float = 0.0
    bend: float = 0.0

    @cached_property
    def u(self) -> Array:
        return np.log(10) * np.linspace(0, self.decades, PER_DECADE * self.decades + 1)

    @property
    def cost(self) -> Array:
        return np.asarray(np.exp(self.power * self.u))

    @property
    def sd(self) -> Array:
        return np.asarray(NOISE * np.exp(self.growth * (self.u - self.u.mean())))

    @property
    def form(self) -> Law:
        return law_of(self.law)

    @property
    def truth(self) -> Array:
        return np.array(VALUES[self.law])

    @property
    def alpha(self) -> int:
        return self.form.names.index("alpha")

    @property
    def log_y(self) -> Array:
        straight = self.form.evaluate(self.u[None], self.truth)[0]
        return np.asarray(straight - self.bend * 0.5 * np.log1p(np.exp((self.u - self.u[-1] / 2) / 0.5)))

    def slopes(self, values: Array) -> tuple[Array, Slopes]:
        """The law at parameters [..., parameters], and linearised there for alpha."""
        log, rows = self.form.evaluate(self.u[None], values)
        law = np.stack([np.broadcast_to(row, log.shape) for row in rows], axis=-1)
        target = np.zeros(values.shape)
        target[..., self.alpha] = 1.0
        return log, Slopes(law, target)

    def half(self, count: Array) -> float:
        """Half the interval of alpha by a design with known noise, looked at once."""
        _, slopes = self.slopes(self.truth[None])
        found = variance(slopes, count[None], self.sd[None] ** 2)[0]
        return float(stdtrit(max(count.sum() - len(self.truth), 1), 0.975) * np.sqrt(found))


def fitted(world: World, seen: Seen) -> Array:
    """Least squares in log y, [worlds, parameters]."""
    n, u = seen.count, world.u
    if world.law == "power":
        w = n / n.sum(-1, keepdims=True)
        mean_u, mean_y = (w * u).sum(-1, keepdims=True), (w * seen.mean).sum(-1, keepdims=True)
        slope = (w * (u - mean_u) * (seen.mean - mean_y)).sum(-1) / (w * (u - mean_u) ** 2).sum(-1)
        return np.stack([np.exp(mean_y[..., 0] - slope * mean_u[..., 0]), -slope], axis=-1)
    return _with_floor(world, seen)


def _with_floor(world: World, seen: Seen) -> Array:
    """E + A x^-alpha: a scan over alpha, then Levenberg and Marquardt's steps in (E, A, alpha)."""
    n, u, y = seen.count, world.u, np.exp(seen.mean)
    worlds, weight = len(n), n / y**2
    best, values = np.full(worlds, np.inf), np.zeros((worlds, 3))
    for alpha in np.linspace(0.05, 1.2, 24):
        z = np.exp(-alpha * u)
        one, first, second = weight.sum(-1), (weight * z).sum(-1), (weight * z * z).sum(-1)
        y_one, y_z = (weight * y).sum(-1), (weight * z * y).sum(-1)
        det = one * second - first**2
        floor = np.maximum((second * y_one - first * y_z) / det, 0.0)
        scale = np.maximum((y_z - floor * first) / second, 1e-9)
        lost = (weight * (y - floor[:, None] - scale[:, None] * z) ** 2).sum(-1)
        better = lost < best
        best = np.where(better, lost, best)
        values[better] = np.stack([floor, scale, np.full(worlds, alpha)], axis=-1)[better]

    def at(values: Array) -> tuple[Array, Array, Array]:
        log, slopes = world.slopes(values)
        rest = seen.mean - log
        return (n * rest**2).sum(-1), slopes.law, rest

    lost, rows, rest = at(values)
    damp = np.full(worlds, 1e-3)
    for _ in range(25):
        unit = np.stack([np.maximum(values[:, 0], 1e-3), values[:, 1], np.ones(worlds)], axis=-1)
        scaled = rows * unit[:, None, :]
        hess = np.einsum("wp,wpi,wpj->wij", n, scaled, scaled)
        hess = hess + damp[:, None, None] * np.eye(3) * np.diagonal(hess, axis1=1, axis2=2)[:, :, None]
        step = np.linalg.solve(hess + 1e-12 * np.eye(3), np.einsum("wp,wpi,wp->wi", n, scaled, rest)[..., None])
        new = np.clip(values + step[..., 0] * unit, [0.0, 1e-9, 0.01], [np.inf, np.inf, 3.0])
        lost_new, rows_new, rest_new = at(new)
        ok = lost_new < lost
        values, lost = np.where(ok[:, None], new, values), np.where(ok, lost_new, lost)
        rows, rest = np.where(ok[:, None, None], rows_new, rows), np.where(ok[:, None], rest_new, rest)
        damp = np.where(ok, damp / 5, damp * 5)
    return values


def measure(world: World, seen: Seen, add: Array, rng: np.random.Generator) -> Seen:
    """What was seen, with further runs: their mean and spread are drawn, not each run."""
    new = world.log_y + world.sd / np.sqrt(np.maximum(add, 1)) * rng.standard_normal(add.shape)
    spread = np.where(add > 1, 2 * world.sd**2 * rng.standard_gamma(np.maximum((add - 1) / 2, 1e-9)), 0.0)
    count, old = seen.count + add, seen.count > 0
    apart = np.where(old, new - seen.mean, 0.0)
    share = add / np.maximum(count, 1)
    mean = np.where(add > 0, np.where(old, seen.mean + apart * share, new), seen.mean)
    within = seen.within + np.where(add > 0, spread + apart**2 * seen.count * share, 0.0)
    return Seen(count, mean, within)


@dataclass
class Ended:
    """How sweeps that stop themselves ended, [worlds] each."""

    alpha: Array
    half: Array
    unseen: Array
    cost: Array
    rounds: Array
    bent: npt.NDArray[np.bool_]
    done: npt.NDArray[np.bool_]
    count: Array


def adaptive(world: World, goal: float, worlds: int, rng: np.random.Generator, seeds: float = 1e9) -> Ended:
    """Sweeps that stop themselves in many worlds, as `raysweep run` makes them: one coarse pass, then rounds.

    Args:
        goal: Wanted half width of alpha's interval.
        seeds: Runs that the grid has of each scale.
    """
    shape = (worlds, world.u.size)
    u, cost = np.broadcast_to(world.u, shape), np.broadcast_to(world.cost, shape)
    seen = measure(world, Seen(*(np.zeros(shape) for _ in range(3))), np.ones(shape), rng)
    done, bent, confirmed = np.zeros(worlds, bool), np.zeros(worlds, bool), np.zeros(worlds)
    alpha, half, unseen, rounds = (np.zeros(worlds) for _ in range(4))
    for number in range(1, _ROUNDS + 1):
        values = fitted(world, seen)
        log, slopes = world.slopes(values)
        one = look(
            u, slopes, seen, seen.residual(log), seeds - seen.count, cost, np.full(worlds, goal), number, confirmed
        )
        alpha, half = np.where(done, alpha, values[:, world.alpha]), np.where(done, half, one.half)
        unseen, rounds = np.where(done, unseen, one.bend.unseen), rounds + ~done
        bent |= ~done & one.bent
        confirmed += ~done & (one.half <= goal) & (number >= LEAST_ROUNDS)
        done |= one.reached | one.bent
        if done.all():
            break
        seen = measure(world, seen, np.where(done[:, None], 0.0, one.add), rng)
    total = (seen.count * world.cost).sum(-1)
    return Ended(alpha, half, unseen, total, rounds, bent, done, seen.count)


def seeds_for(world: World, goal: float, keep: Array | None = None) -> float:
    """How many seeds of every kept scale give an interval of this half width, with known noise."""
    count = np.ones(world.u.size) if keep is None else keep
    low, high = 0.1, 1e7
    for _ in range(80):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if world.half(middle * count) > goal else (low, middle)
    return float(high)


def goal_of(world: World, seeds: int) -> float:
    """The half width that the full grid reaches with this many seeds."""
    return world.half(np.full(world.u.size, float(seeds)))


def rivals(world: World, goal: float, rng: np.random.Generator) -> dict[str, float]:
    """What other designs cost up to the same width. They know law and noise, and look once."""
    ones, cost = np.ones(world.u.size), world.cost
    lower = ones.copy()
    lower[-2:] = 0.0
    found: dict[str, Any] = {
        "full grid": seeds_for(world, goal) * cost.sum(),
        "without two top scales": seeds_for(world, goal, lower) * (lower * cost).sum(),
        "random subset": np.mean([_random(world, goal, rng) for _ in range(_RANDOM)]),
        "V-optimal": _v_optimal(world, goal),
        "c-optimal, a bound": _c_optimal(world, goal),
        "oracle, one run of every scale": _oracle(world, goal),
    }
    return {name: float(value) for name, value in found.items()}


def _random(world: World, goal: float, rng: np.random.Generator) -> float:
    """Runs of the grid in a random order, until the interval is narrow enough."""
    most = int(4 * seeds_for(world, goal) * world.u.size)
    order = rng.integers(world.u.size, size=most)
    counts = np.cumsum(order[:, None] == np.arange(world.u.size), axis=0).astype(float)
    low, high = len(world.truth) + 2, most - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if world.half(counts[middle] + 1e-9) > goal else (low, middle)
    return float((counts[high] * world.cost).sum())


def _v_optimal(world: World, goal: float) -> float:
    """Least mean variance of log y over the grid per cost (multiplicative algorithm), up to the same interval."""
    rows = world.slopes(world.truth[None])[1].law[0]
    rows = rows / np.sqrt((rows**2).mean(0))
    mean = rows.T @ rows / len(rows)
    weight, per = np.full(len(rows), 1 / len(rows)), world.cost * world.sd**2
    for _ in range(4000):
        inverse = np.linalg.inv((rows * (weight / per)[:, None]).T @ rows)
        gain = np.einsum("pi,ij,pj->p", rows, inverse @ mean @ inverse, rows) / per
        weight = weight * np.sqrt(gain)
        weight /= weight.sum()
    count = weight / world.cost
    low, high = 1e-3, 1e12
    for _ in range(100):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if world.half(middle * count) > goal else (low, middle)
    return float(high * (count * world.cost).sum())


def _c_optimal(world: World, goal: float) -> float:
    """The least cost of any design (Elfving's theorem), by Student's t of infinitely many runs."""
    _, slopes = world.slopes(world.truth[None])
    rows, price = slopes.law[0], world.sd * np.sqrt(world.cost)
    found = linprog(
        np.tile(price, 2), A_eq=np.hstack([rows.T, -rows.T]), b_eq=slopes.target[0], bounds=(0, None), method="highs"
    )
    return float((found.fun * stdtrit(1e9, 0.975) / goal) ** 2)


def _oracle(world: World, goal: float) -> float:
    """One run of every scale, and the cheapest runs beside by who knows law and noise: a bound for what must see bends.

    The greedy choice; a convex program finds at most 1 % less for a power law, and 6 % with a floor.
    """
    _, slopes = world.slopes(world.truth[None])
    ones, plenty = np.ones((1, world.u.size)), np.full((1, world.u.size), 1e9)
    wanted = (goal / stdtrit(1e9, 0.975)) ** 2
    add = choose(slopes, world.sd[None] ** 2, ones, plenty, world.cost[None], np.array([wanted]), np.array([1e30]))
    return float(((1 + add[0]) * world.cost).sum())


def best_power(world: World, count: Array, level: float) -> Array:
    """Power of the best test (Neyman and Pearson) against the world's bend, by who knows its shape, [worlds].

    Args:
        count: Runs at each scale, [worlds, scales]; they are looked at once.
        level: Share of right laws that it rejects.
    """
    law = world.slopes(np.broadcast_to(world.truth, (len(count), world.truth.size)))[1].law
    term = world.log_y - world.form.evaluate(world.u[None], world.truth)[0]
    weight = count / world.sd**2
    bread = np.einsum("wp,wpi,wpj->wij", weight, law, law)
    fit = np.linalg.solve(bread, np.einsum("wp,p,wpi->wi", weight, term, law)[..., None])[..., 0]
    rest = term - np.einsum("wpi,wi->wp", law, fit)
    return np.asarray(ndtr(np.sqrt((weight * rest**2).sum(-1)) + ndtri(level)))
