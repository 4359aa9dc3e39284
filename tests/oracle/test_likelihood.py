"""Training a flow on images: resumed as if never stopped, ranks as one device, and bits per dimension as defined."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from raysweep import data
from raysweep.errors import SweepError
from raysweep.experiment import Dist
from raysweep.oracle import likelihood
from raysweep.oracle.audit import audit
from raysweep.oracle.flow_world import FlowWorld
from raysweep.oracle.flows.conditional import ConditionalFlow
from raysweep.oracle.likelihood import CHECKPOINT, bits_per_dim, trained, weights_of
from raysweep.oracle.recipe import recipe_hash, recipe_of
from raysweep.oracle.transformer_world import TransformerRecipe

TINY = TransformerRecipe(patch=4, width=16, blocks=2, layers=1, steps=24, batch=64, lr=5e-3)


class Lone:
    """A single worker that keeps its reports and checkpoints."""

    def __init__(self, resume: Mapping[str, bytes] | None = None) -> None:
        self.metrics: list[dict[str, Any]] = []
        self.checkpoints: dict[int, Mapping[str, bytes]] = {}
        self.dist = Dist(0, 1, wrap=lambda module: module, report=self.report, resume=resume)

    def report(self, metrics: Mapping[str, Any], files: Mapping[str, bytes] | None) -> None:
        assert files is not None
        self.metrics.append(dict(metrics))
        self.checkpoints[metrics["epoch"]] = files


def nothing(_: Mapping[str, float]) -> None:
    pass


def weights(files: Mapping[str, bytes]) -> dict[str, torch.Tensor]:
    return dict(load(weights_of(files)))


def test_the_likelihood_of_images_held_out_rises_and_the_curve_says_how_long_is_left() -> None:
    worker, points = Lone(), []
    recipe = TINY.model_copy(update={"steps": 120})
    trained(recipe, worker.dist, lambda p: points.append(dict(p)), "cpu")
    assert [m["epoch"] for m in worker.metrics] == list(range(10, 121, 10))
    scores = [m["test_bits"] for m in worker.metrics]
    assert scores[-1] < scores[3] - worker.metrics[-1]["test_bits_se"] < scores[3] < scores[0] - 0.5
    assert points[-1]["left"] == 0
    assert points[0]["epochs"] == 120
    assert recipe.progress(points[59]).startswith("step 60/120  ")


@pytest.mark.parametrize("stop", [2, 12, 24])
def test_resuming_equals_training_straight_through(stop: int) -> None:
    straight = Lone()
    expected = trained(TINY, straight.dist, nothing, "cpu")
    resumed = Lone(straight.checkpoints[stop])
    found = trained(TINY, resumed.dist, nothing, "cpu")
    assert [m["epoch"] for m in resumed.metrics] == list(range(stop + 2, 25, 2))
    for name, tensor in load(found[CHECKPOINT]).items():
        torch.testing.assert_close(tensor, load(expected[CHECKPOINT])[name], rtol=1e-6, atol=1e-6)


def test_without_workers_the_same_world_comes_out() -> None:
    alone, worker = trained(TINY, None, nothing, "cpu"), trained(TINY, Lone().dist, nothing, "cpu")
    assert all(torch.equal(tensor, weights(worker)[name]) for name, tensor in weights(alone).items())


def test_parts_of_a_batch_add_up_to_its_gradient() -> None:
    few = TINY.model_copy(update={"steps": 5})  # Adam divides by small gradients, and so enlarges rounding
    whole = weights(trained(few, None, nothing, "cpu"))
    parts = weights(trained(few.model_copy(update={"accumulate": 3}), None, nothing, "cpu"))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=2e-4)


class Ranks:
    """Threads as ranks, whose gradients are averaged one by one as DistributedDataParallel does."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.slots: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=200)

    def average(self, rank: int, gradient: torch.Tensor) -> torch.Tensor:
        self.slots[rank] = gradient
        self.barrier.wait()
        mean: torch.Tensor = sum(self.slots) / self.size
        self.barrier.wait()
        return mean

    def train(self, recipe: TransformerRecipe) -> list[Mapping[str, bytes]]:
        found: list[Any] = [None] * self.size

        def work(rank: int) -> None:
            def wrap(flow: Any) -> Any:
                for p in flow.parameters():
                    p.register_hook(lambda g: self.average(rank, g))
                return flow

            torch.set_num_threads(1)
            found[rank] = trained(recipe, Dist(rank, self.size, wrap, lambda *_: None), nothing, "cpu")

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


def test_ranks_train_the_flow_of_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, fresh = threading.Lock(), TransformerRecipe.fresh

    def one_at_a_time(recipe: TransformerRecipe) -> ConditionalFlow:  # the seeds of threads are torch's global one
        with lock:
            return fresh(recipe)

    monkeypatch.setattr(TransformerRecipe, "fresh", one_at_a_time)
    recipe = TINY.model_copy(update={"steps": 6, "batch": 65, "flips": True, "noise": 0.1})  # shares of 33 and 32
    ranks = Ranks(2).train(recipe)
    alone = weights(trained(recipe, None, nothing, "cpu"))
    for name, tensor in alone.items():
        torch.testing.assert_close(weights(ranks[0])[name], tensor, rtol=1e-3, atol=1e-5)


def test_each_epoch_shows_every_image_once_in_an_order_of_its_own_and_mirrors_half() -> None:
    images = data.images("digits")
    recipe = TINY.model_copy(update={"batch": 100, "flips": True, "noise": 0.0})
    train = likelihood._Images.of(recipe, False, "cpu")
    seen = [torch.cat(part) for part in zip(*train.batches(0, 28, 0, 1), strict=True)]
    grey = ((seen[0] + 1) / (2 / images.levels)).floor().long()
    own = torch.from_numpy(images.x[:1400]).long()
    mirrored = likelihood._mirrored(own)
    found = []
    for x in grey:
        same = (own == x).all(1) | (mirrored == x).all(1)
        assert same.any()
        found.append(int(same.nonzero()[0]))
    first, second = found[:1400], found[1400:]
    assert first != second
    assert len(set(first)) > 1390  # a few images of the digits are alike, or each other's mirror image
    share = sum(bool((own[i] != x).any()) for i, x in zip(found, grey, strict=True)) / len(found)
    assert 0.4 < share < 0.6


def test_the_rate_rises_and_then_falls_to_a_hundredth() -> None:
    recipe = TINY.model_copy(update={"steps": 1000, "warmup": 0.1, "lr": 0.01})
    rates = [likelihood._rate(recipe, step) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(0.01)
    assert rates.index(max(rates)) in (99, 100)
    assert rates[550] == pytest.approx(0.01 * (0.01 + 0.99 / 2))
    assert rates[-1] == pytest.approx(1e-4, rel=0.01)
    assert all(b < a for a, b in itertools.pairwise(rates[100:]))


@pytest.mark.parametrize(("steps", "every"), [(5, 1), (24, 2), (10_000, 833), (1_000_800, 5000)])
def test_a_killed_worker_costs_a_twelfth_of_the_steps_or_five_thousand(steps: int, every: int) -> None:
    assert likelihood._saved_every(steps) == every


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_bits_per_dimension_are_those_of_grey_levels(noise: float) -> None:
    recipe = TINY.model_copy(update={"noise": noise})
    score = bits_per_dim(recipe, recipe.fresh())  # before training: a standard normal
    images = data.images("digits")
    generator = np.random.default_rng(0)
    test = images.x[images.train :].astype(float)
    x = (test + generator.random(test.shape)) * 2 / 17 - 1 + noise * generator.standard_normal(test.shape)
    nats = (0.5 * x**2 + 0.5 * math.log(2 * math.pi)).mean()
    assert score.images == 397
    assert score.bits == pytest.approx((nats - math.log(2 / 17)) / math.log(2), abs=4 * score.error)
    assert 0.001 < score.error < 0.02


def test_a_trained_world_comes_back_from_its_file_and_passes_its_audit() -> None:
    recipe = TINY.model_copy(update={"confusion": 0.2, "noise": 0.3})
    file = recipe.make(lambda function: function(None, nothing, "cpu"))
    world = recipe.load(file, "0" * 16)
    assert isinstance(world, FlowWorld)
    found = audit(world, 1.5, items=400)
    assert found.passed, found.checks
    assert found.aleatoric > -0.8 * math.log(0.8) - 0.2 * math.log(0.2 / 9) - 0.01  # the channel alone has so much
    sample = world.sample(400, "audit", 1.5)
    assert np.exp(sample.log_posterior).min() >= 0.2 / 9 * 0.999
    with pytest.raises(ValueError, match="bytes"):
        recipe.load(file[:1000], "0" * 16)
    with pytest.raises((ValueError, RuntimeError)):
        recipe.model_copy(update={"patch": 2}).load(file, "0" * 16)


def test_a_channel_that_is_changed_in_the_file_is_refused() -> None:
    recipe = TINY.model_copy(update={"confusion": 0.2})
    tensors = {name: t.contiguous() for name, t in recipe.fresh().state_dict().items()}
    tensors["channel"] = tensors["channel"] * 0.5
    with pytest.raises(ValueError, match="channel"):
        recipe.load(save(tensors), "0" * 16)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patch": 3}, r"world\.patch: must divide the side .*patch=3, side=8"),
        ({"batch": 2000}, r"world\.batch: must be at most the training images .*batch=2000, images=1400"),
        ({"data": "gone"}, r"data: must be digits or NAME"),
    ],
)
def test_what_does_not_fit_the_images_is_refused_when_planned(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SweepError, match=message):
        _ = TINY.model_copy(update=given).shape


def test_recipes_by_name_and_their_keys() -> None:
    recipe = recipe_of({"kind": "transformer", "patch": 4, "width": 128})
    assert isinstance(recipe, TransformerRecipe)
    assert recipe.shape.dim == 64
    assert recipe_hash(recipe) != recipe_hash(recipe.model_copy(update={"width": 64}))
    with pytest.raises(ValueError, match="multiple of 64"):
        recipe_of({"kind": "transformer", "width": 72})
