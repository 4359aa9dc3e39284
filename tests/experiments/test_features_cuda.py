"""Gradient descent of the features model on a GPU is that on the CPU. Skipped where there is no GPU."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from raysweep.experiment import Context
from raysweep.experiments import features_steps
from raysweep.experiments.features import EXPERIMENT
from raysweep.experiments.features_steps import Descent
from raysweep.streams import bits
from raysweep.sweep import from_mapping

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

WIDTH, ETA = 12, 0.05
TIMES = (0.05, 0.12, 1.0, 10.0)  # the first step, between two eager ones, and among the captured


def normal(*given: Any) -> torch.Tensor:
    """`streams.normal` in double precision: in single precision, the last digits of log and cos are the device's."""
    word = bits(*given)
    radius = ((word >> 40 & 2**24 - 1) + 0.5).double() / 2**24
    return (-2 * radius.log()).sqrt() * torch.cos(2 * math.pi * (word & 2**24 - 1).double() / 2**24)


def stack(device: str, rich: bool, batch: int, items: int) -> Descent:
    """Three lanes of different spectra, targets, richness and seeds."""
    draw = torch.Generator().manual_seed(5)
    x = torch.arange(1, WIDTH + 1, dtype=torch.float64) ** -1.5 * torch.tensor([[1.0], [0.7], [0.9]])
    c = torch.randn(3, WIDTH, generator=draw, dtype=torch.float64)
    unreachable = torch.tensor([0.1, 0.0, 0.3], dtype=torch.float64)
    gamma = torch.tensor([1.0, 0.0, 0.3], dtype=torch.float64) * rich
    x, c, unreachable, gamma = (part.to(device) for part in (x, c, unreachable, gamma))
    return Descent(x, c, unreachable, gamma, ETA, torch.tensor([0, 7, 2**62], device=device), batch, items)


@pytest.mark.parametrize("rich", [False, True], ids=["lazy", "rich"])
@pytest.mark.parametrize(
    ("batch", "items"), [(0, 0), (4, 0), (0, 8), (0, WIDTH), (0, 40)], ids=["full", "batch", "few", "square", "many"]
)
def test_descent_is_alike_on_both_devices(batch: int, items: int, rich: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured: minibatches that are drawn inside the step, a data set as its items or as its second moments."""
    monkeypatch.setattr(features_steps, "normal", normal)
    cpu, gpu = (stack(device, rich, batch, items) for device in ("cpu", "cuda"))
    population = stack("cpu", rich, 0, 0)
    assert gpu.theta.device.type == "cuda"
    assert gpu.factored == cpu.factored == (0 < items <= WIDTH)
    start = cpu.loss
    for t in TIMES:
        for found, expected in zip(gpu.at(t), cpu.at(t), strict=True):
            assert found == pytest.approx(expected, rel=1e-9), t
    torch.testing.assert_close(gpu.theta.cpu(), cpu.theta, rtol=1e-9, atol=1e-9)
    assert gpu.top == pytest.approx(cpu.top, rel=1e-9)
    assert gpu.steps == cpu.steps == int(gpu.step) == 200
    # What is compared has moved, by gradients of its own, and with richness where there is some.
    assert (cpu.loss < 0.8 * start).all()
    alone = cpu.at(TIMES[-1])[0] == pytest.approx(population.at(TIMES[-1])[0], rel=1e-3)
    assert alone == (not (batch or items))
    assert (cpu.b is None) == (gpu.b is None) == (not rich)


@pytest.mark.parametrize(
    "grid",
    [
        {"batch": 1, "alpha": 1.1, "eta": [0.05, 0.8]},
        {"n_train": 2, "gamma": [0, 1], "eta": [0.1, 0.7], "t": [1, 5]},
        {"n_train": 60, "alpha": 1.01, "eta": [0.1, 1.8], "t": [2, 100]},
    ],
    ids=["batch", "few", "many"],
)
def test_the_experiment_s_rows_are_alike_on_both_devices(grid: dict[str, Any]) -> None:
    """With the single-precision draws of a sweep. Rows that leave the flow name the same step size."""
    grid = {"method": "steps", "inputs": 50, "t": [1, 100], "seed": [0, 1, 2], **grid}
    sweep = from_mapping({"name": "f", "experiment": "features", "grid": grid})
    found = {
        device: [row for batch in EXPERIMENT.run(sweep.runs, Context(device=device)) for row in batch.to_pylist()]
        for device in ("cpu", "cuda")
    }
    assert {row["status"] for row in found["cpu"]} == {"ok", "diverged"}
    for gpu, cpu in zip(found["cuda"], found["cpu"], strict=True):
        assert [gpu[n] for n in ("lane", "t", "status")] == [cpu[n] for n in ("lane", "t", "status")]
        if cpu["status"] == "ok":
            for name in ("loss", "rho", "sharpness"):
                assert gpu[name] == pytest.approx(cpu[name], rel=1e-4), name
        else:
            named = (float(row["error"].rpartition("<= ")[2]) for row in (gpu, cpu))
            assert next(named) == pytest.approx(next(named), rel=0.1)
