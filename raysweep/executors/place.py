"""Where one run of a user's function works: a folder of its own, its log, its checkpoint, its time limit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from raysweep.errors import LedgerError
from raysweep.executors.keeping import FOLDER as CHECKPOINTS
from raysweep.executors.limit import watched
from raysweep.executors.runlog import RunLog, captured
from raysweep.store import Store

__all__ = ["RunPlace", "has_checkpoint", "lend"]

_LEAST = 1.0  # seconds between two checkpoints
_SHARE = 0.05  # largest share of the time between them that saving one may take
_HEADER = 8  # bytes that say how long the description is
RUNNING = "raysweep: run "  # what a worker writes to its log as each run begins


@dataclass
class RunPlace:
    """An `inside.Place`.

    Attributes:
        before: Called before a checkpoint is saved: the rows that came before it must be in the ledger.
        codes: Hashes of the code versions whose checkpoints the run may continue from; its own first.
    """

    store: Store
    key: str
    before: Callable[[], None]
    codes: Sequence[str] = ("",)
    _last: float = field(default_factory=time.monotonic)
    _cost: float = 0.0

    @cached_property
    def folder(self) -> Path:
        """The run's own folder: in a local store, else among this host's temporary files."""
        if self.store.is_local:
            root = Path(self.store.path("runs"))
        else:
            name = hashlib.blake2b(self.store.absolute.encode(), digest_size=6).hexdigest()
            root = Path(tempfile.gettempdir()) / f"raysweep-runs-{os.getuid()}-{name}"
        path = root / self.key
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def _name(self, code: str) -> str:
        return f"{CHECKPOINTS}/run-{self.key}-{code}.tar"

    def load(self) -> tuple[bytes, Mapping[str, Any]] | None:
        """The last checkpoint and the description saved with it."""
        name = next((name for name in map(self._name, self.codes) if self.store.exists(name)), None)
        if name is None:
            return None
        data = self.store.read(name)
        size = int.from_bytes(data[:_HEADER], "little")
        try:
            about = json.loads(data[_HEADER : _HEADER + size])
        except ValueError:
            return None
        return (data[_HEADER + size :], about) if isinstance(about, dict) else None

    def due(self) -> bool:
        """Whether the last checkpoint is long enough ago, given what saving it cost."""
        return time.monotonic() - self._last >= max(_LEAST, self._cost / _SHARE)

    def keep(self, data: bytes, about: Mapping[str, Any]) -> None:
        """Save a checkpoint; a store that refuses is no reason to stop."""
        started = time.monotonic()
        with contextlib.suppress(LedgerError):
            self.before()
            said = json.dumps(about).encode()
            self.store.write(
                self._name(self.codes[0]), len(said).to_bytes(_HEADER, "little") + said + data, patience=0.0
            )
        self._last = time.monotonic()
        self._cost = self._last - started


def has_checkpoint(store: Store, codes: Collection[str]) -> set[str]:
    """The runs that have a checkpoint in the store, made by one of these versions of the code."""
    parts = [name.removesuffix(".tar").split("-") for name, _ in store.list(CHECKPOINTS) if name.endswith(".tar")]
    return {part[1] for part in parts if len(part) == 3 and part[0] == "run" and part[2] in codes}


@contextlib.contextmanager
def lend(
    store: Store,
    key: str,
    flush: Callable[[], None],
    own_folder: bool,
    seconds: float | None,
    in_worker: bool,
    on_log: Callable[[RunLog], None],
    codes: Sequence[str] = ("",),
) -> Iterator[RunPlace]:
    """A place for a run while it lasts.

    Args:
        flush: Writes all rows so far to the ledger.
        own_folder: Make the run's folder the working directory.
        seconds: Time that the run may take; None for no limit.
        in_worker: Whether this process may be ended, as it is not the driver's.
        on_log: Called with the run's log, so that it can be saved from time to time.
        codes: As in `RunPlace`.
    """
    place, log = RunPlace(store, key, flush, codes), RunLog(store, key)
    on_log(log)
    if in_worker:
        for stream in (1, 2):  # each has a file of its own
            os.write(stream, f"{RUNNING}{key}\n".encode())
    before, environment = Path.cwd(), dict(os.environ)

    def ending() -> None:
        flush()
        log.keep()

    try:
        if own_folder:
            os.chdir(place.folder)
        with captured(log), watched(seconds, ending if in_worker else None, f"run {key}"):
            yield place
    finally:
        os.chdir(before)
        if environment != dict(os.environ):  # what one run sets must not reach the next
            os.environ.clear()
            os.environ.update(environment)
        if "folder" in place.__dict__:
            with contextlib.suppress(OSError):
                place.folder.rmdir()  # only where it is empty
