"""Random features of digits: every output is a least-squares fit, and mean dimensions are those of all outputs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from raysweep.errors import SweepError
from raysweep.experiment import Context
from raysweep.experiments.bmd import EXPERIMENT
from raysweep.experiments.bmd_check import CLASSES, MOST_ITEMS
from raysweep.experiments.digit_features import digits
from raysweep.metrics.mean_dimension import mean_dimension
from raysweep.sweep import from_mapping

RIDGES = np.array([1e-3, 0.1])


def test_outputs_are_fits_to_each_class_and_metrics_pool_them() -> None:
    one = digits(3, "tanh", 40, 60, 4000, 100)
    labels = one.labels(0.2)
    weights, _ = one.fit(labels, RIDGES)
    found = one.metrics(labels, weights)
    phi, tests = (
        np.tanh(x @ one.features.draws.rows.T / 8) / np.sqrt(40) for x in (one.features.draws.items, one.tests)
    )
    for i, ridge in enumerate(RIDGES):
        w = np.linalg.solve(phi.T @ phi + ridge * np.eye(40), phi.T @ np.eye(CLASSES)[labels])
        np.testing.assert_allclose(weights[:, i], w, rtol=1e-6, atol=1e-8)
        assert found["test_error"][i] == np.mean((tests @ w).argmax(1) != one.test_classes)
        assert found["train_error"][i] == np.mean((phi @ w).argmax(1) != labels)
        assert found["mse"][i] == pytest.approx(np.mean((tests @ w - np.eye(CLASSES)[one.test_classes]) ** 2), rel=1e-4)
        assert found["train_mse"][i] == pytest.approx(np.mean((phi @ w - np.eye(CLASSES)[labels]) ** 2), rel=1e-4)
        assert found["norm"][i] == pytest.approx(np.linalg.norm(w), rel=1e-6)

        model = torch.nn.Sequential(torch.nn.Linear(64, 40), torch.nn.Tanh(), torch.nn.Linear(40, CLASSES)).double()
        values = (one.features.draws.rows / 8, np.zeros(40), w.T, np.zeros(CLASSES))
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.data = torch.as_tensor(value.copy())
        flips = mean_dimension(model.eval(), 64, points=100, variance_points=4000)
        assert found["bmd"][i] == pytest.approx(
            float(flips.value), abs=5 * np.hypot(float(flips.error), found["bmd_se"][i])
        )
        assert found["bmd_formula"][i] == pytest.approx(found["bmd"][i], rel=0.1)
    assert (found["bmd_marginal"] > 1).all()
    assert not np.allclose(found["bmd_marginal"], found["bmd"], rtol=0.02)


def test_images_of_a_seed_are_prefixes_and_apart_from_those_for_testing() -> None:
    small, large = digits(0, "tanh", 4, 30, 100, 2), digits(0, "tanh", 4, MOST_ITEMS, 100, 2)
    np.testing.assert_array_equal(small.features.draws.items, large.features.draws.items[:30])
    assert len(small.classes) == 30
    assert len(small.tests) == 397
    both = np.concatenate([large.features.draws.items, large.tests])
    assert len(np.unique(both, axis=0)) > 1790  # of 1,797
    assert (np.abs(both) <= 1).all()
    changed = large.labels(0.2) != large.classes
    assert changed.mean() == pytest.approx(0.18, abs=4 * np.sqrt(0.18 * 0.82 / MOST_ITEMS))
    assert not np.array_equal(small.tests, digits(1, "tanh", 4, 30, 100, 2).tests)


def test_digits_have_their_own_sizes_and_no_theory() -> None:
    grid = {"teacher": "digits", "dim": 64, "width": 8, "n_train": 12, "test_items": 100, "flip_items": 4}
    runs = from_mapping({"name": "t", "experiment": "bmd", "grid": {**grid, "ridge": [0.0, 1.0]}}).runs
    EXPERIMENT.check(runs, None, 0.0)
    rows = pa.Table.from_batches(EXPERIMENT.run(runs, Context())).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "ok"]
    (expected, _) = EXPERIMENT.theory(
        pa.Table.from_pylist([{**runs.row(0), "ridge": r} for r in (0.0, 1.0)]), {"bmd"}
    ).to_pylist()
    assert expected["bmd"] is None
    assert expected["reason"] == "the theory has random inputs and a teacher, not images"
    for wrong, message in (
        ({"dim": 100}, "teacher: digits have 64 pixels, and 1,400 of them are for training, but got dim=100"),
        ({"n_train": 1401}, "but got dim=64 and n_train=1401"),
        ({"loss": "logistic"}, "the logistic loss takes teacher: sign"),
        ({"target_noise": 1}, "target_noise: real labels have it under teacher: linear"),
    ):
        bad = from_mapping({"name": "t", "experiment": "bmd", "grid": {**grid, **wrong}})
        with pytest.raises(SweepError, match=message):
            EXPERIMENT.check(bad.runs, None, 0.0)
