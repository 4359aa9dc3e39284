"""The columns of many parts as those of one table: parts of a store may know different axes and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from raysweep.ledger.part import MAX_COLUMNS

__all__ = ["Columns", "unite"]


@dataclass(frozen=True)
class Columns:
    """The common columns of parts.

    Attributes:
        schema: Every column of any part; a column of several parts has the wider type and the newer metadata.
        prevailing: The kind of values in each column; values of another kind in a part are left out.
        omitted: (part, what is left out of it).
        refused: Parts with which there would be too many columns.
    """

    schema: pa.Schema
    prevailing: Mapping[str, str]
    omitted: tuple[tuple[str, str], ...]
    refused: frozenset[str]

    def conform(self, part: pa.Table) -> pa.Table:
        """A part in the common columns: an axis it does not know was at its default when it was written."""
        if part.schema.equals(self.schema, check_metadata=True):
            return part
        names = {f.name for f in part.schema} - set(_odd(part.schema, self.prevailing))
        columns = []
        for field in self.schema:
            meta = field.metadata or {}
            lead = meta.get(b"follows", b"").decode()
            if field.name in names:
                column = part.column(field.name).cast(field.type, safe=False)  # only ever to a wider number
            elif field.name in part.schema.names:
                column = pa.nulls(len(part), field.type)
            elif lead in names and part.schema.field(lead).type == field.type:
                column = part.column(lead)
            else:
                column = pa.repeat(_default(meta, field.type), len(part))
            columns.append(column)
        return pa.table(columns, schema=self.schema)


def unite(parts: Iterable[tuple[str, pa.Schema, int]]) -> Columns:
    """The columns of parts given by name, schema and number of rows."""
    parts = list(parts)
    prevailing = _prevailing(parts)
    schema, omitted, refused = pa.schema([]), [], set()
    for name, found, _ in parts:
        if found.equals(schema, check_metadata=True):
            continue
        odd = _odd(found, prevailing)
        for column in odd:
            i = found.get_field_index(column)
            found = found.set(i, found.field(i).with_type(pa.null()))
        if odd:  # the rows stay: cells are counted as finished by their keys alone
            omitted.append(
                (name, f"its values of {', '.join(odd)} are left out: most rows hold {prevailing[odd[0]]} there")
            )
        wider = _merge(schema, found)
        if len(wider) > MAX_COLUMNS:
            omitted.append((name, f"with the other parts' there would be {len(wider):,} columns"))
            refused.add(name)
            continue
        schema = wider
    for i, field in enumerate(schema):  # an axis that was only null in every part
        if pa.types.is_null(field.type):
            schema = schema.set(i, field.with_type(pa.string()))
    return Columns(schema, prevailing, tuple(omitted), frozenset(refused))


def _kind(type_: pa.DataType) -> str:
    """The kind of a type: types of one kind can share a column; empty for a column of nulls."""
    if pa.types.is_null(type_):
        return ""
    return "numbers" if pa.types.is_integer(type_) or pa.types.is_floating(type_) else str(type_)


def _prevailing(parts: Iterable[tuple[str, pa.Schema, int]]) -> dict[str, str]:
    """The kind of each column that most rows have; ties go by name."""
    rows: dict[pa.Schema, int] = {}
    for _, schema, count in parts:
        rows[schema] = rows.get(schema, 0) + count
    counted: dict[str, dict[str, int]] = {}
    for schema, count in rows.items():
        for field in schema:
            if kind := _kind(field.type):
                kinds = counted.setdefault(field.name, {})
                kinds[kind] = kinds.get(kind, 0) + count
    return {name: max(sorted(kinds), key=kinds.__getitem__) for name, kinds in counted.items()}


def _odd(schema: pa.Schema, prevailing: Mapping[str, str]) -> list[str]:
    """The columns whose values are not of the prevailing kind."""
    return [f.name for f in schema if _kind(f.type) not in ("", prevailing.get(f.name))]


def _merge(left: pa.Schema, right: pa.Schema) -> pa.Schema:
    """Both schemas' columns; a shared one has the wider type and the newer metadata."""
    merged = pa.unify_schemas([left, right], promote_options="permissive")
    fields = [f.with_metadata(_newer(left, right, f.name)) for f in merged]
    return pa.schema(fields, metadata={**(left.metadata or {}), **(right.metadata or {})})


def _newer(left: pa.Schema, right: pa.Schema, name: str) -> dict[bytes, bytes]:
    """The newer metadata of a column. Older parts do not record the rule by which an axis gets its kind."""
    if name not in right.names:
        return left.field(name).metadata or {}
    new = right.field(name).metadata or {}
    old = (left.field(name).metadata or {}) if name in left.names else {}
    ruled = b"kind_by" in old and b"kind_by" not in new and old.get(b"kind") == new.get(b"kind")
    return {**new, b"kind_by": old[b"kind_by"]} if ruled else new


def _default(meta: Mapping[bytes, bytes], type_: pa.DataType) -> pa.Scalar:
    """The value of an axis in a part without it; null where the axis does not state one, or an impossible one."""
    try:
        return pc.cast(pa.scalar(meta[b"default"].decode()), type_)
    except (KeyError, UnicodeDecodeError, pa.ArrowException):
        return pa.scalar(None, type_)
