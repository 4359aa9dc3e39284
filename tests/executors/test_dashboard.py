"""Where the Ray that a driver uses has a dashboard, whoever asks for the store's status is told where it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import FUNCTION_SWEEP

from raysweep.executors import Job, raytune
from raysweep.executors.raytune import RayExecutor, ray
from raysweep.store import Store
from raysweep.store.leases import drivers, hold
from raysweep.sweep import Sweep


@pytest.mark.parametrize(("told", "shown"), [("10.0.0.2:8265", "http://10.0.0.2:8265"), ("", ""), (None, "")])
@pytest.mark.parametrize("connected", [False, True])
def test_the_heartbeat_tells_where_the_dashboard_is(
    told: str | None,
    shown: str,
    connected: bool,
    tmp_path: Path,
    make_sweep: Callable[..., Sweep],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: connected)
    monkeypatch.setattr(ray, "init", lambda **given: SimpleNamespace(dashboard_url=told))
    monkeypatch.setattr(raytune, "resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(raytune, "room", lambda job: 2)
    monkeypatch.setattr(raytune, "check_nodes", lambda job: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    sweep, store, executor = make_sweep(FUNCTION_SWEEP), Store(str(tmp_path / "store")), RayExecutor("auto")
    job = Job("{}", sweep.path, (), store, "", "", cpus=1.0, gpus=0.0)
    with executor.session(job, tmp_path / "ray.log"), hold(store, executor.dashboard):
        (driver,) = drivers(store)
    assert driver["dashboard"] == shown
