from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import FUNCTION_SWEEP

from raysweep import claims as module
from raysweep.claims import LEASE, Claims, drivers, hold
from raysweep.pack import Pack, make_pack
from raysweep.store import Store
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
        deadline = time.monotonic() + 10
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
