"""Worlds of images trained by Ray Train: a worker that is killed costs the steps since the last checkpoint."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from raysweep.executors.raytrain import _hands
from raysweep.executors.raytune import RayExecutor
from raysweep.experiment import Dist
from raysweep.oracle.curve import Curve
from raysweep.oracle.likelihood import trained, weights_of
from raysweep.oracle.recipe import Point
from raysweep.oracle.transformer_world import TransformerRecipe
from raysweep.store import Store

TINY = TransformerRecipe(patch=4, width=16, blocks=2, layers=1, steps=24, batch=64, accumulate=2, lr=5e-3, noise=0.1)
SAVED = 10  # steps in the last checkpoint before a worker is killed; one is saved every second step


@pytest.mark.usefixtures("ray_up")
def test_training_goes_on_from_the_last_checkpoint_when_a_worker_is_killed(tmp_path: Path) -> None:
    store, marker = Store(str(tmp_path / "store")), tmp_path / "kill"
    marker.touch()

    def function(dist: Dist | None, on_progress: Point, device: str) -> Mapping[str, bytes]:
        assert dist is not None
        assert dist.world_size == 2

        def report(metrics: Mapping[str, Any], files: Mapping[str, bytes] | None) -> None:
            if dist.rank == 1 and metrics["epoch"] > SAVED and marker.exists():
                marker.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            dist.report(metrics, files)

        torch.set_num_threads(1)
        return trained(TINY, replace(dist, report=report), on_progress, device)

    files = RayExecutor().train(function, store, "oracle/tiny", 2, lambda point: None)

    assert not marker.exists()
    curve = store.read_json("oracle/tiny/curve.json")
    assert [p["epoch"] for p in curve if "nll" in p] == list(range(1, 25))  # one curve, without a gap or a doubled step
    start = curve[-1]["start"]
    assert 0 < start <= SAVED  # Ray Train may not have heard of the newest one yet
    assert [p["start"] for p in curve] == [0.0] * int(start) + [start] * (len(curve) - int(start))
    undisturbed = load(weights_of(trained(TINY, None, Curve(store, "oracle/undisturbed"), "cpu")))
    for name, tensor in load(weights_of(files)).items():
        # Keys' biases have no gradient but rounding, which Adam enlarges; all else agrees to 1e-6.
        near = 1e-3 if name.endswith("query_key_value.bias") else 1e-5
        torch.testing.assert_close(tensor, undisturbed[name], rtol=0, atol=near)


@pytest.mark.parametrize(
    ("asked", "total", "expected"),
    [
        (2, {"CPU": 16, "GPU": 1}, (1, True)),  # two on CPUs would be slower than one on a GPU
        (2, {"CPU": 16, "GPU": 8}, (2, True)),
        (8, {"CPU": 16, "GPU": 4}, (4, True)),
        (4, {"CPU": 2, "GPU": 4}, (2, True)),
        (4, {"CPU": 2}, (2, False)),
        (1, {}, (1, False)),
    ],
)
def test_workers_take_the_gpus_that_there_are_and_are_no_more(
    asked: int, total: Mapping[str, float], expected: tuple[int, bool]
) -> None:
    assert _hands(asked, total) == expected
