"""Storage that fails and comes back: a server, a folder, a disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_tools import Nodes, Run, S3Server, filled, small_disk

from raysweep.store import Store

pytestmark = pytest.mark.timeout(900)


def test_an_s3_server_killed_twice_and_restarted_costs_time_only(
    nodes: Nodes, s3: S3Server, make_run: Callable[..., Run]
) -> None:
    run = make_run(s3.store("steady"))
    run.drive(nodes.address)
    for cells in (3, 9):
        before = run.until(cells)
        nodes.wait_busy(run)
        s3.stop()
        time.sleep(3.0)  # packs end in the meantime
        s3.start()
    run.ends(0)
    rows = run.check(before)
    assert {r["attempt"] for r in rows} == {1}


def test_a_folder_where_writes_stop_half_way_gets_every_row_whole(
    nodes: Nodes, make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flaky_toy

    run = make_run(Store(f"flaky://{tmp_path}/store"), experiment="flaky_toy:steady")
    run.drive(nodes.address)
    run.ends(0)
    monkeypatch.setattr(flaky_toy, "FAILING", 0.0)
    rows = run.check({})
    assert {r["attempt"] for r in rows} == {1}
    failures = list(tmp_path.rglob("failures"))
    assert sum(len(f.read_text().splitlines()) for f in failures) >= 2
    assert all("part-" not in p.name or p.stat().st_size > 8 for p in (tmp_path / "store" / "ledger").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_ends_the_run_with_what_to_do_and_with_room_the_same_command_finishes(
    nodes: Nodes, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        run = make_run(Store(str(disk / "store")))
        run.drive(nodes.address, environment={"RAYSWEEP_PATIENCE": "2"})
        before = run.until(3)
        with filled(disk):
            said = run.ends(2)
            before = run.finished() | before
        assert f"error: store {disk}/store: " in said
        assert "No space left on device" in said
        assert "make room there, then run the same command: what was finished is kept" in said
        assert "Traceback" not in said
        for name, _ in run.store.list("claims"):
            os.utime(run.store.path(f"claims/{name}"), (1, 1))
        run.drive(nodes.address)
        run.ends(0)
        run.check(before)
