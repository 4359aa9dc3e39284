"""A limit on the time that a run may take."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["HELD", "LATE", "TimeLimitError", "took_longer", "watched"]

LATE = re.compile(r"took longer than [^\n]*, the limit of a run$", re.MULTILINE)
HELD = re.compile(r"^Timeout \(\d+:\d\d:\d\d[.\d]*\)!$", re.MULTILINE)  # how faulthandler begins when it ends a process
_GRACE = 20.0  # seconds after which a process that holds Python's lock is ended by C code
_CODE = 113


class TimeLimitError(BaseException):
    """A run took longer than it may. Not an Exception: a user's `except Exception` must not swallow it."""


def took_longer(seconds: float) -> str:
    """`took longer than 30 minutes, the limit of a run`: the sentence that `LATE` finds."""
    amount = f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} s"
    return f"took longer than {amount}, the limit of a run"


@contextlib.contextmanager
def watched(seconds: float | None, before: Callable[[], None] | None, about: str) -> Iterator[None]:
    """Stop what runs inside after `seconds`.

    Args:
        seconds: None for no limit.
        before: In a worker, called before its process ends itself, to flush rows. None in the driver's own process,
            where an exception is raised instead.
        about: What the reason names, e.g. `run 0123`.

    Raises:
        TimeLimitError: in the driver's own process.
    """
    if seconds is None:
        yield
    elif before is None:
        with _alarm(seconds, about):
            yield
    else:
        with _ending(seconds, before, about):
            yield


@contextlib.contextmanager
def _alarm(seconds: float, about: str) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # nobody can interrupt another thread
        return

    def late(signum: int, frame: Any) -> None:
        raise TimeLimitError(f"{about} {took_longer(seconds)}")

    old = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@contextlib.contextmanager
def _ending(seconds: float, before: Callable[[], None], about: str) -> Iterator[None]:
    """Nothing in a process can stop its own C code, so the process ends, and its worker is replaced."""
    done, at_work = threading.Event(), threading.get_ident()

    def watch() -> None:
        if done.wait(seconds):
            return
        frame = sys._current_frames().get(at_work)
        where = "".join(traceback.format_stack(frame)[-8:]) if frame is not None else ""
        os.write(2, f"{where}\n{about} {took_longer(seconds)}\n".encode(errors="replace"))
        with contextlib.suppress(BaseException):
            before()
        os._exit(_CODE)

    faulthandler.dump_traceback_later(seconds + _GRACE, exit=True)
    thread = threading.Thread(target=watch, daemon=True, name="raysweep-limit")
    thread.start()
    try:
        yield
    finally:
        done.set()
        faulthandler.cancel_dump_traceback_later()
