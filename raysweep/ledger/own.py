"""The rows of one sweep among those of a ledger, with what an older raysweep did not record about them.

The key of a run holds its experiment and version, so a sweep's own rows have a known experiment and version also where
they were written before rows were stamped with both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.grid.axes import KindBy
from raysweep.grid.runs import Runs
from raysweep.ledger.remaining import among
from raysweep.ledger.rows import STAMPS, described_kind

__all__ = ["Own"]


@dataclass(frozen=True)
class Own:
    """The rows of one sweep.

    Attributes:
        runs: Every run of its grid; None where it is not known, so that every row counts.
        experiment, version: Stamps of its rows; no name where they are not known.
        kinds: The axes whose kind another axis chooses, and how.
    """

    runs: Runs | None
    experiment: str
    version: int
    kinds: Mapping[str, KindBy]

    def mine(self, cell: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """[cells] whether each belongs to the sweep."""
        return np.ones(len(cell), dtype=bool) if self.runs is None else among(self.runs, cell)

    def schema(self, columns: pa.Schema) -> pa.Schema:
        """The columns of a table of its rows: they have its stamps, and each axis says how its kind is chosen."""
        for name in self._stamps:
            if name not in columns.names:
                columns = columns.append(pa.field(name, STAMPS[name], metadata={"role": "stamp"}))
        for name, kind in self.kinds.items():
            meta = columns.field(name).metadata or {} if name in columns.names else {}
            if meta.get(b"role") == b"axis" and b"kind_by" not in meta:
                at = columns.get_field_index(name)
                ruled = {key.encode(): value.encode() for key, value in described_kind(kind).items()}
                columns = columns.set(at, columns.field(at).with_metadata({**meta, **ruled}))
        return columns

    def completed(self, rows: pa.Table, mine: npt.NDArray[np.bool_] | None = None) -> pa.Table:
        """Rows in the columns of `schema`, with the sweep's stamps where its own rows have none.

        Args:
            mine: [rows] whether each is the sweep's own; all are by default.
        """
        schema, stamps = self.schema(rows.schema), self._stamps
        columns = []
        for field in schema:
            column = rows.column(field.name) if field.name in rows.schema.names else pa.nulls(len(rows), field.type)
            if field.name in stamps and column.null_count:
                missing = pc.is_null(column)
                missing = missing if mine is None else pc.and_(missing, pa.array(mine))
                column = pc.if_else(missing, pa.scalar(stamps[field.name], field.type), column)
            columns.append(column)
        return pa.table(columns, schema=schema)

    @property
    def _stamps(self) -> dict[str, str | int]:
        return {"experiment": self.experiment, "experiment_version": self.version} if self.experiment else {}
