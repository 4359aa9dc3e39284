"""Training a flow: likelihood falls, ranks share each batch, a checkpoint resumes where it left off."""

import json
import threading

import pytest
import torch
from safetensors.torch import load

from raysweep import data
from raysweep.experiment import Dist
from raysweep.oracle import fit
from raysweep.oracle.curve import Curve
from raysweep.oracle.fit import CHECKPOINT, dequantise, train_flow
from raysweep.oracle.flow_world import packed
from raysweep.oracle.shared_flow import FlowRecipe, fresh_flow
from raysweep.oracle.world import adopt
from raysweep.store import Store

TINY = FlowRecipe(layers=2, hidden=16, blocks=1, epochs=3, lr=5e-3)


class Lone:
    """A single worker that keeps its reports and checkpoints."""

    def __init__(self, resume=None):
        self.metrics, self.checkpoints = [], {}
        self.dist = Dist(0, 1, wrap=lambda module: module, report=self.report, resume=resume)

    def report(self, metrics, files):
        self.metrics.append(dict(metrics))
        self.checkpoints[metrics["epoch"]] = files


def test_likelihood_rises_and_the_result_is_deterministic():
    points = []
    first = train_flow(TINY, on_progress=lambda point: points.append(dict(point)))
    assert [(p["epoch"], p["epochs"]) for p in points] == [(1, 3), (2, 3), (3, 3)]
    assert points[0]["nll"] > points[1]["nll"] > points[2]["nll"]
    torch.manual_seed(5)
    again = train_flow(TINY)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True))


def test_reports_hold_the_held_out_likelihood_and_a_checkpoint():
    worker = Lone()
    train_flow(TINY, worker.dist)
    assert [m["epoch"] for m in worker.metrics] == [1, 2, 3]
    assert worker.metrics[-1]["test_nll"] < worker.metrics[0]["test_nll"]
    assert all(abs(m["test_nll"] - m["nll"]) < 0.5 * abs(m["nll"]) for m in worker.metrics)
    assert int(load(worker.checkpoints[2][CHECKPOINT])["epoch"]) == 2


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resuming_equals_training_straight_through(stop):
    recipe = TINY.model_copy(update={"epochs": 4})
    straight = Lone()
    expected = train_flow(recipe, straight.dist)
    resumed = Lone(resume=straight.checkpoints[stop])
    found = train_flow(recipe, resumed.dist)
    assert [m["epoch"] for m in resumed.metrics] == list(range(stop + 1, 5))
    for p, q in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


def test_resuming_a_finished_run_trains_no_more():
    finished = Lone()
    expected = train_flow(TINY, finished.dist)
    found = train_flow(TINY, Lone(resume=finished.checkpoints[3]).dist)
    assert all(torch.equal(p, q) for p, q in zip(found.parameters(), expected.parameters(), strict=True))


class Seen(torch.nn.Module):
    """A flow that notes what it is shown."""

    def __init__(self, flow):
        super().__init__()
        self.flow, self.batches = flow, []

    def forward(self, x, y):
        self.batches.append(torch.cat([x, y[:, None]], 1))
        return self.flow(x, y)


def shown(rank, world_size, recipe):
    seen = []
    train_flow(recipe, Dist(rank, world_size, lambda flow: seen.append(Seen(flow)) or seen[0], lambda *_: None))
    return seen[0].batches


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_partition_every_global_batch(world_size):
    recipe = TINY.model_copy(update={"epochs": 1, "batch": 509})  # 1,528 items: the last batch is one item
    whole = shown(0, 1, recipe)
    shares = [shown(rank, world_size, recipe) for rank in range(world_size)]
    assert sum(map(len, whole)) == 1528
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        together = torch.cat(parts)
        assert sorted(together.tolist()) == sorted(batch.tolist())


class Ranks:
    """Threads as ranks, whose gradients are averaged one by one as DistributedDataParallel does."""

    def __init__(self, size):
        self.size, self.slots = size, [None] * size
        self.barrier = threading.Barrier(size, timeout=200)

    def average(self, rank, gradient):
        self.slots[rank] = gradient
        self.barrier.wait()
        mean = sum(self.slots) / self.size
        self.barrier.wait()
        return mean

    def wrap(self, rank):
        def wrapped(flow):
            for p in flow.parameters():
                p.register_hook(lambda g: self.average(rank, g))
            return flow

        return wrapped

    def train(self, recipe):
        found = [None] * self.size

        def work(rank):
            torch.set_num_threads(1)
            found[rank] = train_flow(recipe, Dist(rank, self.size, self.wrap(rank), lambda *_: None))

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


@pytest.mark.parametrize("batch", [305, 1527], ids=["shares of 2 and 1 items", "an empty share"])
def test_ranks_train_the_flow_of_one_device(monkeypatch, batch):
    recipe = TINY.model_copy(update={"epochs": 2, "batch": batch})
    made, lock = fresh_flow(recipe).state_dict(), threading.Lock()

    def make(recipe):  # the real one seeds the generator that threads share and processes do not
        with lock:
            flow = fresh_flow(recipe)
            flow.load_state_dict(made)
            return flow

    monkeypatch.setattr(fit, "fresh_flow", make)
    alone = train_flow(recipe)
    one, two = Ranks(2).train(recipe)
    for p, q, r in zip(alone.parameters(), one.parameters(), two.parameters(), strict=True):
        assert torch.equal(q, r)
        torch.testing.assert_close(p, q, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("std", [0.0, 0.1])
def test_dequantised_levels_fill_their_cells(std):
    levels = torch.arange(17, dtype=torch.uint8).repeat(2000, 1)
    x = dequantise(levels, 17, std, torch.Generator().manual_seed(0))
    assert x.dtype == torch.float32
    middle = (torch.arange(17) + 0.5) * 2 / 17 - 1
    width = (2 / 17) ** 2 / 12 + std**2
    assert (x.mean(0) - middle).abs().max() < 5 * (width / 2000) ** 0.5
    assert x.var(0).mean().item() == pytest.approx(width, rel=0.05)
    if std == 0:
        assert x.min() >= -1
        assert x.max() <= 1
        assert torch.equal(((x + 1) * 17 / 2).floor().clamp(0, 16).byte(), levels)


def test_noise_of_the_recipe_lowers_the_likelihood():
    """Noise is part of the world: it spreads what the flow models."""
    sharp, blurred = Lone(), Lone()
    train_flow(TINY, sharp.dist)
    train_flow(TINY.model_copy(update={"noise": 0.5}), blurred.dist)
    assert blurred.metrics[-1]["test_nll"] > sharp.metrics[-1]["test_nll"]


def test_the_curve_grows_in_the_store(tmp_path):
    store = Store(str(tmp_path))
    curve = Curve(store, "oracle/w")
    for epoch in (1, 2):
        curve({"epoch": epoch, "nll": 3.0 - epoch})
        assert json.loads(store.read("oracle/w/curve.json"))[-1] == {"epoch": epoch, "nll": 3.0 - epoch}


def test_training_that_goes_on_from_a_checkpoint_goes_on_with_its_curve(tmp_path):
    store, recipe = Store(str(tmp_path)), TINY.model_copy(update={"epochs": 4})
    first, name = Lone(), "oracle/w/curve.json"
    train_flow(recipe, first.dist, Curve(store, "oracle/w"))  # to the end: epochs 3 and 4 are lost with the workers
    before = store.read_json(name)
    train_flow(recipe, Lone(resume=first.checkpoints[2]).dist, Curve(store, "oracle/w"))
    after = store.read_json(name)
    assert [(p["epoch"], p["start"]) for p in after] == [(1, 0), (2, 0), (3, 2), (4, 2)]
    assert after[:2] == before[:2]
    train_flow(recipe, None, Curve(store, "oracle/w"))  # again: nothing of the old curve stays
    assert [(p["epoch"], p["start"]) for p in store.read_json(name)] == [(1, 0), (2, 0), (3, 0), (4, 0)]


def test_a_trained_flow_passes_its_audit(tmp_path):
    from raysweep.oracle.audit import audit

    world = adopt(Store(str(tmp_path)), TINY, packed(train_flow(TINY)))
    assert (world.dim, world.classes) == (64, data.load("digits").classes)
    for temperature in (1.0, 2.0):
        found = audit(world, temperature, items=4096)
        assert found.passed, found.checks
