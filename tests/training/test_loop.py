"""The stacked loop: each lane is trained as if it were alone, by plain SGD, whatever its neighbours do."""

import math
from dataclasses import replace

import pytest
import torch

from raysweep.models import MLP, stacked_parameters
from raysweep.training.loop import Batches, forward, nested_rows, train
from raysweep.training.optim import SGD

POOLS, ITEMS, DIM, CLASSES = 2, 300, 3, 4
N = [1, 17, 64, 300, 300]
LR = [0.02, 0.1, 0.05, 0.0, 0.3]
MOMENTUM = [0.9, 0.0, 0.5, 0.9, 0.0]
SEED = [0, 3, 3, 2**62, 5]
POOL = [0, 1, 1, 0, 0]  # by temperature
KIND = [0, 1, 0, 1, 0]  # hard, soft
LANES = len(N)
EVERYONE = list(range(LANES))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def batches_of(lanes, dtype, batch=16):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(POOLS * ITEMS, DIM, generator=generator, dtype=torch.float64)
    soft = torch.softmax(2 * torch.randn(POOLS * ITEMS, CLASSES, generator=generator, dtype=torch.float64), -1)
    hard = torch.eye(CLASSES, dtype=torch.float64)[soft.argmax(-1)]
    seeds = sorted({SEED[i] for i in lanes})
    pool = torch.tensor([POOL[i] * ITEMS for i in lanes])
    return Batches(
        x=x.to(dtype),
        targets=torch.cat([hard, soft]).to(dtype),
        rows=nested_rows(seeds, ITEMS, max(N[i] for i in lanes)),
        seed_row=torch.tensor([seeds.index(SEED[i]) for i in lanes]),
        pool_offset=pool,
        target_offset=pool + torch.tensor([KIND[i] * POOLS * ITEMS for i in lanes]),
        n=torch.tensor([N[i] for i in lanes]),
        order_seed=torch.tensor([SEED[i] for i in lanes]),
        batch=batch,
    )


def trained(lanes, snapshots, dtype=torch.float64, lr=LR, depth=2):
    """{step: ({name: [lanes, ...]}, diverged_at)} of the loop over these lanes, copied at each snapshot."""
    module = MLP(DIM, 8, depth, CLASSES)
    parameters = stacked_parameters(module, torch.tensor([SEED[i] for i in lanes]), dtype, "cpu")
    optimiser = SGD(
        lr=torch.tensor([lr[i] for i in lanes], dtype=dtype),
        momentum=torch.tensor([MOMENTUM[i] for i in lanes], dtype=dtype),
    )
    found = {}
    for snapshot in train(module, parameters, batches_of(lanes, dtype), optimiser, snapshots):
        copy = {name: p.clone() for name, p in snapshot.parameters.items()}
        found[snapshot.step] = (copy, snapshot.diverged_at.tolist())
    return found


def largest_gap(a, b):
    return max(((a[name] - b[name]).abs().max() / b[name].abs().max()).item() for name in b)


def lane(parameters, i):
    return {name: p[i] for name, p in parameters.items()}


@pytest.fixture(scope="module")
def packed():
    torch.set_num_threads(1)
    return trained(EVERYONE, [0, 10, 200])


@pytest.mark.parametrize("i", EVERYONE)
def test_packed_equals_alone_in_float64_to_1e_9_at_step_200(packed, i):
    alone = trained([i], [200])[200][0]
    assert largest_gap(lane(packed[200][0], i), lane(alone, 0)) < 1e-9


@pytest.mark.parametrize("i", EVERYONE)
def test_packed_equals_alone_in_float32_to_1e_4_at_step_10(i):
    together = trained(EVERYONE, [10], torch.float32)[10][0]
    alone = trained([i], [10], torch.float32)[10][0]
    assert largest_gap(lane(together, i), lane(alone, 0)) < 1e-4


def test_float32_follows_float64_at_step_10(packed):
    single = trained(EVERYONE, [10], torch.float32)[10][0]
    assert largest_gap(single, packed[10][0]) < 1e-4


@pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
def test_lane_order_does_not_matter(packed, order):
    moved = trained(order, [200])[200][0]
    assert largest_gap(moved, {name: p[order] for name, p in packed[200][0].items()}) < 1e-9


def test_a_snapshot_is_the_end_of_a_shorter_run_exactly(packed):
    short = trained(EVERYONE, [10])[10][0]
    assert all(torch.equal(short[name], p) for name, p in packed[10][0].items())


def test_step_0_is_the_initial_state(packed):
    initial = stacked_parameters(MLP(DIM, 8, 2, CLASSES), torch.tensor(SEED), torch.float64, "cpu")
    assert all(torch.equal(packed[0][0][name], p) for name, p in initial.items())


@pytest.mark.parametrize("i", EVERYONE)
def test_a_lane_is_torchs_own_sgd_on_the_same_batches(packed, i):
    module = MLP(DIM, 8, 2, CLASSES).double()
    module.load_state_dict(lane(packed[0][0], i))
    optimiser = torch.optim.SGD(module.parameters(), lr=LR[i], momentum=MOMENTUM[i])
    batches = batches_of([i], torch.float64)
    for step in range(200):
        x, target = (part[0] for part in batches.at(torch.tensor(step)))
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(x), target).backward()
        optimiser.step()
    assert largest_gap(lane(packed[200][0], i), dict(module.named_parameters())) < 1e-9


def test_gradients_reach_every_parameter_of_every_lane_that_learns(packed):
    for name, p in packed[10][0].items():
        moved = (p - packed[0][0][name]).abs().flatten(1).amax(1) > 0
        assert moved.tolist() == [lr > 0 for lr in LR], name


def test_training_lowers_the_loss_on_the_lanes_own_items(packed):
    batches, module = batches_of(EVERYONE, torch.float64, batch=256), MLP(DIM, 8, 2, CLASSES)
    x, target = batches.at(torch.tensor(10**6))

    def loss(parameters):
        own = [{name: p[i : i + 1] for name, p in parameters.items()} for i in EVERYONE]
        log_q = torch.stack([torch.log_softmax(forward(module, own[i], x[i])[0], -1) for i in EVERYONE])
        return -(target * log_q).sum(-1).mean(-1)

    before, after = loss(packed[0][0]), loss(packed[200][0])
    assert (after < before).tolist() == [lr > 0 for lr in LR]


@pytest.mark.parametrize("bad", [2, 4])
def test_a_lane_that_is_not_finite_is_frozen_with_its_step_and_its_neighbours_go_on(packed, bad):
    lr = [math.inf if i == bad else value for i, value in enumerate(LR)]
    found = trained(EVERYONE, [0, 10, 200], lr=lr)
    parameters, diverged = found[200]
    assert 0 < diverged[bad] < 100
    assert [d for i, d in enumerate(diverged) if i != bad] == [-1] * (LANES - 1)
    others = [i for i in EVERYONE if i != bad]
    for name, p in packed[200][0].items():
        assert torch.equal(parameters[name][others], p[others])
    at = diverged[bad]
    before = trained([bad], [at, at + 1, at + 50], lr=lr)  # the state at its step is the state ever after
    for name, p in before[at + 50][0].items():
        assert torch.equal(before[at][0][name].nan_to_num(), p.nan_to_num())
        assert torch.equal(parameters[name][bad].nan_to_num(), p[0].nan_to_num())
    assert before[at][1] == [-1]  # the loss at step `at` is what failed, so `at` updates were done
    assert before[at + 1][1] == before[at + 50][1] == [at]


@pytest.mark.parametrize("huge", [1e3, 1e30])
def test_a_huge_learning_rate_in_float32_leaves_the_neighbours_as_they_were(huge):
    lanes = [0, 1, 2, 4]
    fine = trained(lanes, [100], torch.float32)[100][0]
    parameters, diverged = trained(lanes, [100], torch.float32, lr=[*LR[:4], huge])[100]
    assert diverged[:3] == [-1, -1, -1]
    assert (diverged[3] >= 0) or huge < 1e4
    for name, p in fine.items():
        assert torch.equal(parameters[name][:3], p[:3])


def test_batches_hold_the_lanes_own_pool_labels_and_first_n_items():
    batches = batches_of(EVERYONE, torch.float64, batch=512)
    x, target = batches.at(torch.tensor(5))
    for i in EVERYONE:
        rows = nested_rows([SEED[i]], ITEMS, N[i])[0] + POOL[i] * ITEMS
        seen = {tuple(item) for item in x[i].tolist()}
        assert seen <= {tuple(item) for item in batches.x[rows].tolist()}
        assert len(seen) > 0.7 * N[i]  # 512 draws of at most 300
        hard = ((target[i] == 0) | (target[i] == 1)).all()
        assert bool(hard) == (KIND[i] == 0)
        torch.testing.assert_close(target[i].sum(-1), torch.ones(512, dtype=torch.float64))


def test_smaller_data_sets_are_nested_in_larger_ones():
    long, short = nested_rows([3, 4], ITEMS, 200), nested_rows([3, 4], ITEMS, 20)
    assert torch.equal(long[:, :20], short)
    assert len(set(long[0].tolist())) == 200


def test_forward_stacks_the_modules_own_outputs():
    module = MLP(DIM, 8, 1, CLASSES).double()
    stack = stacked_parameters(module, torch.tensor(SEED), torch.float64, "cpu")
    x = torch.randn(7, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits = forward(module, stack, x)
    assert logits.shape == (LANES, 7, CLASSES)
    for i in EVERYONE:
        module.load_state_dict(lane(stack, i))
        torch.testing.assert_close(logits[i], module(x), rtol=1e-12, atol=1e-12)


def test_loop_reads_only_its_own_lanes_rows():
    """A pool with garbage where no lane may look trains the same."""
    clean = batches_of([1, 2], torch.float64)
    used = torch.zeros(POOLS * ITEMS, dtype=torch.bool)
    for row, offset, n in zip(clean.seed_row, clean.pool_offset, clean.n, strict=True):
        used[clean.rows[row][:n] + offset] = True
    spoiled = replace(clean, x=torch.where(used[:, None], clean.x, torch.nan))
    for step in range(50):
        assert torch.equal(clean.at(torch.tensor(step))[0], spoiled.at(torch.tensor(step))[0])
