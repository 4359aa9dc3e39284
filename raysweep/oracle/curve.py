"""A world's training curve, kept in the store while it grows, so that any process can follow it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from raysweep.errors import LedgerError
from raysweep.store import Store

__all__ = ["Curve"]


@dataclass
class Curve:
    """Writes `curve.json` into a world's folder, one point at a time.

    Training that continues from a checkpoint (a point's `start` is not 0) also continues the existing curve.
    """

    store: Store
    folder: str
    points: list[dict[str, float]] = field(default_factory=list)

    def __call__(self, point: Mapping[str, float]) -> None:
        if not self.points and point.get("start"):
            self.points = [p for p in self._stored() if p["epoch"] < point["epoch"]]
        self.points.append(dict(point))
        self.store.write(f"{self.folder}/curve.json", json.dumps(self.points).encode())

    @property
    def newest(self) -> Mapping[str, float] | None:
        """The last point that any process has written."""
        stored = self._stored()
        return stored[-1] if stored else None

    def _stored(self) -> list[dict[str, float]]:
        try:
            found: list[dict[str, float]] = self.store.read_json(f"{self.folder}/curve.json")
        except LedgerError:  # lost, damaged or not begun: the curve is only shown, and nothing depends on it
            return []
        return found
