"""Nodes that die or are taken back. `attempts: 1` everywhere: a node's death is not its packs' fault."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from fault_tools import Nodes, Run

pytestmark = pytest.mark.timeout(900)
LONGER = {"epoch": [1, 2, 3, 4], "duration": 0.6}


def test_a_killed_nodes_packs_are_run_elsewhere_and_it_does_not_count_against_them(
    nodes: Nodes, make_run: Callable[..., Run]
) -> None:
    run = make_run(grid=LONGER, resources={"attempts": 1})
    run.drive(nodes.address)
    before = run.until(4)
    busy = nodes.wait_busy(run, 2)
    node = nodes.workers[0]
    hit = {run_id for pid, run_id in busy.items() if pid in {p.pid for p in nodes.processes(node)}}
    assert len(hit) == 1
    nodes.kill(node)
    run.ends(0)
    rows = run.check(before, killed=4)
    assert {r["run_id"] for r in rows if r["attempt"] > 1} <= hit  # it may have ended just before


def test_a_preempted_nodes_packs_are_run_elsewhere(nodes: Nodes, make_run: Callable[..., Run]) -> None:
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    run = make_run(grid=LONGER, resources={"attempts": 1})
    run.drive(nodes.address)
    before = run.until(4)
    nodes.wait_busy(run, 2)
    node = nodes.workers[-1]
    deadline = int((time.time() + 1.5) * 1000)
    taken, _ = GcsClient(address=nodes.address).drain_node(
        node.node_id, DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), "the spot price rose", deadline
    )
    assert taken
    time.sleep(1.5)  # notice is given, packs are in the middle
    nodes.kill(node)
    run.ends(0)
    run.check(before, killed=4)
