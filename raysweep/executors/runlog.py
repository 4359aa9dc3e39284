"""What a run prints, warns and logs, kept as `logs/<run>.log` in its store: its beginning and its end."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any, TextIO

from raysweep.errors import LedgerError, redact
from raysweep.store import Store

__all__ = ["FOLDER", "RunLog", "captured", "log_name"]

FOLDER = "logs"
_HEAD, _TAIL = 1 << 16, 3 << 16  # characters kept of the beginning and of the end


def log_name(run: str) -> str:
    """Where a store keeps a run's log."""
    return f"{FOLDER}/{run}.log"


class RunLog:
    """The text of one run. Safe to write to from several threads."""

    def __init__(self, store: Store, run: str) -> None:
        self._store, self._run = store, run
        self._head: list[str] = []
        self._tail: deque[str] = deque()
        self._sizes = [0, 0, 0]  # characters of the head, of the tail, and left out between them
        self._written = 0
        self._lock = threading.Lock()

    def write(self, text: str) -> None:
        """Add text."""
        with self._lock:
            room = _HEAD - self._sizes[0]
            if room > 0:
                self._head.append(text[:room])
                self._sizes[0] += len(text[:room])
                text = text[room:]
            if not text:
                return
            text = text[-_TAIL:]
            self._tail.append(text)
            self._sizes[1] += len(text)
            while self._sizes[1] - len(self._tail[0]) >= _TAIL:
                gone = len(self._tail.popleft())
                self._sizes[1] -= gone
                self._sizes[2] += gone

    def keep(self) -> None:
        """Write the log to the store if it has grown. A store that refuses a log is no reason to stop."""
        with self._lock:
            size = sum(self._sizes)
            if size == self._written:
                return
            left = f"\n... {self._sizes[2]:,} characters left out ...\n" if self._sizes[2] else ""
            text = "".join(self._head) + left + "".join(self._tail)
            self._written = size
        with contextlib.suppress(LedgerError):
            self._store.write(log_name(self._run), redact(text).encode(errors="replace"), patience=0.0)


class _Tee(io.TextIOBase):
    """A stream that also writes to a log."""

    def __init__(self, stream: TextIO, log: RunLog) -> None:
        self.stream, self.log = stream, log

    def write(self, text: str) -> int:
        self.log.write(text)
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def captured(log: RunLog) -> Iterator[None]:
    """Standard output and error also go to the log, and so do handlers of `logging` that write to them."""
    out, err = sys.stdout, sys.stderr
    tees = {id(out): _Tee(out, log), id(err): _Tee(err, log)}
    known: list[Any] = [ref() for ref in logging._handlerList]  # type: ignore[attr-defined]
    moved = [h for h in known if type(h) is logging.StreamHandler and id(h.stream) in tees]
    streams = [handler.stream for handler in moved]
    for handler in moved:
        handler.setStream(tees[id(handler.stream)])
    sys.stdout, sys.stderr = tees[id(out)], tees[id(err)]
    try:
        with warnings.catch_warnings():  # a warning that one run received is shown to the next one, too
            yield
    finally:
        sys.stdout, sys.stderr = out, err
        for handler, stream in zip(moved, streams, strict=True):
            handler.setStream(stream)
        for ref in logging._handlerList:  # type: ignore[attr-defined]
            handler = ref()
            if type(handler) is logging.StreamHandler and isinstance(handler.stream, _Tee):
                handler.setStream(handler.stream.stream)  # made during the run
        log.keep()
