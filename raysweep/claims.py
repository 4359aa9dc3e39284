"""Claims: leases by which two drivers on one store spare each other double work.

Losing a claim costs compute, never a row. Ages are read off the store's own clock (modification times), so drivers
with skewed clocks agree.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from raysweep.errors import LedgerError
from raysweep.store import Store

__all__ = ["LEASE", "Claims", "drivers", "hold"]

LEASE = 60.0  # seconds a silent driver keeps its packs
_FOLDER = "claims"


@dataclass(frozen=True)
class Claims:
    """One driver's claims on a store. A claim file names its owner; the owner's heartbeat file keeps it alive."""

    store: Store
    owner: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}")
    dashboard: str = ""

    def beat(self) -> float:
        """Renew this driver's lease; returns the store's time in seconds (0 if it keeps none)."""
        name = f"{self.owner}.heartbeat"
        self.store.write(f"{_FOLDER}/{name}", json.dumps({"owner": self.owner, "dashboard": self.dashboard}).encode())
        return dict(self.store.list(_FOLDER)).get(name, 0.0)

    def take(self, name: str, keys: set[str]) -> bool:
        """Claim these keys (a pack's runs, an oracle) under a name; False if a live driver holds any of them."""
        mine = self._file(name)
        self.store.write(mine, json.dumps({"owner": self.owner, "keys": sorted(keys)}).encode())
        now = self.beat()
        files = dict(self.store.list(_FOLDER))
        own_age = files.get(mine.split("/")[1], now)
        for file, made in files.items():
            owner = file.split("~")[1].removesuffix(".json") if "~" in file else ""
            if not owner or owner == self.owner:
                continue
            if now - files.get(f"{owner}.heartbeat", -LEASE) > LEASE:
                self.store.delete(f"{_FOLDER}/{file}")
            elif (made, owner) < (own_age, self.owner) and keys & self._keys(file):
                self.release(name)
                return False
        return True

    def release(self, name: str) -> None:
        """Give back what was claimed under a name."""
        self.store.delete(self._file(name))

    def _keys(self, file: str) -> set[str]:
        try:
            return set(self.store.read_json(f"{_FOLDER}/{file}")["keys"])
        except (LedgerError, KeyError, TypeError):
            return set()  # released or torn in the meantime: no claim

    def _file(self, name: str) -> str:
        return f"{_FOLDER}/{name}~{self.owner}.json"


def drivers(store: Store, now: float | None = None) -> list[dict[str, Any]]:
    """Drivers with a heartbeat: who, whether their lease is alive, the packs they hold, their workers' dashboard.

    Args:
        now: The store's time in seconds; by default this host's. A store that keeps no times tells no ages.
    """
    files = store.list(_FOLDER)
    packs = [name.split("~")[1].removesuffix(".json") for name, _ in files if "~" in name]
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
                "driver": owner,
                "host": host,
                "process": process,
                "heartbeat_age": None if age is None else round(age, 1),
                "alive": age is None or age <= LEASE,
                "packs": packs.count(owner),
                "dashboard": dashboard,
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
            with contextlib.suppress(LedgerError):
                claims.beat()

    claims.beat()
    thread = threading.Thread(target=keep, daemon=True, name="raysweep-heartbeat")
    thread.start()
    try:
        yield claims
    finally:
        stop.set()
        thread.join()
        for name, _ in store.list(_FOLDER):
            if claims.owner in name:
                store.delete(f"{_FOLDER}/{name}")
