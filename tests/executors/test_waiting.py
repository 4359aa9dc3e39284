"""A driver that has nothing to do until another one ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from raysweep.executors.raytune import PackOrder


class Actors:
    """What Tune's controller has of actors that are idle."""

    def __init__(self, idle: int) -> None:
        self.num_total_actors, self._actor_manager = idle, self

    def _cleanup_cached_actors(self, force_all: bool) -> None:
        self.stopping = force_all

    def next(self, timeout: float) -> None:
        assert self.stopping
        self.num_total_actors -= 1


def test_idle_actors_are_let_go_whether_or_not_a_pack_was_ever_begun() -> None:
    feed: Any = SimpleNamespace(blocked=True)
    order, controller = PackOrder(feed), Actors(2)
    order.let_go()  # before Tune has shown its controller: it has no actors
    assert order.choose_trial_to_run(SimpleNamespace(_tune_controller=controller)) is None
    assert controller.stopping
    order.let_go()
    assert controller.num_total_actors == 0
