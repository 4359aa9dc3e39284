"""The user's Ctrl-C, as distinct from a KeyboardInterrupt that a user's function raises itself."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["interrupted", "noting_interrupts"]

_noting = False
_pressed = threading.Event()


def interrupted(error: BaseException) -> bool:
    """Whether an exception in the driver's own process comes from the user; assumed where Ctrl-C is not noted."""
    return isinstance(error, KeyboardInterrupt) and (_pressed.is_set() or not _noting)


@contextlib.contextmanager
def noting_interrupts() -> Iterator[None]:
    """Note each Ctrl-C; only the main thread can."""
    global _noting
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pressed(signum: int, frame: FrameType | None) -> None:
        _pressed.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, pressed)
    _pressed.clear()
    _noting = True
    try:
        yield
    finally:
        _noting = False
        signal.signal(signal.SIGINT, before)
