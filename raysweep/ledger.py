"""The ledger: a log of parquet parts in a store, and the only truth about what is done.

A part is never changed. `scan` reads all of them and keeps one row a cell: ok before diverged before failed
before skipped, then the later attempt, then the first part name; never the clock. "Done" and "duplicate" mean
after `scan`. `cells.parquet` is what `scan` returns, rewritten whole, for any tool that opens parquet.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysweep import __version__
from raysweep.errors import LedgerError
from raysweep.experiment import SCHEMA_VERSION
from raysweep.runs import KEY_LENGTH, Observed, Runs
from raysweep.store import Store, UnreachableError

__all__ = ["CELLS", "STATUSES", "Ledger", "Scan", "sequence"]

CELLS = "cells.parquet"
STATUSES = ("ok", "diverged", "failed", "skipped")  # in order of precedence
_FOLDER = "ledger"
_PART = re.compile(r"part-[0-9a-f]{16}-\d+\.parquet")
_NEEDED = ("cell", "run", "status", "attempt")
_KNOWN_ROWS = 2_000_000  # at most so many are kept in memory by who asks again and again


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
        cells = sorted(rows.column("cell").to_pylist())
        digest = hashlib.blake2b("\n".join(cells).encode(), digest_size=8).hexdigest()
        name = f"part-{digest}-{number}.parquet"
        self.store.write(f"{_FOLDER}/{name}", _parquet(rows), patience)
        return name

    def scan(self, columns: Sequence[str] | None = None, known: dict[str, pa.Table] | None = None) -> Scan:
        """Every cell's row. A torn or foreign file is reported, never fatal.

        Args:
            columns: Read only these (and the key columns).
            known: Parts by name that were read before with the same columns; new ones are added. Parts never change.

        Raises:
            UnreachableError: the store does not answer. Leaving its parts out would call finished cells unfinished.
        """
        skipped: list[tuple[str, str]] = []
        tables: list[pa.Table] = []
        names = [name for name, _ in self.store.list(_FOLDER)]
        known = {} if known is None else known
        new = [name for name in names if name not in known]
        with ThreadPoolExecutor(8) as pool:
            found = known | dict(zip(new, pool.map(lambda name: self._part(name, columns), new), strict=True))
        read = [found[name] for name in names]
        room = _KNOWN_ROWS - sum(map(len, known.values()))
        for name in new:
            if isinstance(part := found[name], pa.Table) and len(part) <= room:
                known[name], room = part, room - len(part)
        schema = pa.schema([])
        for name, part in zip(names, read, strict=True):
            if isinstance(part, str):
                skipped.append((name, part))
                continue
            try:
                schema = _merge(schema, part.schema)
            except pa.ArrowException as error:
                skipped.append((name, f"its columns contradict other parts': {error}"))
                continue
            tables.append(part)
        if not tables:
            return Scan(pa.table({n: pa.array([], pa.string()) for n in _NEEDED}), tuple(skipped), 0)
        table = pa.concat_tables([_conform(t, schema) for t in tables])
        part_rank = np.repeat(np.arange(len(tables)), [len(t) for t in tables])
        return Scan(table.take(pa.array(_best(table, part_rank))), tuple(skipped), len(tables))

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
            wanted = None if columns is None else [n for n in dict.fromkeys([*_NEEDED, *columns]) if n in present]
            version = int((file.schema_arrow.metadata or {}).get(b"raysweep.schema", b"0"))
            if version > SCHEMA_VERSION:
                return f"its schema version is {version}, but this raysweep reads up to {SCHEMA_VERSION}: upgrade"
            table = file.read(columns=wanted)
            if not pa.types.is_string(table.schema.field("cell").type):
                return "its column cell is not text"
            unknown = set(table.column("status").unique().to_pylist()) - set(STATUSES)
        except UnreachableError:
            raise
        except (pa.ArrowException, LedgerError, OSError, ValueError, TypeError) as error:
            return f"it cannot be read as parquet: {str(error).splitlines()[0]}"
        return f"it has an unknown status {sorted(map(str, unknown))}" if unknown else table

    def pending(
        self,
        runs: Runs,
        skip_failed: bool = False,
        retry_diverged: bool = False,
        known: dict[str, pa.Table] | None = None,
    ) -> Runs:
        """The runs with cells not done, each asked only for those cells. `known` as in `scan`.

        Done is ok or diverged. Failed cells are pending again unless `skip_failed`; diverged ones only if
        `retry_diverged`. Skipped cells (refused by theory or budget) are done.
        """
        table = self.scan(_NEEDED, known).table
        done = ["ok", "skipped"] + ["diverged"] * (not retry_diverged) + ["failed"] * skip_failed
        cells = table.filter(pc.is_in(table.column("status"), pa.array(done))).column("cell").to_pylist()
        if not cells or not len(runs):
            return runs
        return subtract(runs, cells)

    def attempts(self) -> dict[str, int]:
        """Run key -> the highest attempt recorded."""
        table = self.scan(_NEEDED).table
        best = table.group_by("run").aggregate([("attempt", "max")]).to_pydict() if len(table) else {"run": []}
        return dict(zip(best["run"], best.get("attempt_max", []), strict=True))

    def compact(self) -> Scan:
        """Rewrite `cells.parquet` from the parts and return the scan it holds."""
        scan = self.scan()
        if scan.parts:
            order = pc.sort_indices(scan.table, sort_keys=[("cell", "ascending")])
            self.store.write(CELLS, _parquet(scan.table.take(order)))
        return scan


def subtract(runs: Runs, cells: Sequence[str]) -> Runs:
    """The runs that have cells outside `cells`, each with its observed set reduced to those."""
    order = np.argsort(runs.keys)
    keys = np.array([c[:KEY_LENGTH] for c in cells], dtype=runs.keys.dtype)
    at = np.searchsorted(runs.keys, keys, sorter=order)
    at = order[np.minimum(at, len(order) - 1)]
    known = runs.keys[at] == keys
    run, suffix = at[known], np.array([c[KEY_LENGTH:] for c in cells], dtype=object)[known]

    codes: dict[str, int] = {}
    suffix_code = np.array([codes.setdefault(s, len(codes)) for s in suffix.tolist()], dtype=np.int64)
    asked = np.zeros((len(runs.observed), len(codes)), dtype=bool)
    for i, observed in enumerate(runs.observed):
        asked[i] = [s in observed.cells for s in codes]
    hit = asked[runs.observed_code[run], suffix_code]
    pairs = np.unique(np.stack([run[hit], suffix_code[hit]], axis=1), axis=0)
    count = np.bincount(pairs[:, 0], minlength=len(runs))
    size = np.array([o.count for o in runs.observed])[runs.observed_code]

    names = list(codes)
    reduced: dict[tuple[int, bytes], int] = {}
    extra: list[Observed] = []
    code = runs.observed_code.astype(np.int32).copy()
    partial = np.flatnonzero((count > 0) & (count < size))
    starts = np.searchsorted(pairs[:, 0], partial)
    for i, start in zip(partial.tolist(), starts.tolist(), strict=True):
        have = pairs[start : start + count[i], 1]
        identity = (int(code[i]), have.tobytes())
        if identity not in reduced:
            observed = runs.observed[code[i]]
            done = {names[c] for c in have.tolist()}
            extra.append(observed.only([s for s in observed.cells if s not in done]))
            reduced[identity] = len(runs.observed) + len(extra) - 1
        code[i] = reduced[identity]
    rest = Runs(runs.keys, runs.values, runs.codes, (*runs.observed, *extra), code)
    return rest.take(np.flatnonzero(count < size))


def _best(table: pa.Table, part_rank: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Positions of the row to keep for each cell."""
    cell = pc.dictionary_encode(table.column("cell").combine_chunks()).indices.to_numpy(zero_copy_only=False)
    status = pc.index_in(table.column("status"), pa.array(STATUSES)).to_numpy(zero_copy_only=False)
    attempt = pc.fill_null(pc.cast(table.column("attempt"), pa.int64()), 0).to_numpy()
    order = np.lexsort((part_rank, -attempt, status, cell))
    first = np.ones(len(order), dtype=bool)
    first[1:] = cell[order][1:] != cell[order][:-1]
    return np.sort(order[first])


def _merge(left: pa.Schema, right: pa.Schema) -> pa.Schema:
    """Both schemas' columns; where they share one, the wider type and the newer metadata."""
    merged = pa.unify_schemas([left, right], promote_options="permissive")
    newer = set(right.names)
    fields = [f.with_metadata((right if f.name in newer else left).field(f.name).metadata) for f in merged]
    return pa.schema(fields, metadata={**(left.metadata or {}), **(right.metadata or {})})


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A part in the merged schema: an axis it does not know was at its default when it was written."""
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
