"""A host on which runs fail that succeed elsewhere is named, and gets no more of them."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest
from fault_tools import Nodes, Run

pytestmark = pytest.mark.timeout(480)


def test_a_bad_host_is_set_aside(nodes: Nodes, make_run: Callable[..., Run]) -> None:
    nodes.kill(nodes.workers[-1])
    nodes.add({"RAYSWEEP_TEST_BAD": "1"})
    nodes.cluster.wait_for_nodes(60)
    bad = nodes.workers[-1]
    run = make_run(experiment="toy_experiment:picky", observed=[], grid={"run_id": {"range": 60}, "epoch": 1})
    try:
        run.drive(nodes.address)
        said = run.ends(1)
    finally:
        nodes.kill(bad)
    assert said.count("is set aside") == 1
    frame = pl.read_parquet(run.folder / "store" / "cells.parquet")
    failed = frame.filter(pl.col("status") == "failed")
    assert 5 <= len(failed) < 30  # a share of what half of the hosts would have failed
    assert failed["error"].str.contains("no driver here").all()
    assert len(frame) == 60
