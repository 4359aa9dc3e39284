"""Rows written as parquet in pieces of bounded size: the parts of a ledger, and the row groups of `cells.parquet`.

Arrow addresses the text of one piece of a column with 32 bits and refuses more than 2 GiB. A reader, too, wants to hold
one piece at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysweep import __version__
from raysweep.ledger.part import KEYS, MADE_OF, MAX_ROW_BYTES, MAX_VALUES, row_bytes
from raysweep.ledger.rows import STAMPS, with_description

__all__ = ["GROUP", "PART", "pieces", "storable", "to_parquet", "write_groups"]

PART = 1 << 27  # bytes in memory of a part
GROUP = 1 << 26  # bytes of a row group of `cells.parquet` in memory


def pieces(rows: pa.Table, most: int) -> Iterator[tuple[int, pa.Table]]:
    """Rows in pieces of limited size in bytes (or of one row), each with the position of its first row."""
    longest = max(1, MAX_VALUES // max(1, rows.num_columns))
    end, start = np.cumsum(row_bytes(rows)), 0
    while start < len(rows):
        before = int(end[start - 1]) if start else 0
        stop = min(start + longest, int(np.searchsorted(end, before + most, "right")))
        stop = max(start + 1, stop)
        yield start, rows.slice(start, stop - start)
        start = stop


def storable(rows: pa.Table) -> pa.Table:
    """The rows; those with more text than a part can hold become failed ones without it.

    An axis of text without any text becomes a column of nulls: it may only have been null so far, and numbers that it
    is given later must not conflict with a column of text.
    """
    size = row_bytes(rows)
    for i, field in enumerate(rows.schema):
        axis = (field.metadata or {}).get(b"role") == b"axis"
        if axis and pa.types.is_string(field.type) and rows.column(i).null_count == len(rows):
            rows = rows.set_column(i, field.with_type(pa.null()), pa.nulls(len(rows)))
    large = size > MAX_ROW_BYTES
    if not large.any():
        return rows
    fine, columns = pa.array(~large), []
    reason = (
        f"a row may hold {MAX_ROW_BYTES:,} bytes of text, but this one has {int(size.max()):,}: write long texts to a "
        "file and return its path"
    )
    for field, column in zip(rows.schema, rows.columns, strict=True):
        if pa.types.is_string(field.type):
            other = {"status": "failed", "error": reason}.get(field.name)
            if other is not None or field.name not in STAMPS:
                column = pc.if_else(fine, column, pa.scalar(other, pa.string()))
        columns.append(column)
    return pa.table(columns, schema=rows.schema)


def to_parquet(table: pa.Table) -> pa.Buffer:
    """A part's file."""
    sink = pa.BufferOutputStream()
    stamped = table.replace_schema_metadata(_stamped(table.schema).metadata)
    pq.write_table(stamped, sink, compression="zstd", use_dictionary=_coded(table.schema))
    return sink.getvalue()


def write_groups(sink: BinaryIO, schema: pa.Schema, parts: Iterable[pa.Table], made_of: int) -> None:
    """Parts as one parquet file, each row group sorted by cell; about one row group is in memory at a time.

    Args:
        made_of: Number of parts of the ledger: a ledger with fewer lacks some rows of this file.
    """
    waiting: list[pa.Table] = []
    schema = with_description(schema.empty_table()).schema
    held, stamped = 0, _stamped(schema.with_metadata({**(schema.metadata or {}), MADE_OF: str(made_of).encode()}))
    with pq.ParquetWriter(sink, stamped, compression="zstd", use_dictionary=_coded(schema)) as writer:
        for part in chain(parts, [None]):
            size = 0 if part is None else int(row_bytes(part).sum())
            if waiting and (part is None or held + size > GROUP):
                rows = with_description(pa.concat_tables(waiting))
                rows = rows.take(pc.sort_indices(rows, sort_keys=[("cell", "ascending")]))
                for _, group in pieces(rows.replace_schema_metadata(stamped.metadata), GROUP):
                    writer.write_table(group, row_group_size=len(group))
                waiting, held = [], 0
            if part is not None:
                waiting, held = [*waiting, part], held + size


def _stamped(schema: pa.Schema) -> pa.Schema:
    return schema.with_metadata({**(schema.metadata or {}), b"raysweep.version": __version__.encode()})


def _coded(schema: pa.Schema) -> list[str]:
    return [name for name in schema.names if name not in KEYS]
