"""The function that the soak of faults runs. A process that imports it flushes its rows every 0.3 s, not 30 s."""

from __future__ import annotations

from toy_experiment import steady

from raysweep.executors import work

__all__ = ["steady"]

work.FLUSH_SECONDS = 0.3  # so that many of the kills hit a write
