"""The feed: packs are asked from it and their fate is told to it. Retries, halved packs and claims live here."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from raysweep.claims import Claims
from raysweep.errors import PackError
from raysweep.executors.work import Counts
from raysweep.pack import Pack, halve, make_pack
from raysweep.runs import Runs

__all__ = ["Feed"]

_WAIT = 5.0  # seconds between looks at packs that another driver holds; and how far ahead packs are claimed
_BAD_LUCK = 30  # times a pack may be lost through no fault of its own, e.g. to preempted nodes


class Feed:
    """An ask-tell queue of packs.

    Packs are claimed several at a time: as many as were asked for in the last 5 s. A claim takes the time of a few
    requests to the store, and two hundred nodes ask for several packs a second.

    Args:
        packs: To execute, in order; drawn as they are needed.
        pending: What of some packs' runs is still to do, asked of the ledger when a pack is lost or was held elsewhere.
        claims: Of this driver.
        attempts: Tries of a pack whose worker dies.
        give_up: Called with a pack's unfinished runs and the reason when it is not tried again; returns its counts.
        on_wait: Called again and again with a line that says for whom, while all that is left is held by others.
    """

    def __init__(
        self,
        packs: Iterable[Pack],
        pending: Callable[[Sequence[Runs]], list[Runs]],
        claims: Claims,
        attempts: int,
        give_up: Callable[[Pack, str], Counts],
        on_wait: Callable[[str], object] = str,
    ) -> None:
        self._fresh = iter(packs)
        self._waiting: deque[Pack] = deque()
        self._draw(1)
        self._ready: deque[Pack] = deque()  # claimed
        self._held: deque[Pack] = deque()  # by another driver
        self._asked: deque[float] = deque()  # when, in the last `_WAIT` seconds
        self._looked = 0.0
        self._flying: dict[str, Pack] = {}
        self._losses: dict[str, tuple[int, int]] = {}  # by pack: crashes, and losses that were not its fault
        self._pending, self._claims, self._attempts = pending, claims, attempts
        self._give_up, self._on_wait = give_up, on_wait

    @property
    def finished(self) -> bool:
        """Nothing waits and nothing is in flight."""
        return not (self._waiting or self._ready or self._held or self._flying)

    @property
    def blocked(self) -> bool:
        """All that waits is held by another driver."""
        return bool(self._held) and not (self._waiting or self._ready)

    @property
    def idle(self) -> bool:
        """All that is left is held by another driver: nothing is in flight here."""
        return self.blocked and not self._flying

    def ask(self) -> Pack | None:
        """The next pack, or None while there is none to give (see `finished`)."""
        now = time.monotonic()
        while self._asked and now - self._asked[0] > _WAIT:
            self._asked.popleft()
        ahead = max(1, len(self._asked))
        while self._waiting and not self._ready:
            self._claim(ahead)
            ahead *= 2  # another driver is here, too: look further
        if not self._ready and self._held and now - self._looked > _WAIT:
            self._looked = now
            self._look()
        if not self._ready:
            if self.idle:
                self._on_wait(self._claims.waiting(pack.id for pack in self._held))
            return None
        pack = self._ready.popleft()
        self._flying[pack.id] = pack
        self._asked.append(now)
        return pack

    def done(self, pack_id: str) -> None:
        """The pack ended; its rows are in the ledger."""
        self._flying.pop(pack_id)
        self._claims.release(pack_id)

    def _draw(self, count: int) -> None:
        """Make fresh packs until so many wait."""
        while len(self._waiting) < count and (pack := next(self._fresh, None)) is not None:
            self._waiting.append(pack)

    def _claim(self, count: int) -> None:
        self._draw(count)
        packs = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        self._draw(1)
        taken = self._claims.take_all({p.id: p.run_keys for p in packs})
        self._held.extend(p for p in packs if p.id not in taken)
        self._admit([p for p in packs if p.id in taken], bool(self._claims.rivals))

    def _look(self) -> None:
        """What other drivers have let go, they may have finished."""
        taken = self._claims.take_all({p.id: p.run_keys for p in self._held})
        free = [p for p in self._held if p.id in taken]
        self._held = deque(p for p in self._held if p.id not in taken)
        self._admit(free, True)

    def _admit(self, packs: Sequence[Pack], ask: bool) -> None:
        """Claimed packs are ready; where another driver is or was at work, what the ledger lacks of them."""
        runs = [p.runs for p in packs]
        for pack, rest in zip(packs, self._pending(runs) if ask and packs else runs, strict=True):
            if rest.cells == pack.runs.cells:
                self._ready.append(pack)
                continue
            self._claims.release(pack.id)
            if len(rest):
                self._waiting.append(make_pack(rest, pack.attempt))

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
        return pack, self._pending([pack.runs])[0]
