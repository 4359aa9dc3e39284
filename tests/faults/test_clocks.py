"""Clocks that are days off: nothing that decides reads them."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fault_tools import ENVIRONMENT, Nodes, Run

LIBRARY = next(Path("/usr/lib").rglob("libfaketimeMT.so.1"), None) if Path("/usr/lib").is_dir() else None
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime (Debian: faketime)"),
]


def off(days: float) -> dict[str, str]:
    """The environment of a process whose clock is off by so many days."""
    path = os.pathsep.join([str(Path(__file__).with_name("skewed")), ENVIRONMENT["PYTHONPATH"]])
    skewed = {"LD_PRELOAD": str(LIBRARY), "FAKETIME": f"{days:+g}d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return {**skewed, "PYTHONPATH": path}


def test_a_node_three_days_ahead_and_a_driver_two_behind_finish_as_others_do(
    nodes: Nodes, make_run: Callable[..., Run]
) -> None:
    nodes.add(off(3))
    try:
        run = make_run(grid={"run_id": {"range": 12}, "duration": 0.5})
        run.drive(nodes.address, environment=off(-2))
        run.ends(0)
    finally:
        nodes.kill(nodes.workers[-1])
    rows = run.check(run.finished())
    now = datetime.now(UTC)
    assert {r["finished_at"] > now + timedelta(days=1) for r in rows} == {False, True}


def test_two_drivers_on_two_nodes_five_days_apart_share_a_store_and_train_nothing_twice(
    nodes: Nodes, make_run: Callable[..., Run]
) -> None:
    run = make_run(grid={"run_id": {"range": 10}})
    for node, days in zip(nodes.doors, (-2, 3), strict=True):
        run.drive(nodes.address, node.node_ip_address, off(days))
    assert [driver.wait(200) for driver in run.drivers] == [0, 0], [run.log(i).read_text() for i in range(2)]
    run.check(run.finished())
    parts = [pq.read_table(run.store.path(f"ledger/{name}")) for name, _ in run.store.list("ledger")]
    assert sum(map(len, parts)) == run.cells
