"""Forgotten rows: no scan sees them, whatever is written later counts, and the rows stay where they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import FUNCTION_SWEEP

from raysweep.errors import LedgerError
from raysweep.ledger.log import Ledger, sequence
from raysweep.ledger.rows import Stamp, row_schema, stamp
from raysweep.store import Store, disk
from raysweep.sweep import Sweep


@pytest.fixture
def sweep(make_sweep: Callable[..., Sweep]) -> Sweep:
    return make_sweep(FUNCTION_SWEEP)


def rows(sweep: Sweep, loss: float = 1.0, lanes: int = 6) -> pa.Table:
    """Every epoch of the first runs."""
    batch = {"lane": [lane for lane in range(lanes) for _ in range(3)], "epoch": [1, 2, 3] * lanes}
    table = pa.RecordBatch.from_pydict({**batch, "loss": [loss] * (3 * lanes)})
    return stamp(table, sweep.runs, row_schema(sweep.experiment), Stamp("pack", 1, "cpu"))


def test_forgotten_cells_are_pending_until_they_are_measured_again(any_store: Store, sweep: Sweep) -> None:
    ledger, numbers = Ledger(any_store), sequence()
    name, table = ledger.append(rows(sweep), next(numbers)), rows(sweep)
    before = any_store.read(f"ledger/{name}")
    gone = table.column("cell").take([1, 2, 7])
    one = ledger.forget(gone, "a bad node", "loss > 0")
    assert one is not None
    assert (one.cells, one.reason) == (3, "a bad node")
    assert one.rows[name].tolist() == [[1, 3], [7, 8]]
    assert ledger.pending(sweep.runs).cells == 3
    assert set(ledger.scan().table.column("cell").to_pylist()).isdisjoint(gone.to_pylist())
    assert any_store.read(f"ledger/{name}") == before
    ledger.append(rows(sweep, 2.0, lanes=1), next(numbers))  # the first run alone, measured again
    assert ledger.pending(sweep.runs).cells == 1
    found = ledger.scan().table
    losses = dict(zip(found.column("cell").to_pylist(), found.column("loss").to_pylist(), strict=True))
    assert [losses[cell] for cell in gone.to_pylist()[:2]] == [2.0, 2.0]


def test_every_row_of_a_cell_is_forgotten_not_only_the_one_that_counts(memory_store: Store, sweep: Sweep) -> None:
    ledger, numbers = Ledger(memory_store), sequence()
    for loss in (1.0, 2.0):
        ledger.append(rows(sweep, loss), next(numbers))
    ledger.forget(rows(sweep).column("cell").slice(0, 1), "twice")
    assert len(ledger.scan().table) == 17
    assert ledger.forget(rows(sweep).column("cell").slice(0, 1), "again") is None


def test_undo_takes_back_the_last_or_the_named_tombstone(any_store: Store, sweep: Sweep) -> None:
    ledger = Ledger(any_store)
    ledger.append(rows(sweep), next(sequence()))
    cells = rows(sweep).column("cell")
    first, second = (ledger.forget(cells.slice(at, 1), str(at)) for at in (0, 5))
    assert first is not None
    assert second is not None
    assert [one.id for one in ledger.tombstones()] == [first.id, second.id]
    assert ledger.restore().id == second.id
    assert len(ledger.scan().table) == 17
    with pytest.raises(LedgerError, match=rf"but got \({second.id}\)\. Forgotten now: {first.id}"):
        ledger.restore(second.id)
    ledger.restore(first.id)
    assert len(ledger.scan().table) == 18
    assert ledger.tombstones() == ()


def test_a_driver_that_has_read_the_parts_before_sees_what_is_forgotten_now(memory_store: Store, sweep: Sweep) -> None:
    ledger, known = Ledger(memory_store), dict[str, pa.Table]()
    ledger.append(rows(sweep), next(sequence()))
    assert ledger.pending_each([sweep.runs], known=known)[0].cells == 0
    ledger.forget(rows(sweep).column("cell").slice(0, 2), "no reason")
    assert ledger.pending_each([sweep.runs], known=known)[0].cells == 2
    ledger.restore()
    assert ledger.pending_each([sweep.runs], known=known)[0].cells == 0


def test_compacted_tables_lose_forgotten_rows_even_all_of_them(memory_store: Store, sweep: Sweep) -> None:
    ledger, cells = Ledger(memory_store), rows(sweep).column("cell")
    ledger.append(rows(sweep), next(sequence()))
    ledger.compact()
    ledger.forget(cells, "all")
    ledger.compact()
    assert len(ledger.scan().table) == 0
    memory_store.delete(f"ledger/{next(n for n, _ in memory_store.list('ledger') if n.startswith('part'))}")
    assert len(ledger.scan().table) == 0  # what is forgotten is not taken from the compacted table either


def test_killed_while_writing_nothing_is_forgotten(
    tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(Store(str(tmp_path)))
    ledger.append(rows(sweep), next(sequence()))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(disk.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            ledger.forget(rows(sweep).column("cell"), "half-way")
    scan = ledger.scan()
    assert (len(scan.table), scan.skipped) == (18, ())
    assert not [name for name in os.listdir(tmp_path / "ledger") if name.startswith("forgotten")]


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b'{"at": "", "reason": "", "where": "", "cells": 1, "rows": {"../part": [[0, 1]]}}', b'{"rows": 1}'],
)
def test_a_torn_or_foreign_tombstone_is_reported_and_forgets_nothing(
    memory_store: Store, sweep: Sweep, content: bytes
) -> None:
    ledger = Ledger(memory_store)
    ledger.append(rows(sweep), next(sequence()))
    memory_store.write("ledger/forgotten-0123456789ab.json", content)
    scan = ledger.scan()
    assert len(scan.table) == 18
    ((name, reason),) = scan.skipped
    assert name == "forgotten-0123456789ab.json"
    assert reason.startswith("it cannot be read as a tombstone")
