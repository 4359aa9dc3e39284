"""The features experiment: gradient descent in its reduced form is that of the model, and both methods agree."""

from __future__ import annotations

import io
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
import torch

from raysweep.errors import SweepError
from raysweep.executors import make_executor
from raysweep.experiment import Context
from raysweep.experiments import features
from raysweep.experiments.features import EXPERIMENT
from raysweep.experiments.features_steps import Descent
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import from_mapping
from raysweep.sweep.current import cells
from raysweep.theory.features import flow, modes_of_width, power_law_modes

WIDTH, INPUTS, ETA, STEPS = 32, 256, 0.05, 3000
SEEDS, MODES = 400, 8


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
    for metric, tolerance in (("loss", 0.01), ("rho", 0.03), ("sharpness", 0.02), ("unreachable", 0)):
        exact, steps = (
            table.filter(pa.compute.equal(table["method"], name))[metric].to_numpy() for name in ("exact", "steps")
        )
        np.testing.assert_allclose(steps, exact, rtol=tolerance, err_msg=metric)
    loss, plateau, above = (table[name].to_numpy() for name in ("loss", "unreachable", "reducible"))
    np.testing.assert_allclose(above, loss - plateau, rtol=1e-12)
    assert (plateau > 0).all()
    done = table.filter(pa.compute.equal(table["method"], "steps"))
    share = done["flops"].to_numpy() / done["t"].to_numpy()
    np.testing.assert_allclose(share, share[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        ({}, "the exact flow without a width is the theory itself"),
        ({"width": 2048, "gamma": 1}, "the theory of a rich or noisy width, the mean of random models, ends at 1,024"),
        ({"width": 2048, "batch": 8}, "the theory of a rich or noisy width"),
        ({"method": "steps", "n_train": 9, "gamma": 1}, "a data set that is used again has a theory without a width"),
        ({"method": "steps", "n_train": 9, "width": 8}, "a data set that is used again has a theory without a width"),
    ],
)
def test_what_has_no_theory_says_why(grid: dict[str, Any], reason: str) -> None:
    cell = from_mapping({"name": "f", "experiment": "features", "grid": {**grid, "t": 10}}).runs.row(0)
    (found,) = EXPERIMENT.theory(pa.Table.from_pylist([{**cell, "t": 10.0}]), {"loss"}).to_pylist()
    assert found["loss"] is None
    assert found["reason"].startswith(reason)


def test_the_theory_of_a_lazy_width_has_its_inputs(tmp_path: Any) -> None:
    """Where they are few, the model reaches most of the target."""
    table = rows({"width": 16, "inputs": 20, "t": 100, "seed": {"range": 24}}, Store(str(tmp_path / "s")))
    loss, expected = table["loss"].to_numpy(), EXPERIMENT.theory(table, {"loss"})["loss"][0].as_py()
    assert loss.mean() == pytest.approx(expected, abs=4 * loss.std(ddof=1) / np.sqrt(24))


def test_the_theory_of_a_rich_width_is_the_mean_of_other_models(tmp_path: Any) -> None:
    grid = {"width": 24, "gamma": 1, "t": [3, 100], "seed": {"range": 12}}
    table = rows(grid, Store(str(tmp_path / "s"))).sort_by([("seed", "ascending"), ("t", "ascending")])
    loss = table["loss"].to_numpy().reshape(12, 2)
    expected = EXPERIMENT.theory(table, {"loss"})["loss"].to_numpy()[:2]
    assert (np.abs(loss.mean(0) - expected) < 4 * loss.std(0, ddof=1) * np.sqrt(1 / 12 + 1 / 4)).all()
    assert not np.isclose(loss[:4].mean(0), expected, rtol=1e-4).any()


def test_a_data_set_has_its_theory(tmp_path: Any) -> None:
    fixed = {"method": "steps", "inputs": 128, "n_train": 48, "eta": 0.2, "t": [10, 100], "seed": {"range": 12}}
    table = rows(fixed, Store(str(tmp_path / "fixed")))
    expected = EXPERIMENT.theory(table, {"loss"})
    ratio = np.log(table["loss"].to_numpy() / expected["loss"].to_numpy())
    assert abs(ratio.mean()) < 4 * ratio.std(ddof=1) / np.sqrt(len(ratio) / 2) + 0.03


@pytest.mark.parametrize(("alpha", "batch"), [(1.5, 8), (2, 2)])
def test_the_noise_of_minibatches_is_the_theory_s(alpha: float, batch: int, tmp_path: Any) -> None:
    """Within 10 % in the mean over 24 seeds, at losses of up to four times that of gradient flow."""
    grid = {"method": "steps", "inputs": 200, "alpha": alpha, "beta": 2.5, "batch": batch, "eta": 0.1}
    table = rows({**grid, "t": [30, 100, 300], "seed": {"range": 24}}, Store(str(tmp_path / "noisy")))
    expected = EXPERIMENT.theory(table, {"loss"})["loss"]
    (alone,) = flow([power_law_modes(alpha, 2.5, 200, 200)], 0.0, [30, 100, 300]).loss
    for t, still in zip((30, 100, 300), alone, strict=True):
        now = pa.compute.equal(table["t"], t)
        theory = expected.filter(now)[0].as_py()
        assert np.mean(table["loss"].filter(now).to_numpy()) == pytest.approx(theory, rel=0.1)
        assert theory > (1.2 if t < 300 else 3) * still
    exact = rows({**grid, "method": "exact", "t": [30, 100, 300]}, Store(str(tmp_path / "exact"))).sort_by("t")
    np.testing.assert_allclose(exact["loss"].to_numpy(), np.sort(np.unique(expected.to_numpy()))[::-1], rtol=1e-9)


def test_the_step_size_is_refused_from_the_edge_of_stability_on() -> None:
    grid = {"method": "steps", "alpha": 2, "beta": 0.75, "gamma": 2, "t": [10, 100]}
    growth = 1 + 2 * flow([power_law_modes(2, 0.75)], 2.0, [100]).rho[0, 0]
    below, beyond = (
        from_mapping({"name": "f", "experiment": "features", "grid": {**grid, "eta": eta / growth}})
        for eta in (1.98, 2.02)
    )
    assert below.runs.cells == 2
    with pytest.raises(SweepError, match=r"eta \(1 \+ gamma rho\) must stay below 2 up to t = 100, but got .*=2\.02\)"):
        beyond.runs  # noqa: B018


def test_what_a_run_costs() -> None:
    """Drawing a width and its eigenvectors once, and two products with B in every step."""

    def flops(**axes: Any) -> float:
        runs = from_mapping({"name": "f", "experiment": "features", "grid": axes}).runs
        return EXPERIMENT.cost(runs.row(0), runs.observed[0], None).flops

    steps = {"method": "steps", "inputs": 100, "eta": 0.1}
    assert flops(**steps, t=[1, 50]) == 500 * 6 * 100**2
    drawn = flops(**{**steps, "inputs": 400}, width=100, t=50) - flops(**steps, t=50)
    assert drawn == 2 * 100**2 * 400 + 9 * 100**3
    exact = [flops(width=width, inputs=400) for width in (100, 200)]
    assert exact[1] - exact[0] > 2 * (200**2 - 100**2) * 400 + 9 * (200**3 - 100**3)


def isotropic(batch: int, items: int) -> Descent:
    """Lanes of seeds, of features of variance 1, whose target they have but for a part of variance 1."""
    ones = torch.ones(SEEDS, MODES, dtype=torch.float64)
    one = torch.ones(SEEDS, dtype=torch.float64)
    return Descent(ones, ones, one, torch.zeros_like(one), 0.1, torch.arange(SEEDS), batch, items)


def test_what_a_width_does_not_reach_is_noise_to_minibatches_and_data_sets() -> None:
    """Least squares on P items in n dimensions: n / (P - n - 1). Batches of B: the mean of |c - theta|^2 at rest."""
    fresh, fixed = isotropic(4, 0), isotropic(0, 40)
    exact = MODES / (40 - MODES - 1), 0.1 * MODES / 4 / (2 - 0.1 * (4 + MODES + 1) / 4)
    for stack, expected in zip((fixed, fresh), exact, strict=True):
        excess = stack.at(50.0)[0] - 1
        assert excess.mean() == pytest.approx(expected, abs=4 * excess.std() / np.sqrt(SEEDS))
        assert 4 * excess.std() / np.sqrt(SEEDS) < 0.15 * expected


@pytest.mark.parametrize("items", [6, 40])
def test_descent_on_a_data_set_moves_by_the_modes_that_its_items_show(items: int) -> None:
    """What the model lacks of the target is a part of what the items ask for."""
    x = torch.arange(1, 13, dtype=torch.float64)[None] ** -1.5
    lacks, gamma = (torch.tensor([v], dtype=torch.float64) for v in (0.5, 1.0))
    stack = Descent(x, torch.ones_like(x), lacks, gamma, 0.01, torch.tensor([3]), 0, items)
    found = [stack.at(t)[1][0] for t in (1.0, 10.0)]
    np.testing.assert_allclose(found, flow([stack.seen(0)], 1.0, [1, 10]).rho[0], rtol=0.02)


def test_a_time_between_two_steps_is_on_the_line_through_them() -> None:
    at = [isotropic(0, 40).at(t)[i] for i in (0, 1) for t in (0.2, 0.225, 0.3)]
    for before, between, after in (at[:3], at[3:]):
        np.testing.assert_allclose(between, 0.75 * before + 0.25 * after, rtol=1e-12)
        assert (np.abs(after - before) > 1e-3).all()


def test_steps_follow_the_flow_to_the_edge_of_stability_and_stay_there() -> None:
    """Where eta (1 + gamma rho) reaches 2, rho stops at 2 / eta - 1 and the loss no longer falls with the flow's."""
    modes = power_law_modes(2, 0.5, 200, 200)
    etas, times = (0.1, 0.2, 0.4, 0.8), (10, 30, 100, 300)
    known = flow([modes], 1.0, times)

    def tensor(values: Any) -> torch.Tensor:
        return torch.as_tensor(np.array([values]), dtype=torch.float64)

    for eta in etas:
        one = Descent(tensor(modes.x), tensor(np.sqrt(modes.mass / modes.x)), tensor(0.0), tensor(1.0), eta,
                      torch.zeros(1, dtype=torch.int64))  # fmt: skip
        found = np.array([one.at(t) for t in times])[..., 0]
        follows = eta * (1 + known.rho[0]) < 2
        assert follows.tolist() == {0.1: [1, 1, 1, 1], 0.2: [1, 1, 1, 1], 0.4: [1, 1, 1, 0], 0.8: [1, 0, 0, 0]}[eta]
        np.testing.assert_allclose(found[follows, 0], known.loss[0, follows], rtol=0.01 if eta < 0.8 else 0.03)
        np.testing.assert_array_less(1.1 * known.loss[0, ~follows], found[~follows, 0])
        if not follows[-1]:
            assert eta * (1 + found[-1, 1]) == pytest.approx(2, rel=0.3)


@pytest.mark.parametrize(
    "grid",
    [
        {"alpha": 1.01, "width": [1, 4], "eta": 0.9, "seed": {"range": 4}},  # the largest eigenvalue is not 1
        {"alpha": 1.01, "width": 4, "gamma": 1, "eta": 0.8, "t": [1, 3], "seed": {"range": 4}},
        {"inputs": 50, "n_train": [1, 4], "eta": 0.9},
        {"inputs": 50, "n_train": 2, "gamma": 1, "eta": 0.7, "t": [1, 5], "seed": {"range": 3}},
        {"inputs": 50, "batch": 1, "alpha": 1.1, "eta": 0.8},  # the noise of minibatches grows
    ],
)
def test_steps_that_leave_the_flow_are_diverged_and_a_step_that_is_small_enough_is_named(
    grid: dict[str, Any], tmp_path: Any
) -> None:
    grid = {"method": "steps", "t": [1, 100], **grid}
    sweep = from_mapping({"name": "f", "experiment": "features", "grid": grid})
    store = Store(str(tmp_path / "large"))
    run(sweep, store, make_executor("inline"), stream=io.StringIO)
    table = cells(store)[0]
    good = table.filter(pa.compute.equal(table["status"], "ok"))
    assert all(value < 2 for value in good["sharpness"].to_pylist())
    assert all(value < 2 for value in good["loss"].to_pylist())
    left = [row for row in table.to_pylist() if row["status"] == "diverged"]
    assert left
    assert all(row["loss"] is None and f"eta={grid['eta']:g}, sharpness=" in row["error"] for row in left)
    small = min(float(row["error"].rpartition("<= ")[2]) for row in left)
    assert small < grid["eta"]
    followed = rows({**grid, "eta": small}, Store(str(tmp_path / "small")))
    assert max(followed["loss"].to_pylist()) < 2
    assert max(followed["sharpness"].to_pylist()) < 1.5


def test_sharpness_is_that_of_the_items_in_a_data_set(tmp_path: Any) -> None:
    """Of one item it is eta |phi|^2, at which the first step of its own error is 1 - sharpness."""
    grid = {"method": "steps", "inputs": 8, "alpha": 1.5, "n_train": 1, "eta": 0.1, "t": 0.1, "seed": {"range": 30}}
    table = rows(grid, Store(str(tmp_path / "s")))
    trace = (np.arange(1, 9.0) ** -1.5).sum()  # the mean of |phi|^2
    spread = np.sqrt(2 * (np.arange(1, 9.0) ** -3).sum() / 30)
    assert np.mean(table["sharpness"].to_numpy()) / 0.1 == pytest.approx(trace, abs=4 * spread)
    assert max(table["sharpness"].to_pylist()) > 0.2


def test_random_targets_with_features_have_no_theory() -> None:
    grid = {"target": "random", "gamma": [0, 1], "t": 10}
    cell = pa.Table.from_pylist([from_mapping({"name": "f", "experiment": "features", "grid": grid}).runs.row(i)
                                 for i in range(2)])  # fmt: skip
    found = EXPERIMENT.theory(cell.append_column("t", pa.array([10.0, 10.0])), {"loss"})
    assert found["loss"].to_pylist()[0] == pytest.approx(power_loss(10.0), rel=1e-6)
    assert found.to_pylist()[1] == {"loss": None, "reason": "the mean loss over random targets has a theory at gamma = "
                                    "0 only"}  # fmt: skip


def power_loss(t: float) -> float:
    modes = power_law_modes(1.5, 0.5)
    return float((modes.mass * np.exp(-2 * modes.x * t)).sum())


def test_noisy_lanes_are_integrated_a_few_at_a_time_and_a_noise_that_grows_is_named() -> None:
    grid = {"beta": [0.5, 1, 1.5, 2, 2.5], "batch": 1, "eta": 50, "t": [1e-3, 1]}
    sweep = from_mapping({"name": "f", "experiment": "features", "grid": grid})
    sizes: list[int] = []
    with (
        patch("raysweep.theory.features._HELD", 800),
        patch.object(features, "flow", lambda modes, *given: sizes.append(len(modes)) or flow(modes, *given)),
    ):
        found = [batch.to_pylist() for batch in EXPERIMENT.run(sweep.runs, Context())]
    assert sizes == [2, 2, 1]
    assert [row["status"] for row in found[0]] == ["ok", "diverged"]
    assert "the noise of 1 items a step grows at eta = 50" in found[0][1]["error"]


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
        ({"method": "steps", "gamma": 10, "eta": 0.5}, r"grid\.eta: .* must stay below 2 .* Take eta <= 0\.047"),
        ({"method": "steps", "n_train": 10, "batch": 4}, r"grid\.n_train: .* Set one of them to 0"),
        ({"method": "exact", "n_train": 10}, r"grid\.n_train: a data set must be used by method: steps"),
        ({"method": "steps", "t": 0.049}, r"grid\.t: must be a step at least"),
        ({"method": "steps", "target": "random"}, r"grid\.target: a random one must be learned by method: exact"),
        ({"width": 100, "inputs": 50}, r"grid\.inputs: must be at least the width"),
        ({"eta": [0.1, 0.2]}, r"grid\.eta: must have one value where it has no effect, as the exact flow"),
        ({"seed": [0, 1]}, r"grid\.seed: .*nothing is drawn.* but got \(seed=0 and 1\)"),
        ({"method": "steps", "seed": [0, 1]}, r"grid\.seed: .*nothing is drawn"),
    ],
)
def test_what_has_no_meaning_is_refused(grid: dict[str, Any], message: str) -> None:
    sweep = from_mapping({"name": "f", "experiment": "features", "grid": grid})
    with pytest.raises(SweepError, match=message):
        EXPERIMENT.check(sweep.runs, None, 0)
