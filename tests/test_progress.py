"""What a run says outside a terminal: a line a minute, but that it has begun to wait at once."""

from __future__ import annotations

import io

import pytest

from raysweep.progress import Progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_that_one_waits_is_said_at_once_and_not_again_until_it_changes() -> None:
    stream = io.StringIO()
    progress = Progress(lambda: stream)
    progress.say("plan")
    for text in ("waiting for a", "waiting for a", "waiting for b", "waiting for b"):
        progress.wait(text)
    assert stream.getvalue().splitlines() == ["plan", "waiting for a", "waiting for b"]


def test_a_live_line_that_the_terminal_folds_is_removed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 20 columns shows 50 characters in 3 rows: the cursor goes up 2 before the rest is cleared."""
    monkeypatch.setenv("COLUMNS", "20")
    stream = _Terminal()
    progress = Progress(lambda: stream)
    progress.live("x" * 50, force=True)
    progress.live("y" * 20, force=True)
    progress.say("a line that is longer than the terminal")
    assert stream.getvalue() == (
        "x" * 50 + "\r\x1b[A\x1b[A\x1b[J" + "y" * 20 + "\r\x1b[J" + "a line that is\n  longer than the\n  terminal\n"
    )
