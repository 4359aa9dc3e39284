"""Executors: the same packs, in this process or on Ray. Contract-tested against each other."""

from __future__ import annotations

import os

from raysweep.errors import SweepError, nearest
from raysweep.executors.feed import Feed
from raysweep.executors.inline import Inline
from raysweep.executors.protocol import Executor
from raysweep.executors.work import Job
from raysweep.ledger.rows import Counts

__all__ = ["EXECUTORS", "Counts", "Executor", "Feed", "Inline", "Job", "make_executor"]

EXECUTORS = ("ray", "inline")


def make_executor(name: str, address: str | None = None) -> Executor:
    """An executor by name.

    Args:
        name: `ray` or `inline`.
        address: Address of a running Ray cluster (`auto` finds it); None starts Ray on this machine, on loopback.

    Raises:
        SweepError: unknown name, or an address for an executor that uses no Ray.
    """
    if name == "inline":
        if address is not None:
            raise SweepError(
                f"address names a Ray cluster, but the executor is inline, which runs here; got address={address!r}. "
                "Leave one of them out"
            )
        return Inline()
    if name == "ray":
        if address is None:
            # Both are read by processes that start later: Ray's servers and gloo keep to this machine's loopback.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        from raysweep.executors.raytune import RayExecutor  # ray.tune takes seconds to import

        return RayExecutor(address)
    raise SweepError(f"executor must be one of {', '.join(EXECUTORS)}, but got {name!r}. {nearest(name, EXECUTORS)}")
