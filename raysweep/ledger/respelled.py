"""Keys of cells as an older raysweep wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from raysweep.grid.runs import KEY_LENGTH

__all__ = ["Respelled"]


@dataclass(frozen=True)
class Respelled:
    """Keys by which an older raysweep wrote the same runs and observed values: old -> new."""

    runs: Mapping[str, str]
    suffixes: Mapping[str, str]

    def apply(self, part: pa.Table) -> pa.Table:
        """A part's rows under today's keys."""
        cells = part.column("cell").to_pylist()
        heads = [cell[:KEY_LENGTH] for cell in cells]
        if not any(
            head in self.runs or cell[KEY_LENGTH:] in self.suffixes for cell, head in zip(cells, heads, strict=True)
        ):
            return part
        runs = [self.runs.get(head, head) for head in heads]
        suffixes = [self.suffixes.get(cell[KEY_LENGTH:], cell[KEY_LENGTH:]) for cell in cells]
        made = {"cell": [run + suffix for run, suffix in zip(runs, suffixes, strict=True)], "run": runs}
        for name, values in made.items():
            if name in part.schema.names:
                at = part.schema.get_field_index(name)
                part = part.set_column(at, part.schema.field(at), pa.chunked_array([pa.array(values, pa.string())]))
        return part
