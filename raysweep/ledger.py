"""The ledger: a log of parquet parts in a store, and the only truth about what is done.

A part is never changed. `scan` reads all of them and keeps one row a cell: ok before diverged before failed
before skipped, then the later attempt, then the first part name; never the clock. "Done" and "duplicate" mean
after `scan`. `cells.parquet` is what `scan` returns, rewritten whole, for any tool that opens parquet.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysweep import __version__
from raysweep.errors import LedgerError
from raysweep.experiment import SCHEMA_VERSION
from raysweep.remaining import locate, marks, subtract
from raysweep.runs import KEY_LENGTH, Runs
from raysweep.store import Store

__all__ = ["CELLS", "STATUSES", "Ledger", "Scan", "sequence"]

CELLS = "cells.parquet"
STATUSES = ("ok", "diverged", "failed", "skipped")  # in order of precedence
_FOLDER = "ledger"
_PART = re.compile(r"part-[0-9a-f]{16}-\d+\.parquet")
_NEEDED = ("cell", "run", "status", "attempt")


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        table: One row a cell, every column any part has, sorted by nothing.
        skipped: (file, reason) of each file in the ledger's folder that is torn or foreign.
        parts: How many parts were read.
    """

    table: pa.Table
    skipped: tuple[tuple[str, str], ...]
    parts: int

    def of(self, parts: Sequence[Runs]) -> Scan:
        """Without the rows of other runs than these."""
        if not len(self.table) or sum(map(len, parts)) * 4 > len(self.table):
            return self  # most of it stays
        keys = pa.array(np.concatenate([runs.keys for runs in parts])).cast(pa.string())
        run = pc.utf8_slice_codeunits(self.table.column("cell"), 0, KEY_LENGTH)
        return replace(self, table=self.table.filter(pc.is_in(run, keys)))

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

    def append(self, rows: pa.Table, number: int) -> str:
        """Write one part and return its name.

        Args:
            rows: Ledger rows (`experiment.row_schema`), at least one.
            number: The next of `sequence()`.

        Raises:
            LedgerError: it cannot be written.
        """
        cells = sorted(rows.column("cell").to_pylist())
        digest = hashlib.blake2b("\n".join(cells).encode(), digest_size=8).hexdigest()
        name = f"part-{digest}-{number}.parquet"
        self.store.write(f"{_FOLDER}/{name}", _parquet(rows))
        return name

    def scan(self, columns: Sequence[str] | None = None, most: int | None = None) -> Scan:
        """Every cell's row. A torn or foreign file is reported, never fatal.

        Args:
            columns: Read only these (and the key columns).
            most: Read at most this many parts, evenly spread: a sample.
        """
        return self._scan(None if columns is None else [*_NEEDED, *columns], most)

    def states(self) -> Scan:
        """A scan of no more than what tells which cells are done: 10^7 cells take 0.5 GB."""
        return self._scan(["cell", "status", "attempt"])

    def _scan(self, columns: Sequence[str] | None, most: int | None = None) -> Scan:
        skipped: list[tuple[str, str]] = []
        tables: list[pa.Table] = []
        names = [name for name, _ in self.store.list(_FOLDER)]
        names = names[:: math.ceil(len(names) / most)] if most and names else names
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(lambda name: self._part(name, columns), names))
        schema = pa.schema([])
        for name, part in zip(names, read, strict=True):
            if isinstance(part, str):
                skipped.append((name, part))
                continue
            try:
                if not part.schema.equals(schema, check_metadata=True):  # nearly always equal; merging costs 1 ms
                    schema = _merge(schema, part.schema)
            except pa.ArrowException as error:
                skipped.append((name, f"its columns contradict other parts': {error}"))
                continue
            tables.append(part)
        if not tables:
            return Scan(pa.table({n: pa.array([], pa.string()) for n in _NEEDED}), tuple(skipped), 0)
        table = pa.concat_tables([_conform(t, schema) for t in tables])
        part_rank = np.repeat(np.arange(len(tables), dtype=np.int32), [len(t) for t in tables])
        del read
        best = _best(table, part_rank)
        return Scan(table if best is None else table.take(pa.array(best)), tuple(skipped), len(tables))

    def _part(self, name: str, columns: Sequence[str] | None) -> pa.Table | str:
        """A part's table, or why it is none."""
        if not _PART.fullmatch(name):
            return "its name is not a part's"
        try:
            source = pa.BufferReader(self.store.read(f"{_FOLDER}/{name}"))
            file = pq.ParquetFile(source)
            present = file.schema_arrow.names
            if missing := [n for n in _NEEDED if n not in present]:
                return f"it lacks the columns {', '.join(missing)}"
            wanted = None if columns is None else [n for n in dict.fromkeys(columns) if n in present]
            version = int((file.schema_arrow.metadata or {}).get(b"raysweep.schema", b"0"))
            if version > SCHEMA_VERSION:
                return f"its schema version is {version}, but this raysweep reads up to {SCHEMA_VERSION}: upgrade"
            table = file.read(columns=wanted)
            if not pa.types.is_string(table.schema.field("cell").type):
                return "its column cell is not text"
            unknown = set(table.column("status").unique().to_pylist()) - set(STATUSES)
        except (pa.ArrowException, LedgerError, OSError, ValueError, TypeError) as error:
            return f"it cannot be read as parquet: {str(error).splitlines()[0]}"
        return f"it has an unknown status {sorted(map(str, unknown))}" if unknown else table

    def pending(self, runs: Runs, skip_failed: bool = False, retry_diverged: bool = False) -> Runs:
        """`Scan.pending` of a fresh scan."""
        return self.pending_each([runs], skip_failed, retry_diverged)[0]

    def pending_each(
        self, parts: Sequence[Runs], skip_failed: bool = False, retry_diverged: bool = False
    ) -> list[Runs]:
        """`pending` of several runs at the price of one scan."""
        scan = self.states().of(parts)
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
        if field.name in table.schema.names:
            column = table.column(field.name).cast(field.type)
        elif meta.get(b"follows", b"").decode() in table.schema.names:
            column = table.column(meta[b"follows"].decode()).cast(field.type)
        elif b"default" in meta:
            column = pa.repeat(pc.cast(pa.scalar(meta[b"default"].decode()), field.type), len(table))
        else:
            column = pa.nulls(len(table), field.type)
        columns.append(column)
    return pa.table(columns, schema=schema)


def _parquet(table: pa.Table) -> pa.Buffer:
    metadata = {**(table.schema.metadata or {}), b"raysweep.version": __version__.encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    return sink.getvalue()
