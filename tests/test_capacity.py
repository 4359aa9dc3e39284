"""Capacity: a device is asked only when it matters, measured once per shape, and never filled beyond its share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raysweep import capacity
from raysweep.cache import cache_file
from raysweep.capacity import Device
from raysweep.errors import PackError
from raysweep.pack import Pack
from raysweep.plan import make_plan
from raysweep.store import Store
from raysweep.sweep import Sweep

BIG: dict[str, Any] = {
    "name": "big",
    "experiment": "classifier",
    "world": {"kind": "gaussian", "dim": 64, "classes": 4},
    "grid": {"width": [256, 512], "depth": 3, "batch": 1024, "seed": {"range": 2000}, "steps": [10, 20, 2000]},
    "resources": {"gpus": 1},
}
PER_LANE, SHARED = 20e6, 3e9


@dataclass
class FakeGPU:
    """A device whose packs take PER_LANE bytes a lane on top of SHARED."""

    memory: float = 30e9
    asked: list[Pack] = field(default_factory=list)

    def device(self) -> Device:
        return Device("Fake 9000", self.memory)

    def peak_bytes(self, pack: Pack) -> float:
        self.asked.append(pack)
        return SHARED + PER_LANE * len(pack)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def planned(tmp_path: Path, make_sweep: Callable[..., Sweep]) -> Callable[..., Any]:
    def plan(probe: Any, **changes: Any) -> Any:
        sweep = make_sweep({**BIG, "grid": {**BIG["grid"], **changes.pop("grid", {})}}, **changes)
        return make_plan(sweep, Store(str(tmp_path / "store")), 1, probe=probe)

    return plan


def test_packs_fill_at_most_four_fifths_of_the_device_by_the_measured_bytes(planned: Callable[..., Any]) -> None:
    plan = planned(FakeGPU())
    assert [g.cost.bytes for g in plan.groups] == [PER_LANE, PER_LANE]
    assert list(plan.most) == [1200, 1200]
    assert plan.memory == pytest.approx(0.8 * 30e9)
    small = planned(FakeGPU(memory=16e9))  # another device is measured for itself
    assert list(small.most) == [640, 640]


def test_a_shape_is_measured_once_by_two_packs_at_its_earliest_time(planned: Callable[..., Any]) -> None:
    gpu = FakeGPU()
    planned(gpu)
    assert [len(p) for p in gpu.asked] == [8, 24, 8, 24]
    assert {p.runs.observed[0].values("steps") for p in gpu.asked} == {(10,)}
    again = FakeGPU()
    plan = planned(again)
    assert not again.asked
    assert [g.cost.bytes for g in plan.groups] == [PER_LANE, PER_LANE]
    assert cache_file("capacity.json").is_file()


def test_lanes_lost_in_what_packs_share_keep_their_estimate(planned: Callable[..., Any]) -> None:
    class Flat(FakeGPU):
        def peak_bytes(self, pack: Pack) -> float:
            return SHARED

    estimates = [g.cost.bytes for g in planned(None).groups]
    assert [g.cost.bytes for g in planned(Flat()).groups] == estimates


def test_a_small_sweep_does_not_ask_the_device(planned: Callable[..., Any]) -> None:
    class Nobody:
        def device(self) -> Device:
            raise AssertionError("asked")

    plan = planned(Nobody(), grid={"width": 8, "seed": {"range": 50}, "batch": 8})
    assert list(plan.most) == [50]


def test_a_fraction_of_a_gpu_gets_its_share(planned: Callable[..., Any]) -> None:
    half = planned(FakeGPU(), resources={"gpus": 0.5})
    assert half.memory == pytest.approx(0.4 * 30e9)


def test_without_anyone_to_ask_estimates_and_80_gib_are_assumed(planned: Callable[..., Any]) -> None:
    plan = planned(None)
    assert plan.memory == pytest.approx(0.8 * 80 * 2**30)
    assert all(m * g.cost.bytes <= plan.memory for m, g in zip(plan.most, plan.groups, strict=True))


def test_what_is_given_is_not_measured(planned: Callable[..., Any]) -> None:
    gpu = FakeGPU()
    plan = planned(gpu, resources={"gpus": 1, "memory_gib": 2})
    assert not gpu.asked
    assert plan.memory == 2 * 2**30


def test_a_lane_that_fits_no_device_is_refused(planned: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "_SURE", 0.0)
    with pytest.raises(PackError, match=r"one lane must fit in 0\.01 GiB"):
        planned(FakeGPU(memory=1e7))


@pytest.mark.parametrize("content", ["", "[]", '{"a": "b"}', '{"a": -1}', "\x00"])
def test_a_damaged_cache_is_only_measured_again(planned: Callable[..., Any], content: str) -> None:
    cache_file("capacity.json").parent.mkdir(parents=True)
    cache_file("capacity.json").write_text(content)
    gpu = FakeGPU()
    planned(gpu)
    assert len(gpu.asked) == 4
