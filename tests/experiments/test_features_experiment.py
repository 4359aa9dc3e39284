"""The features experiment: gradient descent in its reduced form is that of the model, and both methods agree."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raysweep.errors import SweepError
from raysweep.executors import make_executor
from raysweep.experiments.features import EXPERIMENT
from raysweep.experiments.features_steps import Descent
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import from_mapping
from raysweep.sweep.current import cells
from raysweep.theory.features import modes_of_width

WIDTH, INPUTS, ETA, STEPS = 32, 256, 0.05, 3000


def model(form: str, gamma: float) -> dict[int, float]:
    """The loss at some steps of the model as it is written, with A trained or with B."""
    y = np.random.default_rng(3).standard_normal((WIDTH, INPUTS))
    k = np.arange(1, INPUTS + 1, dtype=float)
    spectrum = k**-1.5
    mass = k**-0.75 - (k + 1) ** -0.75
    target = np.sqrt(mass / mass.sum() / spectrum)
    projection = y.T @ y / WIDTH
    w, a, b, seen = np.zeros(WIDTH), y.copy(), np.eye(WIDTH), {}
    for step in range(STEPS + 1):
        features = a if form == "A" else b @ y
        error = target - features.T @ w / WIDTH
        if step in (1, 100, STEPS):
            seen[step] = float(spectrum @ error**2)
        g = spectrum * error
        move = ETA * features @ g
        if form == "A":
            a += ETA * gamma * np.outer(w, g @ projection)
        else:
            b += ETA * gamma / WIDTH * np.outer(w, y @ g)
        w = w + move
    return seen


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_both_forms_of_the_model_and_its_reduction_are_one(gamma: float) -> None:
    a, b = model("A", gamma), model("B", gamma)
    (modes,) = modes_of_width(1.5, [0.5], WIDTH, INPUTS, np.random.default_rng(3))

    def tensor(values: Any) -> torch.Tensor:
        return torch.as_tensor(np.array([values]), dtype=torch.float64)

    c = np.sqrt(modes.mass / modes.x)
    zeros = torch.zeros(1, dtype=torch.int64)
    stack = Descent(tensor(modes.x), tensor(c), tensor(modes.unreachable), tensor(gamma), ETA, zeros)
    for step in a:
        assert a[step] == pytest.approx(b[step], rel=1e-12)
        loss, _ = stack.at(step * ETA)
        assert loss[0] == pytest.approx(a[step], rel=1e-9)


def rows(grid: dict[str, Any], store: Store) -> pa.Table:
    sweep = from_mapping({"name": "f", "experiment": "features", "grid": grid})
    assert run(sweep, store, make_executor("inline"), stream=io.StringIO).counts.ok == sweep.runs.cells
    return cells(store)[0]


def test_steps_follow_the_exact_flow(tmp_path: Any) -> None:
    grid = {
        "method": ["exact", "steps"],
        "width": 24,
        "beta": [0.5, 1.5],
        "gamma": [0, 1],
        "eta": 0.01,
        "t": [1, 10, 30],
    }
    table = rows({**grid, "seed": 3}, Store(str(tmp_path / "s"))).sort_by(
        [(n, "ascending") for n in ("beta", "gamma", "t")]
    )
    exact, steps = (
        table.filter(pa.compute.equal(table["method"], name))["loss"].to_numpy() for name in ("exact", "steps")
    )
    np.testing.assert_allclose(steps, exact, rtol=0.01)


def test_a_data_set_and_minibatches_have_their_theory(tmp_path: Any) -> None:
    fixed = {"method": "steps", "inputs": 128, "n_train": 48, "eta": 0.2, "t": [10, 100], "seed": {"range": 12}}
    table = rows(fixed, Store(str(tmp_path / "fixed")))
    expected = EXPERIMENT.theory(table, {"loss"})
    ratio = np.log(table["loss"].to_numpy() / expected["loss"].to_numpy())
    assert abs(ratio.mean()) < 4 * ratio.std(ddof=1) / np.sqrt(len(ratio) / 2) + 0.03
    noisy = {
        "method": "steps",
        "inputs": 64,
        "batch": 8,
        "beta": 2.5,
        "eta": 0.1,
        "t": [30, 100],
        "seed": {"range": 16},
    }
    table = rows(noisy, Store(str(tmp_path / "noisy")))
    expected = EXPERIMENT.theory(table, {"loss"})
    ratio = table["loss"].to_numpy() / expected["loss"].to_numpy()
    assert 0.75 < ratio.mean() < 1.25


def test_random_targets_are_drawn_by_the_seed_alone_and_have_the_power_law_as_their_theory(tmp_path: Any) -> None:
    grid = {"alpha": 2, "target": "random", "gamma": [0, 1e-9], "seed": {"range": 40}, "t": [100, 3000]}
    table = rows(grid, Store(str(tmp_path / "s"))).sort_by([(n, "ascending") for n in ("gamma", "seed", "t")])
    loss = table["loss"].to_numpy().reshape(2, 40, 2)
    np.testing.assert_allclose(loss[0], loss[1], rtol=1e-4)  # the same targets, integrated without richness
    expected = EXPERIMENT.theory(table, {"loss"})["loss"].to_numpy()[:2]
    ratio = loss[0] / expected
    assert (np.abs(ratio.mean(0) - 1) < 4 * ratio.std(0) / np.sqrt(40)).all()
    assert (ratio.std(0) > 0.01).all()
    assert ratio[:, 1].std() < ratio[:, 0].std()  # later modes are more


def test_an_axis_that_came_later_changes_neither_keys_nor_the_theory_of_older_stores() -> None:
    grid = {"alpha": 2, "gamma": 1, "seed": 3, "t": [1, 10]}
    for target in ({}, {"target": "power"}):
        sweep = from_mapping({"name": "f", "experiment": "features", "grid": {**grid, **target}})
        assert sweep.runs.key(0) == "33078e9e8bd05cc62670"
    names = [axis.name for axis in EXPERIMENT.axes if axis.name not in ("seed", "target", "t")]
    row = sweep.runs.row(0)
    older = pa.Table.from_pylist([{**{n: row[n] for n in names}, "width": 8, "t": t} for t in (1.0, 10.0)])
    newer = older.append_column("target", pa.array(["power"] * 2))
    assert EXPERIMENT.theory(older, {"loss"}).equals(EXPERIMENT.theory(newer, {"loss"}))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"method": "steps", "gamma": 10, "beta": 0.5, "eta": 0.5}, r"eta: the step size must keep .* below 2"),
        ({"method": "steps", "n_train": 10, "batch": 4}, "n_train and batch"),
        ({"method": "exact", "n_train": 10}, "n_train: a data set takes method: steps"),
        ({"method": "steps", "t": 0.01}, "t: must be a step at least"),
        ({"method": "steps", "target": "random"}, "target: a random one takes method: exact"),
        ({"width": 100, "inputs": 50}, "inputs: a model of width 100"),
    ],
)
def test_what_has_no_meaning_is_refused(grid: dict[str, Any], message: str) -> None:
    sweep = from_mapping({"name": "f", "experiment": "features", "grid": grid})
    with pytest.raises(SweepError, match=message):
        EXPERIMENT.check(sweep.runs, None, 0)
