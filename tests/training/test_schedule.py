"""Schedules against closed forms, lane by lane; and the legs that a set of times asks for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raysweep.training.legs import Leg, legs
from raysweep.training.schedule import Schedule

WARMUP = torch.tensor([0, 1, 4, 10, 50])
HORIZON = torch.tensor([20, 1, 20, 30, 40])  # the last warms up past its end


def factors(schedule, steps):
    return torch.stack([schedule.factor(torch.tensor(s)) for s in range(steps)], 1)


def warm(step, warmup):
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def test_constant_warms_up_linearly_and_stays():
    found = factors(Schedule.make("constant", WARMUP, HORIZON), 60)
    assert found.dtype == torch.float64
    for lane, w in enumerate(WARMUP.tolist()):
        assert found[lane].tolist() == pytest.approx([warm(s, w) for s in range(60)], abs=1e-15)
    assert found[2, :5].tolist() == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_cosine_falls_to_zero_at_each_lanes_own_horizon():
    found = factors(Schedule.make("cosine", WARMUP, HORIZON), 60)
    for lane, (w, end) in enumerate(zip(WARMUP.tolist(), HORIZON.tolist(), strict=True)):
        for s in range(60):
            through = min(max((s - w) / max(end - w, 1), 0), 1)
            wanted = 0.0 if s >= end else warm(s, w) * (1 + math.cos(math.pi * through)) / 2
            assert found[lane, s].item() == pytest.approx(wanted, abs=1e-15), (lane, s)
    assert found[0, 0] == 1
    assert found[0, 10].item() == pytest.approx(0.5, abs=1e-15)
    assert found[0, 19] > 0
    assert (found[0, 20:] == 0).all()  # exactly: a lane past its end must not move
    assert found[2, 12].item() == pytest.approx(0.5, abs=1e-15)  # half-way from 4 to 20


def test_drop_is_a_tenth_from_seven_tenths_of_each_lanes_own_horizon():
    found = factors(Schedule.make("drop", WARMUP, HORIZON), 60)
    assert found[0, :20].tolist() == pytest.approx([1.0] * 14 + [0.1] * 6, abs=1e-15)
    assert found[3].tolist() == pytest.approx(
        [warm(s, 10) * (1.0 if s < 21 else 0.1) * (s < 30) for s in range(60)], abs=1e-15
    )
    assert (found[0, 20:] == 0).all()  # exactly


def test_wsd_decays_linearly_inside_a_branch_and_nowhere_else():
    schedule = Schedule.make("wsd", WARMUP, HORIZON)
    trunk = factors(schedule, 60)
    assert torch.equal(trunk, factors(Schedule.make("constant", WARMUP, HORIZON), 60))
    schedule.branch(40, 50)
    found = factors(schedule, 60)
    assert torch.equal(found[:, :40], trunk[:, :40])
    for s in range(40, 60):
        wanted = trunk[:, s] * max((50 - s) / 10, 0)
        torch.testing.assert_close(found[:, s], wanted, rtol=1e-15, atol=1e-15)
    assert found[0, 40] == 1
    assert found[0, 49].item() == pytest.approx(0.1)
    assert found[0, 50] == 0
    schedule.trunk()
    assert torch.equal(factors(schedule, 60), trunk)


def test_a_schedule_of_some_lanes_shares_the_branch():
    """The loop writes the branch of the stack it began with; a compacted stack must see it."""
    schedule = Schedule.make("wsd", WARMUP, HORIZON)
    part = schedule.take(torch.tensor([3, 0]))
    schedule.branch(20, 30)
    assert torch.equal(factors(part, 40), factors(schedule, 40)[[3, 0]])
    assert factors(part, 40)[1, 25].item() == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_without_branches_every_time_is_a_leg(kind):
    assert legs(kind, [0, 3, 9], 0.5) == [Leg(0, True), Leg(3, True), Leg(9, True)]


def test_under_wsd_every_time_is_a_branch_off_one_trunk():
    assert legs("wsd", [10, 100], 0.2) == [
        Leg(8, False),
        Leg(10, True, decay=True),
        Leg(80, False),
        Leg(100, True, decay=True),
    ]


def test_branches_from_one_place_share_the_trunk_to_it():
    """Half of 3 is 2 steps, half of 2 is 1: both leave the trunk after 1."""
    assert legs("wsd", [2, 3], 0.5) == [Leg(1, False), Leg(2, True, decay=True), Leg(3, True, decay=True)]


def test_all_or_nothing_of_the_time_may_decay_and_no_time_may_pass():
    assert legs("wsd", [0, 4], 1.0) == [Leg(0, True, decay=True), Leg(4, True, decay=True)]
    assert legs("wsd", [0, 4], 0.0) == [Leg(0, True, decay=True), Leg(4, False), Leg(4, True, decay=True)]
    assert legs("wsd", [1], 0.01) == [Leg(1, True, decay=True)]  # at least a step decays


@given(
    times=st.sets(st.integers(0, 10**6), min_size=1, max_size=12).map(sorted),
    decay=st.floats(0, 1),
    kind=st.sampled_from(["constant", "wsd", "cosine"]),
)
def test_legs_never_go_back_and_end_at_every_time(times, decay, kind):
    found = legs(kind, times, decay)
    assert [leg.stop for leg in found if leg.snapshot] == times
    done = 0
    for leg in found:
        assert leg.stop >= done
        if leg.decay:
            assert leg.stop - done - decay * leg.stop == pytest.approx(0.5, abs=0.5 + 1e-6)  # rounded up
        else:
            assert leg.stop > done or leg.stop == times[0] == 0
            done = leg.stop
    assert all(leg.snapshot or not leg.decay for leg in found)
