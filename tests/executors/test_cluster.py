"""What a cluster can grow to, and what a node says that cannot work for this driver."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import raysweep.executors.raytune  # noqa: F401  (sets what Ray reads at import)
from raysweep import __version__
from raysweep.executors import Job, cluster
from raysweep.store import Store


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
