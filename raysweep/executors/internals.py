"""The parts of Ray's and Ray Tune's private interface that we use, in one place.

Tune has no public way to release cached actors during a run, nor to forget a trial that ended. Without the first, a
driver that waits for another one keeps the CPUs that the other needs. Without the second, each of 10,000 packs costs
35 KB for good and 6 ms at the end. Ray has no public way to ask where a node keeps its workers' logs, nor what it would
find on this machine before it is started, nor a public name for the error of a trainer that found no room, nor a way
to keep Tune from counting callbacks. Seen to work with Ray 2.60.0; `tests/executors/test_internals.py` fails on a Ray
that lacks one of these names, and pyproject.toml bounds the version.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray._raylet import PlacementGroupID
from ray.air._internal import usage
from ray.util.placement_group import PlacementGroup

__all__ = [
    "forget",
    "had_no_room",
    "inside",
    "own_logs",
    "own_resources",
    "release_actors",
    "remove_group",
    "uncounted",
    "wait_for_actors",
]


def own_logs(node: str) -> str:
    """The folder with the logs of this driver's own node, or "" if `node` is another one."""
    if node != ray.get_runtime_context().get_node_id():
        return ""
    own = ray._private.worker.global_worker.node
    return str(own.get_logs_dir_path()) if own is not None else ""


def own_resources() -> dict[str, float]:
    """CPUs and GPUs that Ray will find on this machine."""
    found = ResourceAndLabelSpec().resolve(is_head=True, node_ip_address="127.0.0.1")
    return {"CPU": float(found.num_cpus), "GPU": float(found.num_gpus)}


def had_no_room(error: BaseException | None) -> bool:
    """Whether a trainer ended because there was no room for its workers within its time."""
    from ray.train import ControllerError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupTimeoutError)


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """Meanwhile Tune does not count kinds of callbacks for Ray's usage statistics, which are off: to do so it imports
    MLflow, W&B and Comet, where they are installed, which takes a second or more."""
    before = usage.tag_callbacks
    usage.tag_callbacks = lambda callbacks: False
    try:
        yield
    finally:
        usage.tag_callbacks = before


def inside(controller: Any) -> Any:
    """The TuneController itself: a scheduler is handed a wrapper that warns about private attributes."""
    return controller._tune_controller


def remove_group(group: str) -> None:
    """Remove the placement group that a trainer left whose trial died suddenly; Ray Train's own watch over it needs a
    dashboard. A group that is gone stays so."""
    ray.util.remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))


def release_actors(controller: Any) -> None:
    """Stop all actors that Tune keeps for the next trial, as it does at the end of a run."""
    controller._cleanup_cached_actors(force_all=True)


def wait_for_actors(controller: Any, seconds: float) -> None:
    """Wait until every actor has stopped, `seconds` at most; only while no trial is running or waits to."""
    actors, until = controller._actor_manager, time.monotonic() + seconds
    while actors.num_total_actors and time.monotonic() < until:
        actors.next(timeout=0.1)


def forget(trial: Any) -> None:
    """Empty a trial that ended, which stays in Tune's list: its pack, the statistics that Tune keeps on it, and its
    part of the state that Tune writes at the end for a restore that never happens.
    """
    trial.config.clear()
    trial.evaluated_params = {}
    trial.run_metadata.metric_analysis, trial.run_metadata.metric_n_steps = {}, {}
    trial.get_json_state = lambda: ("{}", "{}")
