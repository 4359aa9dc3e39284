"""Rows: which cells a batch becomes, with which keys and types, and what is refused."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from raysweep.code import Code
from raysweep.errors import SweepError
from raysweep.experiment import Cost, Experiment, Metric
from raysweep.grid.axes import Axis, KindBy, index_axes
from raysweep.grid.enumeration import enumerate_runs
from raysweep.grid.expand import expand
from raysweep.ledger.rows import RESERVED, Stamp, failure_rows, row_schema, stamp
from raysweep.pack import make_pack


@dataclass(frozen=True)
class Toy:
    name: str = "toy"
    version: int = 1
    axes: tuple = (
        Axis("seed", int, "lane", 0, role="seed", unit="", help="which"),
        Axis("data_seed", int, "lane", follows="seed"),
        Axis("schedule", str, "lane", "constant"),
        Axis("steps", int, KindBy("schedule", {"cosine": "lane"}, "observed"), 100, unit="steps", role="time"),
        Axis("ridge", float, "observed", 0.0),
    )
    metrics: tuple = (Metric("loss", "nats", "what falls", "low"),)
    needs_world: bool = False

    def cost(self, run, observed, world):
        return Cost()

    def check(self, runs, world, gpus):
        pass

    def run(self, pack, context):
        return iter(())


TOY = Toy()
AXES = index_axes(TOY.axes)
SCHEMA = row_schema(TOY)
CODE = Code("c", {}, "abc", True)
BY = Stamp("abc", attempt=2, device="cpu", world_sha="w", seconds=6.0, experiment="toy", version=3, code=CODE)
GRID = {"seed": [3, 4, 5], "steps": [10, 20], "ridge": [0.0, 0.3]}


def runs_of(grid=None):
    return enumerate_runs(expand(GRID if grid is None else grid, AXES), AXES, "toy")


def batch(**columns):
    return pa.RecordBatch.from_pydict(columns)


def cell_keys(runs):
    return [runs.key(i) + s for i in range(len(runs)) for s in runs.observed[int(runs.observed_code[i])].cells]


def test_the_toy_is_an_experiment():
    assert isinstance(TOY, Experiment)


def test_a_schema_tells_each_columns_type_unit_and_meaning():
    assert [SCHEMA.field(n).type for n in ("seed", "ridge", "schedule", "loss", "cell", "lane", "finished_at")] == [
        pa.int64(), pa.float64(), pa.string(), pa.float64(), pa.string(), pa.int32(), pa.timestamp("us", tz="UTC"),
    ]  # fmt: skip
    steps, loss = SCHEMA.field("steps").metadata, SCHEMA.field("loss").metadata
    assert (steps[b"kind"], steps[b"unit"], steps[b"default"], steps[b"axis_role"]) == (
        b"observed",
        b"steps",
        b"100",
        b"time",
    )
    assert SCHEMA.field("data_seed").metadata[b"follows"] == b"seed"
    assert json.loads(steps[b"kind_by"]) == {"axis": "schedule", "kinds": [["cosine", "lane"]]}
    assert b"kind_by" not in SCHEMA.field("ridge").metadata
    assert (loss[b"role"], loss[b"better"], loss[b"unit"]) == (b"metric", b"low", b"nats")


@pytest.mark.parametrize("name", sorted({*RESERVED, "flops", "seed"}))
def test_a_metric_with_the_name_of_another_column_is_refused(name):
    rule = "distinct names" if name == "seed" else "a metric must not have the name of a column that every ledger has"
    with pytest.raises(SweepError, match=f"toy: .*{rule}, but '{name}' is"):
        row_schema(replace(TOY, metrics=(Metric(name),)))


def test_a_row_gets_its_cells_key_axes_and_stamps():
    runs = runs_of()
    rows = stamp(batch(lane=[2], steps=[20], ridge=[0.3], loss=[1.5], flops=[7.0]), runs, SCHEMA, BY)
    assert rows.schema == SCHEMA
    (row,) = rows.to_pylist()
    wanted = {"run": runs.key(2), "cell": runs.key(2) + runs.observed[0].suffix((20, 0.3)), "seed": 5, "data_seed": 5}
    wanted |= {"schedule": "constant", "steps": 20, "ridge": 0.3, "loss": 1.5, "lane": 2, "flops": 7.0, "pack": "abc"}
    wanted |= {"attempt": 2, "device": "cpu", "world_sha": "w", "seconds": 2.0, "status": "ok", "role": "grid"}
    wanted |= {"error": None, "parent": None, "flops_eval": None, "training_id": None}
    wanted |= {"experiment": "toy", "experiment_version": 3, "code_sha": "c", "git_commit": "abc", "git_dirty": True}
    assert {n: v for n, v in row.items() if n != "finished_at"} == wanted
    assert abs((datetime.now(UTC) - row["finished_at"]).total_seconds()) < 60


def test_cells_that_nobody_asked_for_are_left_out():
    rows = stamp(batch(lane=[0, 0, 0], steps=[10, 15, 10], ridge=[0.0, 0.0, 0.7]), runs_of(), SCHEMA, BY)
    assert rows.column("steps").to_pylist() == [10]


def test_an_observed_number_is_known_by_12_digits():
    rows = stamp(batch(lane=[0], steps=[10], ridge=[0.1 + 0.2]), runs_of(), SCHEMA, BY)
    assert len(rows) == 1


def test_every_cell_once_in_any_order_gives_every_key():
    runs = runs_of()
    lanes, steps, ridge = map(
        list, zip(*((i, s, r) for r in (0.3, 0.0) for i in (1, 2, 0) for s in (20, 10)), strict=True)
    )
    rows = stamp(batch(lane=lanes, steps=steps, ridge=ridge), runs, SCHEMA, BY)
    assert sorted(rows.column("cell").to_pylist()) == sorted(cell_keys(runs))


def test_lanes_are_asked_only_for_their_own_cells():
    runs = runs_of({"zip": {"seed": [1, 1, 2], "steps": [10, 20, 30]}})
    rows = stamp(batch(lane=[0, 0, 0, 1, 1, 1], steps=[10, 20, 30] * 2, ridge=[0.0] * 6), runs, SCHEMA, BY)
    assert list(zip(rows.column("seed").to_pylist(), rows.column("steps").to_pylist(), strict=True)) == [
        (1, 10), (1, 20), (2, 30),
    ]  # fmt: skip


def test_an_axis_observed_in_some_runs_keeps_the_value_the_experiment_read():
    runs = runs_of({"schedule": ["constant", "cosine"], "steps": [10, 20]})
    lanes = [runs.column("schedule").index("constant"), runs.column("schedule").index("cosine")]
    rows = stamp(batch(lane=lanes, steps=[20, 20], ridge=[0.0, 0.0], loss=[1.0, 2.0]), runs, SCHEMA, BY)
    cosine_steps = runs.row(lanes[1])["steps"]
    assert rows.column("steps").to_pylist() == [20, cosine_steps]
    alone = make_pack(runs.take(np.array(lanes[:1]))).runs
    assert stamp(batch(lane=[0], steps=[20], ridge=[0.0]), alone, SCHEMA, BY).column("steps").to_pylist() == [20]
    failed = failure_rows(runs, SCHEMA, BY, "failed", "why")
    assert None not in failed.column("steps").to_pylist()


def test_a_batch_without_an_observed_axis_that_varies_is_refused():
    with pytest.raises(SweepError, match=r"every observed axis.*'ridge'"):
        stamp(batch(lane=[0], steps=[10]), runs_of(), SCHEMA, BY)


def test_undeclared_metrics_become_columns_in_the_order_given():
    rows = stamp(batch(lane=[0], steps=[10], ridge=[0.0], zeta=[1], alpha=["x"], beta=[True]), runs_of(), SCHEMA, BY)
    assert rows.schema.names[len(SCHEMA) :] == ["zeta", "alpha", "beta"]
    assert [rows.schema.field(n).type for n in ("zeta", "alpha", "beta")] == [pa.float64(), pa.string(), pa.float64()]


def test_failure_rows_are_the_cells_asked_with_status_and_reason():
    runs = runs_of({"zip": {"seed": [1, 1, 2], "steps": [10, 20, 30]}, "ridge": [0.0, 0.3]})
    rows = failure_rows(runs, SCHEMA, BY, "skipped", "theory says no")
    assert rows.schema == SCHEMA
    assert sorted(rows.column("cell").to_pylist()) == sorted(cell_keys(runs))
    assert len(rows) == runs.cells == 6
    assert set(rows.column("status").to_pylist()) == {"skipped"}
    assert set(rows.column("error").to_pylist()) == {"theory says no"}
    assert rows.column("loss").null_count == 6


def test_failure_rows_of_a_part_name_only_that_part():
    runs = runs_of()
    whole = runs.observed[0]
    part = replace(runs, observed=(whole.only([whole.suffix((10, 0.3))]),))
    rows = failure_rows(part, SCHEMA, BY, "failed", "x")
    assert {(r["steps"], r["ridge"]) for r in rows.to_pylist()} == {(10, 0.3)}
    assert len(rows) == 3
