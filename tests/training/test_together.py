"""Workers that train a stack together: each takes its share of every batch, and all end where one device does."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from training.packs import FIVE, OPTIMISERS, equal, largest_gap, trained, with_lr

from raysweep.errors import PackError
from raysweep.experiment import Saved, Share
from raysweep.models import Architecture

MLP = Architecture("mlp", 3, 4, 8, 2)
OTHERS = [
    Architecture("cnn", 64, 4, 4, 2, "gelu"),
    Architecture("resnet", 64, 4, 4, 1),
    Architecture("vit", 64, 4, 8, 1, "gelu", patch=4, heads=2),
]


class Workers:
    """Threads as workers; a sum is taken in the order of ranks, and is the same in all of them."""

    def __init__(self, count: int) -> None:
        self.count, self.sums = count, 0
        self.slots = [torch.zeros(0)] * count
        self.barrier = threading.Barrier(count, timeout=200)

    def share(self, rank: int) -> Share:
        def add(tensor):
            self.slots[rank] = tensor.clone()
            self.barrier.wait()
            tensor.copy_(sum(self.slots))
            self.sums += rank == 0
            self.barrier.wait()

        return Share(rank, self.count, add)

    def train(self, *arguments, keeps=None, **options):
        def work(rank):
            torch.set_num_threads(1)
            try:
                keep = keeps[rank] if keeps else None
                return trained(*arguments, **options, keep=keep, share=self.share(rank))
            except BaseException:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(self.count) as pool:
            found = [pool.submit(work, rank) for rank in range(self.count)]
        for error in (one.exception() for one in found):
            if error is not None and not isinstance(error, threading.BrokenBarrierError):
                raise error
        return [one.result() for one in found]


class Keeper:
    """Keeps every state it is asked to."""

    lasting = False

    def __init__(self, saved=None) -> None:
        self.saved, self.files = saved, {}

    def due(self, size):
        return True

    def save(self, step, state, stage=0):
        self.files[step] = state({"step": str(step)})


def check(ends, alone):
    first, *others = ends
    assert first.keys() == alone.keys()
    for step, end in first.items():
        assert end.lanes == alone[step].lanes
        assert end.diverged == alone[step].diverged
        for other in others:
            assert equal(end.parameters, other[step].parameters)  # bit by bit, or they would drift apart
        for lane in end.lanes:
            if end.diverged[lane] < 0:
                assert largest_gap(end.of(lane), alone[step].of(lane)) < 1e-9


@pytest.mark.parametrize(("optimiser", "schedule"), [*zip(OPTIMISERS, ("cosine", "constant", "wsd"), strict=True)])
def test_workers_with_unequal_shares_end_where_one_device_does(optimiser, schedule):
    lanes = [replace(lane, horizon=20) for lane in FIVE]
    options = {"optimiser": optimiser, "schedule": schedule}
    workers = Workers(3)  # 2, 3 and 3 of a batch's 8 items
    check(workers.train(MLP, lanes, [4, 20], **options), trained(MLP, lanes, [4, 20], **options))
    assert workers.sums == 21 + (schedule == "wsd")  # one per step, one at the start; a branch repeats a step


@pytest.mark.parametrize("architecture", OTHERS, ids=lambda a: a.kind)
def test_other_models_do_so_too(architecture):
    check(Workers(2).train(architecture, FIVE[1:3], [4]), trained(architecture, FIVE[1:3], [4]))


def test_a_lane_that_diverges_is_frozen_by_all_workers_at_once_and_leaves_the_stack():
    lanes = [with_lr(lane, 1e40) if i in (1, 2, 4) else lane for i, lane in enumerate(FIVE)]
    alone = trained(MLP, lanes, [10, 20])
    assert alone[20].lanes == [0, 3]
    check(Workers(2).train(MLP, lanes, [10, 20]), alone)


def test_workers_go_on_from_a_saved_state_and_must_all_have_it():
    keeps = [Keeper(), None]
    whole = Workers(2).train(MLP, FIVE, [4, 8, 16], keeps=keeps)
    saved = Saved(keeps[0].files[8], range(5), 5)
    workers = Workers(2)
    for end in workers.train(MLP, FIVE, [16], keeps=[Keeper(saved), Keeper(saved)]):
        assert equal(end[16].parameters, whole[0][16].parameters)
    assert workers.sums == 1 + 8
    with pytest.raises(PackError, match="all workers must start from the same step"):
        Workers(2).train(MLP, FIVE, [16], keeps=[Keeper(saved), None])


def test_shares_cover_a_batch():
    for size, count in ((8, 3), (2, 2), (17, 4)):
        parts = [range(size)[Share(rank, count, print).of(size)] for rank in range(count)]
        assert [item for part in parts for item in part] == list(range(size))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
