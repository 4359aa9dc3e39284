"""Packs: a partition of the runs into equal shapes, within capacity, balanced, and named by content."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.errors import PackError
from raysweep.experiment import Cost
from raysweep.grid.axes import Axis, KindBy, index_axes
from raysweep.grid.enumeration import enumerate_runs
from raysweep.grid.expand import expand
from raysweep.pack import MIN_LANES, build_packs, halve, lanes_per_pack, make_pack, shape_groups

AXES = index_axes(
    [
        Axis("seed", int, "lane", 0),
        Axis("lr", float, "lane", 0.1),
        Axis("width", int, "shape", 64),
        Axis("schedule", str, "lane", "constant"),
        Axis("steps", int, KindBy("schedule", {"cosine": "lane"}, "observed"), 100),
        Axis("block", int, KindBy("schedule", {"cosine": "shape"}, "lane"), 1),
        Axis("k", int, "observed", 1),
    ]
)


def runs_of(grid):
    return enumerate_runs(expand(grid, AXES), AXES, "toy")


def cost(row, observed):
    return Cost(flops=float(row["width"]), flops_eval=1.0, bytes=8.0 * row["width"])


def groups_of(runs):
    return shape_groups(runs, AXES, cost)


def packs_of(runs, memory=1e9, **options):
    groups = groups_of(runs)
    return list(build_packs(runs, groups, lanes_per_pack(groups, memory, **options)))


def seen(runs, i):
    """All that must be equal inside a pack."""
    row = runs.row(i)
    shape = {n: v for n, v in row.items() if AXES[n].kind_for(row) == "shape"}
    return tuple(shape.items()), frozenset(runs.observed[int(runs.observed_code[i])].cells)


GRIDS = st.fixed_dictionaries(
    {"seed": st.fixed_dictionaries({"range": st.integers(1, 20)})},
    optional={
        "width": st.just([16, 32, 64]),
        "zip": st.sampled_from([{"lr": [0.1, 0.2, 0.2], "k": [1, 1, 5]}, {"lr": [0.1, 0.2], "k": [3, 3]}]),
        "steps": st.just([10, 20]),
        "schedule": st.just(["constant", "cosine"]),
        "block": st.just([1, 2]),
    },
)


@given(GRIDS, st.integers(1, 40), st.integers(1, 4), st.sampled_from([None, 1, 3, 50]))
@settings(max_examples=60, deadline=None)
def test_packs_partition_the_runs_by_shape_and_observed_set_within_capacity(grid, fit, slots, lanes):
    runs = runs_of(grid)
    memory = fit * 8.0 * 64
    packs = packs_of(runs, memory, slots=slots, lanes=lanes)
    assert sorted(k for p in packs for k in p.runs.keys.tolist()) == sorted(runs.keys.tolist())
    assert len({p.id for p in packs}) == len(packs)
    whole = {runs.key(i): (runs.row(i), seen(runs, i)) for i in range(len(runs))}
    for pack in packs:
        assert len({seen(pack.runs, i) for i in range(len(pack))}) == 1
        assert len(pack.runs.observed) == 1
        assert len(pack) * 8.0 * pack.runs.value("width") <= memory
        assert lanes is None or len(pack) <= lanes
        for i in range(len(pack)):
            assert (pack.runs.row(i), seen(pack.runs, i)) == whole[pack.runs.key(i)]


@given(GRIDS)
@settings(max_examples=30, deadline=None)
def test_with_room_there_is_one_pack_per_distinct_shape_and_observed_set(grid):
    runs = runs_of(grid)
    assert len(packs_of(runs)) == len({seen(runs, i) for i in range(len(runs))})


def test_seeds_lr_and_times_of_one_width_share_one_pack():
    runs = runs_of({"seed": {"range": 5}, "lr": [0.1, 0.2], "width": [8, 16, 32], "steps": [1, 2, 4], "k": [1, 9]})
    assert [len(p) for p in packs_of(runs)] == [10, 10, 10]


def test_an_axis_that_is_a_lane_here_does_not_split_packs_though_it_is_a_shape_elsewhere():
    assert len(packs_of(runs_of({"block": [1, 2, 3]}))) == 1
    assert len(packs_of(runs_of({"block": [1, 2, 3], "schedule": "cosine"}))) == 3


def test_dear_packs_come_first():
    assert [p.runs.value("width") for p in packs_of(runs_of({"width": [8, 64, 16]}))] == [64, 16, 8]


def test_an_id_depends_on_the_runs_alone():
    runs = runs_of({"seed": {"range": 6}})
    order = np.array([4, 1, 0, 5, 2, 3])
    assert make_pack(runs).id == make_pack(runs.take(order)).id == make_pack(runs, attempt=2).id
    assert make_pack(runs).id != make_pack(runs.take(order[:5])).id


def test_a_pack_carries_only_what_its_runs_use():
    runs = runs_of({"seed": {"range": 100}, "zip": {"lr": [0.1, 0.2], "k": [1, 2]}})
    small = make_pack(runs.take(np.array([3, 7]))).runs
    assert len(small.values["seed"]) == 2
    assert len(small.observed) == 1


def test_halves_partition_a_pack_and_keep_its_attempt():
    pack = make_pack(runs_of({"seed": {"range": 7}}), attempt=3)
    left, right = halve(pack)
    assert (len(left), len(right), left.attempt, right.attempt) == (3, 4, 3, 3)
    assert left.runs.keys.tolist() + right.runs.keys.tolist() == pack.runs.keys.tolist()
    assert len({left.id, right.id, pack.id}) == 3


def test_halving_ends_at_one_lane():
    with pytest.raises(PackError, match="2 lanes or more"):
        halve(make_pack(runs_of({"seed": 1})))


def test_a_lane_that_does_not_fit_is_refused_with_its_shape_and_size():
    with pytest.raises(PackError, match=r"one lane must fit in 0\.00 GiB, but \{'width': 64\} needs"):
        lanes_per_pack(groups_of(runs_of({"width": 64})), 100.0)


@pytest.mark.parametrize("slots", [2, 3, 8])
def test_many_slots_get_about_one_pack_each(slots):
    runs = runs_of({"seed": {"range": 4000}, "width": [63, 127]})
    packs = packs_of(runs, slots=slots)
    work = [len(p) * (p.runs.value("width") + 1) for p in packs]
    assert slots <= len(packs) <= slots + 1
    assert max(work) <= 1.5 * sum(work) / slots


def test_a_group_smaller_than_a_slots_share_stays_whole():
    packs = packs_of(runs_of({"seed": {"range": 200}, "width": [63, 127]}), slots=2)
    assert sorted(len(p) for p in packs) == [200, 200]


def test_balance_never_splits_below_the_least_lanes():
    packs = packs_of(runs_of({"seed": {"range": 40}}), slots=16)
    assert len(packs) == math.ceil(40 / MIN_LANES)


def test_without_costs_a_group_is_one_pack():
    runs = runs_of({"seed": {"range": 40}})
    groups = shape_groups(runs, AXES, lambda row, observed: Cost())
    assert lanes_per_pack(groups, 1.0, slots=4) == [40]


def test_an_attempt_is_one_more_than_the_most_tried_of_its_runs():
    runs = runs_of({"seed": {"range": 4}})
    groups = groups_of(runs)
    (pack,) = build_packs(runs, groups, [4], np.array([0, 0, 2, 0], dtype=np.int32))
    assert pack.attempt == 3


def test_no_runs_make_no_packs():
    assert packs_of(runs_of({"seed": 1}).take(np.array([], dtype=int))) == []


ROUNDS = index_axes(
    [
        Axis("seed", int, "lane", 0),
        Axis("size", int, "lane", 1),
        Axis("width", int, "shape", 64),
        Axis("rounds", int, "lane", 1, role="time"),
        Axis("steps", int, "lane", 1, role="time"),
    ]
)
MIXED = {"size": [1, 5, 50], "rounds": [1, 2], "steps": [10, 40], "width": [8, 16], "seed": {"range": 7}}


def work(row, observed=None):
    """Depends on two axes of time and on a lane that is read at one width only."""
    size = row["size"] if row["width"] == 8 else 1
    flops = float(size * row["rounds"] * row["steps"])
    return Cost(parameters=float(size), flops=flops, flops_eval=1.0, bytes=8.0 * size)


def mixed_groups():
    runs = enumerate_runs(expand(MIXED, ROUNDS), ROUNDS, "toy")
    return runs, shape_groups(runs, ROUNDS, work)


def test_a_group_costs_what_its_runs_do_whatever_lanes_that_depends_on():
    runs, groups = mixed_groups()
    assert [len(g.index) for g in groups] == [84, 84]
    for group in groups:
        each = [work(runs.row(i)) for i in group.index.tolist()]
        for name in ("parameters", "flops", "flops_eval"):
            total = sum(getattr(c, name) for c in each)
            assert math.isclose(len(group.index) * getattr(group.cost, name), total, rel_tol=1e-12)
        assert group.cost.bytes == max(c.bytes for c in each)


def test_each_combination_of_what_is_read_is_priced_once_not_each_run():
    asked = []

    def counted(row, observed):
        asked.append(row["seed"])
        return Cost(flops=float(row["size"]) * (2 if row["seed"] > 3 else 1))

    runs = enumerate_runs(expand({"seed": {"range": 500}, "size": [1, 2]}, ROUNDS), ROUNDS, "toy")
    (group,) = shape_groups(runs, ROUNDS, lambda row, observed: Cost(flops=float(row["size"])))
    assert group.cost.flops == 1.5
    prices = []
    shape_groups(runs, ROUNDS, lambda row, observed: prices.append(row["size"]) or Cost(flops=1.0))
    assert len(prices) <= 3
    (group,) = shape_groups(runs, ROUNDS, counted)  # reads a seed, too: then every run is asked
    assert math.isclose(len(runs) * group.cost.flops, sum(counted(runs.row(i), None).flops for i in range(len(runs))))
    assert len(asked) <= 2 * len(runs) + 4


@pytest.mark.parametrize("slots", [2, 3])
def test_packs_of_a_mixed_group_have_equal_work_and_a_memory_bound_of_their_dearest(slots):
    runs, groups = mixed_groups()
    for memory in (1e9, 8.0 * 50 * 20):
        packs = list(build_packs(runs, groups, lanes_per_pack(groups, memory, slots)))
        assert sorted(k for p in packs for k in p.runs.keys.tolist()) == sorted(runs.keys.tolist())
        assert all(sum(work(p.runs.row(i)).bytes for i in range(len(p))) <= memory for p in packs)
        dear = [p for p in packs if p.runs.value("width") == 8]
        each = [sum(work(p.runs.row(i)).flops for i in range(len(p))) for p in dear]
        assert len(each) >= 2
        assert max(each) - min(each) <= 50 * 2 * 40  # one run
