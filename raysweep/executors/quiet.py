"""Keeps Ray's log noise, from Python and from its C++ core, off the user's terminal and in a file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["quiet", "terminal"]

_saved: IO[str] | None = None


def terminal() -> IO[str]:
    """The user's standard error, also while `quiet` holds it back."""
    return _saved or sys.stderr


def _own(path: str, flags: int) -> int:
    """Open a log that nobody else can read; a symbolic link is refused."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Redirect file descriptors 1 and 2 to `log`: only at that level is Ray's core silenced too."""
    global _saved
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with open(log, "ab", buffering=0, opener=_own) as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    try:
        with os.fdopen(os.dup(kept[1]), "w", buffering=1) as _saved:
            yield
    finally:
        _saved = None
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, original in zip((1, 2), kept, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
