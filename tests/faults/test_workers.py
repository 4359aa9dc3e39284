"""Workers that are killed, and packs that kill theirs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest
from fault_tools import Nodes, Run, kill

from raysweep.ledger.log import CELLS

pytestmark = pytest.mark.timeout(900)


def test_killed_workers_cost_one_more_try_of_their_own_packs_and_nothing_else(
    nodes: Nodes, make_run: Callable[..., Run]
) -> None:
    run = make_run()
    run.drive(nodes.address)
    before = run.until(3)
    hit = []
    for _ in range(2):
        pid, run_id = sorted(nodes.wait_busy(run).items())[0]
        if kill(pid):
            hit.append(run_id)
            (run.state / str(pid)).unlink(missing_ok=True)
    run.ends(0)
    rows = run.check(before, killed=2)
    tries = {r["run_id"]: r["attempt"] for r in rows}
    assert {run_id: n for run_id, n in tries.items() if n > 1} == {i: 1 + n for i, n in Counter(hit).items()}


def test_a_pack_that_always_kills_its_worker_is_given_up_and_the_sweep_goes_on(
    nodes: Nodes, make_run: Callable[..., Run]
) -> None:
    run = make_run(
        experiment="toy_experiment:dies",
        observed=[],
        resources={"attempts": 2},
        grid={"run_id": {"range": 1}, "how": ["exit", "segfault", "not"], "epoch": 1, "duration": 0.0},
    )
    run.drive(nodes.address)
    said = run.ends(1)
    assert "1 ok, 2 failed of 3 cells" in said
    rows = pq.read_table(run.store.path(CELLS)).to_pylist()
    assert Counter((r["how"], r["status"], r["attempt"]) for r in rows) == {
        ("exit", "failed", 2): 1,
        ("segfault", "failed", 2): 1,
        ("not", "ok", 1): 1,
    }
    told = {r["how"]: r["error"] for r in rows}
    assert all("its worker died (process " in told[how] for how in ("exit", "segfault"))
    assert "Segmentation fault" in told["segfault"]
    page = subprocess.run(
        [sys.executable, "-m", "raysweep", "status", run.store.uri], capture_output=True, text=True, check=True
    ).stdout
    assert "1 ok, 2 failed of 3; 2 pending" in page
    assert re.search(r"failed x 1: its worker died .*: Fatal Python error: Segmentation fault", page)
    assert 'toy_experiment.py", line' in page  # the end of its log
    assert "Extension modules" not in page
