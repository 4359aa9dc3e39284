"""A running Ray cluster: how large it can grow, and whether all its nodes can work for this driver."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysweep import __version__
from raysweep.errors import LedgerError, PackError, RaysweepError
from raysweep.executors.work import Job, check_store
from raysweep.sweep import from_mapping

__all__ = ["check_nodes", "nodes", "resources", "room"]

_PATIENCE = 120.0  # seconds for a node to answer; one that does not may be gone, and packs are checked again


def nodes() -> list[str]:
    """Ids of the nodes that are alive."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


def resources() -> dict[str, float]:
    """CPUs and GPUs that are here or may be added by the autoscaler: a cloud cluster starts with its head alone."""
    found: dict[str, float] = dict(ray.cluster_resources())
    limits = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    for name, most in limits.items():
        if 0 < most < sys.maxsize:  # a node type without a limit promises nothing
            found[name] = max(found.get(name, 0.0), float(most))
    return found


def room(job: Job) -> int:
    """How many packs, with all of their workers, there is room for at a time, on the nodes that are alive now; at least
    one: where not even that has room, it waits for a node to come back."""
    total = resources()
    cpus, gpus = job.cpus * job.workers, job.gpus * job.workers
    by_cpu = total.get("CPU", 1.0) / cpus
    return max(1, int(min(by_cpu, total.get("GPU", 0.0) / gpus) if gpus else by_cpu))


def check_nodes(job: Job) -> None:
    """Refuse, before anything is spent, a cluster with a node that cannot work for this driver.

    Nodes without CPUs get no packs, as the head of many a cluster: unless several workers train a pack, whose trial is
    on the head, they are not asked, and need not see the store.

    Raises:
        PackError: a node sees another store, or has another raysweep or none.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    if len(alive) < 2:  # the driver's own
        return
    asked = [n["NodeID"] for n in alive if job.workers > 1 or n["Resources"].get("CPU", 0.0) > 0]
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    tasks = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(job, __version__)
        for node in asked
    ]
    ready, late = ray.wait(tasks, num_returns=len(tasks), timeout=_PATIENCE)
    for task in late:
        ray.cancel(task, force=True)
    for task in ready:
        try:
            reason = ray.get(task)
        except ray.exceptions.RayTaskError as error:
            said = str(error.cause or error).strip().splitlines()[-1]
            raise PackError(f"ray: raysweep cannot be imported on a node: {said}. See cluster/README.md") from error
        except ray.exceptions.RayError:  # the node died in the meantime
            continue
        if reason:
            raise PackError(reason)


def _look(job: Job, version: str) -> str:
    """Why packs cannot run on this node, or ""."""
    if __version__ != version:
        return f"raysweep on host {socket.gethostname()} must be the driver's version, {version}, but is {__version__}"
    try:
        try:
            check_store(job.store, job.token)
        except LedgerError:  # its file system may be one that the user's module brings
            _ = from_mapping(json.loads(job.sweep), job.path, [Path(f) for f in job.folders]).experiment
            check_store(job.store, job.token)
    except RaysweepError as error:
        return str(error)
    return ""
