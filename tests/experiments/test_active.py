"""Active learning: each strategy's scores, greedy centres, which items are labelled next, and a bound that holds."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from raysweep.errors import SweepError
from raysweep.executors import make_executor
from raysweep.experiments.active import STRATEGIES
from raysweep.experiments.active_rounds import _centres, _score, next_items
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import Sweep, from_mapping
from raysweep.sweep.current import cells

GRID: dict[str, Any] = {
    "strategy": list(STRATEGIES),
    "initial": 8,
    "query": 8,
    "ensemble": 3,
    "labelled": [8, 16, 40],
    "steps": 40,
    "batch": 16,
    "width": 8,
    "lr": 0.01,
    "pool": 256,
    "eval_items": 512,
    "precision": "float64",
}


def sweep(**changed: Any) -> Sweep:
    world = {"kind": "gaussian", "dim": 2, "classes": 3, "separation": 3.0}
    return from_mapping(
        {"name": "a", "experiment": "active_learning", "world": world, "grid": {**GRID, **changed}}, "a.yaml", []
    )


def test_scores_are_the_formulas_of_their_papers() -> None:
    generator = torch.Generator().manual_seed(0)
    log_q = torch.log_softmax(torch.randn(4, 9, 3, generator=generator, dtype=torch.float64), -1)
    log_r = torch.log_softmax(torch.randn(9, 3, generator=generator, dtype=torch.float64), -1)
    q, r = log_q.exp().numpy(), log_r.exp().numpy()
    entropy = lambda p: -(p * np.log(p)).sum(-1)  # noqa: E731
    expected = {
        "entropy": entropy(q[0]),
        "margin": -np.diff(np.sort(q[0], -1)[:, -2:])[:, 0],
        "bald": entropy(q.mean(0)) - entropy(q).mean(0),
        "epistemic": (r * np.log(r / q[0])).sum(-1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(_score(name, log_q, log_r).numpy(), values, rtol=1e-12)
    assert (_score("bald", log_q[:1].expand(3, -1, -1), log_r).abs() < 1e-12).all()  # no disagreement


def test_centres_are_in_turn_the_farthest_from_all_before() -> None:
    features = torch.tensor([[0.0], [1.0], [10.0], [6.0], [9.9]], dtype=torch.float64)
    value = _centres(features, torch.tensor([0]), 3)
    assert value.argsort(descending=True)[:3].tolist() == [2, 3, 1]  # 10; then 6, 4 away from 10; then 1
    everything = _centres(features, torch.tensor([0, 1]), 99)
    assert everything.argsort(descending=True)[:3].tolist() == [2, 3, 4]


def test_the_best_unlabelled_items_follow_and_ties_go_by_the_runs_order() -> None:
    value = torch.tensor([[5.0, 1.0, 4.0, 3.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    order = torch.tensor([[0, 1, 2, 3], [3, 1, 0, 2]])
    owner = np.array([0, 1, 1])
    chosen = order[owner].clone()
    new = next_items(value, chosen, 1, 2, order, owner)
    assert new[0, :3].tolist() == [0, 2, 3]
    assert new[1, :3].tolist() == new[2, :3].tolist() == [3, 1, 0]
    assert chosen[0].tolist() == [0, 1, 2, 3]  # the old one stays


def measured(tmp_path: Any, **changed: Any) -> pl.DataFrame:
    store = Store(str(tmp_path))
    run(sweep(**changed), store, make_executor("inline"))
    return pl.DataFrame(cells(store)[0])


def test_strategies_differ_where_they_must_and_share_the_first_round(tmp_path: Any) -> None:
    frame = measured(tmp_path / "s", seed={"range": 3})
    assert set(frame["status"]) == {"ok"}
    pivot = {
        (row["strategy"], row["labelled"], row["seed"]): row
        for row in frame.select("strategy", "labelled", "seed", "epistemic", "labelled_entropy").to_dicts()
    }
    for seed in range(3):
        first = {pivot[s, 8, seed]["epistemic"] for s in STRATEGIES}
        assert len({round(value, 9) for value in first}) == 1  # one model each, and the same first items
    entropy = lambda s: np.mean([pivot[s, 40, seed]["labelled_entropy"] for seed in range(3)])  # noqa: E731
    assert entropy("aleatoric") > 1.3 * entropy("random")  # the most ambiguous items are labelled
    assert entropy("aleatoric") >= max(entropy(s) for s in STRATEGIES)
    assert frame.filter(labelled=40)["epistemic"].mean() < frame.filter(labelled=8)["epistemic"].mean()


def test_rounds_that_nobody_asks_for_are_trained_all_the_same(tmp_path: Any) -> None:
    whole = measured(tmp_path / "whole", strategy=["entropy", "bald"])
    last = measured(tmp_path / "last", strategy=["entropy", "bald"], labelled=40)
    expected = whole.filter(labelled=40).sort("strategy")["epistemic"].to_list()
    assert last.sort("strategy")["epistemic"].to_list() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labelled": [8, 20]}, r"labelled: must be initial \+ query x rounds.*labelled=20, initial=8, query=8"),
        ({"labelled": 4}, r"labelled=4, initial=8"),
        ({"bmd_points": 5}, r"bmd_points: must be 0, or even and at least 4, but got \(bmd_points=5\)"),
        ({"labelled": 264}, r"`labelled <= pool` must hold.*labelled=264, pool=256"),
    ],
)
def test_numbers_that_no_round_has_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(SweepError, match=message):
        _ = sweep(**changed).runs


def test_the_mean_dimension_is_that_of_each_runs_first_model(tmp_path: Any) -> None:
    """On two inputs it can be enumerated: strategies share the first round's model, and with it its dimension."""
    asked = {"strategy": ["random", "bald"], "labelled": [8, 16], "activation": "tanh", "bmd_points": 40}
    store = Store(str(tmp_path))
    assert run(sweep(**asked), store, make_executor("inline"), stream=io.StringIO).counts.ok == 4
    found = pl.DataFrame(cells(store)[0]).sort("labelled", "strategy")
    values, errors = found["bmd"].to_list(), found["bmd_se"].to_list()
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert all(1 - 4 * error < value < 2 + 4 * error for value, error in zip(values, errors, strict=True))
