"""Progress: one live line on a terminal, one line per minute elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import IO

from raysweep.cost import clock
from raysweep.ledger.rows import Counts
from raysweep.terminal import folded, terminal_width

__all__ = ["Progress"]

_REFRESH = 0.2
_LINE_EVERY = 60.0


class Progress:
    """Reports what is happening now. Thread-safe: executors report from their own threads.

    Args:
        stream: Called for the stream of each line, as it may be redirected meanwhile.
    """

    def __init__(self, stream: Callable[[], IO[str]]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._last = 0.0
        self._shown = self._waits = ""
        self._total, self._done, self._counts = 0, 0, Counts()
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """A line that stays."""
        with self._lock:
            self._clear()
            stream = self._stream()
            print("\n".join(folded(text, terminal_width(stream))), file=stream, flush=True)
            self._last = time.monotonic()

    def live(self, text: str, force: bool = False) -> None:
        """Show the live line."""
        with self._lock:
            stream, now = self._stream(), time.monotonic()
            tty = stream.isatty()
            if not force and now - self._last < (_REFRESH if tty else _LINE_EVERY):
                return
            self._last = now
            if tty:
                self._clear()
                print(text, end="", file=stream, flush=True)
                self._shown = text
            else:
                print(text, file=stream, flush=True)

    def wait(self, text: str) -> None:
        """Show the live line while there is nothing to do here: at once if it is new."""
        self._waits, before = text, self._waits
        self.live(text, force=text != before)

    def begin(self, total: int) -> None:
        """Start counting cells, `total` of them."""
        self._total, self._done, self._counts, self._started = total, 0, Counts(), time.monotonic()
        self.live(self._line(), force=self._stream().isatty())

    def count(self, more: Counts) -> None:
        """Cells finished."""
        before, self._done = self._done, self._done + more.total
        self._counts += more
        self.live(self._line(), force=before < self._total <= self._done)

    def end(self) -> None:
        """Leave the terminal clean."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        if self._shown:
            stream = self._stream()
            above = (len(self._shown) - 1) // (terminal_width(stream) or len(self._shown))  # the terminal has folded it
            print("\r" + "\x1b[A" * above + "\x1b[J", end="", file=stream, flush=True)
            self._shown = ""

    def _line(self) -> str:
        elapsed = time.monotonic() - self._started
        done = min(self._done, self._total)
        rate = done / elapsed if elapsed > 0 else 0.0
        eta = clock((self._total - done) / rate) if rate else "?"
        bad = "".join(f"  {s} {n:,}" for s in ("diverged", "failed") if (n := getattr(self._counts, s)))
        share = done / self._total if self._total else 1.0
        return f"cells {done:,}/{self._total:,} ({share:.0%}){bad}  {rate:,.0f}/s  elapsed {clock(elapsed)}  eta {eta}"
