"""Drivers that are killed, that share a store, or whose Ray is killed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psutil
import pytest
from fault_tools import Nodes, Run, kill

from raysweep.store.leases import hold
from raysweep.sweep import load_sweep

pytestmark = pytest.mark.timeout(900)


def test_a_killed_drivers_sweep_is_finished_by_another_on_another_node(
    nodes: Nodes, make_run: Callable[..., Run]
) -> None:
    run = make_run()
    one, two = (node.node_ip_address for node in nodes.doors)
    run.drive(nodes.address, one)
    run.until(3)
    run.drivers[0].kill()
    run.drivers[0].wait()
    before, parts = run.finished(), {name for name, _ in run.store.list("ledger")}
    assert 3 <= len(before) < run.cells
    claims = run.store.list("claims")
    assert claims  # it could not release them
    for name, _ in claims:  # as after the lease: its heartbeat is a minute old
        os.utime(run.store.path(f"claims/{name}"), (1, 1))
    run.drive(nodes.address, two)
    run.ends(0)
    run.check(before, killed=4)
    assert parts <= {name for name, _ in run.store.list("ledger")}
    assert run.store.list("claims") == []


def test_a_driver_that_only_waits_for_another_holds_no_cpu(nodes: Nodes, make_run: Callable[..., Run]) -> None:
    run = make_run(grid={"run_id": {"range": 4}, "duration": 0.1})

    def workers() -> list[psutil.Process]:
        return [p for node in nodes.workers for p in nodes.processes(node) if p.name().startswith("ray::PackTrial")]

    with hold(run.store) as elsewhere:
        assert elsewhere.take("elsewhere", {load_sweep(run.file).runs.keys[2].decode()})
        driver = run.drive(nodes.address)
        before = run.until(run.cells - 3)
        end = time.monotonic() + 2000
        while workers() and time.monotonic() < end:
            time.sleep(0.1)
        assert workers() == []  # another driver may need what they held
        assert driver.poll() is None
    run.ends(0)
    run.check(before)


def test_when_rays_own_processes_are_killed_the_user_is_told_and_a_rerun_finishes(
    make_run: Callable[..., Run],
) -> None:
    run = make_run(grid={"run_id": {"range": 12}})
    driver = run.drive(environment={"RAY_gcs_rpc_server_reconnect_timeout_s": "3"})
    run.until(3)
    for process in psutil.Process(driver.pid).children(recursive=True):
        if process.name() in ("gcs_server", "raylet"):
            kill(process.pid)
    said = run.ends(1)
    end = time.monotonic() + 200
    while "error:" not in said and time.monotonic() < end:  # the witness speaks after the driver's end
        time.sleep(0.1)
        said = run.log(0).read_text()
    assert "Ray's own processes were" in said
    assert "run the same command again" in said
    before = run.finished()
    assert 3 <= len(before) < run.cells
    for name, _ in run.store.list("claims"):
        os.utime(run.store.path(f"claims/{name}"), (1, 1))
    run.drive()
    run.ends(0)
    run.check(before, killed=4)
