"""What a cluster can grow to, and what a node says that cannot work for this driver."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import raysweep.executors.raytune  # noqa: F401  (sets what Ray reads at import)
from raysweep import __version__
from raysweep.executors import Job, cluster
from raysweep.store import Store

HEAD, WORKS, GONE = (digit * 56 for digit in "abc")  # ids of nodes


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (None, {"CPU": 4.0}),
        ({"CPU": 132, "GPU": 16}, {"CPU": 132.0, "GPU": 16.0}),
        ({"CPU": 2, "GPU": 0}, {"CPU": 4.0}),  # never less than what is here
        ({"GPU": sys.maxsize}, {"CPU": 4.0}),  # no limit is no promise
    ],
)
def test_what_the_autoscaler_may_add_counts(
    limits: dict[str, int] | None, expected: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(cluster.ray._private.state.state, "get_max_resources_from_cluster_config", lambda: limits)
    assert cluster.resources() == expected


def test_a_node_says_why_it_cannot_work(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("store.json", b"mine")
    job = Job("{}", "sweep", (), store, "", "mine", 1.0, 0.0)
    assert cluster._look(job, __version__) == ""
    assert "must be the driver's version, 9.9, but is" in cluster._look(job, "9.9")
    (tmp_path / "store.json").write_text("another")
    assert "sees another. Give --store a folder that all hosts share" in cluster._look(job, __version__)
    (tmp_path / "store.json").unlink()
    assert "sees none" in cluster._look(job, __version__)


@pytest.mark.parametrize(("workers", "asked"), [(1, [WORKS]), (2, [HEAD, WORKS])])
def test_a_head_without_cpus_is_asked_only_where_it_holds_trials(
    workers: int, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    class Look:
        def options(self, scheduling_strategy: NodeAffinitySchedulingStrategy) -> Look:
            found.append(scheduling_strategy.node_id)
            return self

        def remote(self, *given: object) -> str:
            return ""

    alive = [(HEAD, {}, True), (WORKS, {"CPU": 1.0}, True), (GONE, {"CPU": 1.0}, False)]
    nodes = [{"NodeID": name, "Resources": held, "Alive": lives} for name, held, lives in alive]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(cluster.ray, "remote", lambda **given: lambda function: Look())
    monkeypatch.setattr(cluster.ray, "wait", lambda tasks, **given: (tasks, []))
    monkeypatch.setattr(cluster.ray, "get", lambda task: task)
    cluster.check_nodes(Job("{}", "sweep", (), Store(str(tmp_path)), "", "", 1.0, 0.0, workers=workers))
    assert found == asked
