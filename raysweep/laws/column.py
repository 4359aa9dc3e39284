"""Columns: what a ledger says of each of its own, by Arrow metadata or by a text that outlives it.

A frame that went through Polars, pandas or a CSV has lost the metadata. Its column `columns` then says the same: a JSON
object of the metadata of every column, the same in all rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

__all__ = ["COLUMNS", "PROVENANCE", "Column", "merged", "of_schema", "of_text"]

COLUMNS = "columns"  # the column that says what the others are
PROVENANCE = ("experiment", "experiment_version", "code_sha")  # stamps: rows that differ in one are never mixed
_ROLES = ("axis", "metric", "stamp")
_LONGEST = 1 << 22  # characters of the text: 2,000 columns
_MOST = 1000  # accepted hashes


@dataclass(frozen=True)
class Column:
    """What a ledger says about one of its columns; a field is empty where it says nothing.

    Attributes:
        role: `axis`, `metric` or `stamp`.
        kind: Of an axis: `shape`, `lane` or `observed`; `provenance` of a stamp that splits a fit as an axis does.
        axis_role: Of an axis: `seed` or `time`.
        better: Of a metric: `low` or `high`.
        free: Of a metric: a user's own function returned it, so that it may be finite in a row that diverged.
        accepted: Of `code_sha`: groups of hashes that the user declared equal, each joined by commas.
    """

    role: str = ""
    kind: str = ""
    axis_role: str = ""
    better: str = ""
    free: bool = False
    accepted: tuple[str, ...] = ()


def of_schema(schema: pa.Schema) -> dict[str, Column]:
    """What the metadata of each field says; a field without a role has no `Column`."""
    told = {
        field.name: {key.decode(errors="replace"): value.decode(errors="replace") for key, value in meta.items()}
        for field in schema
        if (meta := field.metadata)
    }
    return _of(told)


def of_text(text: str) -> dict[str, Column]:
    """What the text of a column `columns` says; what does not fit the form is passed over."""
    if len(text) > _LONGEST:
        return {}
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return _of(told) if isinstance(told, dict) else {}


def merged(tables: Iterable[Mapping[str, Column]]) -> dict[str, Column]:
    """What several tables say of their columns: the first that names one decides, but accepted hashes add up."""
    out: dict[str, Column] = {}
    for columns in tables:
        for name, column in columns.items():
            before = out.setdefault(name, column)
            if before.accepted != column.accepted:
                out[name] = replace(before, accepted=tuple(dict.fromkeys((*before.accepted, *column.accepted))))
    return out


def _of(told: Mapping[str, Any]) -> dict[str, Column]:
    columns = {}
    for name, meta in told.items():
        if not isinstance(meta, dict) or meta.get("role") not in _ROLES:
            continue
        role, kind, axis_role, better, free, accepted = (
            value if isinstance(value := meta.get(key, ""), str) else ""
            for key in ("role", "kind", "axis_role", "better", "free", "accepted")
        )
        hashes = tuple(part for part in accepted.split(";")[:_MOST] if part)
        columns[name] = Column(role, kind, axis_role, better, free == "1", hashes)
    return columns
