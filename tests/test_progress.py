"""What a run says outside a terminal: a line a minute, but that it has begun to wait at once."""

from __future__ import annotations

import io

from raysweep.progress import Progress


def test_that_one_waits_is_said_at_once_and_not_again_until_it_changes() -> None:
    stream = io.StringIO()
    progress = Progress(lambda: stream)
    progress.say("plan")
    for text in ("waiting for a", "waiting for a", "waiting for b", "waiting for b"):
        progress.wait(text)
    assert stream.getvalue().splitlines() == ["plan", "waiting for a", "waiting for b"]
