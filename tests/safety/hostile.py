"""What fuzzing feeds raysweep, and what must come of it: each target works or raises one RaysweepError.

A target is a Hypothesis strategy of cases and a function that takes one. Grammar first (what nearly makes sense goes
deepest), then bytes changed at random.
"""

from __future__ import annotations

import atexit
import io
import json
import math
import random
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from raysweep.claims import Claims, drivers
from raysweep.errors import LedgerError, RaysweepError
from raysweep.experiment import Stamp, failure_rows, row_schema
from raysweep.laws import fit
from raysweep.ledger import Ledger
from raysweep.oracle.audit import require_audit
from raysweep.oracle.recipe import GaussianRecipe, stored_audits
from raysweep.oracle.world import adopt, load_world, make_flow
from raysweep.part import read_part
from raysweep.progress import Progress
from raysweep.run import open_store
from raysweep.status import status
from raysweep.store import Store
from raysweep.sweep import Sweep, from_mapping, load_sweep, stored_runs

__all__ = ["TARGETS", "Target", "outcome"]

ROOT = Path(__file__).parent.parent.parent
_MEMORY = Path("/dev/shm")  # no disk waits for a hundred thousand files
SCRATCH = Path(tempfile.mkdtemp(prefix="raysweep-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    16,
    64,
    2**31,
    2**53 + 1,
    2**63,
    10**30,
    -(10**30),
    0.5,
    1e-3,
    -0.0,
    1e300,
    -1e300,
    math.inf,
    -math.inf,
    math.nan,
    "",
    "x",
    "1e-3",
    "0x10",
    "1:30",
    "hard",
    "soft",
    "cosine",
    "wsd",
    "=",
    "~",
    "a\nb",
    "\x1b[31m",
    "\u202e",
    "\ud800",
    "\0",
    "../x",
    "x" * 3000,
    "é" * 300,
    "$\\frac{$",
    "<script>",
    [],
    {},
    [[]],
    {"": ""},
]
AXES = [
    "n_train",
    "width",
    "depth",
    "labels",
    "lr",
    "seed",
    "data_seed",
    "steps",
    "k",
    "schedule",
    "model",
    "batch",
    "temperature",
    "precision",
    "pool",
    "members",
    "zip",
    "concat",
    "when",
    "widht",
    "",
    "if",
    "then",
]
SWEEP = """name: tiny
experiment: classifier
world: {kind: gaussian, dim: 4, classes: 3}
grid:
  n_train: {geom: [32, 128, 3]}
  zip: {labels: [hard, soft], lr: [1e-2, 0.05]}
  when: [{if: {labels: soft}, then: {depth: [1, 2]}}]
  seed: {range: 2}
  steps: [4, 16]
  k: [1, 10]
fit: [{law: power, x: n_train, y: epistemic, by: [labels]}]
presets: {smoke: {seed: 0}}
resources: {cpus: 1, lanes: 8}
budget: {flops: 1e12}
"""
FUNCTION = {
    "name": "toy",
    "experiment": "toy_experiment:train",
    "observed": ["epoch"],
    "grid": {"size": [10, 100, 1000], "seed": {"range": 2}, "epoch": [1, 2, 3]},
    "fit": [{"law": "power", "x": "size", "y": "loss", "by": ["epoch"]}],
}


@dataclass(frozen=True)
class Target:
    """One way in.

    Attributes:
        cases: What is fed: a strategy, or a function of a random number generator.
        run: Takes a case; a RaysweepError is an answer, anything else a crash.
        share: Of all cases, relative to other targets.
    """

    name: str
    cases: st.SearchStrategy[Any] | Make
    run: Callable[[Any], None]
    share: float


def outcome(target: Target, case: Any) -> str:
    """`worked` or `refused`; whatever else is raised is a crash and goes on."""
    try:
        target.run(case)
    except RaysweepError as error:
        text = str(error)
        assert text.strip(), "an error must say something"
        assert len(text) <= 5000, "an error must be short"
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text), "an error must be printable"
        return "refused"
    return "worked"


# --- strategies -------------------------------------------------------------------------------------------

odd = st.sampled_from(ODD) | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
values = st.recursive(
    odd,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
number = st.sampled_from(
    [0, 1, 2, 3, 7, 16, 100, 1e-3, 0.5, -1, 1e7, 1e9, 1e12, 1e30, math.inf, math.nan, "4", "x", None]
)
ranges = st.builds(
    lambda name, args: {name: args},
    st.sampled_from(["geom", "log2", "linear", "range", "goem"]),
    number | st.lists(number, max_size=4),
)
entry = st.lists(number | odd, max_size=4) | ranges | odd


def _grid(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    rule = st.fixed_dictionaries({"if": st.dictionaries(st.sampled_from(AXES), entry, max_size=2), "then": inner})
    special = {
        "zip": inner | st.lists(inner, max_size=2),
        "concat": st.lists(inner, max_size=3),
        "when": st.lists(rule, max_size=2),
    }
    plain = st.dictionaries(st.sampled_from(AXES), entry, max_size=4)
    return st.builds(lambda a, b: {**a, **b}, plain, st.fixed_dictionaries({}, optional=special))


grids = st.recursive(st.dictionaries(st.sampled_from(AXES), entry, max_size=4), _grid, max_leaves=4)
fits = st.fixed_dictionaries(
    {
        "x": st.sampled_from(["n_train", "width", "", ["n_train", "width"]]) | odd,
        "y": st.sampled_from(["epistemic", "nll"]) | odd,
    },
    optional={
        "law": st.sampled_from(["power", "auto", "chinchilla", "pwer"]) | odd,
        "by": values,
        "at": odd,
        "huber": number,
        "holdout": number,
    },
)
worlds = st.fixed_dictionaries(
    {"kind": st.sampled_from(["gaussian", "flow", "gausian"])},
    optional={"dim": number, "classes": number, "prior": values, "layers": number, "hidden": number, "seed": odd},
)
parts = {
    "name": odd,
    "experiment": odd,
    "grid": grids,
    "world": worlds | odd,
    "fit": st.lists(fits, max_size=2) | values,
    "presets": st.dictionaries(st.text(max_size=3), grids, max_size=2) | odd,
    "resources": st.dictionaries(st.sampled_from(["cpus", "gpus", "lanes", "memory_gib", "cpu"]), number, max_size=2)
    | odd,
    "budget": st.dictionaries(st.sampled_from(["flops", "cells"]), number, max_size=2) | odd,
    "observed": values,
    "version": odd,
    "oops": odd,
}
SOUND: dict[str, Any] = yaml.load(SWEEP, yaml.SafeLoader)
tame_number = st.sampled_from([1, 2, 3, 7, 16, 100, 0.5, "4", 1e7, 1e12])
tame_entry = (
    st.lists(tame_number, max_size=4)
    | tame_number
    | st.builds(
        lambda name, args: {name: args},
        st.sampled_from(["geom", "log2", "linear", "range"]),
        st.lists(tame_number, min_size=1, max_size=3),
    )
)


@st.composite
def sweeps(draw: Any) -> dict[str, Any]:
    """A sound sweep, of which one or two parts, or a few axes, are something else."""
    raw = dict(SOUND)
    if draw(st.booleans()):
        grid = dict(SOUND["grid"])
        for name in draw(st.lists(st.sampled_from(AXES[:16]), min_size=1, max_size=3)):
            grid[name] = draw(tame_entry | entry)
        if draw(st.integers(0, 3)) == 0:
            grid |= draw(_grid(st.dictionaries(st.sampled_from(AXES[:16]), tame_entry, max_size=2)))
        raw["grid"] = grid
    else:
        for name in draw(st.lists(st.sampled_from(sorted(parts)), min_size=1, max_size=2, unique=True)):
            raw[name] = draw(parts[name])
    return raw


Make = Callable[[random.Random], Any]  # cases of one seed: a hundred thousand cost seconds, if they cannot be shrunk


def changed(*originals: bytes) -> Make:
    """One of the originals with some bytes replaced, inserted, deleted, repeated or cut off."""
    extremes = [b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\0\0\0\0"]

    def make(rng: random.Random) -> bytes:
        data = bytearray(rng.choice(originals))
        for _ in range(rng.choice([1, 1, 2, 4])):
            at = rng.randrange(len(data) + 1)
            how = rng.randrange(10)
            if how < 4:
                data[at : at + 1] = bytes([rng.randrange(256)])
            elif how == 4:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            elif how == 5:
                del data[at : at + rng.randint(1, 32)]
            elif how == 6:
                data[at:at] = bytes(data[at : at + rng.randint(1, 32)]) * rng.randint(1, 20)
            elif how < 9:
                data[at : at + 4] = rng.choice(extremes)
            elif rng.random() < 0.3:
                del data[at:]
        return bytes(data)

    return make


_WORDS = (
    "{ } [ ] : , &a *a !!int !!python/object:os.system !!binary !!set !!timestamp <<: ? | > %TAG --- ... # ' "
    "1e999 .nan 0o17 1:30 2001-02-30 true null 0 -1 1e9 1e12 10000000000000000000 0.5 x lr seed range geom log2 linear "
    'zip concat when if then " \0 \x1b \ufeff'
)
_TOKENS = [*_WORDS.split(" "), *["\t", "\n", "  ", "- ", "0x" + "f" * 50, "[" * 60, "{a: " * 60]]


def in_text(*originals: str) -> Make:
    """Tokens of YAML where they do not belong."""

    def make(rng: random.Random) -> str:
        text = rng.choice(originals)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            words = list(re.finditer(r"[\w.+-]+|\S", text))
            found = rng.choice(words) if words else None
            at = (rng.randrange(len(text) + 1),) * 2 if found is None or rng.random() < 0.3 else found.span()
            text = text[: at[0]] + rng.choice(_TOKENS) + text[at[1] :]
        return text

    return make


# --- sweep files ------------------------------------------------------------------------------------------


def _use(sweep: Sweep) -> None:
    """All that planning asks of a sweep."""
    assert len(sweep.runs) <= sweep.runs.cells or not len(sweep.runs)
    assert sweep.hash
    json.dumps(sweep.declaration)
    again = from_mapping(yaml.safe_load(sweep.text))
    assert again.runs.cells == sweep.runs.cells


def run_mapping(raw: dict[str, Any]) -> None:
    """A sweep as YAML writes it, so that what is loaded went through the parser."""
    try:
        text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
    except (UnicodeEncodeError, yaml.YAMLError):
        return
    run_file(text.encode("utf-8", "surrogatepass"))


def run_file(data: bytes) -> None:
    (SCRATCH / "s.yaml").write_bytes(data)
    _use(load_sweep(SCRATCH / "s.yaml"))


def run_override(text: str) -> None:
    (SCRATCH / "o.yaml").write_text(SWEEP)
    _use(load_sweep(SCRATCH / "o.yaml", [text], "smoke"))


def run_preset(name: str) -> None:
    (SCRATCH / "o.yaml").write_text(SWEEP)
    load_sweep(SCRATCH / "o.yaml", [], name)


_OVERRIDES = ("width=64,128", "n_train={geom: [64, 256, 3]}", "lr=1e-3", "zip={width: [1, 2], depth: [1, 2]}")


def overrides(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return f"{rng.choice(AXES)}={rng.choice(ODD)}"
    return str(in_text(*_OVERRIDES)(rng))


# --- ledgers ----------------------------------------------------------------------------------------------


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


# --- a store's JSON and sweeps ----------------------------------------------------------------------------


@cache
def _made() -> tuple[Path, dict[str, bytes]]:
    """A store with a world, and its files by name; the world's folder is called w."""
    folder = _store("json")
    store = Store(str(folder))
    adopt(store, WORLD, make_flow(WORLD, 4, 3))
    world = folder / "oracle" / store.folders("oracle")[0]
    require_audit(store, f"oracle/{world.name}", load_world(store, f"oracle/{world.name}"), [1.0])
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


# --- worlds -----------------------------------------------------------------------------------------------


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


# --- tables a user gives to `fit` -------------------------------------------------------------------------

CSV = b"n,loss,arm\n" + b"\n".join(b"%d,%.4f,%s" % (n, n**-0.5, arm) for arm in (b"a", b"b") for n in (1, 2, 4, 8, 16))
TABLE = _parquet(pa.table({"n": [1.0, 2, 4, 8, 16], "loss": [1.0, 0.7, 0.5, 0.36, 0.25], "arm": ["a"] * 5}))


def run_csv(data: bytes) -> None:
    (SCRATCH / "t.csv").write_bytes(data)
    fit(SCRATCH / "t.csv", "power", "n", "loss", by="arm", bootstrap=0)


def run_table(data: bytes) -> None:
    (SCRATCH / "t.parquet").write_bytes(data)
    fit(SCRATCH / "t.parquet", "power", "n", "loss", by="arm", bootstrap=0)


_SHIPPED = tuple(path.read_text() for path in sorted((ROOT / "sweeps").glob("*.yaml")))
shutil.copytree(ROOT / "sweeps/worlds", SCRATCH / "worlds")


def tokens(rng: random.Random) -> bytes:
    text: str = in_text(SWEEP, SWEEP, rng.choice(_SHIPPED))(rng)
    return text.encode("utf-8", "surrogatepass")


TARGETS = (
    Target("sweep file, grammar", sweeps(), run_mapping, 0.02),
    Target("sweep file, tokens", tokens, run_file, 0.12),
    Target("sweep file, bytes", changed(SWEEP.encode(), *(text.encode() for text in _SHIPPED[:1])), run_file, 0.2),
    Target("--set", overrides, run_override, 0.06),
    Target("--preset", st.text(max_size=8) | st.sampled_from(["smoke", "full", "smok"]), run_preset, 0.005),
    Target("ledger part, bytes", changed(SMALL, PART), run_part, 0.545),
    Target("ledger part, columns", tables(), run_part, 0.01),
    Target("store JSON", stores(), run_store, 0.01),
    Target("safetensors", weights(), run_world, 0.015),
    Target("table, CSV", changed(CSV), run_csv, 0.0075),
    Target("table, parquet", changed(TABLE), run_table, 0.0075),
)
