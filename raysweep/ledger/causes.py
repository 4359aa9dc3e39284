"""Causes of cells that are not ok: the line of a reason that states the cause, and which causes are the same."""

from __future__ import annotations

import re

__all__ = ["NUMBER", "alike", "cause", "common"]

NUMBER = re.compile(r"#|0x[0-9a-fA-F]+|\d+(?:[.:]\d+)*(?:e[+-]?\d+)?")
# A Python exception as it ends a traceback, or our message about a worker; the message may continue on more lines.
_EXCEPTION = re.compile(r"its worker died|[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Iteration|Panic)\b")


def cause(reason: str) -> str:
    """The line of a reason that states the cause: an exception's first line, else the last line."""
    lines = [line for line in reason.splitlines() if line.strip()] or [""]
    return next((line for line in reversed(lines) if _EXCEPTION.match(line)), lines[-1])


def alike(one: str) -> str:
    """A cause without its numbers: causes that differ only in numbers (`at step 123`, an address) are one."""
    return NUMBER.sub("#", one)


def common(one: str, other: str) -> str:
    """A common form of two causes, with # where their numbers differ."""
    numbers = iter(NUMBER.findall(other))
    return NUMBER.sub(lambda found: found[0] if found[0] == next(numbers) else "#", one)
