"""Tombstones: which rows of a ledger were forgotten, why and when. The rows themselves stay on disk.

A tombstone is one JSON file beside the parts, written whole, so that its rows are forgotten all together or not at all.
It names rows by part and position, because a part never changes: rows that are written later count, also those of the
same cells. A second file takes it back.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raysweep.errors import LedgerError, plain
from raysweep.ledger.part import MAX_VALUES, PART
from raysweep.store import Store, UnreachableError

__all__ = ["TOMBSTONE", "Tombstone", "Tombstones", "bury", "read_tombstones", "take_back"]

TOMBSTONE = re.compile(r"forgotten-([0-9a-f]{12})(-undone)?\.json")
_MOST = 1 << 26  # bytes of a tombstone
_LONGEST = 2000  # characters of a reason or condition


@dataclass(frozen=True)
class Tombstone:
    """Rows that were forgotten together.

    Attributes:
        id: Its name within the ledger.
        at: When, ISO 8601.
        reason, where: As given.
        cells: Number of cells.
        rows: [m, 2] first position and the position after the last of each stretch of rows, by part.
    """

    id: str
    at: str
    reason: str
    where: str
    cells: int
    rows: Mapping[str, npt.NDArray[np.int64]]

    def to_json(self) -> dict[str, Any]:
        """What people want to know of it."""
        return {"id": self.id, "at": self.at, "reason": self.reason, "where": self.where, "cells": self.cells}


@dataclass(frozen=True)
class Tombstones:
    """Every tombstone of a ledger that was not taken back, oldest first.

    Attributes:
        skipped: (file, reason) of those that cannot be read.
    """

    standing: tuple[Tombstone, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    def kept(self, name: str, rows: int) -> npt.NDArray[np.bool_] | None:
        """[rows] whether each row of a part still counts; None where all do."""
        stretches = [one.rows[name] for one in self.standing if name in one.rows]
        if not stretches:
            return None
        keep = np.ones(rows, dtype=bool)
        for first, stop in np.concatenate(stretches).tolist():
            keep[first:stop] = False
        return keep

    def left(self, name: str, part: pa.Table) -> pa.Table:
        """The rows of a part that still count."""
        keep = self.kept(name, len(part))
        return part if keep is None else part.filter(pa.array(keep))


def read_tombstones(store: Store, folder: str, names: Iterable[str]) -> Tombstones:
    """The tombstones among the files of a ledger's folder. A torn or foreign one is reported, never fatal.

    Raises:
        UnreachableError: The store does not answer: without them, forgotten rows would count.
    """
    found = {name: match for name in names if (match := TOMBSTONE.fullmatch(name))}
    undone = {match[1] for match in found.values() if match[2]}
    standing, skipped = [], []
    for name, match in found.items():
        if match[2] or match[1] in undone:
            continue
        try:
            standing.append(_parsed(match[1], json.loads(store.read(f"{folder}/{name}", _MOST))))
        except UnreachableError:
            raise
        except (LedgerError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            skipped.append((name, f"it cannot be read as a tombstone: {type(error).__name__}: {str(error)[:200]}"))
    return Tombstones(tuple(sorted(standing, key=lambda one: (one.at, one.id))), tuple(skipped))


def _parsed(id_: str, found: Mapping[str, Any]) -> Tombstone:
    rows = {}
    for name, stretches in found["rows"].items():
        ends = np.array(stretches, dtype=np.int64).reshape(-1, 2)
        if not PART.fullmatch(name) or (ends < 0).any() or (ends > MAX_VALUES).any():
            raise ValueError(f"it names no rows of a part, but {str(name)[:80]!r}")
        rows[name] = ends
    words = {key: plain(str(found[key])[:_LONGEST]) for key in ("at", "reason", "where")}
    return Tombstone(id_, words["at"], words["reason"], words["where"], int(found["cells"]), rows)


def bury(
    store: Store, folder: str, parts: Mapping[str, npt.NDArray[np.int64]], cells: int, reason: str, where: str
) -> Tombstone:
    """Write a tombstone.

    Args:
        parts: [m] ascending positions of its rows, by part.
        cells: Number of cells that these are rows of.

    Raises:
        LedgerError: It cannot be written, or names too many stretches of rows for one file.
    """
    rows = {name: _stretches(at) for name, at in sorted(parts.items())}
    content = {
        "at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "reason": reason[:_LONGEST],
        "where": where[:_LONGEST],
        "cells": cells,
        "rows": {name: ends.tolist() for name, ends in rows.items()},
    }
    data = json.dumps(content, separators=(",", ":")).encode()
    if len(data) > _MOST:
        raise LedgerError(
            f"store {store.uri}: a tombstone may take {_MOST:,} bytes, but the rows of {cells:,} cells need "
            f"{len(data):,}. Forget them in several steps, each with a narrower condition"
        )
    name = hashlib.blake2b(data, digest_size=6).hexdigest()
    store.write(f"{folder}/forgotten-{name}.json", data)
    return _parsed(name, content)


def take_back(store: Store, folder: str, one: Tombstone) -> None:
    """Let the rows of a tombstone count again.

    Raises:
        LedgerError: It cannot be written.
    """
    at = datetime.now(UTC).isoformat(timespec="seconds")
    store.write(f"{folder}/forgotten-{one.id}-undone.json", json.dumps({"at": at}).encode())


def _stretches(at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[m, 2] the stretches of consecutive numbers among ascending ones."""
    breaks = np.flatnonzero(np.diff(at) != 1)
    first = np.concatenate([[0], breaks + 1]).astype(np.int64)
    last = np.concatenate([breaks, [len(at) - 1]]).astype(np.int64)
    return np.stack([at[first], at[last] + 1], axis=1)
