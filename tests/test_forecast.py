"""What is predicted of a task before training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raysweep.errors import FitError, PackError, SweepError
from raysweep.forecast import forecast, kernel_bytes
from raysweep.models.mean_field import MeanField
from raysweep.models.ntk import ntk
from raysweep.task import Task, task_of
from raysweep.theory.exponents import compute_optimal
from raysweep.theory.kernel_limit import data_plateau


def test_the_known_difficulty_of_a_target_on_the_circle_is_found():
    made = forecast(task_of("circle:0.5"), width=256, items=600, seeds=2, train=500)
    assert made.window == (5, 30)
    assert made.beta.low < 0.5 < made.beta.high
    assert made.beta.value == pytest.approx(0.5, abs=0.15)
    for rich, factor in ((False, 1.0), (True, 2 / (1 + made.beta.value))):
        value, low, high = made.exponent(rich)
        assert low < value < high
        assert value == pytest.approx(made.beta.value * factor)
    # The lazy curve is that of the modes, and the rich one lies below it.
    wanted = made.modes.mass @ np.exp(-2 * np.outer(made.modes.x, made.times))
    np.testing.assert_allclose(made.lazy, wanted, rtol=1e-3)
    assert (made.rich < made.lazy).all()
    assert (np.diff(made.rich) < 0).all()
    low, high = (made.spectrum.values[k - 1] for k in made.window)
    assert made.measured_to == pytest.approx(made.first / high / 2)
    # Items that are used again end at a floor, and make no difference before it.
    assert made.reused is not None
    assert made.reused[0] == pytest.approx(made.lazy[0], rel=0.02)
    assert made.reused[-1] == pytest.approx(data_plateau(made.modes, 500), rel=0.05)
    # Within a decade in which the curve is nearly a power law, its slope lies between the local ones at the ends.
    t = made.times / made.first
    local = -np.diff(np.log(made.lazy)) / np.diff(np.log(t))
    assert local[8:12].min() < made.slope(made.lazy, t[8], t[12]) < local[8:12].max()
    assert made.slope(made.lazy, t[0] / 2, t[5]) is None
    record = made.to_json()
    assert record["verdict"] == made.verdict
    assert record["curves"]["t"] == pytest.approx((made.times / made.first).tolist())
    x, y = compute_optimal(made.alpha.value, made.beta.value, rich=True)
    assert record["compute_optimal"]["rich"] == {"loss": x, "width": y}


def test_steep_targets_and_noise_are_never_said_to_gain_from_features():
    """At beta = 4 nearly all power beyond the first modes has leaked there; its slope is below 1."""
    for seed in (0, 1):
        steep = forecast(task_of("circle:4", seed), width=64, items=400, seed=seed)
        assert steep.checked.hidden
        assert steep.checked.parts[1] < 0.8
        assert steep.verdict != "can"
        assert any("has leaked there" in note for note in steep.notes)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3)).astype(np.float32)
    for y in (rng.standard_normal((300, 1)), np.eye(3)[rng.integers(0, 3, 300)]):
        noise = forecast(Task("noise", x, y), width=64, depth=2, seeds=2)
        assert noise.verdict == "undecided"
        assert "slope of pure noise: no power law is found" in noise.reason


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(300), "targets must be finite and differ between items"),
        (np.full(300, 0.1), "targets must be finite and differ"),
        (np.arange(300) * 1e200, "too large to square"),
        (np.where(np.arange(300) == 7, np.nan, 1.0), "targets must be finite"),
        (np.sin(np.arange(300)) + 100, r"mean of the targets must not hold more than 99%.*99\.99[45].*Centre them"),
    ],
)
def test_targets_that_no_spectrum_can_be_measured_on_are_refused(y, message):
    x = np.random.default_rng(0).standard_normal((300, 3)).astype(np.float32)
    with pytest.raises(SweepError, match=message):
        forecast(Task("t", x, y[:, None]), width=8)
    with pytest.raises(SweepError, match="x must be finite and differ between items"):
        forecast(Task("t", np.ones_like(x), x[:, :1].astype(float)), width=8)


def test_a_large_offset_of_the_inputs_changes_nothing(tmp_path: Path):
    x = np.random.default_rng(0).standard_normal((50, 2))
    for name, shift in (("near", 0.0), ("far", 1e6)):
        np.savez(tmp_path / f"{name}.npz", x=x + shift, y=x[:, 0])
    near, far = (task_of(str(tmp_path / f"{name}.npz")).x for name in ("near", "far"))
    np.testing.assert_allclose(far, near, atol=1e-5)


def test_the_loss_of_lazy_training_on_other_images_is_predicted():
    """Gradient flow of the average kernel on 400 digits, against what 400 digits predict before it."""
    task = task_of("digits")
    rows = np.random.default_rng(0).permutation(len(task.x))[:700]
    x, y, count, seeds = task.x[rows], task.y[rows], 400, 2
    made = forecast(Task("digits", x[:count], y[:count]), width=64, depth=2, items=count, seeds=seeds, train=count)
    network = MeanField(made.architecture)
    kernel = 0.0
    for seed in range(seeds):
        start, fixed = network.start(torch.tensor([seed]), torch.float32, "cpu")
        own = ntk(network.architecture.model(), start, torch.from_numpy(x), frozen=fixed, rates=network.rates(False))
        kernel = kernel + own[0].double().numpy() / made.architecture.outputs / seeds
    values, vectors = np.linalg.eigh(kernel[:count, :count] / count)
    for place in (4, 6, 8):
        reached = (vectors * (-np.expm1(-values * made.times[place] / made.first) / values)) @ vectors.T @ y[:count]
        outputs = kernel[count:, :count] @ reached / count
        loss = ((outputs - y[count:]) ** 2).sum() / (y[count:] ** 2).sum()
        assert made.reused[place] == pytest.approx(loss, rel=0.15)
        assert made.lazy[place] < made.reused[place]


def test_images_are_measured_with_convolutions_and_in_any_memory():
    task = task_of("digits")
    few = Task(task.name, task.x[:200], task.y[:200])
    wide, narrow = (forecast(few, "cnn", 4, 2, seeds=2, memory=memory) for memory in (2**30, 2 * kernel_bytes(200, 2)))
    assert wide.beta.value == pytest.approx(narrow.beta.value, rel=1e-3)
    np.testing.assert_allclose(wide.spectrum.values[:20], narrow.spectrum.values[:20], rtol=1e-4)
    with pytest.raises(PackError, match="half of it must hold the kernels"):
        forecast(few, width=64, seeds=2, memory=2 * kernel_bytes(200, 2) - 1)


def test_files_of_arrays_are_tasks(tmp_path: Path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(3.0, 2.0, (50, 4)), rng.integers(0, 3, 50)
    x[:, 3] = 7.0
    np.savez(tmp_path / "table.npz", x=x, y=y)
    table = task_of(str(tmp_path / "table.npz"))
    np.testing.assert_allclose(table.x[:, :3], (x - x.mean(0))[:, :3] / x.std(0)[:3], rtol=1e-4, atol=1e-6)
    assert (table.x[:, 3] == 0).all()
    np.testing.assert_array_equal(table.y, np.eye(3)[y])
    np.savez(tmp_path / "named.npz", x=x, y=10 * y - 7)
    np.testing.assert_array_equal(task_of(str(tmp_path / "named.npz")).y, table.y)
    np.savez(tmp_path / "real.npz", x=x, y=x[:, :2])
    np.testing.assert_array_equal(task_of(str(tmp_path / "real.npz")).y, x[:, :2])
    pixels = rng.integers(0, 256, (50, 4, 4, 3)).astype(np.uint8)
    np.savez(tmp_path / "colour.npz", x=pixels, y=y)
    colour = task_of(str(tmp_path / "colour.npz")).x.reshape(50, 3, 16)
    np.testing.assert_allclose(colour.mean((0, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(colour.std((0, 2)), 1, rtol=1e-5)
    assert np.corrcoef(colour[:, 1].ravel(), pixels[..., 1].ravel())[0, 1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((5, 2)), "y": np.ones(4)}, r"must hold x .* got float64 \(5, 2\) and float64 \(4,\)"),
        ({"x": np.full((5, 2), np.nan), "y": np.ones(5)}, "finite numbers"),
        ({"x": np.array([["a"], ["b"]]), "y": np.ones(2)}, "numbers, but got <U1"),
        ({"x": np.ones((0, 2)), "y": np.ones(0)}, r"got float64 \(0, 2\)"),
        ({"x": np.ones((5, 2)), "y": np.arange(5)}, "5 items of 5 classes. If y is not a class"),
        ({"x": np.ones((5, 2)), "y": np.array([None] * 5)}, "cannot be read as one"),
        (
            dict.fromkeys(("x_train", "x_test"), np.ones((5, 2, 2), np.uint8))
            | dict.fromkeys(("y_train", "y_test"), np.arange(5) % 2),
            "vary",
        ),
        (
            dict.fromkeys(("x_train", "x_test"), np.eye(4, dtype=int).reshape(4, 2, 2))
            | dict.fromkeys(("y_train", "y_test"), -np.ones(4, int)),
            "y_train must hold classes, whole numbers from 0 on, but it is int64, -1 to -1",
        ),
        ({"a": np.ones(3)}, "x and y, or x_train, y_train, x_test and y_test, but holds a"),
    ],
)
def test_other_files_are_refused(arrays, message, tmp_path: Path):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(SweepError, match=message):
        task_of(str(tmp_path / "t.npz"))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04"])
def test_files_of_something_else_are_refused(content, tmp_path: Path):
    file = tmp_path / "t.npz"
    file.write_bytes(content)
    with pytest.raises(SweepError, match="must be a file of arrays of numbers, as numpy"):
        task_of(str(file))
    with file.open("wb") as out:
        np.save(out, np.ones(3))
    with pytest.raises(SweepError, match="several arrays with names, but it is one array"):
        task_of(str(file))


@pytest.mark.parametrize("name", ["circle:no", "circle:-1", "circle:"])
def test_a_circle_has_a_beta(name):
    with pytest.raises(SweepError, match="circle:BETA must have a beta between 0 and 10"):
        task_of(name)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "vit"}, SweepError, "must be one of mlp, cnn, resnet, but got 'vit'"),
        ({"activation": "sine"}, SweepError, "activation: must be one of relu"),
        ({"model": "cnn"}, SweepError, "cnn needs square images.*items have 2 numbers. Use mlp"),
        ({"seeds": 1}, SweepError, r"`seeds >= 2` must hold, for the intervals, but got \(seeds=1\)"),
        ({"gamma": -1.0}, SweepError, "gamma=-1"),
        ({"gamma": float("inf")}, SweepError, "gamma=inf"),
        ({"level": float("nan")}, SweepError, "level=nan"),
        ({"train": 10**22}, SweepError, "train=1000"),
        ({"width": 10**6}, PackError, "half of it must hold the network"),
        ({"depth": 10**8}, PackError, "half of it must hold the network"),
        ({"items": 100}, FitError, r"items=100"),
    ],
)
def test_what_makes_no_sense_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        forecast(task_of("circle:0.5"), **options)
