"""The same draws and the same training on a GPU as on the CPU. Skipped where there is none."""

from __future__ import annotations

import gc

import pytest
import torch
from conftest import CLASSIFIER_SWEEP, HERE

from raysweep.experiment import Context
from raysweep.oracle.flow_world import FlowWorld
from raysweep.oracle.gaussian import GaussianRecipe, gaussian_flow
from raysweep.streams import INIT, ORDER, bits, indices, uniform
from raysweep.sweep import from_mapping
from raysweep.training.graph import Repeated

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
