from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import FUNCTION_SWEEP

from raysweep.executors import Feed
from raysweep.executors import feed as module
from raysweep.executors import hosts as hosts_module
from raysweep.ledger.log import Ledger
from raysweep.ledger.rows import Counts, Stamp, failure_rows, row_schema
from raysweep.pack import Pack, make_pack
from raysweep.store import Store
from raysweep.store.leases import Claims
from raysweep.sweep import Sweep


class Given:
    """Collects what the feed gives up."""

    def __init__(self) -> None:
        self.packs: list[tuple[Pack, str]] = []

    def __call__(self, pack: Pack, reason: str) -> Counts:
        self.packs.append((pack, reason))
        return Counts(failed=pack.runs.cells)


@pytest.fixture
def pack(make_sweep: Callable[..., Sweep]) -> Pack:
    return make_pack(make_sweep(FUNCTION_SWEEP).runs)


def feed_of(tmp_path: Path, packs: list[Pack], attempts: int = 3, owner: str = "me") -> tuple[Feed, Given]:
    given, store = Given(), Store(str(tmp_path))
    return Feed(packs, Ledger(store).pending_each, Claims(store, owner), attempts, given), given


def taken(feed: Feed) -> Pack:
    pack = feed.ask()
    assert pack is not None
    return pack


def test_packs_come_in_order_and_the_feed_ends(tmp_path: Path, pack: Pack) -> None:
    parts = [make_pack(pack.runs.take([i])) for i in range(3)]
    feed, _ = feed_of(tmp_path, parts)
    assert [taken(feed).id for _ in parts] == [p.id for p in parts]
    assert feed.ask() is None
    assert not feed.finished
    for part in parts:
        feed.done(part.id)
    assert feed.finished


def test_a_lost_pack_is_tried_as_often_as_allowed_and_then_given_up(tmp_path: Path, pack: Pack) -> None:
    feed, given = feed_of(tmp_path, [pack], attempts=3)
    for attempt in (1, 2, 3):
        again = taken(feed)
        assert again.attempt == attempt
        counts = feed.lost(again.id, "killed")
    assert counts == Counts(failed=pack.runs.cells)
    ((last, reason),) = given.packs
    assert (last.attempt, reason) == (3, "killed")
    assert feed.finished


def test_losses_that_are_not_its_fault_do_not_use_up_a_packs_attempts(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BAD_LUCK", 5)
    feed, given = feed_of(tmp_path, [pack], attempts=2)
    for own_fault in (False, True, False, False, False):
        feed.lost(taken(feed).id, "killed", own_fault)
        assert given.packs == []
    assert feed.lost(taken(feed).id, "its node died again", own_fault=False).failed == pack.runs.cells
    assert given.packs[0][1] == "its node died again"
    assert feed.finished


def test_an_earlier_sessions_attempts_do_not_use_up_this_ones(tmp_path: Path, pack: Pack) -> None:
    feed, given = feed_of(tmp_path, [Pack(pack.id, pack.runs, attempt=7)], attempts=2)
    feed.lost(taken(feed).id, "killed")
    assert taken(feed).attempt == 8
    assert given.packs == []


def test_a_pack_too_large_is_halved_down_to_single_lanes(tmp_path: Path, pack: Pack) -> None:
    feed, given = feed_of(tmp_path, [pack])
    ran: list[bytes] = []
    while not feed.finished:
        part = taken(feed)
        if len(part) > 2:
            feed.too_large(part.id, "out of memory")
        else:
            ran += part.runs.keys.tolist()
            feed.done(part.id)
    assert sorted(ran) == sorted(pack.runs.keys.tolist())
    assert given.packs == []


def test_one_lane_that_does_not_fit_fails_with_its_reason(tmp_path: Path, pack: Pack) -> None:
    feed, given = feed_of(tmp_path, [make_pack(pack.runs.take([0]))])
    counts = feed.too_large(taken(feed).id, "needs 9 GiB")
    assert counts.failed == 3
    assert given.packs[0][1] == "out of memory with one lane: needs 9 GiB"


def test_a_pack_another_driver_holds_waits_and_is_taken_when_released(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WAIT", 0.0)
    other = Claims(Store(str(tmp_path)), "other")
    assert other.take(pack.id, pack.run_keys)
    feed, _ = feed_of(tmp_path, [pack])
    assert feed.ask() is None
    assert not feed.finished
    assert feed.ask() is None
    other.release(pack.id)
    assert taken(feed).id == pack.id


def test_while_all_that_is_left_is_held_by_others_it_is_said_by_whom(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WAIT", 0.0)
    store, said = Store(str(tmp_path)), []  # type: ignore[var-annotated]
    other = Claims(store, "host-a-123-c0ffee")
    one, two, three = (make_pack(pack.runs.take([i])) for i in range(3))
    assert other.take_all({p.id: p.run_keys for p in (one, two)}) == {one.id, two.id}
    feed = Feed([one, two, three], Ledger(store).pending_each, Claims(store, "me"), 3, Given(), said.append)
    mine = taken(feed)
    assert mine.id == three.id
    assert feed.ask() is None
    assert said == []  # a pack is in flight: there is progress to show
    feed.done(mine.id)
    assert feed.ask() is None
    other.release(one.id)
    assert said == ["waiting for host-a (process 123), which holds 2 packs"]
    assert not feed.finished


def test_packs_are_claimed_several_at_a_time(
    tmp_path: Path, make_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = make_sweep(FUNCTION_SWEEP, {"seed": {"range": 40}}).runs
    made = [0]

    def packs() -> Iterator[Pack]:
        for i in range(len(runs)):
            made[0] += 1
            yield make_pack(runs.take([i]))

    sizes: list[int] = []
    original = Claims.take_all

    def counted(claims: Claims, wanted: dict[str, set[str]]) -> set[str]:
        sizes.append(len(wanted))
        return original(claims, wanted)

    monkeypatch.setattr(Claims, "take_all", counted)
    monkeypatch.setattr(module, "_WAIT", 1000.0)
    feed = Feed(packs(), Ledger(Store(str(tmp_path))).pending_each, Claims(Store(str(tmp_path))), 3, Given())
    assert made == [1]  # none is made before it is needed; one, to know whether there is any
    ids = [taken(feed).id for _ in range(10)]
    assert made[0] <= 20
    ids += [taken(feed).id for _ in range(len(runs) - 10)]
    assert feed.ask() is None
    assert len(set(ids)) == len(runs) == sum(sizes) == 120
    assert sizes == [1, 1, 2, 4, 8, 16, 32, 56]
    for pack_id in ids:
        feed.done(pack_id)
    assert feed.finished
    assert not [name for name, _ in Store(str(tmp_path)).list("claims") if "~" in name]


def test_what_another_driver_finished_meanwhile_is_not_run_again(
    tmp_path: Path, pack: Pack, make_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WAIT", 0.0)
    store, other = Store(str(tmp_path)), Claims(Store(str(tmp_path)), "other")
    one, two = (make_pack(pack.runs.take(part)) for part in ([0, 1, 2], [3, 4, 5]))
    assert other.take_all({p.id: p.run_keys for p in (one, two)}) == {one.id, two.id}
    feed, _ = feed_of(tmp_path, [one, two])
    assert feed.ask() is None
    schema = row_schema(make_sweep(FUNCTION_SWEEP).experiment)
    part = make_pack(one.runs.take([0, 1])).runs
    Ledger(store).append(failure_rows(part, schema, Stamp("p", 1, "cpu"), "ok", ""), 1)
    Ledger(store).append(failure_rows(two.runs, schema, Stamp("p", 1, "cpu"), "ok", ""), 2)
    other.release(one.id)
    other.release(two.id)
    feed.ask()
    left = taken(feed)
    assert left.run_keys == {one.runs.key(2)}
    feed.done(left.id)
    assert feed.finished


def test_what_another_driver_finished_and_gave_back_is_not_run_again(
    tmp_path: Path, pack: Pack, make_sweep: Callable[..., Sweep]
) -> None:
    store, other = Store(str(tmp_path)), Claims(Store(str(tmp_path)), "other")
    one, two = (make_pack(pack.runs.take(part)) for part in ([0, 1, 2], [3, 4, 5]))
    feed, _ = feed_of(tmp_path, [one, two])
    assert other.take(one.id, one.run_keys)
    schema = row_schema(make_sweep(FUNCTION_SWEEP).experiment)
    Ledger(store).append(failure_rows(one.runs, schema, Stamp("p", 1, "cpu"), "ok", ""), 1)
    other.release(one.id)
    assert taken(feed).id == two.id


def test_failures_of_one_host_of_several_stop_a_sweep_later(tmp_path: Path, pack: Pack) -> None:
    for one_host, allowed in ((False, 6), (True, 18)):
        store = Store(str(tmp_path / str(one_host)))
        feed = Feed([pack], Ledger(store).pending_each, Claims(store, "me"), 3, Given(), most=6)
        for count in range(1, allowed + 1):
            assert not feed.stopped, count
            feed.failed("ValueError: no driver here", one_host)
        assert feed.stopped.startswith(f"{allowed} runs failed for one reason and none succeeded: ValueError")


def test_a_host_is_the_only_one_heard_of_while_others_could_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def nodes(*names: str, cpus: float = 2.0) -> None:
        found = [{"NodeID": name, "Alive": name != "dead", "Resources": {"CPU": cpus}} for name in names]
        monkeypatch.setattr(hosts_module.ray, "nodes", lambda: found)

    hosts = hosts_module.Hosts(str)
    nodes("a", "b")
    assert hosts.only("a")
    nodes("a", "dead")
    assert not hosts.only("a")
    nodes("a", "b", cpus=0.0)  # a head that only manages
    assert not hosts.only("a")
    nodes("a", "b")
    hosts.saw("a", 0, 3)
    assert hosts.only("a")
    hosts.saw("b", 0, 1)
    assert not hosts.only("a")
