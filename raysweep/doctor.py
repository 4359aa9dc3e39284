"""The doctor: obstacles to running a sweep here, and what a store's file system can and cannot do."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from raysweep.cost import host_memory
from raysweep.errors import LedgerError
from raysweep.ledger.log import Ledger
from raysweep.store import Store
from raysweep.store.disk import create

__all__ = ["Finding", "as_json", "doctor"]

_NEEDED = ("ray", "torch", "nflows", "pyarrow", "pydantic", "polars", "matplotlib")
_TICK = 3.0  # seconds within which a file's time must advance: FAT has steps of 2 s
_SKEW = 60.0  # seconds between two clocks from which it is reported


@dataclass(frozen=True)
class Finding:
    """One thing the doctor checked.

    Attributes:
        ok: Whether a sweep can run with it.
        remedy: What to do if it is not ok.
        weak: Whether a sweep can run at a cost, which `value` states.
    """

    name: str
    ok: bool
    value: str
    remedy: str = ""
    weak: bool = False


def doctor(store: Store | None = None) -> list[Finding]:
    """Checks of all that a sweep needs here, each with a remedy. Whatever a run does in the store is tried."""
    found = [
        Finding("python", (3, 11) <= sys.version_info[:2] < (3, 13), platform.python_version(), "use 3.11 or 3.12")
    ]
    for name in _NEEDED:
        try:
            found.append(Finding(name, True, version(name)))
        except PackageNotFoundError:
            reports = name in ("polars", "matplotlib")
            remedy = "fit and report need it" if reports else "pip install raysweep"
            found.append(Finding(name, False, "missing", remedy))
    found.append(Finding("cpus", True, str(os.cpu_count())))
    memory = host_memory() / 2**30
    found.append(Finding("memory", memory > 2, f"{memory:.1f} GiB free", "Ray needs about 2 GiB"))
    for place in (tempfile.gettempdir(), "/dev/shm"):
        if Path(place).is_dir():
            free = shutil.disk_usage(place).free / 2**30
            found.append(Finding(f"disk {place}", free > 1, f"{free:.1f} GiB free", "Ray keeps objects and logs here"))
    threads = os.environ.get("OMP_NUM_THREADS")
    found.append(
        Finding("OMP_NUM_THREADS", threads is None, threads or "unset", "unset it: it overrides cpus per pack")
    )
    found.append(_gpu())
    if store is not None:
        found += _store(store)
        torn = Ledger(store).scan(["cell"]).skipped
        found.append(Finding("ledger files", not torn, f"{len(torn)} unreadable", "see `raysweep status`"))
    return found


def as_json(findings: list[Finding]) -> list[Mapping[str, Any]]:
    """Plain data."""
    return [asdict(f) for f in findings]


def _gpu() -> Finding:
    try:
        import torch

        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    except (ImportError, RuntimeError) as error:
        return Finding("gpus", False, str(error), "repair torch")
    return Finding("gpus", True, ", ".join(names) or "none; packs run on CPUs")


def _store(given: Store) -> list[Finding]:
    """Try in a folder of a store what a run does there, and remove all traces."""
    store = Store(given.uri)  # its own record of weaknesses
    there = store.exists()
    name = f"doctor-{secrets.token_hex(6)}"
    costs: list[str] = []
    failed = ""
    try:
        with _folder(store, name):
            for step in (_make, _write_again, _list, _read_while_replaced, _tell_case_apart):
                costs += step(store, name)
            costs = [*store.weaknesses(), *costs]
            store.delete(f"{name}/file")
            if store.exists(f"{name}/file"):
                failed = f"store {store.uri}: a deleted file still exists"
    except LedgerError as error:
        failed = str(error)
    if failed:
        return [Finding("store", False, failed, "give another --store")]
    said = f"{store.uri} is writable" if there else f"{store.uri} does not exist yet; it can be created"
    return [Finding("store", True, said), *(Finding("store", True, cost, weak=True) for cost in costs), *_room(store)]


@contextlib.contextmanager
def _folder(store: Store, name: str) -> Iterator[None]:
    """A temporary folder in a store; the store and the folders above it are removed too if they did not exist."""
    missing = []
    if store.is_local:
        above = Path(store.path())
        while not above.exists():
            missing.append(above)
            above = above.parent
    there = store.exists()
    try:
        yield
    finally:
        with contextlib.suppress(OSError, LedgerError):
            store.fs.delete_dir(store.path(name))
        for path in missing:  # only where it is empty: a run may have begun meanwhile
            with contextlib.suppress(OSError):
                path.rmdir()
        if not (there or store.is_local):
            with contextlib.suppress(OSError, LedgerError):
                if not (store.list("") or store.folders("")):
                    store.fs.delete_dir(store.path())


def _make(store: Store, folder: str) -> list[str]:
    """Create a file that does not exist, and none where one does."""
    if not store.create(f"{folder}/file", b"first"):
        raise LedgerError(f"store {store.uri}: a new file cannot be created, as if its name were taken")
    if store.create(f"{folder}/file", b"second") or store.read(f"{folder}/file") != b"first":
        raise LedgerError(f"store {store.uri}: a file was made where there was one")
    # The second time `create` checked first; a rival between its check and the creation must not win either.
    if store.is_local and create(Path(store.path(f"{folder}/file")), b"third", set()):
        raise LedgerError(f"store {store.uri}: a file was made where there was one")
    return []


def _write_again(store: Store, folder: str) -> list[str]:
    """Replace a file and read it back."""
    for content in (b"one", b"two" * 1000):
        store.write(f"{folder}/file", content)
        if store.read(f"{folder}/file") != content:
            raise LedgerError(f"store {store.uri}: the content read is not what was written a moment ago")
    return []


def _list(store: Store, folder: str) -> list[str]:
    """List files with times that advance."""
    end, first, skew = time.monotonic() + _TICK, None, 0.0
    while True:
        store.write(f"{folder}/beat", b"")
        listed = dict(store.list(folder))
        if set(listed) != {"file", "beat"}:
            raise LedgerError(f"store {store.uri}: must list the 2 files just written, but lists {sorted(listed)}")
        at = listed["beat"]
        skew = at - time.time()
        if not at:
            return ["it keeps no file times: with two drivers on it, one may wait for the other a minute longer"]
        if first is not None and at > first:
            break
        if time.monotonic() > end:
            return ["its file times do not advance: with two drivers on it, each may mistake the other for dead"]
        first = at if first is None else first
        time.sleep(0.05)
    if abs(skew) > _SKEW:
        side = "ahead of" if skew > 0 else "behind"
        return [f"its clock is {abs(skew):,.0f} s {side} this host's: `status` goes by the store's"]
    return []


def _read_while_replaced(store: Store, folder: str) -> list[str]:
    """Replace a file that is open for reading."""
    with store.fs.open_input_stream(store.path(f"{folder}/file")) as stream:
        stream.read(1)
        store.write(f"{folder}/file", b"three")
    if store.read(f"{folder}/file") != b"three":
        raise LedgerError(f"store {store.uri}: a file cannot be replaced while it is read")
    return []


def _tell_case_apart(store: Store, folder: str) -> list[str]:
    if store.exists(f"{folder}/FILE"):
        return ["it does not distinguish upper and lower case: results/Demo and results/demo are one store"]
    return []


def _room(store: Store) -> list[Finding]:
    """Free space for writing."""
    if not store.is_local:
        return []
    place = Path(store.path())
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    return [Finding("store room", free > 1, f"{free:.1f} GiB free", "make room, or give another --store")]
