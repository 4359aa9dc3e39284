"""Terms: products of small tables, which represent a grid's cells without listing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from raysweep.grid.axes import Axis
from raysweep.grid.values import Value

__all__ = ["Table", "Term", "column", "split"]


@dataclass(frozen=True)
class Table:
    """Distinct rows over a few axes: one factor of a product."""

    names: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def project(self, names: Sequence[str]) -> list[tuple[Value, ...]]:
        """Each row restricted to `names`, in order, duplicates kept."""
        if tuple(names) == self.names:
            return list(self.rows)
        at = [self.names.index(n) for n in names]
        return [tuple(row[i] for i in at) for row in self.rows]


Term = tuple[Table, ...]


def split(
    term: Term, axis: Axis, wanted: set[Value], axes: Mapping[str, Axis]
) -> tuple[tuple[Term, ...], tuple[Term, ...]]:
    """The parts of a term in which `axis` is among `wanted`, and in which it is not (each () or one term)."""
    for i, table in enumerate(term):
        if axis.name in table.names:
            at = table.names.index(axis.name)
            parts = []
            for inside in (True, False):
                rows = tuple(r for r in table.rows if (r[at] in wanted) == inside)
                parts.append(((*term[:i], replace(table, rows=rows), *term[i + 1 :]),) if rows else ())
            return parts[0], parts[1]
    if axis.follows is not None:
        return split(term, axes[axis.follows], wanted, axes)
    return ((term,), ()) if axis.default in wanted else ((), (term,))


def column(term: Term, axis: Axis, axes: Mapping[str, Axis]) -> set[Value]:
    """The values that an axis has in a term."""
    for table in term:
        if axis.name in table.names:
            at = table.names.index(axis.name)
            return {row[at] for row in table.rows}
    if axis.follows is not None:
        return column(term, axes[axis.follows], axes)
    return set() if axis.default is None else {axis.default}
