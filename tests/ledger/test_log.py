from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FUNCTION_SWEEP

from raysweep.errors import LedgerError, SweepError
from raysweep.experiments.function import FunctionExperiment
from raysweep.grid.axes import Axis
from raysweep.ledger.log import CELLS, Ledger, sequence
from raysweep.ledger.part import read_part, row_bytes
from raysweep.ledger.remaining import subtract
from raysweep.ledger.rows import Stamp, failure_rows, row_schema, stamp
from raysweep.store import Store
from raysweep.sweep import Sweep


@pytest.fixture
def sweep(make_sweep: Callable[..., Sweep]) -> Sweep:
    return make_sweep(FUNCTION_SWEEP)


def rows(sweep: Sweep, runs: list[int], epochs: list[int], loss: float = 1.0, **changes: object) -> pa.Table:
    """Finished rows of these runs (lanes of the whole grid) at these epochs."""
    lanes = [lane for lane in runs for _ in epochs]
    batch = {"lane": lanes, "epoch": epochs * len(runs), "loss": [loss] * len(lanes)}
    table = stamp(
        pa.RecordBatch.from_pydict(batch),
        sweep.runs,
        row_schema(sweep.experiment),
        Stamp("pack", 1, "cpu", seconds=2.0),
    )
    for name, value in changes.items():
        field = table.schema.field(name)
        table = table.set_column(
            table.schema.get_field_index(name), field, pa.repeat(pa.scalar(value, field.type), len(table))
        )
    return table


@pytest.mark.parametrize(
    ("lanes", "said"),
    [
        ([0, -1], r"must yield `lane` from 0 to 2, as its pack has 3 runs, but yields -1\."),
        ([3, 0], r"must yield `lane` from 0 to 2, as its pack has 3 runs, but yields 3\."),
        (pa.array([0, 2**64 - 1], pa.uint64()), "must yield `lane` from 0 to 2"),
        ([0, None], "`lane`, a column of whole numbers without nulls, but yields int64 with nulls"),
        ([None, None], "`lane`, a column of whole numbers without nulls, but yields null with nulls"),
        ([0.0, 1.0], "`lane`, a column of whole numbers without nulls, but yields double"),
        (["0", "1"], "`lane`, a column of whole numbers without nulls, but yields string"),
        ([True, False], "`lane`, a column of whole numbers without nulls, but yields bool"),
    ],
)
def test_a_row_of_no_run_of_the_pack_is_refused(sweep: Sweep, lanes: object, said: str) -> None:
    runs = sweep.runs.take(np.arange(3))
    batch = pa.RecordBatch.from_pydict({"lane": lanes, "epoch": [1, 2], "loss": [1.0, 1.0]})
    with pytest.raises(SweepError, match=f"^an experiment must yield {said.removeprefix('must yield ')}"):
        stamp(batch, runs, row_schema(sweep.experiment), Stamp("pack", 1, "cpu"))
    with pytest.raises(SweepError, match="`lane`, a column of whole numbers without nulls, but yields none"):
        stamp(batch.drop_columns(["lane"]), runs, row_schema(sweep.experiment), Stamp("pack", 1, "cpu"))


def test_a_batch_without_rows_adds_none(sweep: Sweep) -> None:
    batch = pa.RecordBatch.from_pydict({"lane": [], "epoch": [], "loss": []})
    assert len(stamp(batch, sweep.runs, row_schema(sweep.experiment), Stamp("pack", 1, "cpu"))) == 0


def test_scan_returns_what_was_appended(any_store: Store, sweep: Sweep) -> None:
    ledger, numbers = Ledger(any_store), sequence()
    ledger.append(rows(sweep, [0, 1], [1, 2]), next(numbers))
    ledger.append(rows(sweep, [2], [3]), next(numbers))
    scan = ledger.scan()
    assert scan.parts == 2
    assert scan.skipped == ()
    assert len(scan.table) == 5
    assert sorted(scan.table.column("epoch").to_pylist()) == [1, 1, 2, 2, 3]
    assert scan.table.schema.field("size").type == pa.int64()
    assert scan.table.schema.field("loss").type == pa.float64()
    assert scan.table.schema.field("size").metadata[b"role"] == b"axis"


def test_part_names_are_the_hash_of_the_sorted_cells_and_never_collide(any_store: Store, sweep: Sweep) -> None:
    ledger = Ledger(any_store)
    table = rows(sweep, [0, 1], [1])
    one = ledger.append(table, next(sequence()))
    two = ledger.append(table.take([1, 0]), next(sequence()))
    assert one != two
    assert one.split("-")[1] == two.split("-")[1]
    assert ledger.scan().parts == 2


PRECEDENCE = [("ok", 2), ("ok", 1), ("diverged", 5), ("failed", 9), ("failed", 8), ("skipped", 99)]


def test_scan_keeps_ok_then_diverged_then_failed_then_skipped_then_the_later_attempt(
    tmp_path: Path, sweep: Sweep
) -> None:
    for first in range(len(PRECEDENCE)):
        present = PRECEDENCE[first:]
        random.Random(first).shuffle(present)
        ledger, numbers = Ledger(Store(str(tmp_path / str(first)))), sequence()
        for status, attempt in present:
            ledger.append(rows(sweep, [0], [1], status=status, attempt=attempt), next(numbers))
        found = ledger.scan().table.to_pylist()
        assert [(r["status"], r["attempt"]) for r in found] == [PRECEDENCE[first]]


def test_equal_rows_are_settled_by_part_name_and_not_by_the_clock(tmp_path: Path, sweep: Sweep) -> None:
    for order in itertools.permutations([1, 2, 3]):
        store = Store(str(tmp_path / "".join(map(str, order))))
        for number in order:
            Ledger(store).append(rows(sweep, [0], [1], loss=float(number)), number)
        assert Ledger(store).scan().table.column("loss").to_pylist() == [1.0]


def test_torn_and_foreign_files_are_reported_and_skipped(any_store: Store, sweep: Sweep) -> None:
    ledger, numbers = Ledger(any_store), sequence()
    name = ledger.append(rows(sweep, [0], [1]), next(numbers))
    whole = any_store.read(f"ledger/{name}")
    foreign = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1]}), foreign)
    newer = pa.BufferOutputStream()
    pq.write_table(rows(sweep, [1], [1]).replace_schema_metadata({"raysweep.schema": "999"}), newer)
    odd = pa.BufferOutputStream()
    pq.write_table(rows(sweep, [1], [1], status="splendid"), odd)
    files = {
        f"part-{'0' * 16}-1.parquet": (whole[: len(whole) // 2], "cannot be read as parquet"),
        f"part-{'0' * 16}-2.parquet": (b"", "cannot be read as parquet"),
        f"part-{'0' * 16}-3.parquet": (foreign.getvalue(), "lacks the columns cell, run, status, attempt"),
        f"part-{'0' * 16}-4.parquet": (newer.getvalue(), "schema version is 999"),
        f"part-{'0' * 16}-5.parquet": (odd.getvalue(), "unknown status ['splendid']"),
        "notes.txt": (b"hello", "its name is not a part's"),
    }
    for other, (data, _) in files.items():
        any_store.write(f"ledger/{other}", data)
    scan = ledger.scan()
    assert len(scan.table) == 1
    found = dict(scan.skipped)
    assert set(found) == set(files)
    for other, (_, reason) in files.items():
        assert reason in found[other]


@pytest.mark.parametrize("held", [0, 1 << 26])
def test_a_large_ledger_is_compacted_part_by_part(
    any_store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    """Whatever is held and however many row groups there are, cells.parquet is what a scan returns."""
    ledger, numbers = Ledger(any_store), sequence()
    for i in range(3):
        ledger.append(rows(sweep, [i], [1, 2, 3], status="failed"), next(numbers))
        ledger.append(rows(sweep, [i], [2, 3]), next(numbers))
    words = rows(sweep, [3], [1])
    ledger.append(words.set_column(words.schema.get_field_index("size"), "size", pa.array(["many"])), next(numbers))
    whole = ledger.compact()
    expected = pl.read_parquet(any_store.read(CELLS))
    assert expected["cell"].is_sorted()
    assert len(expected) == len(whole.table) == 10
    assert expected.equals(pl.DataFrame(ledger.scan().table).sort("cell"))
    row = int(row_bytes(ledger.scan().table).max())
    for name, value in {"log._HELD": held, "pieces.GROUP": 4 * row, "log._TOGETHER": 2}.items():
        monkeypatch.setattr(f"raysweep.ledger.{name}", value)
    streamed = ledger.compact()
    file = pq.ParquetFile(pa.BufferReader(any_store.read(CELLS)))
    assert file.num_row_groups > 2
    assert all(pl.DataFrame(file.read_row_group(i))["cell"].is_sorted() for i in range(file.num_row_groups))
    assert pl.DataFrame(file.read()).sort("cell").equals(expected)
    assert streamed.skipped == whole.skipped == ledger.scan().skipped
    assert streamed.table.sort_by("cell").equals(whole.table.sort_by("cell"))


def test_what_cannot_be_compacted_leaves_the_table_there_was(
    any_store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, numbers = Ledger(any_store), sequence()
    ledger.append(rows(sweep, [0], [1, 2]), next(numbers))
    ledger.compact()
    before = any_store.read(CELLS)
    last = ledger.append(rows(sweep, [1], [1]), next(numbers))
    monkeypatch.setattr("raysweep.ledger.log._HELD", 0)
    monkeypatch.setattr("raysweep.ledger.pieces.GROUP", 1)
    reads = iter(range(2, 100))

    def damaged(store: Store, path: str, columns: object = None) -> pa.Table | str:
        return "it is torn" if next(reads) > 3 and path.endswith(last) else read_part(store, path, columns)

    monkeypatch.setattr("raysweep.ledger.log.read_part", damaged)
    with pytest.raises(LedgerError, match="was read a moment ago, but now it is torn"):
        ledger.compact()
    assert any_store.read(CELLS) == before


@pytest.mark.parametrize("first", [1, 2, 3])
def test_values_of_another_kind_than_most_are_left_out_and_their_rows_stay(
    any_store: Store, sweep: Sweep, first: int
) -> None:
    """Whatever order the parts are read in; and what counts cells and what reads them agree."""
    ledger = Ledger(any_store)
    tables = [rows(sweep, [i], [1]) for i in range(3)]
    words = tables[0].set_column(tables[0].schema.get_field_index("size"), "size", pa.array(["many"]))
    for number, table in enumerate([words, *tables[1:]][first - 1 :] + [words, *tables[1:]][: first - 1]):
        ledger.append(table, number)
    scan = ledger.scan()
    assert scan.table.column("size").null_count == 1
    assert len(scan.table) == 3 == len(ledger.states().table)
    ((_, told),) = scan.skipped
    assert told == "its values of size are left out: most rows hold numbers there"
    assert ledger.compact().table.num_rows == 3


def test_a_new_axis_reads_as_its_default_in_old_rows(any_store: Store) -> None:
    def sweep_with(*axes: Axis) -> tuple[FunctionExperiment, pa.Schema]:
        experiment = FunctionExperiment("f", lambda config: config, axes)
        return experiment, row_schema(experiment)

    old = pa.table({"cell": ["a"], "run": ["a"], "status": ["ok"], "attempt": pa.array([1], pa.int32())})
    Ledger(any_store).append(old, 1)
    _, schema = sweep_with(
        Axis("depth", int, "shape", 2), Axis("lr", float, "lane", 0.5), Axis("flag", bool, "lane", True),
        Axis("seed", int, "lane", 7), Axis("data_seed", int, "lane", follows="seed"),
    )  # fmt: skip
    new = pa.table(
        {f.name: pa.nulls(1, f.type) for f in schema}, schema=schema
    ).set_column(0, "cell", pa.array(["b"])).set_column(1, "run", pa.array(["b"]))  # fmt: skip
    new = new.set_column(4, "status", pa.array(["ok"])).set_column(8, "attempt", pa.array([1], pa.int32()))
    Ledger(any_store).append(new, 2)
    row = next(r for r in Ledger(any_store).scan().table.to_pylist() if r["cell"] == "a")
    assert (row["depth"], row["lr"], row["flag"], row["seed"]) == (2, 0.5, True, 7)


def test_cells_parquet_opens_with_polars_and_pandas_and_pyarrow(tmp_path: Path, sweep: Sweep) -> None:
    store = Store(str(tmp_path))
    Ledger(store).append(rows(sweep, [0, 1], [1, 2, 3]), 1)
    Ledger(store).append(rows(sweep, [0], [1], status="failed"), 2)
    Ledger(store).compact()
    path = tmp_path / CELLS
    for frame in (pl.read_parquet(path), pd.read_parquet(path)):
        assert len(frame) == 6
        assert set(frame["status"]) == {"ok"}
        assert len(set(frame["cell"])) == 6
    assert pq.read_metadata(path).metadata[b"raysweep.schema"] == b"1"


@pytest.mark.parametrize(
    ("status", "skip_failed", "retry_diverged", "done"),
    [
        ("ok", False, False, True),
        ("diverged", False, False, True),
        ("diverged", False, True, False),
        ("failed", False, False, False),
        ("failed", True, False, True),
        ("skipped", False, False, True),
    ],
)
def test_what_counts_as_done(
    tmp_path: Path, sweep: Sweep, status: str, skip_failed: bool, retry_diverged: bool, done: bool
) -> None:
    ledger = Ledger(Store(str(tmp_path)))
    ledger.append(rows(sweep, [0], [1, 2, 3], status=status), 1)
    pending = ledger.pending(sweep.runs, skip_failed, retry_diverged)
    assert pending.cells == sweep.runs.cells - 3 * done


def test_pending_asks_only_for_the_missing_cells_of_a_run(tmp_path: Path, sweep: Sweep) -> None:
    ledger = Ledger(Store(str(tmp_path)))
    ledger.append(rows(sweep, [0, 1, 2], [1, 3]), 1)
    ledger.append(rows(sweep, [3], [1, 2, 3]), 2)
    pending = ledger.pending(sweep.runs)
    assert len(pending) == 5
    assert pending.cells == 3 * 1 + 2 * 3
    partial = [pending.observed[c].values("epoch") for c in pending.observed_code.tolist()]
    assert sorted(partial) == [(1, 2, 3), (1, 2, 3), (2,), (2,), (2,)]


def test_subtract_equals_set_difference_of_cells(sweep: Sweep) -> None:
    def cells(runs: object) -> set[str]:
        return {
            runs.key(i) + suffix  # type: ignore[attr-defined]
            for i in range(len(runs))  # type: ignore[arg-type]
            for suffix in runs.observed[int(runs.observed_code[i])].cells  # type: ignore[attr-defined]
        }

    every = sorted(cells(sweep.runs))
    rng = np.random.default_rng(0)
    for _ in range(50):
        gone = [c for c in every if rng.random() < rng.random()] + ["f" * 36, "not a key"]
        rest = subtract(sweep.runs, gone)
        assert cells(rest) == set(every) - set(gone)
        assert rest.cells == len(set(every) - set(gone))


def test_failure_rows_carry_their_reason(any_store: Store, sweep: Sweep) -> None:
    table = failure_rows(sweep.runs, row_schema(sweep.experiment), Stamp("p", 2, "cpu"), "failed", "the reason")
    Ledger(any_store).append(table, 1)
    found = Ledger(any_store).scan().table
    assert len(found) == sweep.runs.cells
    assert set(found.column("error").to_pylist()) == {"the reason"}
    assert Ledger(any_store).scan().attempts(sweep.runs).tolist() == [2] * len(sweep.runs)


def test_reading_few_columns_gives_the_same_cells(tmp_path: Path, sweep: Sweep) -> None:
    ledger = Ledger(Store(str(tmp_path)))
    ledger.append(rows(sweep, [0, 1], [1, 2]), 1)
    few = ledger.scan(["loss", "no_such_column"]).table
    assert set(few.schema.names) == {"cell", "run", "status", "attempt", "loss"}
    assert few.column("cell").to_pylist() == ledger.scan().table.column("cell").to_pylist()


def test_an_empty_store_has_everything_pending(any_store: Store, sweep: Sweep) -> None:
    assert Ledger(any_store).scan().parts == 0
    assert Ledger(any_store).pending(sweep.runs) is sweep.runs
    assert Ledger(any_store).compact().parts == 0
    assert not any_store.exists(CELLS)
