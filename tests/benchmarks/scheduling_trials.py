"""The trials of scheduling.py's rivals: importable, as Tune pickles what is not by value."""

from __future__ import annotations

from typing import Any

from ray import tune
from scheduling import pack


def plain(config: dict[str, Any]) -> None:
    """What a user's first script does."""
    tune.report(pack(config))


class Tuned(tune.Trainable):  # type: ignore[misc]
    """A class whose actors are reused."""

    def setup(self, config: dict[str, Any]) -> None:
        self.own = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.own = new_config
        return True

    def step(self) -> dict[str, Any]:
        return {**pack(self.own), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to keep."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing was kept."""
