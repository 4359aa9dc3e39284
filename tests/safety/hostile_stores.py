"""Stores and tables: a part of a ledger, the JSON beside it, a world's weights, what a user gives to `fit`."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hostile_sweeps import SWEEP
from hostile_values import SCRATCH, changed, values
from hypothesis import strategies as st
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from raysweep.errors import LedgerError, RaysweepError
from raysweep.laws import fit
from raysweep.ledger.log import Ledger
from raysweep.ledger.part import read_part
from raysweep.ledger.rows import Stamp, failure_rows, row_schema
from raysweep.oracle.audits import require_audit, stored_audits
from raysweep.oracle.flow_world import packed
from raysweep.oracle.gaussian import GaussianRecipe, gaussian_flow
from raysweep.oracle.world import adopt, load_world
from raysweep.progress import Progress
from raysweep.run import open_store
from raysweep.status import status
from raysweep.store import Store
from raysweep.store.leases import Claims, drivers
from raysweep.sweep import Sweep, from_mapping
from raysweep.sweep.provenance import accepted_codes, ask, remember
from raysweep.sweep.stored import stored_runs


def _base() -> tuple[Sweep, pa.Table, bytes]:
    sweep = from_mapping({k: v for k, v in yaml.safe_load(SWEEP).items() if k != "fit"})
    rows = failure_rows(sweep.runs, row_schema(sweep.experiment), Stamp("p", 1, "cpu", "w"), "failed", "why")
    rng = np.random.default_rng(0)
    for name, column in (("status", pa.array(["ok"] * len(rows))), ("epistemic", pa.array(rng.random(len(rows))))):
        i = rows.schema.get_field_index(name)
        rows = rows.set_column(i, rows.schema.field(i), column)
    return sweep, rows, _parquet(rows)


def _parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


GRID, ROWS, PART = _base()
SMALL = _parquet(
    ROWS.select(["cell", "run", "status", "attempt", "error", "finished_at", "seed", "epistemic"]).slice(0, 4),
    compression="none",
)


def _store(name: str) -> Path:
    """A store's folder with a sound part."""
    folder = SCRATCH / name
    store = Store(str(folder))
    open_store(store, GRID, Progress(lambda: io.StringIO()))
    store.write("ledger/part-0000000000000000-1.parquet", PART)
    return folder


@cache
def _ledger() -> Path:
    return _store("ledger")


def run_part(data: bytes) -> None:
    """A store with one more part: read whatever is sound in it."""
    folder = _ledger()
    name = "part-0000000000000001-1.parquet"
    (folder / "ledger" / name).write_bytes(data)
    store = Store(str(folder))
    if isinstance(found := read_part(store, f"ledger/{name}"), str):
        raise LedgerError(found)  # what `scan` reports
    ledger = Ledger(store)
    scan = ledger.scan()
    assert scan.parts >= 1, scan.skipped
    assert scan.table.num_rows >= ROWS.num_rows
    assert ledger.pending(GRID.runs).cells == 0
    if sum(data) % 8 == 0:  # the slower half of what reads a ledger
        ledger.compact()
        told = status(store)
        assert told["done"] == GRID.runs.cells
        json.dumps(told, default=str)


ARRAYS: list[Callable[[int], Any]] = [
    lambda n: pa.nulls(n),
    lambda n: pa.array([2**63] * n, pa.uint64()),
    lambda n: pa.array([-(2**63)] * n),
    lambda n: pa.array([math.nan] * n),
    lambda n: pa.array(["\0"] * n),
    lambda n: pa.array(["x" * 500] * n),
    lambda n: pa.array([b"\xff"] * n, pa.binary()).view(pa.string()) if n else pa.array([], pa.string()),
    lambda n: pa.array([[1]] * n),
    lambda n: pa.array([{"a": 1}] * n, pa.struct([("a", pa.int64())])),
    lambda n: pa.array(["a"] * n).dictionary_encode(),
    lambda n: pa.array([2**62] * n, pa.timestamp("us", tz="UTC")),
    lambda n: pa.array([-(2**62)] * n, pa.timestamp("us", tz="UTC")),
    lambda n: pa.array([True] * n),
    lambda n: pa.array([1.5] * n),
    lambda n: pa.array(["ok"] * n),
    lambda n: pa.array([2**31 - 1] * n, pa.int32()),
    lambda n: pa.array([None if i % 2 else "ab12" for i in range(n)], pa.string()),
    lambda n: pa.array(["<script>alert(1)</script>$\\x$\x1b"] * n),
]
METADATA = [
    None,
    {b"raysweep.schema": b"x"},
    {b"raysweep.schema": b"9" * 5000},
    {b"pandas": b"{" * 500},
    {b"\xff": b"\xff"},
    {b"raysweep.schema": b"1", b"x": b"y" * 10_000},
]
FIELD = [
    None,
    {b"role": b"axis", b"default": b"\xff"},
    {b"role": b"axis", b"default": b"abc"},
    {b"role": b"axis", b"follows": b"cell"},
    {b"role": b"metric", b"better": b"high"},
    {b"role": b"axis", b"axis_role": b"time"},
    {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": b"\x80\x04."},
]


@st.composite
def tables(draw: Any) -> bytes:
    """A sound part with columns of other types, names and metadata."""
    table = ROWS.slice(0, draw(st.integers(0, 6)))
    for _ in range(draw(st.integers(1, 4))):
        i = draw(st.integers(0, table.num_columns - 1))
        how = draw(st.integers(0, 5))
        name = table.schema.names[i]
        if how <= 2:
            field_meta = draw(st.sampled_from(FIELD))
            array = draw(st.sampled_from(ARRAYS))(len(table))
            if how == 1:
                name = draw(
                    st.sampled_from(
                        ["cell", "run", "status", "attempt", "finished_at", "seed", "x.y", "", "a/b", "\x1b", "new"]
                    )
                )
            field = pa.field(name, array.type, metadata=field_meta)
            table = table.set_column(i, field, array) if how else table.append_column(field, array)
        elif how == 3 and table.num_columns > 1:
            table = table.remove_column(i)
        elif how == 4:
            table = table.replace_schema_metadata(draw(st.sampled_from(METADATA)))
        else:
            table = pa.concat_tables([table, table])
    options = {"use_dictionary": draw(st.booleans()), "compression": draw(st.sampled_from(["zstd", "none", "snappy"]))}
    try:
        return _parquet(table, **options)
    except pa.ArrowException:
        return b""


@cache
def _made() -> tuple[Path, dict[str, bytes]]:
    """A store with a world, and its files by name; the world's folder is called w."""
    folder = _store("json")
    store = Store(str(folder))
    adopt(store, WORLD, packed(gaussian_flow(WORLD)))
    world = folder / "oracle" / store.folders("oracle")[0]
    made = load_world(store, f"oracle/{world.name}")
    require_audit(store, f"oracle/{world.name}", WORLD, made, [{"temperature": 1.0}])
    world.rename(folder / "oracle/w")
    store.write_json("claims/p~other.json", {"owner": "other", "keys": ["a"]})
    names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "ledger" not in p.parts]
    return folder, {name: (folder / name).read_bytes() for name in sorted(names)}


WORLD = GaussianRecipe(classes=3, dim=4, layers=2)


@st.composite
def stores(draw: Any) -> dict[str, bytes]:
    """Files that take the place of a store's own."""
    files = {name: data for name, data in _made()[1].items() if not name.endswith(".safetensors")}
    replaced = {}
    for name in draw(st.lists(st.sampled_from(sorted(files)), min_size=1, max_size=2, unique=True)):
        how = draw(st.integers(0, 3))
        if how == 0:
            replaced[name] = changed(files[name])(random.Random(draw(st.integers(0, 2**63))))
        elif how == 1:
            replaced[name] = draw(
                st.sampled_from(
                    [
                        b"",
                        b"[" * 100_000,
                        b"NaN",
                        b"1e999",
                        b"[]",
                        b"{}",
                        b"null",
                        b"\xff",
                        b'"' + b"9" * 5000,
                        b"9" * 5000,
                    ]
                )
            )
        else:
            loaded = yaml.safe_load(files[name])
            replaced[name] = json.dumps(draw(_reworked(loaded)), default=str).encode()
    return replaced


@st.composite
def _reworked(draw: Any, data: Any) -> Any:
    """Plain data with one place changed."""
    if isinstance(data, dict) and data and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(data)))
        return {**data, key: draw(_reworked(data[key]))}
    if isinstance(data, list) and data and draw(st.integers(0, 5)):
        i = draw(st.integers(0, len(data) - 1))
        return [*data[:i], draw(_reworked(data[i])), *data[i + 1 :]]
    return draw(values)


def run_store(files: dict[str, bytes]) -> None:
    folder, sound = _made()
    store = Store(str(folder))
    for name, data in files.items():
        (folder / name).write_bytes(data)
    asked: dict[str, list[Callable[[], Any]]] = {
        "env.json": [lambda: status(store), lambda: open_store(store, GRID, Progress(lambda: io.StringIO()))],
        "store.json": [lambda: open_store(store, GRID, Progress(lambda: io.StringIO()))],
        "code.json": [lambda: ask(store, GRID), lambda: remember(store, GRID), lambda: accepted_codes(store)],
        "sweeps": [lambda: stored_runs(store)],
        "axes": [lambda: stored_runs(store)],
        "oracle": [lambda: load_world(store, "oracle/w"), lambda: stored_audits(store, "oracle/w")],
        "claims": [lambda: Claims(store, "me").take("p", {"a"}), lambda: drivers(store)],
    }
    refused = None
    try:
        for answer in (a for top in {name.split("/")[0] for name in files} for a in asked[top]):
            try:
                answer()
            except RaysweepError as error:
                refused = error
    finally:
        for name in {*files, "env.json"}:
            (folder / name).write_bytes(sound[name])
    if refused:
        raise refused


@st.composite
def weights(draw: Any) -> bytes:
    whole = _made()[1]["oracle/w/weights.safetensors"]
    if draw(st.booleans()):
        header = whole[: 8 + int.from_bytes(whole[:8], "little")]
        return changed(whole, header)(random.Random(draw(st.integers(0, 2**63))))
    arrays = dict(load_arrays(whole))
    for name in draw(st.lists(st.sampled_from(sorted(arrays)), min_size=1, max_size=3, unique=True)):
        how, old = draw(st.integers(0, 5)), arrays.pop(name)
        if how == 0:
            continue
        if how == 1:
            arrays[name] = old.astype(draw(st.sampled_from(["float32", "float16", "int64", "uint8", "bool", "int32"])))
        elif how == 2:
            arrays[name] = np.resize(old, draw(st.sampled_from([(0,), (1,), (4,), (3, 4), (2, 2, 2), (1000,)])))
        elif how == 3:
            arrays[name] = np.full_like(old, draw(st.sampled_from([0, -1, 7, 2**40])))
        elif how == 4 and old.dtype.kind == "f":
            arrays[name] = np.full_like(old, draw(st.sampled_from([np.nan, np.inf, 1e300, -1e300])))
        else:
            arrays[draw(st.sampled_from(["means", "x", "log_prior", ""]))] = old
    return save_arrays(arrays)


def run_world(data: bytes) -> None:
    folder = SCRATCH / "world"
    folder.mkdir(exist_ok=True)
    (folder / "recipe.json").write_bytes(_made()[1]["oracle/w/recipe.json"])
    (folder / "weights.safetensors").write_bytes(data)
    load_world(Store(str(folder))).sample(16, "fuzz")


CSV = b"n,loss,arm\n" + b"\n".join(b"%d,%.4f,%s" % (n, n**-0.5, arm) for arm in (b"a", b"b") for n in (1, 2, 4, 8, 16))
TABLE = _parquet(pa.table({"n": [1.0, 2, 4, 8, 16], "loss": [1.0, 0.7, 0.5, 0.36, 0.25], "arm": ["a"] * 5}))


_RECORDS = [{"n": n, "loss": n**-0.5, "arm": "a", "config": {"lr": 0.1, "sizes": [1, None]}} for n in (1, 2, 4, 8, 16)]
JSON = (json.dumps(_RECORDS).encode(), "\n".join(map(json.dumps, _RECORDS)).encode())
LOST = json.dumps(
    {
        "run": {"role": "stamp"},
        "code_sha": {"role": "stamp", "accepted": "a,b"},
        "n": {"role": "axis", "kind": "lane"},
        "seed": {"role": "axis", "kind": "lane", "axis_role": "seed"},
        "t": {"role": "axis", "kind": "observed", "axis_role": "time"},
        "loss": {"role": "metric", "better": "low", "free": "1"},
    }
).encode()


def run_json(data: bytes) -> None:
    (SCRATCH / "t.json").write_bytes(data)
    fit(SCRATCH / "t.json", "power", x="n", y="loss", by="arm", bootstrap=0)


def run_lost(data: bytes) -> None:
    """A frame whose column `columns` says anything."""
    rows = [(n, seed, t) for n in (1, 2, 4) for seed in (0, 1) for t in (1, 2)]
    frame = pl.DataFrame(rows, ["n", "seed", "t"], orient="row").with_columns(
        pl.format("{}-{}", "n", "seed").alias("run"),
        pl.lit(data.decode(errors="replace")).alias("columns"),
        pl.int_range(pl.len()).alias("cell"),
        code_sha=pl.lit("a"),
        loss=1 / pl.col("n") + pl.col("seed") / 100,
    )
    fit(frame, "power", x="n", y="loss", bootstrap=0)


def run_csv(data: bytes) -> None:
    (SCRATCH / "t.csv").write_bytes(data)
    fit(SCRATCH / "t.csv", "power", x="n", y="loss", by="arm", bootstrap=0)


def run_table(data: bytes) -> None:
    (SCRATCH / "t.parquet").write_bytes(data)
    fit(SCRATCH / "t.parquet", "power", x="n", y="loss", by="arm", bootstrap=0)
