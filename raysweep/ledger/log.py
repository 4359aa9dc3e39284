"""The ledger: a log of parquet parts in a store, and the only truth about what is done.

A part is never changed. `scan` reads all of them and keeps one row per cell, as `precedence` says; "done" and
"duplicate" mean after `scan`. `cells.parquet` has the rows of the sweep as it is now, rewritten whole, for any tool
that opens parquet; `other_cells.parquet` has the rest: other versions, other grids.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.errors import LedgerError, plain
from raysweep.grid.runs import Runs
from raysweep.ledger.columns import unite
from raysweep.ledger.own import Own
from raysweep.ledger.part import NEEDED, parts_of, read_part, read_table
from raysweep.ledger.pieces import PART, pieces, storable, to_parquet, write_groups
from raysweep.ledger.precedence import best_rows
from raysweep.ledger.respelled import Respelled
from raysweep.ledger.rows import with_accepted, with_description
from raysweep.ledger.scan import Scan
from raysweep.ledger.tombstones import TOMBSTONE, Tombstone, Tombstones, bury, read_tombstones, take_back
from raysweep.store import Store

__all__ = ["CELLS", "OTHERS", "Ledger", "sequence"]

CELLS, OTHERS = "cells.parquet", "other_cells.parquet"
_FOLDER = "ledger"
_STATE = ["cell", "status", "attempt", "training_id"]  # columns that say which cells are done
_KNOWN = 1 << 29  # bytes of parts that a caller who scans repeatedly keeps
_HELD = 1 << 27  # bytes of parts that `compact` keeps, so as not to read them twice
_WEIGHT = 1000  # bytes of an Arrow column beside its values
_AHEAD = 1 << 29  # bytes of parts that are read before they are asked for
_TOGETHER = 64  # parts that are read at a time, at most
_FIRST = 8  # parts that are read at a time until one was seen
_EMPTY = pa.table({name: pa.nulls(0, pa.string()) for name in NEEDED})  # pa.array() would import pandas


def sequence() -> Iterator[int]:
    """Numbers for the parts of one writer, distinct from any other writer's, so no part replaces another's.

    A part's name starts with the hash of its cells; a second writer of the same cells (a retry, another driver)
    must not overwrite finished rows with failed ones.
    """
    first = secrets.randbits(40) * 100_000
    yield from range(first, first + 100_000)


@dataclass(frozen=True)
class Ledger:
    """The log of one store.

    Attributes:
        respelled: Mapping from keys of older rows to today's, or None.
    """

    store: Store
    respelled: Respelled | None = None

    def append(self, rows: pa.Table, number: int, patience: float | None = None) -> str:
        """Write one part and return its name; rows too long for one part become several.

        A row with too much text to be read back is written as failed, without the text.

        Args:
            rows: Ledger rows (`experiment.row_schema`), at least one.
            number: The next of `sequence()`.
            patience: Seconds for which a transient failure is retried; None is `patience.PATIENCE`.

        Raises:
            LedgerError: it cannot be written; an `UnreachableError` if a retry may succeed.
        """
        for start, part in pieces(storable(rows), PART):
            cells = [*sorted(part.column("cell").to_pylist()), *([str(start)] if start else [])]
            digest = hashlib.blake2b("\n".join(cells).encode(), digest_size=8).hexdigest()
            name = f"part-{digest}-{number}.parquet"
            self.store.write(f"{_FOLDER}/{name}", to_parquet(part), patience)
        return name

    def scan(
        self, columns: Sequence[str] | None = None, most: int | None = None, known: dict[str, pa.Table] | None = None
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
        """A scan of only the columns that say which cells are done: 10^7 cells take 0.5 GB. `known` as in `scan`."""
        return self._scan(_STATE, known=known)

    def _scan(
        self, columns: Sequence[str] | None, most: int | None = None, known: dict[str, pa.Table] | None = None
    ) -> Scan:
        listed, gone = self._listed()
        listed = listed[:: math.ceil(len(listed) / most)] if most and listed else listed
        fresh = [name for name, _ in listed if known is None or name not in known]
        found = dict(known or {}) | dict(zip(fresh, self._read(fresh, columns), strict=True))
        held = {name: gone.left(name, part) for name, _ in listed if isinstance(part := found[name], pa.Table)}
        if not known and most is None:
            for name, table in self._orphans(len(listed)):
                held[name] = table if columns is None else table.select([n for n in table.schema.names if n in columns])
        whole = unite((name, part.schema, len(part)) for name, part in held.items())
        parts = {name: part for name, part in held.items() if name not in whole.refused}
        if known is not None:
            room = _KNOWN - sum(map(_size, known.values()))
            for name in [name for name in fresh if name in parts]:
                if (size := _size(found[name])) <= room:  # whole: what is forgotten may change
                    known[name], room = found[name], room - size
        skipped = [(plain(name), plain(reason)) for name, reason in gone.skipped]
        skipped += [(plain(name), plain(part)) for name, part in found.items() if isinstance(part, str)]
        skipped += [(plain(name), plain(reason)) for name, reason in whole.omitted]
        if not parts:
            return Scan(_EMPTY, tuple(sorted(skipped)), 0, np.zeros(0))
        times = dict(listed)
        landed = np.repeat([times.get(name, 0.0) for name in parts], [len(part) for part in parts.values()])
        table = pa.concat_tables([whole.conform(part) for part in parts.values()])
        count = len(parts)
        del found, held, parts
        best = best_rows(table)
        if best is not None:
            table, landed = table.filter(pa.array(best)), landed[best]
        if columns is None:
            table = with_description(table)
        return Scan(table, tuple(sorted(skipped)), count, landed)

    def _listed(self) -> tuple[list[tuple[str, float]], Tombstones]:
        """The (name, time) of the parts, as `Store.list` gives them, and what was forgotten."""
        files = self.store.list(_FOLDER)
        parts = [(name, time) for name, time in files if not TOMBSTONE.fullmatch(name)]
        buried = [name for name, _ in files if TOMBSTONE.fullmatch(name)]
        return parts, read_tombstones(self.store, _FOLDER, buried) if buried else Tombstones()

    def tombstones(self) -> tuple[Tombstone, ...]:
        """What was forgotten and not taken back, oldest first."""
        return self._listed()[1].standing

    def forget(self, cells: pa.ChunkedArray, reason: str, where: str = "") -> Tombstone | None:
        """Forget every row of these cells that there is now: no scan sees them any more, so that they are pending.

        Args:
            cells: Keys of cells.
            reason: Why, for whoever asks later.
            where: The condition that chose them, for the same.

        Returns:
            The tombstone; None where no row of these cells is left.

        Raises:
            LedgerError: It cannot be written.
        """
        self.adopt()
        listed, gone = self._listed()
        names = [name for name, _ in listed]
        rows = {}
        for name, part in zip(names, self._read(names, _STATE), strict=True):
            if isinstance(part, str):
                continue
            hit = pc.is_in(part.column("cell"), cells.combine_chunks()).to_numpy()
            kept = gone.kept(name, len(part))
            if (at := np.flatnonzero(hit if kept is None else hit & kept)).size:
                rows[name] = at
        return bury(self.store, _FOLDER, rows, len(pc.unique(cells)), reason, where) if rows else None

    def restore(self, id_: str | None = None) -> Tombstone:
        """Let what was forgotten count again: the latest tombstone, or the one of this id.

        Raises:
            LedgerError: There is none, or it cannot be written.
        """
        standing = self.tombstones()
        one = next((one for one in reversed(standing) if id_ in (None, one.id)), None)
        if one is None:
            known = ", ".join(one.id for one in standing) or "none"
            raise LedgerError(
                f"store {self.store.uri}: what is taken back must have been forgotten, but got "
                f"({'the latest' if id_ is None else id_}). Forgotten now: {known}"
            )
        take_back(self.store, _FOLDER, one)
        return one

    def _read(self, names: Sequence[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table | str]:
        """`read_part` of each, a few at a time and fewer of large ones, so that parts already used are freed."""
        todo, reading, largest = iter(names), deque[Future[pa.Table | str]](), 0
        # On remote stores latency dominates; on local ones more threads only wait for each other.
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1) if self.store.is_local else 32) as pool:
            while True:
                room = max(1, min(_TOGETHER, _AHEAD // largest)) if largest else _FIRST
                for name in islice(todo, max(0, room - len(reading))):
                    reading.append(pool.submit(self._part, name, columns))
                if not reading:
                    return
                found = reading.popleft().result()
                largest = max(largest, found.nbytes) if isinstance(found, pa.Table) else largest
                yield found

    def _part(self, name: str, columns: Sequence[str] | None) -> pa.Table | str:
        part = read_part(self.store, f"{_FOLDER}/{name}", columns)
        return part if isinstance(part, str) or self.respelled is None else self.respelled.apply(part)

    def _orphans(self, parts: int) -> Iterator[tuple[str, pa.Table]]:
        """The rows of compacted tables that were made from more parts than exist: all that a store copied without its
        ledger has.
        """
        for name in (CELLS, OTHERS):
            if not self.store.exists(name):
                continue
            try:
                made_of = parts_of(self.store, name)
            except LedgerError:
                continue  # torn; it will be written again
            if parts == 0 or made_of > parts:
                for i, group in enumerate(read_table(self.store, name)):
                    yield f"{name}#{i}", group if self.respelled is None else self.respelled.apply(group)

    def adopt(self) -> int:
        """Take over the rows of compacted tables whose parts are gone; returns their number.

        Raises:
            LedgerError: as `append`.
        """
        numbers, rows = sequence(), 0
        for _, group in self._orphans(len(self._listed()[0])):
            self.append(group, next(numbers))
            rows += len(group)
        return rows

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

    def compact(self, own: Own | None = None, accepted: Sequence[Collection[str]] = ()) -> Scan:
        """Rewrite `cells.parquet` and `other_cells.parquet` from the parts, and return a scan of the columns that say
        which cells are done.

        Args:
            own: The rows of the sweep as it is now; by default all are.
            accepted: Groups of hashes of code that give equal results, for whoever fits the table.

        Rows are sorted by cell within each row group; a large file has several. Only the keys of a large
        ledger are held in memory: parts beyond about a hundred megabytes are read a second time to be written.
        However long the texts are, only a few parts and one row group of them are in memory.
        """
        pa.default_memory_pool().release_unused()  # left by an earlier scan
        self.adopt()
        listed, gone = self._listed()
        names = [name for name, _ in listed]
        skipped = [(plain(name), plain(reason)) for name, reason in gone.skipped]
        keys: dict[str, pa.Table] = {}
        schemas: dict[str, pa.Schema] = {}
        held: dict[str, pa.Table] = {}
        room = _HELD
        for name, part in zip(names, self._read(names), strict=True):
            if isinstance(part, str):
                skipped.append((plain(name), plain(part)))
                continue
            part = gone.left(name, part)
            keys[name], schemas[name] = part.select([n for n in _STATE if n in part.schema.names]), part.schema
            if (size := _size(part)) <= room:
                held[name], room = part, room - size
        whole = unite((name, schemas[name], len(part)) for name, part in keys.items())
        skipped = sorted([*skipped, *((plain(name), plain(reason)) for name, reason in whole.omitted)])
        names = [name for name in keys if name not in whole.refused]
        if not names:
            return Scan(_EMPTY, tuple(skipped), 0, np.zeros(0))
        state = unite((name, keys[name].schema, len(keys[name])) for name in names)
        table = pa.concat_tables([state.conform(keys[name]) for name in names])
        ends = np.cumsum([len(keys[name]) for name in names])
        best = best_rows(table)
        keep = np.ones(len(table), dtype=bool) if best is None else best
        state_rows = table if best is None else table.filter(pa.array(best))
        mine = keep.copy()
        if own is not None:
            mine[keep] = own.mine(state_rows.column("cell"))
            whole = replace(whole, schema=own.schema(whole.schema))

        def parts(chosen: npt.NDArray[np.bool_]) -> Iterator[pa.Table]:
            kept = dict(zip(names, np.split(chosen, ends[:-1]), strict=True))
            again = [name for name in names if name not in held and kept[name].any()]
            read = self._read(again)
            for name in names:
                if not kept[name].any():
                    continue
                part = held[name] if name in held else next(read)
                if isinstance(part, str):
                    raise LedgerError(f"{_FOLDER}/{name} was read a moment ago, but now {part}. Compact again")
                part = part if name in held else gone.left(name, part)
                part = whole.conform(part if kept[name].all() else part.filter(pa.array(kept[name])))
                yield part if own is None or chosen is not mine else own.completed(part)

        made_of, schema = len(self._listed()[0]), with_accepted(whole.schema, accepted)
        for file, chosen in ((OTHERS, keep & ~mine), (CELLS, mine)):
            if chosen.any() or file == CELLS:
                self.store.write(file, lambda sink, c=chosen: write_groups(sink, schema, parts(c), made_of))  # type: ignore[misc]
            elif self.store.exists(file):
                self.store.delete(file)
        return Scan(state_rows, tuple(skipped), len(names), np.zeros(len(state_rows)))


def _size(part: pa.Table) -> int:
    """The size of a part in memory, in bytes."""
    return int(part.nbytes) + _WEIGHT * int(part.num_columns)
