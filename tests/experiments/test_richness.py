"""The richness experiment: networks start at 0, follow their kernel when lazy, and do not depend on width."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raysweep.errors import SweepError
from raysweep.executors import make_executor
from raysweep.experiments.richness import EXPERIMENT, architecture_of
from raysweep.experiments.richness_run import task_of
from raysweep.models import ACTIVATIONS, Architecture
from raysweep.models.mean_field import MeanField, second_moment
from raysweep.models.ntk import ntk
from raysweep.models.ops import activate
from raysweep.models.outputs import RICHNESS, centred, initial_values, scaled
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import from_mapping
from raysweep.sweep.current import cells
from raysweep.theory.circle import POWERS, amplitudes, kernel_spectrum, modes
from raysweep.theory.features import flow
from raysweep.training.loop import forward

SMALL = {"width": 16, "depth": 2, "harmonics": 32, "test_items": 512, "precision": "float64"}


def rows(grid: dict[str, Any], path: Any) -> pa.Table:
    sweep = from_mapping({"name": "r", "experiment": "richness", "grid": grid})
    store = Store(str(path))
    assert run(sweep, store, make_executor("inline"), stream=io.StringIO).counts.ok == sweep.runs.cells
    return cells(store)[0].sort_by([(n, "ascending") for n in ("method", "width", "beta", "t")])


def losses(table: pa.Table, **where: Any) -> Any:
    for name, value in where.items():
        table = table.filter(pa.compute.equal(table[name], value))
    return table["loss"].to_numpy()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_layer_starts_with_unit_second_moment(activation: str) -> None:
    """And the output is of order N^-1/2, as it must be for the kernel to move."""
    width, lanes = 128, 64
    network = MeanField(Architecture("mlp", 4, 1, width, 2, activation))
    trained, fixed = network.start(torch.arange(lanes), torch.float64, "cpu")
    assert all(not b.any() for b in fixed.values())
    x = torch.tensor([[1.0, -1.0, 1.0, 1.0]], dtype=torch.float64)
    h = forward(network.architecture.model(), {**trained, **fixed}, x)
    assert h.square().mean() * width == pytest.approx(1.0, abs=0.6)
    read = torch.eye(width, dtype=torch.float64).expand(lanes, -1, -1) * width  # the last layer's activations
    seen = {
        **trained,
        **fixed,
        "layers.2.weight": read,
        "layers.2.bias": torch.zeros(lanes, width, dtype=torch.float64),
    }
    last = forward(network.architecture.model(), seen, x)
    assert last.square().mean() / second_moment(activation) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("gamma", [1e-3, 10.0])
def test_a_network_starts_as_the_zero_function(gamma: float) -> None:
    network = MeanField(Architecture("cnn", 64, 3, 4, 1))
    start, fixed = network.start(torch.arange(2), torch.float64, "cpu")
    scale = torch.full((2,), gamma, dtype=torch.float64)
    model = scaled(centred(network.architecture.model()))
    x = torch.ones(5, 64, dtype=torch.float64)
    assert not forward(model, {**start, **fixed, **initial_values(start), RICHNESS: scale}, x).any()


def test_training_with_little_richness_follows_the_kernel_of_the_same_network(tmp_path: Any) -> None:
    """Full batches in effect: 512 fresh angles a step, of a target with few harmonics, and small steps."""
    both = {"beta": [0.5, 1.5], "gamma": 1e-3, "eta": 0.02, "batch": 512, "points": 128, "t": [0.5, 2, 6]}
    table = rows({**SMALL, **both, "method": ["train", "ntk"]}, tmp_path)
    for beta in (0.5, 1.5):
        lazy, trained = (losses(table, method=m, beta=beta) for m in ("ntk", "train"))
        np.testing.assert_allclose(trained, lazy, rtol=0.06, atol=2e-3)
        assert lazy[-1] < 0.6 * lazy[0]


def test_the_mean_dimension_is_that_of_what_is_learned_which_lazy_networks_share(tmp_path: Any) -> None:
    """Lazily f - f0 is one function up to its scale, of which the mean dimension knows nothing."""
    grid = {
        "task": "images", "width": 16, "depth": 2, "gamma": [0.02, 0.04, 3.0], "batch": 64, "test_items": 64,
        "precision": "float64", "t": [0.05, 2.0], "bmd_points": 10,
    }  # fmt: skip
    found = rows(grid, tmp_path).filter(pa.compute.field("t") > 1).sort_by("gamma")
    bmd, error = found["bmd"].to_numpy(), found["bmd_se"].to_numpy()
    assert (bmd > 1 - 4 * error).all()
    assert bmd[1] == pytest.approx(bmd[0], rel=0.01)
    assert abs(bmd[2] / bmd[0] - 1) > 0.02


def test_early_dynamics_do_not_depend_on_width(tmp_path: Any) -> None:
    """Each width has its own kernel, so a mean over seeds is compared; rates that grew with N would double the time."""
    grid = {**SMALL, "width": [64, 256], "beta": 1.0, "gamma": 1.0, "eta": 0.1, "batch": 128, "seed": {"range": 6}}
    table = rows({**grid, "t": [0.3, 1]}, tmp_path)
    narrow, wide = (losses(table, width=w).reshape(2, -1).mean(1) for w in (64, 256))
    np.testing.assert_allclose(narrow, wide, rtol=0.12)
    assert (1 - wide).min() > 0.2


def test_a_wide_network_has_the_kernel_of_infinite_width() -> None:
    cell = pa.table({a.name: [a.default] for a in EXPERIMENT.axes if a.role != "seed"})
    lazy = cell.set_column(cell.column_names.index("method"), "method", pa.array(["ntk"]))
    at_t = EXPERIMENT.theory(lazy, {"loss"})["loss"].to_pylist()
    mass, x = amplitudes("relu", 0.5, 1000) ** 2, kernel_spectrum("relu", 3)[1:1001]
    assert at_t == pytest.approx([float((mass * np.exp(-2 * x * 100)).sum() / mass.sum())], rel=1e-3)
    why = "how a network's richness enters the reduced flow is not known"
    assert EXPERIMENT.theory(cell, {"loss"}).to_pylist() == [{"loss": None, "reason": why}]


@pytest.mark.parametrize("activation", list(POWERS))
def test_the_spectrum_on_the_circle_is_that_of_a_sampled_network(activation: str) -> None:
    """One hidden layer of Gaussian weights, its kernel by Monte Carlo over neurons."""
    rng = np.random.default_rng(0)
    angle = 2 * np.pi * np.arange(64) / 64
    x = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)])
    w, a = rng.standard_normal((50_000, 2)) / np.sqrt(2), rng.standard_normal(50_000)
    h = torch.from_numpy(w @ x).requires_grad_()
    value = activate(h, activation)
    (slope,) = torch.autograd.grad(value.sum(), h)
    value, slope = value.detach().numpy(), slope.numpy()
    kernel = (
        1
        / second_moment(activation)
        * (value[:, 0] @ value + (a**2 * slope[:, 0]) @ slope * (x[:, 0] @ x) / 2)
        / 50_000
    )
    found = np.fft.rfft(kernel).real / 64
    np.testing.assert_allclose(found[:3], kernel_spectrum(activation, 1)[:3], rtol=0.05)


@pytest.mark.parametrize("activation", list(POWERS))
def test_a_layer_of_the_recursion_is_an_integral_over_two_gaussians(activation: str) -> None:
    """In polar coordinates u = r cos(phi), v = r cos(phi - theta); the activations are homogeneous of degree p."""
    phi = 2 * np.pi * (np.arange(2**14) + 0.5) / 2**14
    angle = 2 * np.pi * np.arange(32) / 32
    at = torch.from_numpy(np.cos(np.append(0.0, angle)[:, None] - phi)).requires_grad_()
    value = activate(at, activation)
    (slope,) = torch.autograd.grad(value.sum(), at)
    p = POWERS[activation]
    r2p, r2q = 2.0**p * p, 2.0 ** (p - 1)  # E r^2p = 2^p p!, here for p up to 2; and the same of degree p - 1
    covariance, derivative = (f[0] * f[1:] for f in (value.detach(), slope))
    moment = float(r2p * covariance[0].mean())
    kernel = (r2q * derivative.mean(1).numpy() * np.cos(angle) + r2p * covariance.mean(1).numpy()) / moment
    spectrum = kernel_spectrum(activation, 1)
    recursion = np.fft.irfft(spectrum, 2 * (len(spectrum) - 1)) * 2 * (len(spectrum) - 1)
    np.testing.assert_allclose(kernel, recursion[:: len(recursion) // 32], atol=2e-3)
    assert second_moment(activation) == pytest.approx(moment, rel=1e-6)


@pytest.mark.parametrize("activation", ["relu", "tilted"])
def test_a_deep_network_of_finite_width_has_the_kernel_of_the_recursion(activation: str) -> None:
    """The mean over networks, and over pairs of points at the same angle, as the kernel of infinite width is."""
    network = MeanField(Architecture("mlp", 2, 1, 256, 3, activation))
    start, fixed = network.start(torch.arange(8), torch.float64, "cpu")
    angle = 2 * np.pi * np.arange(32) / 32
    x = torch.from_numpy(np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], 1))
    kernel = ntk(network.architecture.model(), start, x, frozen=fixed, rates=network.rates(False)).mean(0).numpy()
    apart = [np.diagonal(np.roll(kernel, -i, 1)).mean() for i in range(32)]
    found = np.fft.rfft(apart).real / 32
    np.testing.assert_allclose(found[:6], kernel_spectrum(activation, 3)[:6], rtol=0.15)


@pytest.mark.parametrize("activation", list(POWERS))
def test_eigenvalues_and_targets_fall_by_their_exponents(activation: str) -> None:
    spectrum = kernel_spectrum(activation, 3)
    alpha = -np.log(spectrum[512] / spectrum[128]) / np.log(4)
    assert alpha == pytest.approx(2 * POWERS[activation], abs=0.02)
    tail = (amplitudes(activation, 0.75, 2**16) ** 2)[::-1].cumsum()[::-1]
    assert -np.log(tail[399] / tail[99]) / np.log(4) == pytest.approx(alpha * 0.75, rel=0.02)


@pytest.mark.parametrize("activation", ["relu", "tilted"])
def test_the_lazy_limit_falls_by_the_source_exponent(activation: str) -> None:
    t = np.geomspace(30, 300, 9)
    for beta in (0.25, 0.5, 0.75):
        loss = flow([modes(activation, 3, beta, 2**15)], 0.0, t).loss[0]
        assert -np.polyfit(np.log(t), np.log(loss), 1)[0] == pytest.approx(beta, abs=0.05)


def test_the_target_of_the_circle_is_its_sum_of_harmonics() -> None:
    sweep = from_mapping({"name": "r", "experiment": "richness", "grid": {**SMALL, "beta": [0.25, 1.0], "t": 1}})
    task, k = task_of(sweep.runs), np.arange(1, 33.0)
    np.testing.assert_allclose((task.test_y[..., 0] ** 2).mean(1), [(k**-q).sum() / 2 for q in (1.5, 3)], rtol=1e-12)
    for x, y in ((task.x[1000:1003], task.y[1000:1003]), (task.test_x[7:9], task.test_y[0, 7:9])):
        angle = np.arctan2(x[:, 1], x[:, 0])
        np.testing.assert_allclose(y[:, 0], np.cos(np.outer(angle, k)) @ k**-0.75, rtol=1e-9)
    np.testing.assert_allclose((task.x**2).sum(1), 2)
    assert task.y.shape == (2 * len(task.x), 1)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"activation": "tanh"}, "the circle needs an mlp of 2 hidden layers or more with relu or relu2 or tilted"),
        ({"harmonics": 1024}, r"test_items=2048, harmonics=1024"),
        ({"eta": 2.0}, r"grid\.eta: eta times the kernel's largest eigenvalue must be below 2"),
        ({"eta": 0.1, "t": 0.01}, r"grid\.t: must be a step at least"),
        ({"task": "images", "n_train": 5000}, r"n_train=5000, images=1400"),
        ({"method": "ntk", "optimiser": "adam"}, "the lazy limit is one of gradient flow"),
        ({"precision": "tf32"}, "tf32 must run on a GPU"),
        ({"task": "images", "data": "../etc"}, "must be digits or NAME"),
        ({"optimiser": "adam", "momentum": 0.9}, r"grid\.momentum: must be 0 with optimiser: adam"),
        ({"bmd_points": 10}, r"grid\.bmd_points: must be 0, or even, at least 4 and with task: images"),
        ({"task": "images", "bmd_points": 5}, r"but got \(bmd_points=5, task=images\)"),
        ({"task": "images", "beta": [0.5, 1]}, r"grid\.beta: must have one value where it has no effect, as task"),
        ({"n_train": [0, 10]}, r"grid\.n_train: .*task: circle does not read it, but got \(n_train=0 and 10\)"),
        ({"method": "ntk", "gamma": [0.3, 1]}, r"grid\.gamma: .*method: ntk does not read it"),
        ({"method": ["train", "ntk"], "points": [64, 128]}, r"grid\.points: .*method: train does not read it"),
    ],
)
def test_what_has_no_meaning_is_refused(grid: dict[str, Any], message: str) -> None:
    sweep = from_mapping({"name": "r", "experiment": "richness", "grid": grid})
    with pytest.raises(SweepError, match=message):
        EXPERIMENT.check(sweep.runs, None, 0)


def test_a_kernel_costs_no_steps_and_adam_holds_one_more_moment() -> None:
    sweep = from_mapping(
        {"name": "r", "experiment": "richness", "grid": {**SMALL, "optimiser": ["sgd", "adam"], "t": [1, 2]}}
    )
    costs = [EXPERIMENT.cost(sweep.runs.row(i), sweep.runs.observed[0], None) for i in range(2)]
    layout = architecture_of(sweep.runs.row(0)).layout
    weights = 2 * 16 + 16 * 16 + 16
    assert costs[0].parameters == weights
    assert costs[0].flops == 40 * 512 * (2 * layout.forward_flops + layout.backward_flops)
    assert costs[1].bytes - costs[0].bytes == 8 * weights
