"""Claims: leases by which drivers on one store avoid duplicate work.

Drivers know of each other only by the files in `claims/`. A driver has one heartbeat file, `<owner>.heartbeat`, which
it writes again every quarter of a lease; and a claim file, `<pack>.<random>.<count>~<owner>.json`, for each time that
it took packs. A claim file is written once and never changed: it names the runs of every pack that it claims.

To take packs, a driver writes its claim file, and only then lists the folder. It leaves every pack of which a live
driver claimed a run first. "First" is `(made, owner) < (now, self.owner)`: `made` is the time of the
other file and `now` that of its own, both put on them by the store, so that no clock of a host matters; and where times
are equal, names have the same order for every driver. If two drivers claim at the same time, at least one lists
after both have written; whoever sees both files compares the same two pairs, so they cannot both come out first; and
one that listed before the other wrote has the earlier time. A driver that got nothing deletes its file at once.

Times are trusted only as far as they make sense. A claim without a time, or with one well after `now`, counts as first:
the clock jumped back, or the store keeps no times, and its owner may have begun. An owner is alive while its heartbeat
is recent by the store's clock, or was seen to move on. Where its time is missing or lies ahead, the first sight counts
as a beat. But a heartbeat that stays the same for a whole lease of this driver's own monotonic clock is that of a dead
driver, whatever its time says: nobody waits longer than that. The files of dead drivers are deleted by whoever notices.

What goes wrong costs compute, never a row: a driver mistaken for dead continues, some packs are done twice, and
the ledger keeps one row per cell. The same happens where two claims fall into one tick of a coarse clock (2 s on FAT, 1
s on S3): the smaller name then comes first although the other may have begun.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from raysweep.errors import LedgerError, plain
from raysweep.store import Store, UnreachableError

__all__ = ["LEASE", "Claims", "Pulse", "drivers", "hold", "who"]

LEASE = 60.0  # seconds for which a silent driver keeps its packs
_AHEAD = 15.0  # seconds that a time may lie after `now`: a listing takes its time
_NAMED = 3  # drivers that a message about waiting names
_FOLDER = "claims"
_CLAIM = re.compile(r"[\w.-]+~[\w.-]+\.json")  # a store may hold other files there: they are never deleted


@dataclass
class Pulse:
    """This process's observations of other drivers' heartbeats."""

    store: Store
    _seen: dict[str, tuple[object, float, bool]] = field(default_factory=dict)  # mark, since when, did it move on

    def alive(self, owner: str, at: float, now: float) -> bool:
        """Whether a driver is at work.

        Args:
            owner: Owner of an existing heartbeat file.
            at: The time of that file in seconds; 0 where the store keeps none.
            now: The time by the same clock; 0 where it is not known.
        """
        mark: object = at or self._content(owner)
        before, here = self._seen.get(owner), time.monotonic()
        if before is None or before[0] != mark:
            back = before is not None and isinstance(before[0], float) and at < before[0]
            self._seen[owner] = (mark, here, before is not None and not back)
        _, since, moved = self._seen[owner]
        if here - since > LEASE:
            return False
        return moved or not sane(at, now) or now - at <= LEASE

    def _content(self, owner: str) -> bytes:
        try:
            return self.store.read(f"{_FOLDER}/{owner}.heartbeat")
        except UnreachableError:
            raise
        except LedgerError:
            return b""  # it ended in the meantime


def sane(at: float, now: float) -> bool:
    """Whether a file's time can be compared with the present: both are known, and it does not lie ahead."""
    return now > 0 and 0 < at <= now + _AHEAD


@dataclass
class Claims:
    """One driver's claims on a store. A file claims one or more packs; the owner's heartbeat file keeps it alive.

    A claim costs one write, one listing and one read of each file that another driver wrote since the last one,
    however many packs it is for: on an object store each takes tens of milliseconds.

    Attributes:
        rivals: Other drivers that were found.
        holders: The driver of each pack that was last asked for and is held by another.
    """

    store: Store
    owner: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}")
    dashboard: str = ""
    rivals: set[str] = field(default_factory=set, repr=False)
    holders: dict[str, str] = field(default_factory=dict, repr=False)
    _held: dict[str, str] = field(default_factory=dict, repr=False)  # what is claimed, and by which file
    _others: dict[str, frozenset[str]] = field(default_factory=dict, repr=False)  # keys in other drivers' files
    _beaten: float = field(default=-math.inf, repr=False)  # when the heartbeat was written, by the monotonic clock
    _beats: int = field(default=0, repr=False)  # a heartbeat differs from the last also where the store keeps no times

    def __post_init__(self) -> None:
        self._pulse = Pulse(self.store)

    def beat(self, patience: float | None = None) -> None:
        """Renew this driver's lease."""
        self._beats += 1
        content = json.dumps({"owner": self.owner, "dashboard": self.dashboard, "beat": self._beats}).encode()
        self.store.write(f"{_FOLDER}/{self.owner}.heartbeat", content, patience)
        self._beaten = time.monotonic()

    def take(self, name: str, keys: set[str]) -> bool:
        """Claim these keys (a pack's runs, an oracle) under a name; False if a live driver holds any of them."""
        return name in self.take_all({name: keys})

    def take_all(self, wanted: Mapping[str, set[str]]) -> set[str]:
        """Claim several packs at once, by name; returns the names of the packs of which no live driver holds a key."""
        packs = {name: sorted(keys) for name, keys in wanted.items()}
        if time.monotonic() - self._beaten > LEASE / 4:  # `hold` is not at work, or its thread hangs
            self.beat()
        mine = f"{next(iter(packs))}.{secrets.token_hex(3)}.{len(packs)}~{self.owner}.json"
        self.store.write(f"{_FOLDER}/{mine}", json.dumps({"owner": self.owner, "packs": packs}).encode())
        files = dict(self.store.list(_FOLDER))
        now = files.get(mine, 0.0)  # by the store's clock
        beats = {file.removesuffix(".heartbeat"): at for file, at in files.items() if file.endswith(".heartbeat")}
        if self.owner not in beats:  # another driver mistook this one for dead
            self.beat()
        others = {owner: at for owner, at in beats.items() if owner != self.owner}
        dead = {owner for owner, at in others.items() if _died_here(owner) or not self._pulse.alive(owner, at, now)}
        for owner in dead:
            self._drop(f"{owner}.heartbeat")
        self.rivals.update(others.keys() - dead)
        for gone in self._others.keys() - files.keys():
            del self._others[gone]
        taken = set(packs)
        for file, made in files.items():
            owner = file.split("~")[1].removesuffix(".json") if _CLAIM.fullmatch(file) else ""
            if not owner or owner == self.owner:
                continue
            if owner in dead or owner not in beats:
                self._drop(file)
            elif not sane(made, now) or (made, owner) < (now, self.owner):
                theirs = self._keys(file)
                lost = {name for name in taken if not theirs.isdisjoint(packs[name])}
                self.holders |= dict.fromkeys(lost, owner)
                taken -= lost
        for name in taken:
            self.holders.pop(name, None)
            self.release(name)  # an older claim of our own
            self._held[name] = mine
        if not taken:
            self.store.delete(f"{_FOLDER}/{mine}")
        return taken

    def release(self, name: str) -> None:
        """Release what was claimed under a name. A file is deleted with the last of its packs."""
        file = self._held.pop(name, None)
        if file is not None and file not in self._held.values():
            self.store.delete(f"{_FOLDER}/{file}")

    def waiting(self, names: Iterable[str]) -> str:
        """The drivers that hold these packs, as a message: `waiting for host-a (process 123), which holds ...`."""
        counts = Counter(self.holders[name] for name in names if name in self.holders).most_common()
        said = [f"{who(owner)}, which holds {n:,} pack{'s' * (n != 1)}" for owner, n in counts[:_NAMED]]
        if len(counts) > _NAMED:
            said.append(f"{len(counts) - _NAMED:,} other drivers")
        return f"waiting for {', and '.join(said) or 'another driver'}"

    def _drop(self, file: str) -> None:
        """Delete the files of a dead driver, but no links out of the store, which no driver makes."""
        try:
            self.store.delete(f"{_FOLDER}/{file}")
        except UnreachableError:
            raise
        except LedgerError:
            pass

    def _keys(self, file: str) -> frozenset[str]:
        """The claims in another driver's file; a file never changes."""
        if file not in self._others:
            try:
                packs = self.store.read_json(f"{_FOLDER}/{file}")["packs"]
                self._others[file] = frozenset(key for keys in packs.values() for key in keys)
            except (LedgerError, AttributeError, KeyError, TypeError):
                return frozenset()  # released or torn in the meantime: no claim
        return self._others[file]


def _parsed(owner: str) -> tuple[str, str]:
    """A driver's host and process; empty where its name lacks them."""
    host, process, _ = owner.rsplit("-", 2) if owner.count("-") > 1 else (owner, "", "")
    return plain(host), plain(process)


def who(owner: str) -> str:
    """A driver, for people: `host-a (process 123)`."""
    host, process = _parsed(owner)
    return f"{host} (process {process})" if process else host


def _died_here(owner: str) -> bool:
    """Whether a driver was a process of this host that no longer exists: nobody need wait for its lease to end."""
    host, pid = _parsed(owner)
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return False


def drivers(store: Store, now: float | None = None, pulse: Pulse | None = None) -> list[dict[str, Any]]:
    """Drivers with a heartbeat: name, whether their lease is alive, the packs they claimed, their workers' dashboard.

    Args:
        now: The store's time in seconds; by default this host's.
        pulse: Earlier observations: a heartbeat whose time gives no age is alive for one lease after it was first seen.
    """
    now, pulse = time.time() if now is None else now, pulse or Pulse(store)
    files = store.list(_FOLDER)
    packs: dict[str, int] = {}
    for name, _ in files:
        if _CLAIM.fullmatch(name):
            claim, owner = name.removesuffix(".json").split("~", 1)
            count = claim.rsplit(".", 1)[-1]
            packs[owner] = packs.get(owner, 0) + (int(count) if count.isdigit() else 1)
    found = []
    for name, made in files:
        if not name.endswith(".heartbeat"):
            continue
        owner = name.removesuffix(".heartbeat")
        host, process = _parsed(owner)
        try:
            dashboard = str(store.read_json(f"{_FOLDER}/{name}").get("dashboard", ""))
        except (LedgerError, AttributeError):
            dashboard = ""  # it ended in the meantime, or is torn
        age = max(0.0, now - made) if sane(made, now) else None
        found.append(
            {
                "driver": plain(owner),
                "host": host,
                "process": process,
                "heartbeat_age": None if age is None else round(age, 1),
                "alive": pulse.alive(owner, made, now),
                "packs": packs.get(owner, 0),
                "dashboard": plain(dashboard),
            }
        )
    return found


@contextlib.contextmanager
def hold(store: Store, dashboard: str = "") -> Iterator[Claims]:
    """Claims with a heartbeat, all released at the end. The heartbeat records where the workers' dashboard is."""
    claims = Claims(store, dashboard=dashboard)
    stop = threading.Event()

    def keep() -> None:
        while not stop.wait(LEASE / 4):
            with contextlib.suppress(LedgerError):  # the store is away; the next beat may reach it
                claims.beat(patience=0.0)

    claims.beat()
    thread = threading.Thread(target=keep, daemon=True, name="raysweep-heartbeat")
    thread.start()
    try:
        yield claims
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(LedgerError):  # what is left here expires with the lease
            for name, _ in store.list(_FOLDER):
                if claims.owner in name:
                    store.delete(f"{_FOLDER}/{name}")
