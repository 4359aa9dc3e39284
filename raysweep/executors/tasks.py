"""Ray tasks and actors that a run starts itself: without CPUs of their own they would wait for ever."""

from __future__ import annotations

from typing import Any

import ray.actor
import ray.remote_function

from raysweep.errors import PackError

__all__ = ["refuse_tasks"]


def refuse_tasks(cpus: float) -> None:
    """In a worker, refuse tasks that need CPUs at once if none are kept for them; otherwise place them there.

    A run holds all that its trial reserved, and what it starts is placed in the same reservation, which has no room.
    Ray itself waits, and says nothing that a user sees.

    Args:
        cpus: CPUs kept for tasks by `resources.child_cpus`.
    """
    for kind in (ray.remote_function.RemoteFunction, ray.actor.ActorClass):
        submit = getattr(kind, "_remote", None)
        if submit is not None and not hasattr(submit, "raysweep"):
            kind._remote = _guarded(submit, cpus > 0)


def _guarded(submit: Any, room: bool) -> Any:
    def guarded(self: Any, *args: Any, **options: Any) -> Any:
        needs, where = options.get("num_cpus"), options.get("scheduling_strategy")
        if room and isinstance(where, str):  # SPREAD and DEFAULT leave the reservation, and the room in it, behind
            options["scheduling_strategy"] = None
        elif not room and (needs is None or needs > 0) and (where is None or isinstance(where, str)):
            raise PackError(
                "resources.child_cpus: a run that starts Ray tasks or actors must keep CPUs free for them, but is 0: "
                "they would wait for ever. Give e.g. resources: {child_cpus: 2}, or .options(num_cpus=0)"
            )
        return submit(self, *args, **options)

    guarded.raysweep = True  # type: ignore[attr-defined]
    return guarded
