from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import FUNCTION_SWEEP

from raysweep.pack import Pack, make_pack
from raysweep.store import Store
from raysweep.store import leases as module
from raysweep.store.leases import LEASE, Claims, Pulse, drivers, hold, who
from raysweep.sweep import Sweep


@pytest.fixture
def pack(make_sweep: Callable[..., Sweep]) -> Pack:
    return make_pack(make_sweep(FUNCTION_SWEEP).runs)


def age(tmp_path: Path, owner: str, seconds: float) -> None:
    """Let a driver's heartbeat be that old."""
    then = time.time() - seconds
    os.utime(tmp_path / "claims" / f"{owner}.heartbeat", (then, then))


def test_a_pack_is_taken_once_and_free_after_release(tmp_path: Path, pack: Pack) -> None:
    one, two = Claims(Store(str(tmp_path)), "one"), Claims(Store(str(tmp_path)), "two")
    assert one.take(pack.id, pack.run_keys)
    assert not two.take(pack.id, pack.run_keys)
    assert one.take(pack.id, pack.run_keys)
    one.release(pack.id)
    assert two.take(pack.id, pack.run_keys)


def test_packs_that_share_a_run_exclude_each_other(tmp_path: Path, pack: Pack) -> None:
    one, two = Claims(Store(str(tmp_path)), "one"), Claims(Store(str(tmp_path)), "two")
    index = list(range(len(pack)))
    half, overlap, rest = (make_pack(pack.runs.take(part)) for part in (index[:3], index[2:4], index[3:]))
    assert one.take(half.id, half.run_keys)
    assert not two.take(overlap.id, overlap.run_keys)
    assert two.take(rest.id, rest.run_keys)


def test_a_silent_driver_loses_its_claims(tmp_path: Path, pack: Pack) -> None:
    one, two = Claims(Store(str(tmp_path)), "one"), Claims(Store(str(tmp_path)), "two")
    assert one.take(pack.id, pack.run_keys)
    age(tmp_path, "one", LEASE - 10)
    assert not two.take(pack.id, pack.run_keys)
    age(tmp_path, "one", LEASE + 10)
    assert two.take(pack.id, pack.run_keys)


def test_a_torn_claim_claims_nothing(tmp_path: Path, pack: Pack) -> None:
    store = Store(str(tmp_path))
    Claims(store, "one").beat()
    store.write(f"claims/{pack.id}~one.json", b"{")
    assert Claims(store, "two").take(pack.id, pack.run_keys)


def test_claims_work_without_modification_times(memory_store: Store, pack: Pack) -> None:
    one, two = Claims(memory_store, "one"), Claims(memory_store, "two")
    assert one.take(pack.id, pack.run_keys)
    two.take(pack.id, pack.run_keys)  # may or may not succeed: without the store's clock a claim is only a hint
    one.release(pack.id)
    assert two.take(pack.id, pack.run_keys)


def test_holding_keeps_the_heartbeat_alive_and_leaves_nothing(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEASE", 0.2)
    store = Store(str(tmp_path))
    with hold(store) as claims:
        assert claims.take(pack.id, pack.run_keys)
        first = dict(store.list("claims"))[f"{claims.owner}.heartbeat"]
        deadline = time.monotonic() + 200
        while dict(store.list("claims"))[f"{claims.owner}.heartbeat"] == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert dict(store.list("claims"))[f"{claims.owner}.heartbeat"] > first
        (found,) = drivers(store)
        assert found["packs"] == 1
    assert store.list("claims") == []


def test_a_driver_that_died_on_this_host_holds_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        other = Claims(store, owner=f"{socket.gethostname()}-{process.pid}-abc")
        other.beat()
        assert other.take("pack", {"a"})
        mine = Claims(store)
        assert not mine.take("pack", {"a"})
        process.kill()
    assert mine.take("pack", {"a"})


def test_a_driver_of_another_host_is_waited_for(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    other = Claims(Store(str(tmp_path)), owner=f"elsewhere-{process.stdout.strip()}-abc")
    other.beat()
    assert other.take("pack", {"a"})
    assert not Claims(Store(str(tmp_path))).take("pack", {"a"})


def test_packs_claimed_at_once_exclude_each_other_one_by_one(tmp_path: Path) -> None:
    one, two = Claims(Store(str(tmp_path)), "one"), Claims(Store(str(tmp_path)), "two")
    assert one.take_all({"a": {"1", "2"}, "b": {"3"}}) == {"a", "b"}
    assert two.take_all({"c": {"2", "9"}, "d": {"4"}}) == {"d"}
    one.release("a")
    assert not two.take("c", {"2", "9"})  # the file goes with the last of its packs
    one.release("b")
    assert two.take("c", {"2", "9"})
    assert [d["packs"] for d in drivers(Store(str(tmp_path)))] == [0, 3]
    two.release("c")
    two.release("d")
    assert {name for name, _ in Store(str(tmp_path)).list("claims")} == {"one.heartbeat", "two.heartbeat"}


def test_a_claim_takes_few_requests_however_many_packs_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival, claims = Claims(Store(str(tmp_path)), "a"), Claims(Store(str(tmp_path)), "b")
    for i in range(20):
        assert rival.take(f"r{i}", {f"r{i}"})
    claims.take("first", {"first"})  # reads what the rival holds, once
    done: list[str] = []
    for name in ("write", "list", "read", "delete"):
        original = getattr(Store, name)
        monkeypatch.setattr(Store, name, lambda *a, _n=name, _f=original: (done.append(_n), _f(*a))[1])
    assert len(claims.take_all({f"p{i}": {f"p{i}", f"r{i}"} for i in range(40)})) == 20
    assert done == ["write", "list"]


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass by the monotonic clock, of claims alone."""
    gone = [0.0]
    real = time.monotonic
    clock = SimpleNamespace(monotonic=lambda: real() + gone[0], time=time.time)
    monkeypatch.setattr(module, "time", clock)
    return lambda seconds: gone.append(gone.pop() + seconds)


DAY = 86400.0


@pytest.mark.parametrize("ahead", [60.0, 3600.0, 400 * DAY])
def test_a_heartbeat_with_a_time_in_the_future_holds_packs_for_a_lease_and_no_longer(
    tmp_path: Path, passing: Callable[[float], None], ahead: float
) -> None:
    one, two = Claims(Store(str(tmp_path)), "one"), Claims(Store(str(tmp_path)), "two")
    assert one.take("pack", {"a"})
    age(tmp_path, "one", -ahead)
    assert not two.take("pack", {"a"})
    passing(LEASE - 5)
    assert not two.take("pack", {"a"})
    passing(10)
    assert two.take("pack", {"a"})
    assert "one.heartbeat" not in dict(Store(str(tmp_path)).list("claims"))


def test_a_driver_whose_clock_is_ahead_is_waited_for_as_long_as_it_beats(
    tmp_path: Path, passing: Callable[[float], None]
) -> None:
    one, two = Claims(Store(str(tmp_path)), "one"), Claims(Store(str(tmp_path)), "two")
    assert one.take("pack", {"a"})
    for i in range(8):
        one.beat()
        age(tmp_path, "one", -DAY - i)  # by a clock that goes back, too
        assert not two.take("pack", {"a"})
        passing(LEASE / 4)


def test_a_driver_whose_clock_is_behind_is_waited_for_once_it_was_seen_to_beat(
    tmp_path: Path, passing: Callable[[float], None]
) -> None:
    """At first sight it looks dead; or the store's clock jumped ahead."""
    one, two = Claims(Store(str(tmp_path)), "one"), Claims(Store(str(tmp_path)), "two")
    one.beat()
    age(tmp_path, "one", DAY)
    assert two.take("other", {"b"})
    assert one.take("pack", {"a"})
    for i in range(8):
        one.beat()
        age(tmp_path, "one", DAY - 1 - i)
        assert not two.take("pack", {"a"})
        passing(LEASE / 4)
    passing(LEASE)
    assert two.take("pack", {"a"})


@pytest.mark.parametrize("owner", ["a", "z"])
@pytest.mark.parametrize("ahead", [20.0, 2 * 3600.0])
def test_a_claim_from_the_future_was_there_first(tmp_path: Path, owner: str, ahead: float) -> None:
    """The store's clock jumped back after the claim was made, and its owner is at work."""
    one, two = Claims(Store(str(tmp_path)), owner), Claims(Store(str(tmp_path)), "me")
    assert one.take("pack", {"a"})
    then = time.time() + ahead
    for path in (tmp_path / "claims").glob("*.json"):
        os.utime(path, (then, then))
    one.beat()
    assert not two.take("pack", {"a"})
    one.release("pack")
    assert two.take("pack", {"a"})


@pytest.mark.parametrize("owner", ["a", "z"])
def test_without_times_a_claim_that_is_there_holds_while_its_owner_beats(
    memory_store: Store, passing: Callable[[float], None], owner: str
) -> None:
    one, two = Claims(memory_store, owner), Claims(memory_store, "me")
    assert one.take("pack", {"a"})
    for _ in range(8):
        one.beat()
        assert not two.take("pack", {"a"})
        passing(LEASE / 4)
    passing(LEASE)
    assert two.take("pack", {"a"})
    assert not one.take("pack", {"a"})


@pytest.mark.parametrize("times", [(0.0, 0.0), (1.0, 1.0)])
def test_files_without_sensible_times_do_not_hold_for_ever(
    tmp_path: Path, passing: Callable[[float], None], times: tuple[float, float]
) -> None:
    one, two = Claims(Store(str(tmp_path)), "one"), Claims(Store(str(tmp_path)), "two")
    assert one.take("pack", {"a"})
    for path in (tmp_path / "claims").iterdir():
        os.utime(path, times)
    two.take("pack", {"a"})
    two.release("pack")
    passing(LEASE + 1)
    assert two.take("pack", {"a"})


def test_a_driver_that_was_taken_for_dead_lives_again_with_its_next_claim(tmp_path: Path) -> None:
    one, two = Claims(Store(str(tmp_path)), "one"), Claims(Store(str(tmp_path)), "two")
    assert one.take("pack", {"a"})
    age(tmp_path, "one", DAY)
    assert two.take("pack", {"a"})
    assert not one.take("pack", {"a"})
    assert one.take("other", {"b"})
    assert not two.take("other", {"b"})


def test_who_holds_what_is_known(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    mine = Claims(store, "me")
    hosts = [Claims(store, f"host-{i}-12{i}-abcdef") for i in range(5)]
    for i, claims in enumerate(hosts):
        assert claims.take_all({f"{i}-{j}": {f"{i}-{j}"} for j in range(5 - i)})
    wanted = {f"{i}-{j}": {f"{i}-{j}"} for i in range(5) for j in range(5 - i)}
    assert mine.take_all({**wanted, "free": {"free"}}) == {"free"}
    assert mine.waiting(["4-0"]) == "waiting for host-4 (process 124), which holds 1 pack"
    assert mine.waiting(wanted) == (
        "waiting for host-0 (process 120), which holds 5 packs, and host-1 (process 121), which holds 4 packs, "
        "and host-2 (process 122), which holds 3 packs, and 2 other drivers"
    )
    assert mine.holders["4-0"] == hosts[4].owner
    hosts[4].release("4-0")
    assert mine.take("4-0", {"4-0"})
    assert "4-0" not in mine.holders
    assert who("node7-3992-abcdef") == "node7 (process 3992)"
    assert who("plain") == "plain"


def test_drivers_with_times_in_the_future_have_no_age_and_are_silent_after_a_lease(
    tmp_path: Path, passing: Callable[[float], None]
) -> None:
    store = Store(str(tmp_path))
    Claims(store, "host-1-aa").beat()
    age(tmp_path, "host-1-aa", -DAY)
    pulse = Pulse(store)
    (found,) = drivers(store, pulse=pulse)
    assert (found["alive"], found["heartbeat_age"]) == (True, None)
    passing(LEASE + 1)
    (found,) = drivers(store, pulse=pulse)
    assert not found["alive"]
