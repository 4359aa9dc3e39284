"""Sweep files, ledger parts and worlds made to hurt: one clear refusal, in bounded time and memory."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FUNCTION_SWEEP

from raysweep.errors import OracleError, SweepError
from raysweep.executors import make_executor
from raysweep.ledger.log import Ledger
from raysweep.ledger.part import read_part
from raysweep.oracle.audits import stored_audits
from raysweep.oracle.shared_flow import FlowRecipe
from raysweep.oracle.world import load_world
from raysweep.reports import make_report
from raysweep.run import run
from raysweep.status import status
from raysweep.store import Store
from raysweep.sweep import Sweep, from_mapping, load_sweep
from raysweep.yamlfile import parse_yaml

# --- YAML and grids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a: &a [x]\nb: [*a, *a]", "aliases"),
        ("[" * 50_000, "nested 40 deep"),
        ("{a: " * 50 + "1" + "}" * 50, "nested 40 deep"),
        ("[" + "1," * 100_001 + "]", "at most 100,000 keys and values"),
        ("!!python/object/apply:os.system ['true']", "tags are not allowed"),
        ("0x" + "f" * 5000, "64 bits"),
        ("1" * 5000, "64 bits"),
        ("1:" * 50_000 + "1", "a number in YAML 1.1"),
        ("0" * 50_000, "must not start with a 0"),
        ("1e999999999999", "1.8e308"),
        ("a: 2001-01-01", "date"),
        ("!!set {a, b}", "tags are not allowed, but got !!set"),
        ("!!binary aGVsbG8=", "got !!binary"),
        ('"\\ud800"', "UTF-8"),
        ('"\\0"', "null character"),
        ("a:\n\t- 1", "valid YAML"),
        ("!!int ''", "valid YAML"),
        ("2001-02-30", "date"),
    ],
)
def test_yaml_that_no_sweep_needs_is_refused(text: str, rule: str) -> None:
    with pytest.raises(SweepError, match=rule) as caught:
        parse_yaml(text, "here")
    assert str(caught.value).startswith("here: ")
    assert len(str(caught.value)) < 5000


def test_devices_pipes_and_odd_paths_are_no_sweep_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", "a\0b", "x" * 300):
        with pytest.raises(SweepError, match="cannot be read"):
            load_sweep(path)


def grid(**axes: Any) -> Any:
    return from_mapping({"name": "g", "experiment": "classifier", "world": {"kind": "gaussian"}, "grid": axes}).runs


@pytest.mark.parametrize(
    ("axes", "rule"),
    [
        (
            {n: {"linear": [0, 1, 1000]} for n in ("lr", "label_noise", "label_smoothing", "momentum")},
            "1,000,000,000,000",
        ),
        ({"seed": {"range": 10**30}}, "has 1,0"),
        ({"lr": {"linear": [0, 1, 1e9]}}, "1e\\+09"),
        ({"seed": 10**30}, "64 bits|in \\["),
        ({"lr": math.nan}, "a number"),
        ({"when": [{"if": {}, "then": {"concat": [{"depth": 1}, {"depth": 2}]}}] * 2}, "given twice"),
    ],
)
def test_a_huge_or_senseless_grid_is_refused_with_its_count(axes: dict[str, Any], rule: str) -> None:
    with pytest.raises(SweepError, match=rule):
        grid(**axes)


def test_products_of_concats_are_counted_before_they_are_made() -> None:
    names = ["lr", "momentum", "clip", "weight_decay", "input_noise", "eps", "beta1", "beta2", "label_noise"]
    rules = [{"if": {}, "then": {"concat": [{n: i / 10} for i in range(1, 5)]}} for n in names]
    with pytest.raises(SweepError, match="at most 10,000 products"):
        grid(when=rules)


def test_the_limit_on_runs_is_raised_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSWEEP_MAX_RUNS", "3")
    assert len(grid(seed=[1, 2, 3])) == 3
    with pytest.raises(SweepError, match=r"at most 3 runs .* RAYSWEEP_MAX_RUNS"):
        _ = grid(seed=[1, 2, 3, 4])
    monkeypatch.setenv("RAYSWEEP_MAX_RUNS", "many")
    with pytest.raises(SweepError, match="whole number"):
        _ = grid(seed=1)


def test_more_observed_cells_than_can_be_listed_are_planned_but_not_run(tmp_path: Path) -> None:
    raw = {"name": "g", "experiment": "classifier", "world": {"kind": "gaussian"}}
    sweep = from_mapping({**raw, "grid": {"k": {"range": [1, 2000]}, "steps": {"range": [1, 1000]}}})
    assert sweep.runs.cells == 1999 * 999
    with pytest.raises(SweepError, match="at most 1,000,000 cells can be read off one run, but got 1,997,001"):
        run(sweep, Store(str(tmp_path / "s")), make_executor("inline"))
    assert not (tmp_path / "s").exists()


# --- parts ------------------------------------------------------------------------------------------------

SOUND = {"cell": ["aa"], "run": ["aa"], "status": ["ok"], "attempt": pa.array([1], pa.int32())}
NAME = f"ledger/part-{'0' * 16}-1.parquet"


def part(tmp_path: Path, table: pa.Table, **options: Any) -> Any:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    store = Store(str(tmp_path))
    store.write(NAME, sink.getvalue())
    return read_part(store, NAME)


def test_a_sound_part_is_read(tmp_path: Path) -> None:
    assert part(tmp_path, pa.table(SOUND)).to_pydict() == pa.table(SOUND).to_pydict()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attempt": ["one"]}, "column attempt is string"),
        ({"attempt": pa.array([2**31 - 1], pa.int32())}, "cannot be"),
        ({"attempt": pa.array([None], pa.int32())}, "empty places"),
        ({"cell": pa.array([None], pa.string())}, "empty places"),
        ({"cell": ["a\0"]}, "letters and digits"),
        ({"cell": ["é"]}, "letters and digits"),
        ({"cell": [""]}, "letters and digits"),
        ({"cell": pa.array([b"a\xff"], pa.binary()).view(pa.string())}, "cannot be read"),
        ({"finished_at": pa.array([2**62], pa.timestamp("us", tz="UTC"))}, "cannot be"),
        ({"x": [[1]]}, "which no ledger holds"),
        ({"x": [{"a": 1}]}, "which no ledger holds"),
        ({"x": pa.array(["a"]).dictionary_encode()}, "which no ledger holds"),
        ({"x": pa.array([b"a"])}, "which no ledger holds"),
        ({f"c{i}": [1] for i in range(2001)}, "columns, and a part at most"),
    ],
)
def test_a_hostile_part_is_refused_with_its_reason(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    found = part(tmp_path, pa.table({**SOUND, **changes}))
    assert isinstance(found, str)
    assert reason in found


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.table(SOUND)
    assert part(tmp_path, table.append_column("cell", table.column("cell"))) == "it has two columns of one name"


def test_a_few_bytes_that_stand_for_gigabytes_are_refused(tmp_path: Path) -> None:
    n = 4000
    long = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array(["x" * 500_000]))  # 2 GB of words
    rows = {k: pa.array([v[0].as_py() if isinstance(v, pa.Array) else v[0]] * n) for k, v in SOUND.items()}
    rows["attempt"] = pa.array([1] * n, pa.int32())
    sink = io.BytesIO()
    pq.write_table(pa.table({**rows, "error": long}), sink, store_schema=False)
    store = Store(str(tmp_path))
    store.write(NAME, sink.getvalue())
    assert len(sink.getvalue()) < 1_000_000
    assert "once decoded" in str(read_part(store, NAME))


def test_a_footer_that_announces_too_many_rows_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysweep.ledger.part.MAX_VALUES", 10)
    assert "announces 3 rows" in part(tmp_path, pa.concat_tables([pa.table(SOUND)] * 3))


def test_a_long_append_becomes_parts_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysweep.ledger.pieces.MAX_VALUES", 8)
    table = pa.table({**SOUND, "cell": ["aa"]})
    rows = pa.concat_tables([table.set_column(0, "cell", pa.array([c])) for c in ("aa", "ab", "ac", "ad", "ae")])
    ledger = Ledger(Store(str(tmp_path)))
    ledger.append(rows, 7)
    assert ledger.scan().parts == 3
    assert sorted(ledger.scan().table.column("cell").to_pylist()) == ["aa", "ab", "ac", "ad", "ae"]


def test_metadata_of_a_part_cannot_spoil_the_others(tmp_path: Path) -> None:
    ledger = Ledger(Store(str(tmp_path)))
    ledger.append(pa.table({**SOUND, "lr": [0.5]}), 1)
    evil = [
        pa.field("n", pa.int64(), metadata={"role": "axis", "default": "abc"}),
        pa.field("m", pa.int64(), metadata={"role": "axis", "follows": "cell"}),
    ]
    ledger.append(pa.table({**SOUND, "cell": ["bb"], "m": [1]}).append_column(evil[1].with_name("k"), pa.array([1])), 2)
    bad = pa.table({**SOUND, "cell": ["cc"]}).append_column(evil[0], pa.array([1]))
    ledger.append(bad, 3)
    scan = ledger.scan()
    assert sorted(scan.table.column("cell").to_pylist()) == ["aa", "bb"]
    assert len(scan.skipped) == 1


# --- worlds, JSON and words -------------------------------------------------------------------------------


def test_a_recipe_of_few_words_does_not_make_a_huge_net(tmp_path: Path) -> None:
    from safetensors.numpy import save

    store = Store(str(tmp_path))
    recipe = FlowRecipe(layers=64, blocks=16, hidden=4096)  # 275 GB of weights
    store.write("recipe.json", recipe.model_dump_json().encode())
    import numpy as np

    store.write("weights.safetensors", save({"means": np.zeros((10, 64))}))
    with pytest.raises(OracleError, match="such a flow at least"):
        load_world(store)


@pytest.mark.parametrize("text", ["[{}]", "[3]", "3", '[{"sha": []}]', "[" * 100_000, "[1e999]", "\\ud800"])
def test_damaged_audits_are_none(text: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("oracle/w/audit.json", text.encode())
    assert stored_audits(store, "oracle/w") == []


def test_words_of_a_store_stay_words(tmp_path: Path, make_sweep: Callable[..., Sweep]) -> None:
    store = Store(str(tmp_path))
    sweep = make_sweep(FUNCTION_SWEEP)
    run(sweep, store, make_executor("inline"))
    store.delete(f"axes/{sweep.hash}.json")  # whose rows count is then not known: all do
    table = Ledger(store).scan().table.drop_columns(["columns"])
    script = "<script>alert(1)</script>"
    for i, word in enumerate((script, "$\\frac{$ $", "\x1b[2Jx", "../../up")):
        arm = pa.field("a/../../../<b>", pa.string(), metadata={"role": "axis", "kind": "shape"})
        cells = pa.array([f"{i}{c}" for c in table.column("cell").to_pylist()])
        copy = table.set_column(0, table.schema.field(0), cells)
        copy = copy.append_column(arm, pa.array([word] * len(table)))
        if i == 3:
            n = len(copy)
            at = copy.schema.get_field_index("status")
            copy = copy.set_column(at, copy.schema.field(at), pa.array(["failed"] * n))
            at = copy.schema.get_field_index("error")
            copy = copy.set_column(at, copy.schema.field(at), pa.array([script + "\x1b[31m"] * n))
        Ledger(store).append(copy, i)
    made = make_report(store)
    page = store.read_text("report.html")
    assert script not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page
    assert "\x1b" not in "".join(made.findings)
    assert "\x1b" not in str([f["cause"] for f in status(store)["failures"]])
