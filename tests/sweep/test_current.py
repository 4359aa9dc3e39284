"""The rows of a sweep as it is now: other versions, grids, defaults and spellings are kept apart, and counted."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from function_tools import GRID, edited, halves, table, wholes

from raysweep.errors import FitError, LedgerError
from raysweep.laws import fit
from raysweep.laws.column import of_text
from raysweep.ledger.log import CELLS, OTHERS, Ledger
from raysweep.status import status
from raysweep.store import Store
from raysweep.sweep.current import cells, current


def test_a_new_version_has_rows_of_its_own(work: Any, tmp_path: Path) -> None:
    work(halves, GRID)
    outcome = work(wholes, GRID, version=1)  # another function: not its version 2
    assert fit(cells(Store(str(tmp_path / "store")))[0], x="size", y="loss").params["alpha"] == pytest.approx(1.0)
    assert outcome.counts.ok == 9
    (tmp_path / "store").rename(tmp_path / "first")
    work(halves, GRID)
    outcome = work(halves, GRID, version=2)
    assert outcome.counts.ok == 9
    assert outcome.notes == ("9 rows of version 1 are left out.",)
    assert set(table(tmp_path)["experiment_version"]) == {2}
    assert set(table(tmp_path, OTHERS)["experiment_version"]) == {1}
    found = status(Store(str(tmp_path / "store")))
    assert (found["cells"]["ok"], found["total"], found["left_out"]) == (9, 9, ["9 rows of version 1 are left out."])
    both, _ = cells(Store(str(tmp_path / "store")), "all")
    assert len(both) == 18
    apart = fit(both, x="size", y="loss")  # asked for all, a fit still does not mix them
    assert [group.group for group in apart] == [{"experiment_version": 1}, {"experiment_version": 2}]
    for source in (tmp_path / "store" / CELLS, table(tmp_path), table(tmp_path).lazy()):
        assert fit(source, x="size", y="loss").only.n_points == 9
    work(halves, GRID)  # and back again: nothing is lost, nothing is run
    assert set(table(tmp_path)["experiment_version"]) == {1}


def test_a_reduced_grid_leaves_out_what_it_dropped_and_finds_it_again(work: Any, tmp_path: Path) -> None:
    work(halves, GRID)
    outcome = work(halves, {"size": [10, 100], "seed": {"range": 3}})
    assert (outcome.counts.ok, outcome.notes) == (6, ("3 rows of other grids are left out.",))
    assert sorted(set(table(tmp_path)["size"])) == [10, 100]
    ran: list[int] = []
    work(halves, GRID)
    assert len(table(tmp_path)) == 9
    assert not ran
    assert not Store(str(tmp_path / "store")).exists(OTHERS)


def test_two_functions_in_one_store_are_not_mixed(work: Any, tmp_path: Path) -> None:
    work(halves, GRID)
    outcome = work(wholes, GRID)
    assert outcome.notes == (f"9 rows of {halves.__module__}:halves are left out.",)
    assert table(tmp_path)["loss"].min() == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("first", "second", "runs"),
    [
        ([1, 2, 4], [0.5, 1, 2, 4], 4),
        ([1, 2, 4], [1.0, 2.0, 4.0], 3),
        ([1.0, 2.0], [1, 2, 3], 3),
        ([0.0, 1.0], [-0.0, 1], 2),
        ([100, 200], [1e2, 2e2, 250.5], 3),
        (list(np.array([0.1, 0.5], dtype=np.float32)), [0.1, 0.5], 2),
        (np.array([64, 128], dtype=np.int16), [64, 128, 256], 3),
        ([2**40, 1], [float(2**40), 1.5, 1], 3),
        ({"linear": [0, 1, 3]}, [0, 0.5, 1], 3),
    ],
)
def test_equal_numbers_are_one_value_whatever_their_spelling(
    work: Any, tmp_path: Path, first: Any, second: Any, runs: int
) -> None:
    calls: list[Any] = []

    def train(config: dict[str, Any]) -> dict[str, float]:
        calls.append(config["x"])
        return {"loss": 1.0}

    before = work(train, {"x": first}).counts.ok
    work(train, {"x": second})
    assert len(calls) == runs, calls
    assert len(table(tmp_path)) == len(second)
    assert before + (runs - before) == len(calls)


def test_numbers_that_are_one_to_12_digits_are_said(work: Any) -> None:
    said = io.StringIO()
    outcome = work(lambda config: {"loss": 1.0}, {"x": [0.3, 0.1 + 0.2]}, said)
    assert outcome.counts.ok == 1
    assert "grid.x: 0.3 and 0.30000000000000004 are one value" in said.getvalue()


def test_a_store_with_both_spellings_is_healed_when_it_is_read(work: Any, tmp_path: Path) -> None:
    """As an older raysweep wrote it: 1 and 1.0 under two keys, and rows that say nothing of their version."""
    calls: list[Any] = []

    def train(config: dict[str, Any]) -> Any:
        calls.append(config["x"])
        return [{"epoch": e, "loss": 1.0 / e} for e in config["epoch"]]

    grid = {"x": [1, 2, 4], "epoch": [1, 2]}
    work(train, grid, observed=["epoch"])
    store = Store(str(tmp_path / "store"))
    sweep = current(store)
    assert sweep.runs is not None
    from raysweep.sweep.current import respelled
    from raysweep.sweep.stored import stored_declaration

    declaration = stored_declaration(store)
    assert declaration is not None
    old = respelled(sweep.runs, declaration.axes, declaration.identity)
    assert old is not None
    back = {new: before for before, new in old.runs.items()}
    for name in list((tmp_path / "store/ledger").iterdir()):
        part = pq.read_table(name)
        runs = [back[run] for run in part["run"].to_pylist()]
        keys = [back[c[:20]] + c[20:] for c in part["cell"].to_pylist()]
        twice = part.set_column(0, part.schema.field(0), [keys]).set_column(1, part.schema.field(1), [runs])
        kept = [
            n for n in twice.column_names if n not in ("experiment", "experiment_version", "code_sha", "training_id")
        ]
        pq.write_table(twice.select(kept), name.with_name(f"part-{'0' * 16}-7.parquet"))
    environment = json.loads((tmp_path / "store/env.json").read_text())
    del environment["respelled"]
    (tmp_path / "store/env.json").write_text(json.dumps(environment))
    found = status(store)
    assert (found["cells"]["ok"], found["total"], found["left_out"]) == (6, 6, [])
    work(train, {**grid, "x": [0.5, 1, 2, 4]}, observed=["epoch"])
    assert len(calls) == 4
    assert table(tmp_path).sort("x", "epoch")["x"].to_list() == [0.5, 0.5, 1, 1, 2, 2, 4, 4]


def test_a_table_without_its_ledger_is_taken_over(work: Any, tmp_path: Path) -> None:
    work(halves, GRID)
    work(halves, GRID, version=2)
    for part in (tmp_path / "store/ledger").iterdir():
        part.unlink()
    store = Store(str(tmp_path / "store"))
    assert status(store)["cells"]["ok"] == 9
    assert len(cells(store, "all")[0]) == 18
    said = io.StringIO()
    outcome = work(halves, {**GRID, "size": [10, 100, 1000, 10000]}, said, version=2)
    assert outcome.counts.ok == 12
    assert "18 rows of cells.parquet that the ledger did not have were taken over" in said.getvalue()
    assert len(table(tmp_path, OTHERS)) == 9


def test_a_ledger_that_lost_some_parts_keeps_what_its_table_has(work: Any, tmp_path: Path) -> None:
    for size in (10, 100, 1000):
        work(halves, {"size": [10, 100, 1000][: [10, 100, 1000].index(size) + 1], "seed": 0})
    parts = sorted((tmp_path / "store/ledger").iterdir())
    parts[0].unlink()
    Ledger(Store(str(tmp_path / "store"))).compact()
    assert len(table(tmp_path)) == 3


def test_a_store_of_nothing_current_says_what_it_holds(work: Any, tmp_path: Path) -> None:
    work(halves, GRID)

    def fails(config: dict[str, Any]) -> None:
        raise RuntimeError("never")

    outcome = work(fails, GRID)
    assert 5 <= outcome.counts.failed < 9  # then it stops
    assert "runs failed for one reason and none succeeded: RuntimeError: never" in outcome.stopped
    rows, notes = cells(Store(str(tmp_path / "store")))
    assert set(rows["status"].to_pylist()) == {"failed"}
    assert notes == [f"9 rows of {halves.__module__}:halves are left out."]
    with pytest.raises(LedgerError, match="rows must be one of current, all"):
        cells(Store(str(tmp_path / "store")), "some")


def test_a_hostile_table_is_no_reason_to_believe_it(work: Any, tmp_path: Path) -> None:
    """Without a ledger its table is read: no further than a part would be."""
    work(halves, GRID)
    for part in (tmp_path / "store/ledger").iterdir():
        part.unlink()
    store, path = Store(str(tmp_path / "store")), tmp_path / "store" / CELLS
    whole = pq.read_table(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert status(store)["cells"]["ok"] == 0
    at = whole.schema.get_field_index("status")
    pq.write_table(whole.set_column(at, "status", [["won"] * len(whole)]), path)
    with pytest.raises(LedgerError, match=r"cells\.parquet cannot be read as a table of cells: .*unknown status.*won"):
        status(store)
    pq.write_table(whole.append_column("long", [["x" * 2**20] * len(whole)]), path, use_dictionary=True)
    assert status(store)["cells"]["ok"] == 9


# --- rows of an older raysweep, without the stamps and metadata of today --------------------------------------


def age(store: Path, *stamps: str, meta: bytes = b"") -> None:
    """Rewrite a store's parts as a raysweep wrote them that knew neither these stamps nor this metadata."""
    for part in (store / "ledger").iterdir():
        rows = pq.read_table(part).drop_columns(list(stamps))
        fields = [f.with_metadata({k: v for k, v in (f.metadata or {}).items() if k != meta}) for f in rows.schema]
        pq.write_table(rows.cast(pa.schema(fields, rows.schema.metadata)), part)


def test_rows_without_stamps_are_the_sweeps_own_where_their_keys_say_so(work: Any, tmp_path: Path) -> None:
    stamps = ("experiment", "experiment_version", "code_sha")
    work(halves, GRID)
    age(tmp_path / "store", *stamps)
    (tmp_path / "store/code.json").unlink()
    store, name = Store(str(tmp_path / "store")), f"{halves.__module__}:halves"
    assert set(cells(store)[0]["experiment"].to_pylist()) == {name}  # also before anything is added
    outcome = work(halves, {**GRID, "seed": {"range": 4}})
    assert (outcome.counts.ok, outcome.notes) == (12, ())
    for found in (cells(store)[0], cells(store, "all")[0], str(tmp_path / "store" / CELLS)):
        only = fit(found, x="size", y="loss", bootstrap=0).only
        assert (only.n_points, only.group) == (12, {})
    whole = table(tmp_path)
    assert (set(whole["experiment"]), set(whole["experiment_version"])) == ({name}, {1})
    assert whole["code_sha"].null_count() == 9  # which code made them stays unknown

    work(halves, GRID, version=2)  # of an earlier version nothing is claimed: its keys are not the sweep's
    assert set(table(tmp_path)["experiment_version"]) == {2}
    assert set(table(tmp_path, OTHERS)["experiment_version"]) == {1, None}


def test_parts_without_the_rule_of_a_kind_take_it_from_the_stores_declaration(tmp_path: Path) -> None:
    kept = Path(shutil.copytree(Path(__file__).parent.parent / "stores/0.1.0/classifier", tmp_path / "store"))
    store = Store(str(kept))
    rule = cells(store)[0].field("steps").metadata[b"kind_by"]
    assert json.loads(rule) == {"axis": "schedule", "kinds": [["cosine", "lane"]]}
    age(kept, meta=b"kind_by")
    assert b"kind_by" not in Ledger(store).scan().table.field("steps").metadata
    assert cells(store)[0].field("steps").metadata[b"kind_by"] == rule
    current(store).ledger.compact(current(store).own)
    assert of_text(table(tmp_path)["columns"][0])["steps"].chosen_by == "schedule"
    shutil.rmtree(kept / "axes")  # older still: the built-in experiment of that name says it
    assert cells(store)[0].field("steps").metadata[b"kind_by"] == rule


def test_a_frame_of_a_store_says_as_much_as_its_file(work: Any, tmp_path: Path) -> None:
    """Its text leaves the ledger's own columns out, by which failed rows, codes and runs are told apart."""
    body = (
        "import helper_f\ndef train(config):\n    for t in config['t']:\n"
        "        yield {'t': t, 'loss': 1 / t / config['n'] + 0 / (config['n'] - 64)}\n"
    )
    for value, sizes in ((1, [1, 2, 4]), (2, [1, 2, 4, 8, 16, 32, 64])):
        edited(tmp_path, "helper_f", f"def scale():\n    return {value}\n")
        work(body, {"n": sizes, "seed": [0, 1], "t": [1, 2]}, observed=["t"])
    path = tmp_path / "store" / CELLS
    wanted = fit(path, x="n", y="loss", bootstrap=40)
    assert [(group.group["t"], group.n_points) for group in wanted] == [(1, 6), (2, 6)] * 2
    assert any("dropped_failed" in group.details for group in wanted)
    frame = pl.read_parquet(path)
    for data in (frame, frame.lazy(), frame.drop("cell"), frame.to_pandas()):
        assert fit(data, x="n", y="loss", bootstrap=40).to_json() == wanted.to_json()
    with pytest.raises(FitError, match=r"observed axis t, which its column `columns` names.*28 rows now belong"):
        fit(frame.drop("t"), x="n", y="loss")
    assert len(fit(frame.filter(pl.col("t") == 1).drop("t"), x="n", y="loss", bootstrap=0)) == 2
