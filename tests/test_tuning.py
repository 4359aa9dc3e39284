"""Candidates: where they lie, that they are the same in every process, and that they find an optimum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from raysweep.errors import SweepError
from raysweep.grid.axes import Axis
from raysweep.tuning import History, Point, Space, design, parse_space, propose, seed_of

AXES = {
    "lr": Axis("lr", float, "lane", 0.1, low=0.0),
    "decay": Axis("decay", float, "lane", 0.0),
    "batch": Axis("batch", int, "shape", 32, low=1),
    "optimiser": Axis("optimiser", str, "shape", "sgd", choices=("sgd", "adamw")),
}
LR, DECAY = {"log": [1e-3, 1.0]}, {"linear": [0.0, 1.0]}


def space(**spec: Any) -> Space:
    return parse_space(spec, AXES)


def bowl(point: Point) -> float:
    """Least at lr = 0.05, decay = 0.3; diverged at large rates."""
    lr, decay = point
    return math.inf if lr > 0.7 else math.log10(lr / 0.05) ** 2 + (decay - 0.3) ** 2


def rounds(tuned: Space, sampler: str, count: int, score: Callable[[Point], float] = bowl, seed: int = 1) -> History:
    history = [[(p, score(p)) for p in design(tuned, 16, seed)]]
    for _ in range(count - 1):
        history.append([(p, score(p)) for p in propose(tuned, sampler, 16, seed, history)])
    return history


def test_a_design_has_one_point_in_each_sixteenth_of_each_range() -> None:
    tuned = space(lr=LR, decay=DECAY)
    points = design(tuned, 16, seed=7)
    for i, dimension in enumerate(tuned):
        shares = [dimension.share(point[i]) for point in points]
        assert sorted(int(16 * share) for share in shares) == list(range(16))
    assert design(tuned, 8, seed=7) == points[:8]
    assert design(tuned, 16, seed=8) != points


def test_whole_numbers_and_choices_are_all_reached_and_none_twice() -> None:
    tuned = space(batch={"linear": [2, 5]}, optimiser=["sgd", "adamw"])
    every = design(tuned, 100, seed=0)
    assert sorted(every) == sorted((b, o) for b in range(2, 6) for o in ("sgd", "adamw"))
    tried = [[(p, 1.0) for p in every[:5]]]
    assert sorted(propose(tuned, "qmc", 16, 0, tried)) == sorted(every[5:])
    assert propose(tuned, "qmc", 16, 0, [[(p, 1.0) for p in every]]) == []
    low, high = (space(batch={"log": [1, 64]})[0].at(share) for share in (0.0, 0.999999))
    assert (low, high) == (1, 64)


@pytest.mark.parametrize("sampler", ["qmc", "tpe", "cmaes"])
def test_proposals_are_a_function_of_the_scores_in_any_order(sampler: str) -> None:
    if sampler != "qmc":
        pytest.importorskip("optuna" if sampler == "tpe" else "cmaes")
    tuned = space(lr=LR, decay=DECAY)
    first, *more = rounds(tuned, sampler, 2)
    found = propose(tuned, sampler, 16, 1, [first, *more])
    assert found == propose(tuned, sampler, 16, 1, [first[::-1], *more])
    assert found != propose(tuned, sampler, 16, 1, [first])
    assert propose(tuned, sampler, 16, 2, [first]) != propose(tuned, sampler, 16, 1, [first])
    assert len(set(found)) == 16
    assert all(1e-3 <= lr <= 1 and 0 <= decay <= 1 for lr, decay in found)
    assert {p for scored in [first, *more] for p, _ in scored}.isdisjoint(found)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_sampler_finds_the_optimum_better_than_the_design_does(sampler: str) -> None:
    pytest.importorskip("optuna" if sampler == "tpe" else "cmaes")
    tuned = space(lr=LR, decay=DECAY)
    mean = {
        name: sum(min(s for scored in rounds(tuned, name, 4, seed=seed) for _, s in scored) for seed in range(3)) / 3
        for name in (sampler, "qmc")
    }
    assert mean[sampler] < mean["qmc"] / 2
    assert mean[sampler] < 0.005


def test_tpe_tries_the_best_of_neighbouring_scales_first() -> None:
    pytest.importorskip("optuna")
    tuned = space(lr=LR, decay=DECAY)
    own, other = rounds(tuned, "qmc", 1), rounds(tuned, "qmc", 2, seed=5)
    best = min(other[0], key=lambda one: one[1])[0]
    assert propose(tuned, "tpe", 16, 1, own, [other])[0] == best  # later rounds of the neighbour are not known yet


def test_cmaes_starts_from_the_good_points_of_neighbouring_scales_and_handles_whole_numbers() -> None:
    pytest.importorskip("cmaes")
    tuned = space(batch={"log": [1, 1024]}, lr=LR)

    def score(point: Point) -> float:
        return math.log2(float(point[0]) / 64) ** 2 + math.log2(float(point[1]) / 0.05) ** 2

    history = rounds(tuned, "cmaes", 4, score)
    assert min(s for scored in history for _, s in scored) < 0.3
    assert all(type(point[0]) is int for scored in history for point, _ in scored)
    small = [[(p, score(p)) for p in design(tuned, 6, 1)]]
    near = [[(p, 100 * score(p)) for p in design(tuned, 64, 2)]]  # a scale with larger losses
    asked = {name: propose(tuned, "cmaes", 32, 1, small, others) for name, others in (("own", []), ("near", [near]))}
    mean = {name: sum(map(score, points)) / len(points) for name, points in asked.items()}
    assert mean["near"] < mean["own"] / 2


def test_cmaes_refuses_a_past_that_it_cannot_reproduce() -> None:
    pytest.importorskip("cmaes")
    tuned = space(lr=LR, decay=DECAY)
    first, second = rounds(tuned, "cmaes", 2)
    changed = [((0.5, 0.5), 1.0), *second[1:]]
    with pytest.raises(SweepError, match="must continue with the grid, Optuna and cmaes that it was begun with"):
        propose(tuned, "cmaes", 16, 1, [first, changed])


def test_seeds_are_the_same_in_every_process() -> None:
    assert seed_of("a", 1) == 296161867
    assert seed_of("a", 2) != seed_of("a", 1)
