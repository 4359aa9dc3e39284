"""One parquet part of a ledger, read only if its footer announces something that a ledger could hold.

A store may come from anybody. A footer is checked before any data is decoded: its length, and the number of rows and
the types of columns that it announces. The size of dictionary-encoded text is computed before it is decoded, because a
hundred bytes can stand for a terabyte. Nothing in a part is executed, whatever its metadata says.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysweep.errors import LedgerError
from raysweep.ledger.rows import COLUMNS, SCHEMA_VERSION, STAMPS, STATUSES
from raysweep.store import Store, UnreachableError

__all__ = [
    "KEYS",
    "MADE_OF",
    "MAX_COLUMNS",
    "MAX_ROW_BYTES",
    "MAX_VALUES",
    "NEEDED",
    "PART",
    "parts_of",
    "read_part",
    "read_table",
    "row_bytes",
]

MADE_OF = b"raysweep.parts"  # in a compacted table's metadata: how many parts it was made of
PART = re.compile(r"part-[0-9a-f]{16}-\d{1,20}\.parquet")
KEYS = ("cell", "run")  # distinct texts, which no dictionary makes shorter
NEEDED = (*KEYS, "status", "attempt")
MAX_VALUES = 1 << 28  # rows times columns
MAX_COLUMNS = 2000
_MAX_BYTES = 1 << 30  # size of a file, and of its text once decoded
MAX_ROW_BYTES = _MAX_BYTES // 2  # size of a row as written: a part with only this row can surely be read
_SHORT = 1 << 16  # size of a chunk's text up to which it is not computed exactly
_MAX_FOOTER = 1 << 24
_MAX_GROUPS = 2000
_MAX_ATTEMPT = 1_000_000
_LATEST = 7_258_118_400_000_000  # the year 2200, microseconds
_checked: deque[pa.Schema] = deque(maxlen=8)  # columns that were found in order


class _RefusedError(Exception):
    """The reason why a file is not a part."""


def read_part(store: Store, path: str, columns: Sequence[str] | None = None) -> pa.Table | str:
    """A part's table, or the reason why it is not one.

    Args:
        columns: Read only these.

    Raises:
        UnreachableError: the store does not answer. Leaving parts out would call finished cells unfinished.
    """
    if not PART.fullmatch(path.rpartition("/")[2]):
        return "its name is not a part's"
    try:
        data = store.read(path, _MAX_BYTES)
        if data[-4:] == b"PAR1" and int.from_bytes(data[-8:-4], "little") > _MAX_FOOTER:
            raise _RefusedError(f"its footer is longer than {_MAX_FOOTER:,} bytes")
        footer = _footer(pa.BufferReader(data))
        schema = _checked_schema(footer)
        wanted = [n for n in schema.names if columns is None or n in columns]
        table = _decoded(data, footer, schema, wanted)
        _check_values(table)
    except _RefusedError as error:
        return str(error)
    except UnreachableError:
        raise
    except (pa.ArrowException, LedgerError, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        return f"it cannot be read as parquet: {_first_line(error)}"
    return table


def read_table(store: Store, path: str) -> Iterator[pa.Table]:
    """The rows of a compacted table, one row group at a time, like those of parts, without the descriptions of columns.

    Raises:
        LedgerError: it is not one.
        UnreachableError: the store does not answer.
    """
    with store.open(path) as stream:
        try:
            footer = _footer(stream)
            schema = footer.schema.to_arrow_schema()
            names = [name for name in schema.names if name != COLUMNS]
            for name in names:
                _check_field(schema.field(name))
            coded = [name for name in names if pa.types.is_string(schema.field(name).type)]
            file = pq.ParquetFile(stream, metadata=footer, read_dictionary=coded)
            for i in range(footer.num_row_groups):
                if not 0 <= footer.row_group(i).num_rows * len(names) <= MAX_VALUES:
                    raise _RefusedError(f"its row group {i} announces too many rows")
                group = _written_out(file.read_row_group(i, columns=names), coded)
                group = group.cast(pa.schema([schema.field(name) for name in group.schema.names], schema.metadata))
                _check_values(group)
                yield group
        except UnreachableError:
            raise
        except (_RefusedError, pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise LedgerError(
                f"store {store.uri}: {path} cannot be read as a table of cells: {_first_line(error)}"
            ) from error


def parts_of(store: Store, path: str) -> int:
    """The number of parts a compacted table was made from, according to its metadata.

    Raises:
        LedgerError: it is not one.
    """
    with store.open(path) as stream:
        try:
            said = (_footer(stream).schema.to_arrow_schema().metadata or {}).get(MADE_OF, b"0")
        except (pa.ArrowException, OSError, ValueError) as error:
            raise LedgerError(f"store {store.uri}: {path} cannot be read as a table of cells: {error}") from error
    return int(said) if said.isdigit() and len(said) < 10 else 0


def row_bytes(table: pa.Table) -> npt.NDArray[np.int64]:
    """[rows] how many bytes each row takes: its words, and eight for each column."""
    size = np.full(len(table), 8 * table.num_columns, dtype=np.int64)
    for column in table.columns:
        if pa.types.is_string(column.type):
            size += pc.fill_null(pc.binary_length(column), 0).to_numpy()
    return size


def _footer(source: Any) -> pq.FileMetaData:
    """The footer of a parquet file, within limits of Thrift: one of few bytes may announce billions of entries."""
    limits = {"thrift_string_size_limit": _MAX_FOOTER, "thrift_container_size_limit": _MAX_FOOTER}
    return pq.ParquetFile(source, **limits).metadata


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def _checked_schema(footer: pq.FileMetaData) -> pa.Schema:
    """The columns that a footer announces."""
    if footer.num_columns > MAX_COLUMNS:
        raise _RefusedError(f"it has {footer.num_columns:,} columns, and a part at most {MAX_COLUMNS:,}")
    if footer.num_rows * footer.num_columns > MAX_VALUES or footer.num_rows < 0:
        raise _RefusedError(
            f"it announces {footer.num_rows:,} rows of {footer.num_columns} columns, too many for a part"
        )
    if footer.num_row_groups > _MAX_GROUPS:
        raise _RefusedError(f"it has {footer.num_row_groups:,} row groups, and a part at most {_MAX_GROUPS:,}")
    size = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
    if not 0 <= size <= 4 * _MAX_BYTES:
        raise _RefusedError(f"it announces {size:,} bytes, too many for a part")
    schema = footer.schema.to_arrow_schema()
    for known in tuple(_checked):  # parts of a store have few schemas: one object for all, checked once
        if schema.equals(known, check_metadata=True):
            return known
    if len(set(schema.names)) < len(schema):
        raise _RefusedError("it has two columns of one name")
    if missing := [n for n in NEEDED if n not in schema.names]:
        raise _RefusedError(f"it lacks the columns {', '.join(missing)}")
    version = (schema.metadata or {}).get(b"raysweep.schema", b"0")
    if not re.fullmatch(rb"\d{1,9}", version):
        raise _RefusedError("its schema version is not a number")
    if int(version) > SCHEMA_VERSION:
        raise _RefusedError(
            f"its schema version is {int(version)}, but this raysweep reads up to {SCHEMA_VERSION}: upgrade"
        )
    for field in schema:
        _check_field(field)
    _checked.append(schema)
    return schema


def _check_field(field: pa.Field) -> None:
    type_, is_ = field.type, pa.types
    if is_.is_null(type_):
        return
    if field.name in STAMPS and type_ != STAMPS[field.name]:
        raise _RefusedError(f"its column {field.name} is {_type_name(type_)}, not {STAMPS[field.name]}")
    if not (
        is_.is_boolean(type_)
        or is_.is_integer(type_)
        or is_.is_floating(type_)
        or is_.is_string(type_)
        or type_ in STAMPS.values()
    ):
        raise _RefusedError(f"its column {field.name[:80]!r} is {_type_name(type_)}, which no ledger holds")
    for key, value in (field.metadata or {}).items():
        text = value.decode()  # a ValueError where it is not UTF-8
        if key == b"default":
            pc.cast(pa.scalar(text), type_)


def _type_name(type_: pa.DataType) -> str:
    return str(type_)[:80]


def _decoded(data: bytes, footer: pq.FileMetaData, schema: pa.Schema, wanted: Sequence[str]) -> pa.Table:
    """The columns; dictionary-encoded text is decoded only if it is not too long."""
    # Not only columns with a dictionary: pyarrow aborts the process on the chunks of a damaged footer.
    coded = [n for n in wanted if pa.types.is_string(schema.field(n).type)]
    file = pq.ParquetFile(pa.BufferReader(data), metadata=footer, read_dictionary=coded)
    table = _written_out(file.read(columns=list(wanted), use_threads=False), coded)  # parts are read side by side
    columns = dict(zip(table.schema.names, table.columns, strict=True))
    whole = len(columns) == len(schema)
    out = schema if whole else pa.schema([schema.field(n) for n in columns], metadata=schema.metadata)
    return pa.Table.from_arrays([columns[n] for n in out.names], schema=out)


def _written_out(table: pa.Table, coded: Sequence[str]) -> pa.Table:
    """A table with the dictionary-encoded text of these columns decoded, if it is not too long."""
    columns, size = dict(zip(table.schema.names, table.columns, strict=True)), 0
    for name in coded:
        for chunk in columns[name].chunks:
            most = chunk.dictionary.nbytes * len(chunk)
            size += most if most < _SHORT else _words(chunk)
        if size > _MAX_BYTES:
            raise _RefusedError(f"its text is longer than {_MAX_BYTES:,} bytes once decoded")
    for name in coded:
        columns[name] = columns[name].cast(pa.string())
    return pa.table(columns)


def _words(chunk: pa.DictionaryArray) -> int:
    """The size of a chunk's text once decoded, in bytes."""
    lengths = pc.cast(pc.binary_length(chunk.dictionary), pa.int64())
    return pc.sum(lengths.take(chunk.indices)).as_py() or 0


def _check_values(table: pa.Table) -> None:
    """Refuse values that would break the ledger's arithmetic: impossible keys and attempts."""
    table.validate(full=True)  # words are UTF-8
    if absent := [n for n in NEEDED if n in table.schema.names and table.column(n).null_count]:
        raise _RefusedError(f"its column {absent[0]} has empty places")
    if not all(
        pc.all(pc.ascii_is_alnum(table.column(n))).as_py() in (True, None) for n in KEYS if n in table.schema.names
    ):
        raise _RefusedError("its keys are not letters and digits")
    unknown = set(pc.unique(table.column("status")).to_pylist()) - set(STATUSES)
    if unknown:
        raise _RefusedError(f"it has an unknown status {sorted(map(str, unknown))[:5]}")
    for name, low, high in (("attempt", 0, _MAX_ATTEMPT), ("finished_at", 0, _LATEST)):
        if name in table.schema.names and table.column(name).null_count < len(table):
            ends = pc.min_max(pc.cast(table.column(name), pa.int64())).as_py()
            if not low <= ends["min"] <= ends["max"] <= high:
                raise _RefusedError(f"its column {name} goes from {ends['min']} to {ends['max']}, which cannot be")
