"""A function's result from a copy of this process, which keeps what the function changes to itself."""

from __future__ import annotations

import json
import os
import select
import signal
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["forked"]

_SECONDS = 60.0  # a copy of a process whose other threads hold locks may wait for ever


def forked(function: Callable[[], Any]) -> Any:
    """What the function returns in a fork of this process; None where it raises, or does not return in time.

    Args:
        function: It returns what JSON has, starts no thread and leaves devices alone.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of locks, which the time limit is for
        child = os.fork()
    if not child:
        try:
            with os.fdopen(writing, "w") as stream:
                json.dump(function(), stream)
        finally:
            os._exit(0)  # nothing of this copy's may be flushed or cleaned up a second time
    os.close(writing)
    with os.fdopen(reading) as stream:
        try:
            return json.load(stream) if select.select([stream], [], [], _SECONDS)[0] else None
        except ValueError:
            return None
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
