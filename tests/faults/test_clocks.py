"""Clocks that are days off: nothing that decides reads them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from fault_tools import FAKETIME, Nodes, Run, off

pytestmark = [
    pytest.mark.timeout(480),
    pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime (Debian: faketime)"),
]


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
