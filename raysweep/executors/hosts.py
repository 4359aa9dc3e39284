"""Nodes on which most runs fail while others succeed: a broken driver, a full disk, a missing library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

__all__ = ["Hosts", "is_bad"]

_FEWEST = 5  # failures on a node before it is judged
_SHARE = 0.8  # least share of a bad node's runs that fail
_ELSEWHERE = 0.3  # largest share of the other nodes' runs that may fail: else it is the sweep that is bad
_COMPARED = 5  # least number of runs elsewhere that a node is compared with


@dataclass
class _Tally:
    ok: int = 0
    failed: int = 0


def is_bad(mine: tuple[int, int], others: tuple[int, int]) -> bool:
    """Whether a node is to blame for its failures.

    Args:
        mine: (runs that succeeded, runs that failed) on the node.
        others: The same for all other nodes together.

    Example:
        >>> is_bad((0, 6), (20, 1)), is_bad((0, 6), (0, 6)), is_bad((10, 6), (20, 1))
        (True, False, False)
    """
    failed, total = mine[1], sum(mine)
    if failed < _FEWEST or failed < _SHARE * total or sum(others) < _COMPARED:
        return False
    return others[1] <= _ELSEWHERE * sum(others)


class Hosts:
    """Successes and failures per node. A bad node is set aside: an idle actor occupies its CPUs.

    Args:
        say: Called with a line that names a node which was set aside.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._tallies: dict[str, _Tally] = {}
        self._held: dict[str, Any] = {}

    def saw(self, node: str, ok: int, failed: int) -> None:
        """Runs ended on a node."""
        if not node or not ok + failed:
            return
        tally = self._tallies.setdefault(node, _Tally())
        tally.ok += ok
        tally.failed += failed
        if failed and node not in self._held and self._to_blame(node):
            self._set_aside(node, tally)

    def only(self, node: str) -> bool:
        """Whether no runs have ended on any other node, though there are some that could work."""
        if any(name != node for name in self._tallies):
            return False
        return any(n["Alive"] and n["NodeID"] != node and n["Resources"].get("CPU", 0.0) > 0 for n in ray.nodes())

    def _to_blame(self, node: str) -> bool:
        others = [tally for name, tally in self._tallies.items() if name != node and name not in self._held]
        mine = self._tallies[node]
        return is_bad((mine.ok, mine.failed), (sum(t.ok for t in others), sum(t.failed for t in others)))

    def _set_aside(self, node: str, tally: _Tally) -> None:
        """Occupy the node as soon as its workers let go of it; Ray places nothing more there."""
        found = next((n for n in ray.nodes() if n["NodeID"] == node and n["Alive"]), None)
        if found is None:
            return
        cpus = found["Resources"].get("CPU", 0.0)
        holder = ray.remote(num_cpus=cpus, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))(
            _Holder
        )
        self._held[node] = holder.remote()
        name, total = f"{found['NodeManagerAddress']} ({found['NodeManagerHostname']})", tally.ok + tally.failed
        self._say(
            f"warning: host {name} is set aside: {tally.failed} of {total} runs failed there, and few elsewhere. See "
            "`raysweep status` for the reasons"
        )

    @property
    def aside(self) -> tuple[str, ...]:
        """The ids of nodes that were set aside: their workers run no more packs."""
        return tuple(self._held)


class _Holder:
    """Holds what its node has, and does nothing."""
