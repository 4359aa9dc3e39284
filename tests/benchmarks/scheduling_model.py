"""A driver as one server: what its time per pack costs a cluster, by simulation."""

from __future__ import annotations

import heapq
import random

LATENCY = 0.03  # seconds of one request to an object store, assumed


def overhead(nodes: int, pack: float, service: float, gap: float, rounds: int = 40) -> float:
    """Node time lost, over node time at work, once all nodes are busy.

    Args:
        nodes: Each runs one pack at a time and asks for the next when it ends.
        pack: Mean seconds of a pack; each takes from 0.8 to 1.2 of it.
        service: Seconds of the driver per pack; nodes that ask meanwhile wait in line.
        gap: Seconds from one pack to the next that do not keep the driver busy.
        rounds: Packs a node.
    """
    rng = random.Random(0)
    asks = [rng.uniform(0, pack) for _ in range(nodes)]  # spread out: the start is another question
    heapq.heapify(asks)
    free = work = 0.0
    begin = pack
    end = begin + rounds * pack
    while asks[0] < end:
        asked = heapq.heappop(asks)
        free = max(free, asked) + service
        start, takes = free + gap, pack * rng.uniform(0.8, 1.2)
        work += max(0.0, min(end, start + takes) - max(begin, start))
        heapq.heappush(asks, start + takes)
    return nodes * (end - begin) / work - 1


def limit(share: float, pack: float, service: float, gap: float) -> int:
    """The most nodes with an overhead of at most `share`; 0 where one node has more."""
    low, high = 0, 1
    while overhead(high, pack, service, gap, 10) <= share and high < 1_000_000:
        low, high = high, 2 * high
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        low, high = (middle, high) if overhead(middle, pack, service, gap, 10) <= share else (low, middle)
    return low
