"""The same draws and the same training on a GPU as on the CPU. Skipped where there is none."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSIFIER_SWEEP, HERE
from torch import distributed

from raysweep.experiment import Context, Items, Share
from raysweep.models import Architecture
from raysweep.models.initial import initial_parameters
from raysweep.models.ops import CONVS, Conv
from raysweep.models.outputs import RICHNESS, centred, initial_values, scaled
from raysweep.oracle.flow_world import FlowWorld
from raysweep.oracle.gaussian import GaussianRecipe, gaussian_flow
from raysweep.streams import INIT, ORDER, bits, indices, uniform
from raysweep.sweep import from_mapping
from raysweep.training.batches import Batches, nested_rows
from raysweep.training.graph import Repeated
from raysweep.training.legs import Leg
from raysweep.training.loop import train
from raysweep.training.loss import LOGISTIC, SQUARE, Loss
from raysweep.training.optim import Optimiser
from raysweep.training.schedule import Schedule

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_draws_are_the_same_on_both_devices() -> None:
    seed = torch.tensor([0, 1, 2**62, 2**63 - 1])
    item = torch.arange(4096)
    for stream in (INIT, ORDER):
        assert torch.equal(
            bits(seed[:, None], stream, 7, item), bits(seed[:, None].cuda(), stream, 7, item.cuda()).cpu()
        )
    assert torch.equal(uniform(seed, INIT, 3), uniform(seed.cuda(), INIT, 3).cpu())
    n = torch.tensor([1, 10, 1000, 2**31 - 1])
    assert torch.equal(indices(seed, 5, 256, n), indices(seed.cuda(), torch.tensor(5).cuda(), 256, n.cuda()).cpu())


@pytest.mark.parametrize(("dtype", "steps", "tolerance"), [("float64", 200, 1e-9), ("float32", 10, 1e-4)])
def test_a_pack_trains_alike_on_both_devices(dtype: str, steps: int, tolerance: float) -> None:
    grid = {**CLASSIFIER_SWEEP["grid"], "width": 8, "precision": dtype, "steps": steps, "labels": ["hard", "soft"]}
    sweep = from_mapping({**CLASSIFIER_SWEEP, "grid": grid}, "sweep.yaml", [HERE])
    recipe = GaussianRecipe(dim=4, classes=3)
    world = FlowWorld(gaussian_flow(recipe).requires_grad_(False), recipe, "test")
    found = {}
    for device in ("cpu", "cuda"):
        (batch,) = sweep.experiment.run(sweep.runs, Context(device=device, world=world))
        found[device] = batch.to_pydict()
    for name in ("total", "epistemic", "epistemic_select", "posterior_gap", "pass_at_k"):
        assert found["cuda"][name] == pytest.approx(found["cpu"][name], rel=tolerance, abs=tolerance), name


def test_two_captured_halves_of_a_step_around_a_collective_train_as_one(tmp_path: Path) -> None:
    """NCCL's own thread looks at the device all the time, also during a capture."""
    grid = {**CLASSIFIER_SWEEP["grid"], "width": 8, "precision": "float64", "steps": 100, "labels": ["hard", "soft"]}
    sweep = from_mapping({**CLASSIFIER_SWEEP, "grid": grid}, "sweep.yaml", [HERE])
    recipe = GaussianRecipe(dim=4, classes=3)
    world = FlowWorld(gaussian_flow(recipe).requires_grad_(False), recipe, "test")
    meeting = distributed.FileStore(str(tmp_path / "meeting"), 1)
    distributed.init_process_group(
        "nccl", store=meeting, rank=0, world_size=1, device_id=torch.device("cuda", torch.cuda.current_device())
    )
    try:
        share = Share(0, 1, distributed.all_reduce)
        (halves,) = sweep.experiment.run(sweep.runs, Context(device="cuda", world=world, share=share))
    finally:
        distributed.destroy_process_group()
    (whole,) = sweep.experiment.run(sweep.runs, Context(device="cuda", world=world))
    for name in ("total", "epistemic", "epistemic_select"):
        assert halves.column(name).to_pylist() == pytest.approx(whole.column(name).to_pylist(), rel=1e-12), name


def test_networks_are_pretrained_and_attacked_alike_on_both_devices() -> None:
    """Inputs are moved against the model inside the captured step; full batches are gathered once."""
    grid = {
        "dim": 10,
        "n_train": 20,
        "width": 8,
        "activation": "tanh",
        "loss": "square",
        "precision": "float64",
        "label_noise": [0, 0.2],
        "pretrain": 20,
        "attack": 0.2,
        "steps": [60, 100],
        "eps": 0.1,
        "bmd_points": 10,
    }
    sweep = from_mapping({"name": "d", "experiment": "double_descent", "grid": grid})
    found = {
        device: [batch.to_pydict() for batch in sweep.experiment.run(sweep.runs, Context(device=device))]
        for device in ("cpu", "cuda")
    }
    for gpu, cpu in zip(found["cuda"], found["cpu"], strict=True):
        for name in ("train_loss", "test_loss", "test_error", "fgsm_error", "bmd", "pretrain_error"):
            assert gpu[name] == pytest.approx(cpu[name], rel=1e-7), name


def test_an_earlier_graph_that_is_garbage_does_not_void_a_capture() -> None:
    """Destroying a graph is forbidden while another is captured; packs leave theirs to Python's collector."""
    value = torch.zeros(8, device="cuda")
    old = Repeated(lambda: value.zero_().add_(1), "cuda")  # type: ignore[arg-type, return-value]
    old(5)
    old.itself = old  # type: ignore[attr-defined]  # a cycle: only the collector frees it
    kept, calls = [old], []

    def step() -> None:
        calls.append(1)
        if len(calls) == 3:
            kept.clear()  # garbage from the last call before the capture
        if len(calls) == 4:
            gc.collect()
        value.add_(1)

    del old
    new = Repeated(step, "cuda")
    new(10)
    assert (len(calls), value.tolist()) == (4, [11.0] * 8)


@pytest.mark.parametrize(("dtype", "steps", "tolerance"), [("float64", 200, 1e-9), ("float32", 10, 1e-4)])
@pytest.mark.parametrize("loss", [SQUARE, LOGISTIC], ids=lambda loss: loss.name)
def test_real_targets_frozen_parts_and_rates_train_alike_on_both_devices(
    loss: Loss, dtype: str, steps: int, tolerance: float
) -> None:
    """Captured: outputs centred and scaled, the first layer frozen, rates by layer and lane; half leave."""
    architecture, wide = Architecture("mlp", 3, 2, 8, 2, "tanh"), getattr(torch, dtype)
    draw = np.random.default_rng(0)
    y = draw.standard_normal((100, 2))
    items = Items(draw.standard_normal((100, 3)), np.sign(y) if loss is LOGISTIC else y)
    found = {}
    for device in ("cpu", "cuda"):
        seed = torch.arange(4, device=device)
        start = initial_parameters(architecture, seed, wide, device)
        features = {name: start.pop(name) for name in ("layers.0.weight", "layers.0.bias")}
        lr = torch.tensor([0.05, 1e30, 0.1, 1e30], dtype=wide, device=device)
        zero = torch.zeros_like(lr)
        rates = {"layers.1.weight": torch.tensor([1.0, 1.0, 0.5, 1.0], dtype=wide, device=device), "layers.2.bias": 2.0}
        snapshots = train(
            scaled(centred(architecture.model())),
            start,
            Batches.over(items, 16, nested_rows([0, 1, 2, 3], 100, 50), torch.full_like(seed, 50), seed, seed, wide),
            Optimiser("sgd", lr, zero, zero, zero, zero, rates=rates),
            Schedule.make("constant", zero, zero),
            [Leg(steps // 2, True), Leg(steps, True)],
            loss=loss,
            frozen={**features, **initial_values(start), RICHNESS: 1 + seed.to(wide)},
        )
        for snapshot in snapshots:
            lanes, ends = snapshot.lanes.tolist(), {n: p.cpu().clone() for n, p in snapshot.parameters.items()}
        found[device] = lanes, ends
    assert found["cpu"][0] == found["cuda"][0] == [0, 2]
    for name, p in found["cpu"][1].items():
        torch.testing.assert_close(found["cuda"][1][name], p, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "steps", "tolerance"), [("float64", 20, 1e-9), ("float32", 5, 1e-3)])
@pytest.mark.parametrize("conv", CONVS[:2])
@pytest.mark.parametrize("kind", ["convnext", "swin", "mobilenet"])
def test_images_in_three_stages_train_alike_on_both_devices(
    kind: str, conv: Conv, dtype: str, steps: int, tolerance: float
) -> None:
    """Captured after three steps: windows, their masks and depthwise filters need nothing of the host."""
    architecture, wide = Architecture(kind, 64, 3, 8, 2, patch=1, heads=2), getattr(torch, dtype)
    draw = np.random.default_rng(0)
    items = Items(draw.standard_normal((100, 64)), draw.standard_normal((100, 3)))
    found = {}
    for device in ("cpu", "cuda"):
        seed = torch.arange(3, device=device)
        zero = torch.zeros(3, dtype=wide, device=device)
        (end,) = train(
            architecture.model(conv),
            initial_parameters(architecture, seed, wide, device),
            Batches.over(items, 8, nested_rows([0, 1, 2], 100, 50), torch.full_like(seed, 50), seed, seed, wide),
            Optimiser("sgd", zero + 0.02, zero, zero, zero, zero),
            Schedule.make("constant", zero, zero),
            [Leg(steps, True)],
            loss=SQUARE,
        )
        found[device] = {name: p.detach().cpu().clone() for name, p in end.parameters.items()}
    for name, p in found["cpu"].items():
        torch.testing.assert_close(found["cuda"][name], p, rtol=tolerance, atol=tolerance)
