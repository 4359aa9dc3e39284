"""The feed: it hands out packs and is notified of how they end. Retries, halved packs and claims live here."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from raysweep.grid.runs import Runs
from raysweep.ledger.causes import alike, cause
from raysweep.ledger.rows import Counts
from raysweep.pack import Pace, Pack, halve, make_pack, singles
from raysweep.store.leases import Claims

__all__ = ["Feed"]

_WAIT = 5.0  # seconds between checks of packs that another driver holds; and how far ahead packs are claimed
_SURE = 2  # failures from one cause in fresh processes, after which no further run is tried again for that cause
_SILENCE = 120.0  # seconds without a sign of life after which it is reported
_SHOWN = 80  # characters of a run's axes in that line
_ONE_HOST = 3  # times as many failures as usual, where one host of several has been heard of, stop a sweep
_BAD_LUCK = 30  # times a pack may be lost through no fault of its own, e.g. to preempted nodes


class Feed:
    """An ask-tell queue of packs.

    Packs are claimed several at a time: as many as were asked for in the last 5 s. A claim takes the time of a few
    requests to the store, and two hundred nodes ask for several packs per second.

    Args:
        packs: Packs to execute, in order; drawn as they are needed.
        pending: Returns the part of some runs that is still to do; called when a pack is lost or was held elsewhere.
        claims: This driver's claims.
        attempts: How often a pack whose worker dies is tried.
        give_up: Called with a pack's unfinished runs and the reason when it is not tried again; returns its counts.
        on_wait: Called repeatedly, while other drivers hold all that is left, with a line that names them.
        most: Failures for one and the same reason, before any success, after which nothing more is begun; None for any
            number.
        pace: Learns how long packs take.
        say: Called with a line that should stay on the screen.
        spread: Called with a pack of one lane that ran out of memory; whether its runs go to several workers later.
    """

    def __init__(
        self,
        packs: Iterable[Pack],
        pending: Callable[[Sequence[Runs]], list[Runs]],
        claims: Claims,
        attempts: int,
        give_up: Callable[[Pack, str], Counts],
        on_wait: Callable[[str], object] = str,
        most: int | None = None,
        pace: Pace | None = None,
        say: Callable[[str], object] = str,
        spread: Callable[[Pack], bool] = lambda pack: False,
    ) -> None:
        self._fresh = iter(packs)
        self._waiting: deque[Pack] = deque()
        self._draw(1)
        self._ready: deque[Pack] = deque()  # claimed
        self._held: deque[Pack] = deque()  # by another driver
        self._asked: deque[float] = deque()  # when, in the last `_WAIT` seconds
        self._looked = 0.0
        self._flying: dict[str, Pack] = {}
        self._losses: dict[str, tuple[int, int]] = {}  # per pack: crashes, and losses that were not its fault
        self._most, self._pace, self.say = most, pace, say
        self._causes: dict[str, int] = {}
        self._signs: dict[str, float] = {}  # when something was last heard of each pack in flight
        self._begun: dict[str, float] = {}
        self.stopped = ""  # why nothing more is begun
        self._pending, self._claims, self._attempts = pending, claims, attempts
        self._give_up, self._on_wait, self._spread = give_up, on_wait, spread

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
            ahead *= 2  # another driver is at work, too: look further ahead
        if not self._ready and self._held and now - self._looked > _WAIT:
            self._looked = now
            self._look()
        if not self._ready:
            if self.idle:
                self._on_wait(self._claims.waiting(pack.id for pack in self._held))
            return None
        pack = self._ready.popleft()
        self._flying[pack.id] = pack
        self._signs[pack.id] = self._begun[pack.id] = now
        self._asked.append(now)
        return pack

    def sign(self, pack_id: str) -> None:
        """Something was heard of a pack in flight."""
        if pack_id in self._signs:
            self._signs[pack_id] = time.monotonic()

    @property
    def silent(self) -> list[tuple[Pack, float]]:
        """Packs in flight and the seconds since each was last heard of, the longest first."""
        now = time.monotonic()
        ages = [(self._flying[name], now - at) for name, at in self._signs.items() if name in self._flying]
        return sorted(ages, key=lambda one: -one[1])

    @property
    def sure(self) -> tuple[str, ...]:
        """Causes of failure that recurred in fresh processes: they lie in the runs themselves."""
        return tuple(kind for kind, count in self._causes.items() if count >= _SURE)

    def say_silent(self) -> None:
        """Name in the live line the pack that has been silent longest, if that is long."""
        silent = self.silent
        if silent and silent[0][1] > _SILENCE:
            pack, seconds = silent[0]
            axes = ", ".join(f"{n}={v}" for n, v in pack.runs.row(0).items() if len(pack) == 1)[:_SHOWN]
            many = f" and {n:,} more" if (n := sum(age > _SILENCE for _, age in silent) - 1) else ""
            what = f"run {pack.runs.key(0)[:8]} ({axes})" if len(pack) == 1 else f"a pack of {len(pack):,} runs"
            self._on_wait(f"no sign for {seconds / 60:.0f} min of {what}{many}")

    def say_no_room(self, workers: int, seconds: float) -> None:
        """Name in the live line why a pack that was handed out has come back."""
        self._on_wait(f"no room for the {workers} workers of a pack within {seconds:g} s; it waits")

    def count(self, counts: Counts) -> None:
        """Cells were finished."""
        if counts.ok or counts.skipped:
            self._most = None  # runs can succeed, so failures are those of single runs

    def failed(self, reason: str, one_host: bool = False) -> None:
        """Count the failure of a run. Where all runs fail for one reason, no more are begun.

        Args:
            one_host: Whether all runs that ended were those of one host of several. It may be the host that is bad, and
                a slow one may yet succeed: that takes more failures.
        """
        why = cause(reason)
        kind = alike(why)
        self._causes[kind] = self._causes.get(kind, 0) + 1
        if self._most is None or self.stopped or self._causes[kind] < self._most * (_ONE_HOST if one_host else 1):
            return
        self.stopped = f"{self._causes[kind]} runs failed for one reason and none succeeded: {why.rstrip('.')}"
        for pack in self._ready:
            self._claims.release(pack.id)
        self._fresh = iter(())
        for queue in (self._ready, self._waiting, self._held):
            queue.clear()

    def done(self, pack_id: str) -> None:
        """The pack ended; its rows are in the ledger."""
        pack = self._flying.pop(pack_id)
        if self._pace is not None and self._most is None:  # where all runs fail, their time means nothing
            self._pace.took(time.monotonic() - self._begun[pack_id], len(pack))
        self._claims.release(pack_id)
        self._forget(pack_id)

    def again(self, pack_id: str, fresh: bool = False) -> Counts:
        """Queue what is left of a pack, each run by itself, in a `fresh` process or in any."""
        pack, rest = self._landed(pack_id)
        if len(rest) and not self.stopped:
            attempt = pack.attempt + 1 if fresh else pack.attempt
            self._waiting.extendleft(reversed(singles(make_pack(rest, attempt), fresh)))
        return Counts()

    def back(self, pack_id: str) -> None:
        """The pack met a worker that could not run it; it is handed out next."""
        pack = self._flying.pop(pack_id)
        self._forget(pack_id)
        self._claims.release(pack_id)
        if not self.stopped:
            self._waiting.appendleft(pack)

    def _forget(self, pack_id: str) -> None:
        self._signs.pop(pack_id, None)
        self._begun.pop(pack_id, None)

    def _draw(self, count: int) -> None:
        """Make fresh packs until `count` of them wait."""
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
        """Take over the packs that other drivers have released, except what they finished."""
        taken = self._claims.take_all({p.id: p.run_keys for p in self._held})
        free = [p for p in self._held if p.id in taken]
        self._held = deque(p for p in self._held if p.id not in taken)
        self._admit(free, True)

    def _admit(self, packs: Sequence[Pack], ask: bool) -> None:
        """Make claimed packs ready; where another driver is or was at work, only what the ledger lacks of them."""
        runs = [p.runs for p in packs]
        for pack, rest in zip(packs, self._pending(runs) if ask and packs else runs, strict=True):
            if rest.cells == pack.runs.cells:
                self._ready.append(pack)
                continue
            self._claims.release(pack.id)
            if len(rest):
                self._waiting.append(replace(make_pack(rest, pack.attempt), fresh=pack.fresh))

    def lost(self, pack_id: str, reason: str, own_fault: bool = True, run: str = "", final: bool = False) -> Counts:
        """The pack's worker died. Unfinished runs are tried again, then given up.

        Args:
            reason: What is known of the death.
            own_fault: A crash counts towards `attempts`. The death or preemption of a node, and a store that could
                not be written, do not: a pack may be lost to those many more times.
            run: The run that was at work, where that is known: the others of its pack are not to blame.
            final: That run is not tried again.
        """
        if len(self._flying[pack_id]) > 1 and own_fault and (run or self._pace is not None):
            return self._lost_at(pack_id, reason, run, final)
        crashes, others = self._losses.pop(pack_id, (0, 0))
        pack, rest = self._landed(pack_id)
        if not len(rest):
            return Counts()
        crashes, others = (crashes + 1, others) if own_fault else (crashes, others + 1)
        again = replace(make_pack(rest), attempt=pack.attempt + 1)
        if crashes >= self._attempts or others >= _BAD_LUCK or final:
            self.failed(reason)
            return self._give_up(replace(again, attempt=pack.attempt), reason)
        self._losses[again.id] = (crashes, others)
        if not self.stopped:  # what crashes must not hold up others
            (self._waiting.append if own_fault else self._waiting.appendleft)(again)
        return Counts()

    def _lost_at(self, pack_id: str, reason: str, run: str, final: bool) -> Counts:
        """A pack of several runs was lost at one of them; where nobody knows which, each is run by itself."""
        pack, rest = self._landed(pack_id)
        counts = Counts()
        for one in singles(make_pack(rest, pack.attempt)) if len(rest) else ():
            if not run or run not in one.run_keys:
                self._waiting.appendleft(one)
            elif final or self._attempts == 1:
                self.failed(reason)
                counts += self._give_up(one, reason)
            else:
                again = replace(one, attempt=one.attempt + 1)
                self._losses[again.id] = (1, 0)
                self._waiting.append(again)
        if self.stopped:
            self._waiting.clear()
        return counts

    def too_large(self, pack_id: str, reason: str) -> Counts:
        """The pack ran out of memory: queue both halves; a single lane goes to more workers, or is given up."""
        pack, rest = self._landed(pack_id)
        if not len(rest):
            return Counts()
        left = make_pack(rest, pack.attempt)
        if len(left) > 1:
            self._waiting.extendleft(reversed(halve(left)))
        elif not self._spread(left):
            return self._give_up(left, f"out of memory with one lane: {reason}")
        return Counts()

    def _landed(self, pack_id: str) -> tuple[Pack, Runs]:
        """A pack that did not end well, and the part of it that is still to do."""
        pack = self._flying.pop(pack_id)
        self._forget(pack_id)
        self._claims.release(pack_id)
        return pack, self._pending([pack.runs])[0]
