"""Whatever dies on one machine, finished cells stay finished, and the same command completes exactly the rest.

Workers, nodes and drivers that are killed: tests/faults.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import psutil
import pytest
import yaml
from conftest import CLASSIFIER_SWEEP, HERE

from raysweep.executors import make_executor
from raysweep.ledger.log import Ledger
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import Sweep, load_sweep

SLOW = {
    "name": "slow",
    "experiment": "toy_experiment:slow",
    "grid": {"run_id": {"range": 12}, "duration": 0.4},
}
FRAGILE = {
    "name": "fragile",
    "experiment": "toy_experiment:fragile",
    "grid": {"run_id": {"range": 6}},
}


@pytest.fixture
def markers(tmp_path: Path) -> Path:
    folder = tmp_path / "markers"
    folder.mkdir()
    return folder


def final(store: Store) -> pl.DataFrame:
    frame = pl.read_parquet(store.path("cells.parquet"))
    assert frame["cell"].n_unique() == frame.height
    return frame.sort("cell").select("cell", "status", "run_id", "loss")


def undisturbed(sweep: Sweep, tmp_path: Path) -> pl.DataFrame:
    store = Store(str(tmp_path / "undisturbed"))
    assert run(sweep, store, make_executor("inline")).counts.ok == sweep.runs.cells
    return final(store)


def test_a_run_that_raises_fails_alone_and_is_completed_by_a_rerun(
    tmp_path: Path, markers: Path, make_sweep: Callable[..., Sweep]
) -> None:
    sweep = make_sweep(FRAGILE, {"how": "raise", "markers": str(markers)})
    store = Store(str(tmp_path / "store"))
    (markers / "raise-4").touch()
    outcome = run(sweep, store, make_executor("inline"))
    assert (outcome.counts.ok, outcome.counts.failed) == (5, 1)
    (bad,) = pl.read_parquet(store.path("cells.parquet")).filter(pl.col("status") == "failed").to_dicts()
    assert "ValueError: run 4 was told to fail" in bad["error"]
    parts = Ledger(store).scan().parts
    assert run(sweep, store, make_executor("inline"), skip_failed=True).counts.failed == 1
    assert Ledger(store).scan().parts == parts
    outcome = run(sweep, store, make_executor("inline"))
    assert (outcome.counts.ok, outcome.counts.failed) == (6, 0)
    assert Ledger(store).scan().parts == parts + 1
    assert final(store).equals(undisturbed(sweep, tmp_path))


def listening_addresses(pid: int) -> set[str]:
    """Where the driver's Ray listens."""
    found = set()
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # Ray's short-lived helpers come and go
            found |= {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert found
    return found


def test_an_interrupted_driver_is_resumed_by_the_same_command(tmp_path: Path) -> None:
    file, store = tmp_path / "slow.yaml", Store(str(tmp_path / "store"))
    file.write_text(yaml.safe_dump(SLOW))
    command = [sys.executable, "-m", "raysweep", "run", str(file), "--store", store.uri]
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "RAYSWEEP_TEST_STUCK": "6"}  # it must not end before the signal
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 300
    while Ledger(store).scan(["cell"]).parts < 3 and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert listening_addresses(driver.pid) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 130, output
    assert "interrupted; run the same command again" in output
    sweep = load_sweep(file)
    done = sweep.runs.cells - Ledger(store).pending(sweep.runs).cells
    assert 3 <= done < 12
    before = {name for name, _ in store.list("ledger")}
    assert store.list("claims") == []
    outcome = run(sweep, store, make_executor("inline"))
    assert (outcome.counts.ok, outcome.pending) == (12, 0)
    assert before <= {name for name, _ in store.list("ledger")}
    assert Ledger(store).scan().parts == 12
    assert final(store).equals(undisturbed(sweep, tmp_path))


def test_two_drivers_on_one_store_share_the_oracle_and_the_packs(
    tmp_path: Path, make_sweep: Callable[..., Sweep]
) -> None:
    flow = {"kind": "flow", "data": "digits", "noise": 0.5, "layers": 2, "hidden": 16, "epochs": 20}
    sweep, store = make_sweep(CLASSIFIER_SWEEP, world=flow), Store(str(tmp_path / "store"))
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**CLASSIFIER_SWEEP, "world": flow}))
    command = [sys.executable, "-m", "raysweep", "run", str(file), "--store", store.uri, "--executor", "inline"]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [driver.communicate(timeout=300)[0] for driver in pair]
    assert [driver.returncode for driver in pair] == [0, 0], said
    assert sorted(s.count("flow world ready") + 2 * s.count("flow world found") for s in said) == [1, 2], said
    frame = pl.read_parquet(store.path("cells.parquet"))
    assert (frame.height, frame["cell"].n_unique(), frame["world_sha"].n_unique()) == (32, 32, 1)
    assert set(frame["status"]) == {"ok"}
    assert Ledger(store).scan().parts == 2  # one a pack: nothing was trained twice
    assert sweep.runs.cells == 32
