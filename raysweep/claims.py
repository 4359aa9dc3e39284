"""Claims: leases by which two drivers on one store spare each other double work.

Losing a claim costs compute, never a row. Ages are read off the store's own clock (modification times), so drivers
with skewed clocks agree.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from raysweep.errors import LedgerError, plain
from raysweep.store import Store, UnreachableError

__all__ = ["LEASE", "Claims", "drivers", "hold"]

LEASE = 60.0  # seconds a silent driver keeps its packs
_FOLDER = "claims"
_CLAIM = re.compile(r"[\w.-]+~[\w.-]+\.json")  # a store may hold other files there: they are never deleted


@dataclass(frozen=True)
class Claims:
    """One driver's claims on a store. A file claims one or more packs; the owner's heartbeat file keeps it alive.

    A claim costs one write, one listing and one read of each file that another driver wrote since the last one,
    however many packs it is for: on an object store each takes tens of milliseconds.
    """

    store: Store
    owner: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}")
    dashboard: str = ""
    rivals: set[str] = field(default_factory=set, repr=False)  # other drivers that were met
    _held: dict[str, str] = field(default_factory=dict, repr=False)  # what is claimed, and by which file
    _others: dict[str, frozenset[str]] = field(default_factory=dict, repr=False)  # keys in other drivers' files

    def beat(self, patience: float | None = None) -> None:
        """Renew this driver's lease."""
        told = json.dumps({"owner": self.owner, "dashboard": self.dashboard}).encode()
        self.store.write(f"{_FOLDER}/{self.owner}.heartbeat", told, patience)

    def take(self, name: str, keys: set[str]) -> bool:
        """Claim these keys (a pack's runs, an oracle) under a name; False if a live driver holds any of them."""
        return name in self.take_all({name: keys})

    def take_all(self, wanted: Mapping[str, set[str]]) -> set[str]:
        """Claim several packs at once, by name; returns the names of those no live driver holds any key of."""
        packs = {name: sorted(keys) for name, keys in wanted.items()}
        mine = f"{next(iter(packs))}.{secrets.token_hex(3)}.{len(packs)}~{self.owner}.json"
        self.store.write(f"{_FOLDER}/{mine}", json.dumps({"owner": self.owner, "packs": packs}).encode())
        files = dict(self.store.list(_FOLDER))
        now = files.get(mine, 0.0)  # the store's clock
        if now - files.get(f"{self.owner}.heartbeat", -LEASE) > LEASE / 4:  # `hold` is not at work, or its thread hangs
            self.beat()
        beats = {file.removesuffix(".heartbeat"): at for file, at in files.items() if file.endswith(".heartbeat")}
        dead = {owner for owner, at in beats.items() if owner != self.owner and (now - at > LEASE or _died_here(owner))}
        for owner in dead:
            self._drop(f"{owner}.heartbeat")
        self.rivals.update(beats.keys() - dead - {self.owner})
        for gone in self._others.keys() - files.keys():
            del self._others[gone]
        taken = set(packs)
        for file, made in files.items():
            owner = file.split("~")[1].removesuffix(".json") if _CLAIM.fullmatch(file) else ""
            if not owner or owner == self.owner:
                continue
            if owner in dead or owner not in beats:
                self._drop(file)
            elif (made, owner) < (now, self.owner):
                theirs = self._keys(file)
                taken -= {name for name in taken if not theirs.isdisjoint(packs[name])}
        for name in taken:
            self.release(name)  # an older claim of our own
            self._held[name] = mine
        if not taken:
            self.store.delete(f"{_FOLDER}/{mine}")
        return taken

    def release(self, name: str) -> None:
        """Give back what was claimed under a name. A file goes with the last of its packs."""
        file = self._held.pop(name, None)
        if file is not None and file not in self._held.values():
            self.store.delete(f"{_FOLDER}/{file}")

    def _drop(self, file: str) -> None:
        """Delete what a dead driver left; not what is a link out of the store, which nobody's driver made."""
        try:
            self.store.delete(f"{_FOLDER}/{file}")
        except UnreachableError:
            raise
        except LedgerError:
            pass

    def _keys(self, file: str) -> frozenset[str]:
        """What another driver's file claims; a file never changes."""
        if file not in self._others:
            try:
                packs = self.store.read_json(f"{_FOLDER}/{file}")["packs"]
                self._others[file] = frozenset(key for keys in packs.values() for key in keys)
            except (LedgerError, AttributeError, KeyError, TypeError):
                return frozenset()  # released or torn in the meantime: no claim
        return self._others[file]


def _died_here(owner: str) -> bool:
    """Whether a driver was a process of this host that is no more: nobody need wait for its lease to end."""
    host, pid, _ = owner.rsplit("-", 2) if owner.count("-") > 1 else ("", "", "")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return False


def drivers(store: Store, now: float | None = None) -> list[dict[str, Any]]:
    """Drivers with a heartbeat: who, whether their lease is alive, the packs they claimed, their workers' dashboard.

    Args:
        now: The store's time in seconds; by default this host's. A store that keeps no times tells no ages.
    """
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
        host, process, _ = owner.rsplit("-", 2) if owner.count("-") > 1 else (owner, "", "")
        try:
            dashboard = str(store.read_json(f"{_FOLDER}/{name}").get("dashboard", ""))
        except (LedgerError, AttributeError):
            dashboard = ""  # it ended in the meantime, or is torn
        age = max(0.0, (time.time() if now is None else now) - made) if made else None
        found.append(
            {
                "driver": plain(owner),
                "host": plain(host),
                "process": plain(process),
                "heartbeat_age": None if age is None else round(age, 1),
                "alive": age is None or age <= LEASE,
                "packs": packs.get(owner, 0),
                "dashboard": plain(dashboard),
            }
        )
    return found


@contextlib.contextmanager
def hold(store: Store, dashboard: str = "") -> Iterator[Claims]:
    """Claims with a heartbeat, all released at the end. The heartbeat tells where the workers' dashboard is."""
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
