"""The feed: packs are asked from it and their fate is told to it. Retries, halved packs and claims live here."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from raysweep.claims import Claims
from raysweep.errors import PackError
from raysweep.executors.work import Counts
from raysweep.pack import Pack, halve, make_pack
from raysweep.runs import Runs

__all__ = ["Feed"]

_WAIT = 5.0  # seconds between looks at packs that another driver holds
_BAD_LUCK = 30  # times a pack may be lost through no fault of its own, e.g. to preempted nodes


class Feed:
    """An ask-tell queue of packs.

    Args:
        packs: To execute, in order.
        pending: What of some runs is still to do, asked of the ledger when a pack is lost or was held elsewhere.
        claims: Of this driver.
        attempts: Tries of a pack whose worker dies.
        give_up: Called with a pack's unfinished runs and the reason when it is not tried again; returns its counts.
    """

    def __init__(
        self,
        packs: Iterable[Pack],
        pending: Callable[[Runs], Runs],
        claims: Claims,
        attempts: int,
        give_up: Callable[[Pack, str], Counts],
    ) -> None:
        self._waiting: deque[Pack] = deque(packs)
        self._held: deque[Pack] = deque()  # by another driver
        self._looked = 0.0
        self._flying: dict[str, Pack] = {}
        self._losses: dict[str, tuple[int, int]] = {}  # by pack: crashes, and losses that were not its fault
        self._pending, self._claims, self._attempts, self._give_up = pending, claims, attempts, give_up

    @property
    def finished(self) -> bool:
        """Nothing waits and nothing is in flight."""
        return not (self._waiting or self._held or self._flying)

    def ask(self) -> Pack | None:
        """The next pack, or None while there is none to give (see `finished`)."""
        if not self._waiting and self._held and time.monotonic() - self._looked > _WAIT:
            self._looked = time.monotonic()
            while self._held:
                pack = self._held.popleft()
                rest = self._pending(pack.runs)  # the other driver may have finished it
                if len(rest):
                    self._waiting.append(make_pack(rest, pack.attempt))
        while self._waiting:
            pack = self._waiting.popleft()
            if self._claims.take(pack.id, pack.run_keys):
                self._flying[pack.id] = pack
                return pack
            self._held.append(pack)
        return None

    def done(self, pack_id: str) -> None:
        """The pack ended; its rows are in the ledger."""
        self._flying.pop(pack_id)
        self._claims.release(pack_id)

    def lost(self, pack_id: str, reason: str, own_fault: bool = True) -> Counts:
        """The pack's worker died. What it lacks is tried again, then given up.

        Args:
            pack_id: Of the pack.
            reason: What is known of the death.
            own_fault: A crash counts towards `attempts`. The death or preemption of a node, and a store that could
                not be written, do not: a pack may be lost to those many more times.
        """
        crashes, others = self._losses.pop(pack_id, (0, 0))
        pack, rest = self._landed(pack_id)
        if not len(rest):
            return Counts()
        crashes, others = (crashes + 1, others) if own_fault else (crashes, others + 1)
        again = replace(make_pack(rest), attempt=pack.attempt + 1)
        if crashes >= self._attempts or others >= _BAD_LUCK:
            return self._give_up(replace(again, attempt=pack.attempt), reason)
        self._losses[again.id] = (crashes, others)
        (self._waiting.append if own_fault else self._waiting.appendleft)(again)  # what crashes must not hold up others
        return Counts()

    def too_large(self, pack_id: str, reason: str) -> Counts:
        """The pack ran out of memory: queue both halves, or give up on a single lane."""
        pack, rest = self._landed(pack_id)
        if not len(rest):
            return Counts()
        try:
            halves = halve(make_pack(rest, pack.attempt))
        except PackError:
            return self._give_up(make_pack(rest, pack.attempt), f"out of memory with one lane: {reason}")
        self._waiting.extendleft(reversed(halves))
        return Counts()

    def _landed(self, pack_id: str) -> tuple[Pack, Runs]:
        """A pack that did not end well, and what of it is still to do."""
        pack = self._flying.pop(pack_id)
        self._claims.release(pack_id)
        return pack, self._pending(pack.runs)
