"""What a store tells of its sweep: counts, pace, causes, drivers; wherever it lies, whatever clocks say."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
from conftest import CLASSIFIER_SWEEP, FUNCTION_SWEEP, HERE

from raysweep.cli.status import lines
from raysweep.code import Code
from raysweep.errors import LedgerError
from raysweep.executors import make_executor
from raysweep.ledger.log import Ledger, sequence
from raysweep.ledger.rows import Stamp, Status, failure_rows, row_schema
from raysweep.progress import Progress
from raysweep.run import open_store, run
from raysweep.status import Seen, status
from raysweep.store import Store
from raysweep.store.leases import LEASE, Claims, hold
from raysweep.sweep import Sweep

NUMBERS = sequence()


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions of sweeps can be imported where status is asked."""
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture
def opened(make_sweep: Callable[..., Sweep], tmp_path: Path) -> tuple[Sweep, Store]:
    """A sweep of 18 cells in 6 runs, and its store without a row."""
    sweep, store = make_sweep(FUNCTION_SWEEP), Store(str(tmp_path / "store"))
    open_store(store, sweep, Progress(io.StringIO))
    return sweep, store


def add(
    sweep: Sweep, store: Store, run_: int, state: str = "ok", reason: str = "", age: float = 0.0, skew: float = 0.0
) -> str:
    """A part with all cells of one run: `age` seconds old by the store's clock, made by a clock wrong by `skew`."""
    runs = sweep.runs.take(np.array([run_]))
    rows = failure_rows(runs, row_schema(sweep.experiment), Stamp("pack", 1, "cpu", seconds=2.0), state, reason)  # type: ignore[arg-type]
    if skew:
        at = rows.schema.get_field_index("finished_at")
        then = datetime.now(UTC) + timedelta(seconds=skew)
        rows = rows.set_column(
            at, rows.schema.field(at), pa.repeat(pa.scalar(then, rows.schema.field(at).type), len(rows))
        )
    name = Ledger(store).append(rows, next(NUMBERS))
    if store.is_local:
        os.utime(store.path(f"ledger/{name}"), (time.time() - age, time.time() - age))
    return name


def test_a_store_without_a_row(opened: tuple[Sweep, Store]) -> None:
    found = status(opened[1])
    assert (found["total"], found["done"], found["pending"], found["parts"]) == (18, 0, 18, 0)
    assert found["pace"] is None
    assert found["failures"] == found["drivers"] == found["unreadable"] == []
    assert json.loads(json.dumps(found)) == found  # plain data


def test_no_row_is_from_the_future_or_younger_than_its_file(opened: tuple[Sweep, Store]) -> None:
    sweep, store = opened
    for i, skew in enumerate([-100.0, 7200.0, 0.0, 1e6]):  # a part each 30 s, the first 100 s ago
        add(sweep, store, i, age=100.0 - 30 * i, skew=skew)
    found = status(store)
    assert found["clock"] == "store"
    assert (found["done"], found["pending"]) == (12, 6)
    pace = found["pace"]
    assert pace["window_seconds"] == pytest.approx(100, abs=5)
    assert pace["cells_per_second"] == pytest.approx(9 / 100, rel=0.05)  # the first rows mark the start
    assert pace["remaining_seconds"] == pytest.approx(6 / 0.09, rel=0.05)
    assert pace["last_rows_age"] == pytest.approx(10, abs=5)
    assert pace["busy_seconds"] == pytest.approx(8.0)
    assert abs(datetime.now(UTC) - timedelta(seconds=10) - datetime.fromisoformat(found["last_row_at"])).seconds < 5


@pytest.mark.parametrize("finished", [86400.0 * 400, 3600.0 * 3, 30.0])
def test_a_copied_store_has_the_pace_of_its_rows_and_not_of_its_files(
    opened: tuple[Sweep, Store], finished: float
) -> None:
    """All files of a copy are new."""
    sweep, store = opened
    for i in range(4):
        add(sweep, store, i, age=5.0 - i, skew=-finished - 100.0 * (3 - i))
    pace = status(store)["pace"]
    assert pace["last_rows_age"] == pytest.approx(finished, abs=5)
    if finished > 86400:
        assert pace["cells_per_second"] is None
    else:
        assert pace["cells_per_second"] == pytest.approx(9 / (finished + 300), rel=0.1)


def test_an_old_store_has_no_pace_and_failed_cells_are_no_progress(opened: tuple[Sweep, Store]) -> None:
    sweep, store = opened
    for i in range(3):
        add(sweep, store, i, age=1e6 - i)  # as its files say; the rows were made just now
    pace = status(store)["pace"]
    assert pace["cells_per_second"] is None
    assert pace["last_rows_age"] == pytest.approx(1e6, rel=0.01)
    for i in range(3, 6):
        add(sweep, store, i, "failed", "x", age=60.0 - i)
    assert status(store)["pace"]["cells_per_second"] is None


def test_causes_that_differ_in_numbers_are_one(opened: tuple[Sweep, Store]) -> None:
    sweep, store = opened
    trace = 'Traceback (most recent call last):\n  File "a.py", line {0}, in f\nValueError: run {0} of 7 at 0x{0}f\n'
    for i in range(3):
        add(sweep, store, i, "failed", trace.format(i + 1))
    add(sweep, store, 3, "failed", "RuntimeError: CUDA error: an illegal access\nCompile with `TORCH_USE_CUDA_DSA`.\n")
    add(sweep, store, 4, "diverged", "not finite at step 1")
    add(sweep, store, 5, "failed", "")
    found = status(store)["failures"]
    assert [f["cells"] for f in found] == [9, 3, 3, 3]
    assert found[0]["cause"] == "ValueError: run # of 7 at #"
    assert "ValueError: run" in found[0]["example"]["error"]
    assert {f["cause"] for f in found[1:]} == {
        "RuntimeError: CUDA error: an illegal access", "not finite at step 1", "no reason recorded",
    }  # fmt: skip


def test_many_failures_are_few_causes(make_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    sweep = make_sweep(FUNCTION_SWEEP, {"seed": {"range": 200}})
    store = Store(str(tmp_path / "store"))
    open_store(store, sweep, Progress(io.StringIO))
    schema = row_schema(sweep.experiment)
    rows = [
        failure_rows(
            sweep.runs.take(np.array([i])), schema, Stamp("p", 1, ""), "failed", f"step {i}\n" * 200 + f"E {i}"
        )
        for i in range(600)
    ]
    Ledger(store).append(pa.concat_tables(rows), next(NUMBERS))
    (found,) = status(store)["failures"]
    assert (found["cause"], found["cells"]) == ("E #", 1800)


def test_what_cannot_be_read_is_named_and_does_no_harm(opened: tuple[Sweep, Store]) -> None:
    sweep, store = opened
    good = add(sweep, store, 0)
    torn = f"part-{'0' * 16}-1.parquet"
    store.write(f"ledger/{torn}", store.read(f"ledger/{good}")[:-100])
    store.write("ledger/readme.txt", b"hello")
    Claims(store, "host-1-aa").beat()
    store.write("claims/torn-2-bb.heartbeat", b'{"dash')
    store.write("claims/list-3-cc.heartbeat", b"[]")
    found = status(store)
    assert found["done"] == 3
    assert {f["file"] for f in found["unreadable"]} == {torn, "readme.txt"}
    assert [d["host"] for d in found["drivers"]] == ["host", "list", "torn"]
    (name,) = (n for n, _ in store.list("sweeps"))
    store.write(f"sweeps/{name}", b"name: [")
    with pytest.raises(LedgerError, match="must be a sweep file"):
        status(store)


def test_drivers_are_alive_by_the_stores_clock(opened: tuple[Sweep, Store]) -> None:
    _, store = opened
    with hold(store, "http://10.0.0.2:8265") as one:
        one.take("pack", {"run"})
        two = Claims(store, "node-7-c0ffee")
        two.take("other", {"other"})
        then = time.time() - LEASE - 40
        os.utime(store.path("claims/node-7-c0ffee.heartbeat"), (then, then))
        found = {d["driver"]: d for d in status(store)["drivers"]}
    assert len(found) == 2
    mine, silent = found[one.owner], found["node-7-c0ffee"]
    assert (mine["alive"], mine["packs"], mine["dashboard"]) == (True, 1, "http://10.0.0.2:8265")
    assert mine["process"] == str(os.getpid())
    assert mine["heartbeat_age"] < LEASE
    assert (silent["alive"], silent["packs"], silent["host"], silent["process"]) == (False, 1, "node", "7")
    assert silent["heartbeat_age"] == pytest.approx(LEASE + 40, abs=10)


def test_totals_where_the_experiment_cannot_be_imported(
    opened: tuple[Sweep, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, store = opened
    add(sweep, store, 0)
    add(sweep, store, 1, "failed", "x")
    here = status(store)
    monkeypatch.setattr("raysweep.sweep.current.stored_runs", lambda store: None)
    there = status(store)
    assert there["runs"] is None
    assert (
        [here[k] for k in ("total", "pending", "done")]
        == [there[k] for k in ("total", "pending", "done")]
        == [18, 15, 3]
    )
    store.write("sweeps/0123456789abcdef.yaml", b"")  # of another grid, whose cells are in the ledger too
    assert status(store)["pending"] is None


def test_rows_of_two_codes_are_counted_apart_until_the_codes_are_declared_equal(
    opened: tuple[Sweep, Store],
) -> None:
    sweep, store = opened
    schema = row_schema(sweep.experiment)

    def add_by(code: str, run_: int, state: Status = "ok") -> None:
        by = Stamp("pack", 1, "cpu", code=Code(code))
        rows = failure_rows(sweep.runs.take(np.array([run_])), schema, by, state, "")
        Ledger(store).append(rows, next(NUMBERS))

    add_by("aa", 0)
    add_by("bb", 3, "failed")  # was not measured: no fit has it
    assert status(store)["codes"] == [{"code_sha": "aa", "cells": 3}]
    assert not any("code_sha" in line for line in lines(status(store)))
    for code, run_ in (("bb", 1), ("bb", 2), ("", 3), ("cc", 4)):
        add_by(code, run_)
    found = status(store)
    assert found["codes"][0] == {"code_sha": "bb", "cells": 6}
    assert {(one["code_sha"], one["cells"]) for one in found["codes"][1:]} == {("aa", 3), ("cc", 3), ("none", 3)}
    (line,) = [line for line in lines(found) if "code_sha varies" in line]
    assert "6 of bb, 3 of " in line
    assert "fits keep the rows of each code apart" in line
    accepted = {"toy_experiment:train@1": {"accepted": [["aa", "bb"], ["cc", "none"]]}}
    store.write("code.json", json.dumps(accepted).encode())
    assert [one["cells"] for one in status(store)["codes"]] == [9, 6]
    accepted["toy_experiment:train@1"]["accepted"] = [["aa", "bb", "cc", "none"]]
    store.write("code.json", json.dumps(accepted).encode())
    assert [one["cells"] for one in status(store)["codes"]] == [15]


def test_a_store_that_refuses_writes_is_told_by_this_hosts_clock(
    opened: tuple[Sweep, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, store = opened
    add(sweep, store, 0, age=50.0)

    def refuse(self: Store, name: str, data: bytes, patience: float | None = None) -> None:
        raise LedgerError("read only")

    monkeypatch.setattr(Store, "write", refuse)
    found = status(store)
    assert found["clock"] == "this host"
    assert found["pace"]["last_rows_age"] == pytest.approx(50, abs=5)


def test_the_next_look_reads_new_parts_only(opened: tuple[Sweep, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, store = opened
    read: list[str] = []
    real = Store.read
    monkeypatch.setattr(Store, "read", lambda self, name, *more: read.append(name) or real(self, name, *more))
    seen = Seen()
    first = {add(sweep, store, i) for i in range(3)}
    assert status(store, seen)["done"] == 9
    assert {n.removeprefix("ledger/") for n in read if n.startswith("ledger/")} == first
    read.clear()
    new = add(sweep, store, 3)
    assert status(store, seen)["done"] == 12
    assert [n for n in read if n.startswith("ledger/")] == [f"ledger/{new}"]
    assert status(store)["done"] == 12
    assert not list(Path(store.path()).glob(".tmp-*"))  # nor does looking leave anything behind


def test_a_store_in_memory_keeps_no_times_but_its_rows_do(
    memory_store: Store, make_sweep: Callable[..., Sweep]
) -> None:
    sweep = make_sweep(FUNCTION_SWEEP)
    run(sweep, memory_store, make_executor("inline"))
    Claims(memory_store, "host-1-aa").beat()
    found = status(memory_store)
    assert (found["done"], found["clock"]) == (18, "this host")
    assert 0.0 <= found["pace"]["last_rows_age"] < 10.0
    assert found["drivers"][0]["heartbeat_age"] is None


def test_a_driver_from_the_future_is_silent_once_it_did_not_beat_for_a_lease(
    opened: tuple[Sweep, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store = opened
    Claims(store, "host-1-aa").beat()
    os.utime(store.path("claims/host-1-aa.heartbeat"), (time.time() + 1e6, time.time() + 1e6))
    seen = Seen()
    assert status(store, seen)["drivers"][0]["alive"]
    monkeypatch.setattr("raysweep.store.leases.LEASE", 0.0)
    (found,) = status(store, seen)["drivers"]
    assert (found["alive"], found["heartbeat_age"]) == (False, None)


@pytest.fixture
def s3_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store in a bucket of moto's S3 server."""
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("EC2_METADATA_DISABLED", "true")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket="bucket")
    yield Store(f"s3://bucket/sweep?region=us-east-1&scheme=http&endpoint_override={quote(url, safe='')}")
    server.stop()


def test_on_s3_while_a_sweep_runs(s3_store: Store, make_sweep: Callable[..., Sweep]) -> None:
    sweep = make_sweep(CLASSIFIER_SWEEP, resources={"lanes": 1})
    thread = threading.Thread(target=lambda: run(sweep, s3_store, make_executor("inline")), daemon=True)
    thread.start()
    looks, seen, deadline = [], Seen(), time.monotonic() + 400
    while thread.is_alive() and time.monotonic() < deadline:
        if s3_store.exists("env.json"):
            looks.append(status(s3_store, seen))
        time.sleep(0.05)
    thread.join(timeout=200)
    done = [look["done"] for look in looks]
    assert done == sorted(done)
    assert any(look["drivers"] and look["drivers"][0]["alive"] for look in looks)
    assert all(look["clock"] == "store" for look in looks)
    end = status(s3_store)
    assert (end["done"], end["pending"], end["drivers"]) == (32, 0, [])
