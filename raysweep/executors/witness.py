"""A witness: a tiny process that outlives the driver and says what to do when it dies without a word."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from raysweep.executors.quiet import terminal

__all__ = ["witness"]


@contextlib.contextmanager
def witness(log: Path) -> Iterator[None]:
    """Report the driver's death: if Ray's processes are killed, its core ends this one without a message, exit code 1.

    A shell waits for this process's last word. If the pipe closes without one, it prints the error.
    """
    message = (
        "error: the driver died without a message: it was killed, or Ray's own processes were and took it with them. "
        f"Finished cells are in the store; run the same command again to continue. Ray's log: {log}"
    )
    try:
        waits = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _ || printf "%s\\n" "$1" >&2', "raysweep", message],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=terminal().fileno(),
            start_new_session=True,  # Ctrl-C is for the driver
            cwd="/",
        )
    except (OSError, ValueError):  # no shell, or a terminal that is no file: then nothing is printed
        yield
        return
    try:
        yield
    finally:
        assert waits.stdin is not None
        with contextlib.suppress(OSError):
            os.write(waits.stdin.fileno(), b"bye\n")
        with contextlib.suppress(OSError):
            waits.stdin.close()
        waits.wait()
