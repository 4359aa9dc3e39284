"""Words of any length: parts and row groups stay within what can be read back, and nothing is lost or doubled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysweep.ledger.log import CELLS, Ledger
from raysweep.ledger.part import read_part, row_bytes
from raysweep.ledger.pieces import pieces, storable, write_groups
from raysweep.store import Store

KIB = 1024


def rows(words: list[str | None], first: int = 0, status: str = "ok") -> pa.Table:
    """A row for each of these words."""
    keys = [f"{first + i:020x}" for i in range(len(words))]
    return pa.table(
        {
            "cell": keys,
            "run": keys,
            "status": [status] * len(words),
            "attempt": pa.array([1] * len(words), pa.int32()),
            "text": pa.array(words, pa.string()),
            "error": pa.array([None] * len(words), pa.string()),
        }
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits a million times smaller: KiB for GiB."""
    monkeypatch.setattr("raysweep.ledger.log.PART", KIB // 8)
    monkeypatch.setattr("raysweep.ledger.log._AHEAD", KIB)
    monkeypatch.setattr("raysweep.ledger.log._HELD", 0)
    monkeypatch.setattr("raysweep.ledger.pieces.GROUP", KIB)
    monkeypatch.setattr("raysweep.ledger.pieces.MAX_ROW_BYTES", 8 * KIB)
    monkeypatch.setattr("raysweep.ledger.part._MAX_BYTES", 16 * KIB)


def test_the_bytes_of_a_row_are_its_words_and_eight_a_column() -> None:
    assert row_bytes(rows(["abc", None, "é"]))[0] == 6 * 8 + 2 * 20 + 2 + 3
    assert np.diff(row_bytes(rows(["abc", None, "é"]))).tolist() == [-3, 2]
    chunked = pa.concat_tables([rows(["a"]), rows(["bb"]), rows(["a"]).slice(1)])
    assert np.diff(row_bytes(chunked)).tolist() == [1]
    assert row_bytes(chunked.slice(1)).tolist() == row_bytes(rows(["bb"])).tolist()


@pytest.mark.parametrize("most", [1, 100, 1000, 10**9])
def test_pieces_are_all_of_the_rows_in_order_none_longer_than_it_may_be(most: int) -> None:
    lengths = np.random.default_rng(0).integers(0, 400, 50)
    table = rows(["x" * n for n in lengths.tolist()])
    cut = list(pieces(table, most))
    assert pa.concat_tables([piece for _, piece in cut]).equals(table)
    assert [start for start, _ in cut] == np.cumsum([0, *(len(piece) for _, piece in cut[:-1])]).tolist()
    assert all(row_bytes(piece).sum() <= most or len(piece) == 1 for _, piece in cut)
    assert list(pieces(table.slice(0, 0), most)) == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("repeated", [False, True])
def test_words_beyond_every_limit_are_written_compacted_and_read(tmp_path: Path, repeated: bool) -> None:
    """40 texts of 1 KiB: of a column that one piece may not hold."""
    store, ledger = Store(str(tmp_path)), Ledger(Store(str(tmp_path)))
    words: list[str | None] = [("x" if repeated else chr(97 + i % 26)) * KIB for i in range(40)]
    waiting = pa.concat_tables([rows([word], i) for i, word in enumerate(words)])
    ledger.append(rows(words[:5], status="failed"), 1)
    ledger.append(waiting, 2)
    scan = ledger.scan()
    assert scan.skipped == ()
    assert scan.parts == 45
    assert scan.table.sort_by("cell").column("text").to_pylist() == words
    assert set(scan.table.column("status").to_pylist()) == {"ok"}
    assert ledger.compact().skipped == ()
    path = tmp_path / CELLS
    footer = pq.read_metadata(path)
    assert footer.num_row_groups == 40
    assert footer.schema.to_arrow_schema().field("text").type == pa.string()
    expected = dict(zip(waiting.column("cell").to_pylist(), words, strict=True))
    for frame in (pl.read_parquet(path), pd.read_parquet(path), pq.read_table(path).to_pandas()):
        assert len(frame) == 40
        assert dict(zip(frame["cell"], frame["text"], strict=True)) == expected
    assert not [name for name, _ in store.list("") if name.startswith(".tmp")]


@pytest.mark.usefixtures("small")
def test_every_part_that_is_written_can_be_read_back(any_store: Store) -> None:
    """Rows just as long as one may be, of words that no compression makes shorter."""
    ledger, rng = Ledger(any_store), np.random.default_rng(0)
    room = 8 * KIB - int(row_bytes(rows([""]))[0])
    words: list[str | None] = ["".join(map(chr, rng.integers(33, 126, room).tolist())) for _ in range(3)]
    ledger.append(rows(words), 1)
    assert ledger.scan().skipped == ()
    assert ledger.scan().table.sort_by("cell").column("text").to_pylist() == words


@pytest.mark.usefixtures("small")
def test_a_row_that_could_never_be_read_back_has_failed_and_its_neighbours_have_not(any_store: Store) -> None:
    ledger = Ledger(any_store)
    table = rows(["short", "x" * 9 * KIB, "also short"])
    assert storable(table.take([0, 2])).equals(table.take([0, 2]))
    ledger.append(table, 1)
    found = ledger.scan().table.sort_by("cell")
    assert found.column("status").to_pylist() == ["ok", "failed", "ok"]
    assert found.column("text").to_pylist() == ["short", None, "also short"]
    first, reason, last = found.column("error").to_pylist()
    assert first is last is None
    assert reason.startswith("a row may hold 8,192 bytes of text, but this one has 9,")
    assert "write long texts to a file and return its path" in reason


@pytest.mark.usefixtures("small")
def test_two_rows_of_one_cell_in_one_append_do_not_replace_each_other(tmp_path: Path) -> None:
    ledger = Ledger(Store(str(tmp_path)))
    ledger.append(pa.concat_tables([rows(["x" * KIB], status="failed"), rows(["y" * KIB])]), 1)
    assert ledger.scan().parts == 2
    assert ledger.scan().table.column("status").to_pylist() == ["ok"]


def test_numbers_alone_are_cut_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysweep.ledger.log.PART", 1000)
    table = rows([None] * 100).append_column("loss", pa.array(np.random.default_rng(0).normal(size=100)))
    ledger = Ledger(Store(str(tmp_path)))
    ledger.append(table, 1)
    assert ledger.scan().parts == -(-100 // (1000 // int(row_bytes(table)[0])))
    assert ledger.scan().table.sort_by("cell").column("loss").to_pylist() == table.column("loss").to_pylist()


def test_few_large_parts_are_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(Store(str(tmp_path)))
    for i in range(30):
        ledger.append(rows(["x" * 10_000], i), i)
    monkeypatch.setattr("raysweep.ledger.log._AHEAD", 30_000)
    started: list[str] = []

    def counted(store: Store, path: str, columns: object = None) -> pa.Table | str:
        started.append(path)
        return read_part(store, path, columns)  # type: ignore[arg-type]

    monkeypatch.setattr("raysweep.ledger.log.read_part", counted)
    ahead = [len(started) - seen for seen, _ in enumerate(ledger._read([n for n, _ in ledger.store.list("ledger")]))]
    assert max(ahead[8:]) <= 3
    assert len(started) == 30


def test_row_groups_hold_what_fits_and_small_parts_share_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysweep.ledger.pieces.GROUP", 20 * int(row_bytes(rows(["x"]))[0]))
    with open(tmp_path / "cells.parquet", "wb") as sink:
        write_groups(sink, rows(["a"]).schema, [rows(["x"] * 7, 7 * i) for i in reversed(range(5))], 5)
    file = pq.ParquetFile(tmp_path / "cells.parquet")
    groups = [file.read_row_group(i) for i in range(file.num_row_groups)]
    assert [len(group) for group in groups] == [14, 14, 7]
    assert all(group.column("cell").to_pylist() == sorted(group.column("cell").to_pylist()) for group in groups)
