"""Trials: the plain values to which every reader converts another tool's results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["State", "Study", "Trial", "flat"]

State = Literal["complete", "failed", "pruned"]
_DEEPEST = 20  # mappings inside mappings that become names with a slash


@dataclass(frozen=True)
class Trial:
    """One training of another tool.

    Attributes:
        id: The tool's name for it, unique in the study.
        params: Its parameters, by flat names such as `model/width`; empty where the tool does not separate parameters
            from results (a table): both are in `final` then.
        rows: Its measurements along the way, in order.
        final: Its result where no axis is observed.
        state: How it ended.
        reason: Why it is not complete.
        started, finished: Seconds since 1970, where known.
        seconds: Wall time, where known.
    """

    id: str
    params: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    final: Mapping[str, Any]
    state: State = "complete"
    reason: str = ""
    started: float | None = None
    finished: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Study:
    """All trials found at a path.

    Attributes:
        tool: The tool that made it.
        name: The name of the study, experiment or file.
        trials: In the tool's order.
        notes: What was left out, one sentence each.
        bookkeeping: Columns of its rows that are no metrics unless the user names them.
        clock: The column of a row that holds the wall time so far in seconds, or "".
        made: The column of a row that holds when it was made, in seconds since 1970, or "".
        table: Whether rows of equal parameters are one trial's history where an axis is observed.
    """

    tool: str
    name: str
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = ()
    bookkeeping: frozenset[str] = frozenset()
    clock: str = ""
    made: str = ""
    table: bool = False


def flat(nested: Mapping[str, Any], before: str = "", depth: int = 0) -> dict[str, Any]:
    """A mapping's values by their paths, e.g. `model/width`; lists stay values."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping) and value and depth < _DEEPEST:
            found |= flat(value, f"{name}/", depth + 1)
        else:
            found[name] = value
    return found
