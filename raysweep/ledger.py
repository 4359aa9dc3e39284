"""The ledger: a log of parquet parts in a store, and the only truth about what is done.

A part is never changed. `scan` reads all of them and keeps one row a cell: ok before diverged before failed
before skipped, then the later attempt, then the first part name; never the clock. "Done" and "duplicate" mean
after `scan`. `cells.parquet` is what `scan` returns, rewritten whole, for any tool that opens parquet.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysweep import __version__
from raysweep.errors import plain
from raysweep.part import KEYS, MAX_COLUMNS, MAX_VALUES, NEEDED, STATUSES, read_part
from raysweep.remaining import locate, marks, subtract
from raysweep.runs import KEY_LENGTH, Runs
from raysweep.store import Store

__all__ = ["CELLS", "STATUSES", "Ledger", "Scan", "sequence"]

CELLS = "cells.parquet"
_FOLDER = "ledger"
_KNOWN_ROWS = 2_000_000  # at most so many are kept in memory by who asks again and again


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        table: One row a cell, every column any part has, sorted by nothing.
        skipped: (file, reason) of each file in the ledger's folder that is torn or foreign, or holds values that
            contradict the other parts'.
        parts: How many parts were read.
        landed: [rows] when each row's part came to the store, in seconds by the store's clock; 0 where it keeps none.
    """

    table: pa.Table
    skipped: tuple[tuple[str, str], ...]
    parts: int
    landed: npt.NDArray[np.float64]

    def of(self, parts: Sequence[Runs]) -> Scan:
        """Without the rows of other runs than these."""
        if not len(self.table) or sum(map(len, parts)) * 4 > len(self.table):
            return self  # most of it stays
        keys = pa.array(np.concatenate([runs.keys for runs in parts])).cast(pa.string())
        run = pc.utf8_slice_codeunits(self.table.column("cell"), 0, KEY_LENGTH)
        of = pc.is_in(run, keys)
        return replace(self, table=self.table.filter(of), landed=self.landed[of.to_numpy()])

    def cells(self, *status: str) -> pa.ChunkedArray:
        """The keys of the cells of any of these statuses."""
        wanted = pc.is_in(self.table.column("status"), pa.array(status, pa.string()))
        return self.table.column("cell").filter(wanted)

    def pending(self, runs: Runs, skip_failed: bool = False, retry_diverged: bool = False) -> Runs:
        """The runs with cells not done, each asked only for those cells.

        Done is ok or diverged. Failed cells are pending again unless `skip_failed`; diverged ones only if
        `retry_diverged`. Skipped cells (refused by theory or budget) are done.
        """
        done = ["ok", "skipped"] + ["diverged"] * (not retry_diverged) + ["failed"] * skip_failed
        return subtract(runs, self.cells(*done))

    def attempts(self, runs: Runs) -> npt.NDArray[np.int32]:
        """[n] the highest attempt recorded of each run, 0 where there is none."""
        found = np.zeros(len(runs), dtype=np.int32)
        if len(self.table) and len(runs):
            at = locate(runs, self.table.column("cell"))
            attempt = pc.fill_null(pc.cast(self.table.column("attempt"), pa.int32()), 0).to_numpy()
            np.maximum.at(found, at[at >= 0], attempt[at >= 0])
        return found


def sequence() -> Iterator[int]:
    """Numbers for the parts of one writer: distinct from any other writer's, so no part replaces another's.

    A part's name starts with the hash of its cells; a second writer of the same cells (a retry, another driver)
    must not overwrite finished rows with failed ones.
    """
    first = secrets.randbits(40) * 100_000
    yield from range(first, first + 100_000)


@dataclass(frozen=True)
class Ledger:
    """The log of one store."""

    store: Store

    def append(self, rows: pa.Table, number: int, patience: float | None = None) -> str:
        """Write one part and return its name.

        Args:
            rows: Ledger rows (`experiment.row_schema`), at least one.
            number: The next of `sequence()`.
            patience: Seconds for which a passing failure is tried again; None is `patience.PATIENCE`.

        Raises:
            LedgerError: it cannot be written; an `UnreachableError` if it may be later.
        """
        most = max(1, MAX_VALUES // max(1, rows.num_columns))
        for start in range(0, len(rows), most):  # what is longer than a part may be becomes several
            part = rows.slice(start, most)
            cells = sorted(part.column("cell").to_pylist())
            digest = hashlib.blake2b("\n".join(cells).encode(), digest_size=8).hexdigest()
            name = f"part-{digest}-{number}.parquet"
            self.store.write(f"{_FOLDER}/{name}", _parquet(part), patience)
        return name

    def scan(
        self,
        columns: Sequence[str] | None = None,
        most: int | None = None,
        known: dict[str, pa.Table] | None = None,
    ) -> Scan:
        """Every cell's row. A torn or foreign file is reported, never fatal.

        Args:
            columns: Read only these (and the key columns).
            most: Read at most this many parts, evenly spread: a sample.
            known: Parts by name that were read before with the same columns: a part never changes, so they are not
                read again. What is read now is added.

        Raises:
            UnreachableError: the store does not answer. Leaving its parts out would call finished cells unfinished.
        """
        return self._scan(None if columns is None else [*NEEDED, *columns], most, known)

    def states(self, known: dict[str, pa.Table] | None = None) -> Scan:
        """A scan of no more than what tells which cells are done: 10^7 cells take 0.5 GB. `known` as in `scan`."""
        return self._scan(["cell", "status", "attempt"], known=known)

    def _scan(
        self, columns: Sequence[str] | None, most: int | None = None, known: dict[str, pa.Table] | None = None
    ) -> Scan:
        skipped: list[tuple[str, str]] = []
        tables: list[pa.Table] = []
        listed = self.store.list(_FOLDER)
        listed = listed[:: math.ceil(len(listed) / most)] if most and listed else listed
        fresh = [name for name, _ in listed if known is None or name not in known]
        with ThreadPoolExecutor(8 if self.store.is_local else 32) as pool:  # far away, it is the wait that counts
            parts = pool.map(lambda name: read_part(self.store, f"{_FOLDER}/{name}", columns), fresh)
            read = dict(zip(fresh, parts, strict=True))
        room = _KNOWN_ROWS - sum(map(len, known.values())) if known is not None else 0
        schema = pa.schema([])
        times: list[float] = []
        prevailing = _prevailing([*read.values(), *(known or {}).values()])
        for name, made in listed:
            part = read[name] if name in read else known[name] if known else ""
            if isinstance(part, str):
                skipped.append((plain(name), plain(part)))
                continue
            if not part.schema.equals(schema, check_metadata=True):
                part, odd = _without_odd(part, prevailing)
                if odd:  # the rows stay: cells are counted as finished by their keys alone
                    told = f"its values of {', '.join(odd)} are left out: most rows hold {prevailing[odd[0]]} there"
                    skipped.append((plain(name), plain(told)))
                wider = _merge(schema, part.schema)
                if len(wider) > MAX_COLUMNS:
                    skipped.append((name, f"with the other parts' there would be {len(wider):,} columns"))
                    continue
                schema = wider
            tables.append(part)
            times.append(made)
            if known is not None and name in read and len(part) <= room:
                known[name], room = part, room - len(part)
        if not tables:
            return Scan(pa.table({n: pa.array([], pa.string()) for n in NEEDED}), tuple(skipped), 0, np.zeros(0))
        table = pa.concat_tables([_conform(t, schema) for t in tables])
        part_rank = np.repeat(np.arange(len(tables), dtype=np.int32), [len(t) for t in tables])
        landed = np.array(times)
        del read
        best = _best(table, part_rank)
        if best is not None:
            table, part_rank = table.take(pa.array(best)), part_rank[best]
        return Scan(table, tuple(skipped), len(tables), landed[part_rank])

    def pending(self, runs: Runs, skip_failed: bool = False, retry_diverged: bool = False) -> Runs:
        """`Scan.pending` of a fresh scan."""
        return self.pending_each([runs], skip_failed, retry_diverged)[0]

    def pending_each(
        self,
        parts: Sequence[Runs],
        skip_failed: bool = False,
        retry_diverged: bool = False,
        known: dict[str, pa.Table] | None = None,
    ) -> list[Runs]:
        """`pending` of several runs at the price of one scan; `known` as in `scan`."""
        scan = self.states(known).of(parts)
        return [scan.pending(runs, skip_failed, retry_diverged) for runs in parts]

    def compact(self) -> Scan:
        """Rewrite `cells.parquet` from the parts and return the scan it holds."""
        scan = self.scan()
        if scan.parts:
            order = pc.sort_indices(scan.table, sort_keys=[("cell", "ascending")])
            self.store.write(CELLS, _parquet(scan.table.take(order)))
        return scan


def _best(table: pa.Table, part_rank: npt.NDArray[np.int32]) -> npt.NDArray[np.int64] | None:
    """Positions of the row to keep for each cell; None for all of them."""
    mark = marks(table.column("cell"))
    order = np.argsort(mark)
    equal = mark[order[1:]] == mark[order[:-1]]
    if not equal.any():
        return None
    maybe = np.sort(order[np.append(equal, False) | np.append(False, equal)])  # few: the rest are alone for sure
    rows = table.select(["cell", "status", "attempt"]).take(pa.array(maybe))
    cell = pc.dictionary_encode(rows.column("cell").combine_chunks()).indices.to_numpy(zero_copy_only=False)
    status = pc.index_in(rows.column("status"), pa.array(STATUSES)).to_numpy(zero_copy_only=False)
    attempt = pc.fill_null(pc.cast(rows.column("attempt"), pa.int64()), 0).to_numpy()
    order = np.lexsort((part_rank[maybe], -attempt, status, cell))
    first = np.ones(len(order), dtype=bool)
    first[1:] = cell[order][1:] != cell[order][:-1]
    keep = np.ones(len(table), dtype=bool)
    keep[maybe] = False
    keep[maybe[order[first]]] = True
    return np.flatnonzero(keep)


def _kind(type_: pa.DataType) -> str:
    """What values are, of types that can stand in one column; nothing for a column of nulls."""
    if pa.types.is_null(type_):
        return ""
    return "numbers" if pa.types.is_integer(type_) or pa.types.is_floating(type_) else str(type_)


def _prevailing(parts: Iterable[pa.Table | str]) -> dict[str, str]:
    """The kind of each column that most rows have; a kind as often as another goes by its name."""
    rows: dict[pa.Schema, int] = {}
    for part in parts:
        if not isinstance(part, str):
            rows[part.schema] = rows.get(part.schema, 0) + len(part)
    counted: dict[str, dict[str, int]] = {}
    for schema, count in rows.items():
        for field in schema:
            if kind := _kind(field.type):
                kinds = counted.setdefault(field.name, {})
                kinds[kind] = kinds.get(kind, 0) + count
    return {name: max(sorted(kinds), key=kinds.__getitem__) for name, kinds in counted.items()}


def _without_odd(part: pa.Table, prevailing: Mapping[str, str]) -> tuple[pa.Table, list[str]]:
    """A part with nulls in columns whose values are not of the prevailing kind, and which those are."""
    odd = [f.name for f in part.schema if _kind(f.type) not in ("", prevailing.get(f.name))]
    for name in odd:
        i = part.schema.get_field_index(name)
        part = part.set_column(i, part.schema.field(i).with_type(pa.null()), pa.nulls(len(part)))
    return part, odd


def _merge(left: pa.Schema, right: pa.Schema) -> pa.Schema:
    """Both schemas' columns; where they share one, the wider type and the newer metadata."""
    merged = pa.unify_schemas([left, right], promote_options="permissive")
    newer = set(right.names)
    fields = [f.with_metadata((right if f.name in newer else left).field(f.name).metadata) for f in merged]
    return pa.schema(fields, metadata={**(left.metadata or {}), **(right.metadata or {})})


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A part in the merged schema: an axis it does not know was at its default when it was written."""
    if table.schema.equals(schema, check_metadata=True):
        return table
    columns = []
    for field in schema:
        meta = field.metadata or {}
        lead = meta.get(b"follows", b"").decode()
        if field.name in table.schema.names:
            column = table.column(field.name).cast(field.type, safe=False)  # only ever to a wider number
        elif lead in table.schema.names and table.schema.field(lead).type == field.type:
            column = table.column(lead)
        else:
            column = pa.repeat(_default(meta, field.type), len(table))
        columns.append(column)
    return pa.table(columns, schema=schema)


def _default(meta: Mapping[bytes, bytes], type_: pa.DataType) -> pa.Scalar:
    """What a part without an axis was run at; nothing where the axis does not say, or says what cannot be."""
    try:
        return pc.cast(pa.scalar(meta[b"default"].decode()), type_)
    except (KeyError, UnicodeDecodeError, pa.ArrowException):
        return pa.scalar(None, type_)


def _parquet(table: pa.Table) -> pa.Buffer:
    metadata = {**(table.schema.metadata or {}), b"raysweep.version": __version__.encode()}
    sink = pa.BufferOutputStream()
    coded = [name for name in table.schema.names if name not in KEYS]
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd", use_dictionary=coded)
    return sink.getvalue()
