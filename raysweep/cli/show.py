"""Output helpers shared by the commands."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

__all__ = ["print_json", "print_table", "say", "terminal_width"]

_BROAD = 110  # columns of text, however wide the terminal
_NARROW = 16  # columns that a folded column of a table keeps


def print_json(data: Any) -> None:
    """Indented JSON on standard output."""
    print(json.dumps(data, indent=1, default=str))


def terminal_width() -> int | None:
    """Columns available for a line: a terminal's width; unlimited elsewhere, where a program may read the lines."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say(*lines: str) -> None:
    """Print lines; on a terminal long ones are folded, with what follows indented."""
    columns = terminal_width()
    most = sys.maxsize if columns is None else min(columns, _BROAD)
    fold = textwrap.TextWrapper(most, break_long_words=False, break_on_hyphens=False)  # a path stays whole
    for line in lines:
        fold.subsequent_indent = " " * (len(line) - len(line.lstrip()) + 2)
        print(fold.fill(line) if len(line) > most else line)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], right_from: int | None = None) -> None:
    """An aligned table. Columns from `right_from` on are flush right; the widest of the others folds on a terminal."""
    widths = [max(len(r[i]) for r in (head, *rows)) for i in range(len(head))]
    start = len(head) if right_from is None else right_from
    excess = 2 * len(widths) + sum(widths) - (terminal_width() or sys.maxsize)
    if excess > 0 and start:
        widest = max(range(start), key=widths.__getitem__)
        widths[widest] = max(min(_NARROW, widths[widest]), widths[widest] - excess)

    def print_row(cells: Sequence[str]) -> None:
        folded = [textwrap.wrap(c, w) if len(c) > w else [c] for c, w in zip(cells, widths, strict=True)]
        for k in range(max(map(len, folded))):
            parts = zip((cell[k] if k < len(cell) else "" for cell in folded), widths, strict=True)
            line = "  ".join(part.rjust(w) if i >= start else part.ljust(w) for i, (part, w) in enumerate(parts))
            print(f"  {line}")

    print_row(head)
    print("  " + "  ".join("-" * w for w in widths))
    for row in rows:
        print_row(row)
