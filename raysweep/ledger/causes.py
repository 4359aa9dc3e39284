"""Why cells are not ok: the line of a reason that says why, and which reasons are one and the same."""

from __future__ import annotations

import re

__all__ = ["NUMBER", "alike", "cause", "common"]

NUMBER = re.compile(r"#|0x[0-9a-fA-F]+|\d+(?:[.:]\d+)*(?:e[+-]?\d+)?")
# An exception of Python as a traceback ends, or what we say of a worker; its message may go on for more lines.
_EXCEPTION = re.compile(r"its worker died|[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Iteration|Panic)\b")


def cause(reason: str) -> str:
    """The line of a reason that says why: an exception's first line, else the last line."""
    lines = [line for line in reason.splitlines() if line.strip()] or [""]
    return next((line for line in reversed(lines) if _EXCEPTION.match(line)), lines[-1])


def alike(one: str) -> str:
    """A cause without its numbers: causes that differ in those only (`at step 123`, an address) are one."""
    return NUMBER.sub("#", one)


def common(one: str, other: str) -> str:
    """Two causes that are alike, with # where their numbers differ."""
    numbers = iter(NUMBER.findall(other))
    return NUMBER.sub(lambda found: found[0] if found[0] == next(numbers) else "#", one)
