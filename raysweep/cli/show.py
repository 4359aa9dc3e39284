"""Output helpers shared by the commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

__all__ = ["print_json", "print_table"]


def print_json(data: Any) -> None:
    """Indented JSON on standard output."""
    print(json.dumps(data, indent=1, default=str))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], right_from: int | None = None) -> None:
    """An aligned table. Columns from `right_from` on are flush right."""
    widths = [max(len(r[i]) for r in (head, *rows)) for i in range(len(head))]
    start = len(head) if right_from is None else right_from

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            c.rjust(w) if i >= start else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )

    print("  " + line(head))
    print("  " + "  ".join("-" * w for w in widths))
    for row in rows:
        print("  " + line(row))
