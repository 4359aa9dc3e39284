"""Columns: what a ledger says about each of its columns, in Arrow metadata or in a text that outlives it.

A frame that went through Polars, pandas or a CSV has lost the metadata. Its column `columns` then says the same: a JSON
object of the metadata of every column, the same in all rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pyarrow as pa

__all__ = ["COLUMNS", "PROVENANCE", "Column", "merged", "of_schema", "of_text"]

COLUMNS = "columns"  # the column that says what the others are
PROVENANCE = ("experiment", "experiment_version", "code_sha")  # stamps: rows that differ in one are never mixed
Scalar: TypeAlias = bool | int | float | str
_ROLES = ("axis", "metric", "stamp")
_LONGEST = 1 << 22  # characters of the text: 2,000 columns
_MOST = 1000  # accepted hashes; values that choose a kind
_KINDS = ("shape", "lane", "observed")


@dataclass(frozen=True)
class Column:
    """A ledger's description of one of its columns; a field is empty where it says nothing.

    Attributes:
        role: `axis`, `metric` or `stamp`.
        kind: Kind of an axis: `shape`, `lane` or `observed`; `provenance` for a stamp that splits a fit as an axis
            does. Where another axis chooses it: the kind at all values of that axis except those in `kinds`.
        axis_role: Role of an axis: `seed` or `time`.
        better: Better direction of a metric: `low` or `high`.
        free: Whether a user's own function returned the metric, so that it may be finite in a row that diverged.
        accepted: For `code_sha`, the groups of hashes that the user declared equal, each joined by commas.
        chosen_by: Name of the axis that chooses an axis's kind, e.g. `schedule`.
        kinds: Values of that axis, and the kind at each.
    """

    role: str = ""
    kind: str = ""
    axis_role: str = ""
    better: str = ""
    free: bool = False
    accepted: tuple[str, ...] = ()
    chosen_by: str = ""
    kinds: tuple[tuple[Scalar, str], ...] = ()

    def kind_for(self, cell: Mapping[str, Any]) -> str:
        """The kind in a cell that holds at least the axis which chooses it."""
        value = cell.get(self.chosen_by)
        return next((kind for at, kind in self.kinds if at == value), self.kind)


def of_schema(schema: pa.Schema) -> dict[str, Column]:
    """The description of each field by its metadata; a field without a role has no `Column`."""
    described = {
        field.name: {key.decode(errors="replace"): value.decode(errors="replace") for key, value in meta.items()}
        for field in schema
        if (meta := field.metadata)
    }
    return _of(described)


def of_text(text: str) -> dict[str, Column]:
    """The descriptions in the text of a column `columns`; anything malformed is ignored."""
    if len(text) > _LONGEST:
        return {}
    try:
        described = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return _of(described) if isinstance(described, dict) else {}


def merged(tables: Iterable[Mapping[str, Column]]) -> dict[str, Column]:
    """The columns of several tables: the first that describes one decides, but accepted hashes add up, and a
    table of an older raysweep does not record how a kind is chosen.
    """
    out: dict[str, Column] = {}
    for columns in tables:
        for name, column in columns.items():
            before = out.setdefault(name, column)
            if before.accepted != column.accepted:
                before = replace(before, accepted=tuple(dict.fromkeys((*before.accepted, *column.accepted))))
            if before.kind == column.kind and not before.kinds:
                before = replace(before, chosen_by=column.chosen_by, kinds=column.kinds)
            out[name] = before
    return out


def _of(described: Mapping[str, Any]) -> dict[str, Column]:
    columns = {}
    for name, meta in described.items():
        if not isinstance(meta, dict) or meta.get("role") not in _ROLES:
            continue
        role, kind, axis_role, better, free, accepted = (
            value if isinstance(value := meta.get(key, ""), str) else ""
            for key in ("role", "kind", "axis_role", "better", "free", "accepted")
        )
        hashes = tuple(part for part in accepted.split(";")[:_MOST] if part)
        columns[name] = Column(role, kind, axis_role, better, free == "1", hashes, *_rule(meta.get("kind_by")))
    return columns


def _rule(text: Any) -> tuple[str, tuple[tuple[Scalar, str], ...]]:
    """The axis that chooses a kind, and the kinds that it chooses; empty where the text is malformed."""
    try:
        described = json.loads(text)
        axis, pairs = described["axis"], [(value, kind) for value, kind in described["kinds"][:_MOST]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "", ()
    if not isinstance(axis, str) or not all(isinstance(v, Scalar) and k in _KINDS for v, k in pairs):
        return "", ()
    return axis, tuple(pairs)
