"""Output helpers shared by the commands."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, TextIO

from raysweep.terminal import as_options, folded, terminal_width

__all__ = ["print_json", "print_table", "say", "terminal_width"]

_SAID = ("details", "error", "notes")  # keys of sentences
_NARROW = 16  # columns that a folded column of a table keeps


def print_json(data: Any) -> None:
    """Indented JSON on standard output; what it says in sentences names options as they are typed."""
    print(json.dumps(_spoken(data), indent=1, default=str))


def _spoken(data: Any) -> Any:
    if isinstance(data, list):
        return [_spoken(one) for one in data] if data and isinstance(data[0], dict) else data
    if not isinstance(data, dict):
        return data
    return {name: _sentences(one) if name in _SAID else _spoken(one) for name, one in data.items()}


def _sentences(said: Any) -> Any:
    if isinstance(said, dict):
        return {code: _sentences(text) for code, text in said.items()}
    return as_options(said) if isinstance(said, str) else said


def say(*lines: str, stream: TextIO | None = None) -> None:
    """Print lines, on standard output by default; on a terminal long ones are folded, with what follows indented.

    Arguments that a sentence names as in Python are shown as options.
    """
    columns = terminal_width(stream)
    for line in lines:
        print("\n".join(folded(as_options(line), columns)), file=stream)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], right_from: int | None = None) -> None:
    """An aligned table. Columns from `right_from` on are flush right; the widest of the others fold on a terminal.

    Where that is not enough, each row is a sentence with the names of its columns.
    """
    widths = [max(len(r[i]) for r in (head, *rows)) for i in range(len(head))]
    start = len(head) if right_from is None else right_from
    columns = terminal_width() or sys.maxsize
    while (excess := 2 * len(widths) + sum(widths) - columns) > 0:
        widest = max(range(start), key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= _NARROW:
            say(*(_sentence(head, row) for row in rows))
            return
        widths[widest] = max(_NARROW, widths[widest] - excess)

    def print_row(cells: Sequence[str]) -> None:
        pieces = [textwrap.wrap(c, w) if len(c) > w else [c] for c, w in zip(cells, widths, strict=True)]
        for k in range(max(map(len, pieces))):
            parts = zip((cell[k] if k < len(cell) else "" for cell in pieces), widths, strict=True)
            line = "  ".join(part.rjust(w) if i >= start else part.ljust(w) for i, (part, w) in enumerate(parts))
            print(f"  {line}")

    print_row(head)
    print("  " + "  ".join("-" * w for w in widths))
    for row in rows:
        print_row(row)


def _sentence(head: Sequence[str], row: Sequence[str]) -> str:
    first, *others = (f"{name} {cell}".strip() for name, cell in zip(head, row, strict=True) if cell)
    return f"  {first}: {', '.join(others)}"
