"""Experiments whose theory breaks one rule each."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from contract_toys import Toy


class Speechless(Toy):
    """A theory without a reason for what it does not say."""

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        return super().theory(cells, metrics).set_column(1, "reason", pa.nulls(len(cells), pa.string()))


class Sorted(Toy):
    """A theory that answers in an order of its own."""

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        return super().theory(cells.sort_by("size"), metrics)


class Unprepared(Toy):
    """A theory that needs a row."""

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        cells["rate"][0]
        return super().theory(cells, metrics)


class Relative(Toy):
    """A theory in units of the smallest value in its table."""

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        least = min(cells["size"].to_pylist(), default=1)
        found = super().theory(cells, metrics)
        return found.set_column(0, "loss", pc.multiply(found["loss"], float(least)))


class Listed(Toy):
    """A theory that needs its metrics in order."""

    def theory(self, cells: pa.Table, metrics: Any) -> pa.Table:
        metrics[0]
        return super().theory(cells, metrics)


class Paired(Toy):
    """A theory that is right only where two metrics are asked for."""

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        found = super().theory(cells, metrics)
        return found.set_column(0, "loss", pc.multiply(found["loss"], float(len(metrics))))


class Written(Toy):
    """A theory in words."""

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        found = super().theory(cells, metrics)
        return found.set_column(0, "loss", found["loss"].cast(pa.string()))


class Misnamed(Toy):
    """A theory of a metric that is called otherwise."""

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        found = super().theory(cells, metrics)
        return found.append_column("los", found["loss"])


class Reasoning(Toy):
    """A theory with a reason beside each of its values."""

    def theory(self, cells: pa.Table, metrics: Collection[str]) -> pa.Table:
        found = super().theory(cells, metrics)
        return found.set_column(1, "reason", pc.coalesce(found["reason"], pa.scalar("by hand")))
