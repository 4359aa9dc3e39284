from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import FUNCTION_SWEEP

from raysweep.claims import Claims
from raysweep.executors import Counts, Feed
from raysweep.executors import feed as module
from raysweep.ledger import Ledger
from raysweep.pack import Pack, make_pack
from raysweep.store import Store
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
