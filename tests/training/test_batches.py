"""What a lane trains on: its own pool, labels, first N items, and the noises it asks for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom
from training.packs import FIVE, ITEMS, POOLS, Lane, batches_of

from raysweep.errors import PackError
from raysweep.experiment import Items
from raysweep.models import Architecture
from raysweep.training.batches import Batches, nested_rows

PLANE = Architecture("mlp", 3, 4, 8, 1)
EVERYONE = range(5)
QUIET = [replace(lane, label_noise=0.0, smoothing=0.0, sharpness=1.0, input_noise=0.0) for lane in FIVE]


def at(lanes, step, batch=512, dtype=torch.float64):
    return batches_of(PLANE, lanes, dtype, batch).at(torch.tensor(step))


def test_batches_hold_the_lanes_own_pool_labels_and_first_n_items():
    batches = batches_of(PLANE, QUIET, torch.float64, 512)
    x, target = batches.at(torch.tensor(5))
    for i, lane in enumerate(QUIET):
        rows = nested_rows([lane.data_seed], ITEMS, lane.n)[0] + lane.pool * ITEMS
        seen = {tuple(item) for item in x[i].tolist()}
        assert seen <= {tuple(item) for item in batches.x[rows].tolist()}
        assert len(seen) > 0.7 * lane.n  # 512 draws of at most 300
        hard = ((target[i] == 0) | (target[i] == 1)).all()
        assert bool(hard) == (not lane.soft)
        torch.testing.assert_close(target[i].sum(-1), torch.ones(512, dtype=torch.float64))


def test_an_items_target_is_its_own():
    """Targets of a lane are those of the very rows that its inputs come from."""
    batches = batches_of(PLANE, QUIET, torch.float64, 64)
    x, target = batches.at(torch.tensor(9))
    for i, lane in enumerate(QUIET):
        row = (x[i][:, None] == batches.x[None]).all(-1).double().argmax(1)
        assert torch.equal(target[i], batches.targets[row + int(lane.soft) * POOLS * ITEMS])


def test_smaller_data_sets_are_nested_in_larger_ones():
    long, short = nested_rows([3, 4], ITEMS, 200), nested_rows([3, 4], ITEMS, 20)
    assert torch.equal(long[:, :20], short)
    assert len(set(long[0].tolist())) == 200


def test_a_lane_reads_only_its_own_rows():
    """A pool with garbage where no lane may look gives the same batches."""
    clean = batches_of(PLANE, QUIET[1:3], torch.float64)
    used = torch.zeros(POOLS * ITEMS, dtype=torch.bool)
    for row, offset, n in zip(clean.seed_row, clean.pool_offset, clean.n, strict=True):
        used[clean.rows[row][:n] + offset] = True
    spoiled = replace(clean, x=torch.where(used[:, None], clean.x, torch.nan))
    for step in range(50):
        assert torch.equal(clean.at(torch.tensor(step))[0], spoiled.at(torch.tensor(step))[0])


def test_taking_lanes_takes_all_that_is_theirs():
    whole = batches_of(PLANE, FIVE, torch.float64)
    x, target = whole.at(torch.tensor(3))
    for index in ([4, 0], [2], [3, 1, 2]):
        part = whole.take(torch.tensor(index))
        assert len(part) == len(index)
        part_x, part_target = part.at(torch.tensor(3))
        assert torch.equal(part_x, x[index])
        assert torch.equal(part_target, target[index])


@pytest.mark.parametrize("name", ["label_noise", "smoothing", "sharpness", "input_noise"])
def test_a_neutral_lane_gets_what_it_gets_among_lanes_that_ask_for_nothing(name):
    neutral = getattr(Lane(), name)
    calm = [replace(lane, n=300) for lane in QUIET]
    loud = [replace(lane, **{name: neutral if i % 2 else 0.5}) for i, lane in enumerate(calm)]
    (x, target), (plain_x, plain_target) = at(loud, 2), at(calm, 2)
    for i in EVERYONE:
        torch.testing.assert_close(x[i], plain_x[i], rtol=0, atol=0 if i % 2 else 10)
        torch.testing.assert_close(target[i], plain_target[i], rtol=0, atol=1e-15 if i % 2 else 1)
        same = torch.equal(x[i], plain_x[i]) and (target[i] - plain_target[i]).abs().max() < 1e-15
        one_hot_stays = name == "sharpness" and not QUIET[i].soft
        assert same == (i % 2 == 1 or one_hot_stays)


# --- noisy labels -----------------------------------------------------------------------------------------

POOL, CLASSES = 6000, 5


def labelled(etas, batch, n=POOL, data_seeds=(7,), order_seeds=None, rows=None):
    """Batches over a pool whose item i is the number i with class i modulo 5."""
    lanes = len(etas)
    item = torch.arange(POOL)
    seeds = list(dict.fromkeys(data_seeds))
    zeros = torch.zeros(lanes, dtype=torch.int64)
    own = list(data_seeds) * (1 if len(data_seeds) == lanes else lanes)
    return Batches(
        x=item[:, None].double(),
        targets=torch.eye(CLASSES, dtype=torch.float64)[item % CLASSES],
        rows=nested_rows(seeds, POOL, n) if rows is None else rows,
        batch=batch,
        seed_row=torch.tensor([seeds.index(s) for s in own]),
        pool_offset=zeros,
        target_offset=zeros,
        n=torch.full((lanes,), n),
        order_seed=torch.tensor(order_seeds or range(lanes)),
        data_seed=torch.tensor(own),
        label_noise=torch.tensor(etas, dtype=torch.float64),
    )


def labels_of(batches, lane, steps):
    """{item: label} over some steps; an item's label must never change."""
    found = {}
    for step in steps:
        x, target = batches.at(torch.tensor(step))
        for item, label in zip(x[lane, :, 0].long().tolist(), target[lane].argmax(-1).tolist(), strict=True):
            assert found.setdefault(item, label) == label
    return found


def wrong(labels):
    return {item for item, label in labels.items() if label != item % CLASSES}


@pytest.mark.parametrize("eta", [0.0, 0.05, 0.3, 1.0])
def test_label_noise_replaces_eta_of_the_labels_by_uniform_ones(eta):
    """A replaced label is right by chance once in K times."""
    labels = labels_of(labelled([eta], 20_000), 0, range(2))
    assert len(labels) > 0.99 * POOL
    chance = eta * (1 - 1 / CLASSES)
    low, high = binom.ppf([1e-5, 1 - 1e-5], len(labels), chance)
    assert low <= len(wrong(labels)) <= high
    if eta == 1.0:
        count = torch.bincount(torch.tensor(list(labels.values())), minlength=CLASSES).double()
        expected = len(labels) / CLASSES
        assert ((count - expected).square() / expected).sum() < 30  # chi-square with 4 degrees: 5e-6


def test_the_same_labels_are_wrong_whatever_n_batch_step_order_and_lane():
    base = labels_of(labelled([0.3], 20_000), 0, range(2))
    others = [
        labels_of(labelled([0.3], 300), 0, range(5, 25)),
        labels_of(labelled([0.3], 4000, n=500), 0, range(2)),
        labels_of(labelled([0.0, 0.9, 0.3], 4000, order_seeds=[4, 5, 6]), 2, range(3)),
    ]
    for labels in others:
        assert len(wrong(labels)) > 50
        assert all(base[item] == label for item, label in labels.items() if item in base)


def test_more_noise_keeps_the_labels_that_were_already_wrong():
    some, more = (labels_of(labelled([eta], 20_000), 0, range(2)) for eta in (0.2, 0.4))
    assert all(more[item] == some[item] for item in wrong(some) if item in more)
    assert len(wrong(more)) > 1.5 * len(wrong(some))


def test_another_data_seed_has_other_wrong_labels():
    both = labelled([0.3, 0.3], 20_000, data_seeds=(7, 8))
    one, other = (labels_of(both, lane, range(2)) for lane in (0, 1))
    common = len(wrong(one) & wrong(other)) / POOL
    assert common == pytest.approx(0.24**2, abs=5 * (0.24**2 / POOL) ** 0.5)


# --- soft targets -----------------------------------------------------------------------------------------


def test_smoothing_mixes_the_target_with_the_uniform_distribution():
    lanes = [replace(QUIET[1], smoothing=s) for s in (0.0, 0.2, 1.0)]
    x, target = at(lanes, 4)
    assert torch.equal(x[0], x[1])
    torch.testing.assert_close(target[1], 0.8 * target[0] + 0.2 / 4, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(target[2], torch.full_like(target[2], 0.25), rtol=1e-14, atol=0)


def test_sharpness_is_a_power_of_the_target_normalised():
    lanes = [replace(QUIET[1], sharpness=s) for s in (1.0, 2.0, 0.5, 1e3, 1e-3)]
    _, target = at(lanes, 4)
    for lane, power in ((1, 2.0), (2, 0.5)):
        wanted = target[0] ** power
        torch.testing.assert_close(target[lane], wanted / wanted.sum(-1, keepdim=True), rtol=1e-12, atol=1e-15)
    top = target[0].topk(2).values
    clear = top[:, 0] / top[:, 1] > 1.05
    assert (target[3].amax(-1)[clear] > 0.999).all()
    assert (target[3].argmax(-1) == target[0].argmax(-1)).all()
    torch.testing.assert_close(target[4], torch.full_like(target[4], 0.25), rtol=0, atol=0.02)


@pytest.mark.parametrize("power", [1e-3, 0.5, 2.0, 1e3])
def test_sharpness_leaves_hard_labels_hard(power):
    _, target = at([replace(QUIET[0], sharpness=power, n=300)], 4, dtype=torch.float32)
    assert set(target.unique().tolist()) == {0.0, 1.0}


def test_noise_comes_before_smoothing_and_after_sharpness():
    """A replaced label is one-hot, and then smoothed like any other."""
    lane = replace(QUIET[1], n=300, sharpness=2.0, label_noise=1.0, smoothing=0.2)
    _, target = at([lane], 4)
    assert torch.unique((target * 1e6).round()).tolist() == [50_000, 850_000]


# --- noisy inputs -----------------------------------------------------------------------------------------


def noise_of(lanes, step, batch=2000):
    quiet = [replace(lane, input_noise=0.0) for lane in lanes]
    return (at(lanes, step, batch)[0] - at(quiet, step, batch)[0]).flatten(1)


def correlation(a, b):
    return torch.corrcoef(torch.stack([a, b]))[0, 1].abs().item()


def test_input_noise_has_each_lanes_own_deviation_and_no_correlation():
    lanes = [replace(QUIET[4], seed=s, input_noise=v) for s, v in ((1, 0.1), (2, 2.0), (1, 0.0))]
    noise = noise_of(lanes, 3)
    size = noise.shape[1]
    assert size == 6000
    for lane, std in ((0, 0.1), (1, 2.0)):
        assert noise[lane].mean().abs() < 4.5 * std / size**0.5
        assert noise[lane].std().item() == pytest.approx(std, rel=4.5 / (2 * size) ** 0.5)
    assert (noise[2] == 0).all()
    assert correlation(noise[0], noise[1]) < 4.5 / size**0.5
    items = noise[0].view(-1, 3)
    assert all(correlation(items[:, i], items[:, j]) < 4.5 / 2000**0.5 for i, j in ((0, 1), (0, 2), (1, 2)))
    assert correlation(items[:-1, 0], items[1:, 0]) < 4.5 / 2000**0.5


def test_input_noise_is_new_at_every_step_and_the_same_again():
    lane = replace(QUIET[4], input_noise=1.0)
    first, second, again = (noise_of([lane], step)[0] for step in (3, 4, 3))
    assert torch.equal(first, again)
    assert correlation(first, second) < 4.5 / len(first) ** 0.5
    # It belongs to the place in the batch, so that an item seen twice is disturbed differently.
    few = noise_of([replace(lane, n=1)], 3)[0].view(-1, 3)
    assert len(few.unique(dim=0)) > 1990


def test_two_lanes_of_one_order_seed_share_their_noise():
    """Runs that differ in N or a learning rate alone are compared in pairs."""
    pair = [replace(QUIET[4], input_noise=1.0), replace(QUIET[4], input_noise=0.5, n=20)]
    noise = noise_of(pair, 3)
    torch.testing.assert_close(noise[0], 2 * noise[1], rtol=0, atol=1e-6)


# --- one pool for all lanes -------------------------------------------------------------------------------


def over(y, **options):
    items = Items(np.arange(40.0).reshape(20, 2), y)
    rows, n = torch.tensor([[3, 5, 7], [19, 0, 1]]), torch.tensor([3, 1])
    return Batches.over(items, 16, rows, n, torch.tensor([0, 1]), torch.tensor([0, 0]), torch.float64, **options)


def test_real_targets_reach_their_items_as_they_are():
    y = np.random.default_rng(0).standard_normal((20, 3))
    batches = over(y)
    assert batches.real
    x, targets = batches.at(torch.tensor(2))
    for lane, allowed in enumerate(({3, 5, 7}, {19})):
        row = (x[lane, :, 0] / 2).long()
        assert set(row.tolist()) == allowed
        assert torch.equal(targets[lane], torch.from_numpy(y)[row])


def test_classes_become_one_hot_probabilities():
    y = np.arange(20) % 4
    batches = over(y, classes=5)
    assert not batches.real
    x, targets = batches.at(torch.tensor(2))
    assert targets.shape == (2, 16, 5)
    assert torch.equal(targets.argmax(-1), (x[..., 0] / 2).long() % 4)
    with pytest.raises(PackError, match="0 <= y < classes"):
        over(y, classes=3)
