"""A trial: an experiment's packs run in this process, whole and in parts, each row kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.experiment import Context, Experiment, Saved, World, WorldShape
from raysweep.grid.runs import Runs
from raysweep.ledger.remaining import subtract
from raysweep.ledger.rows import Stamp, failure_rows, row_schema, stamp
from raysweep.oracle.recipe import folder_of
from raysweep.pack import Pack, halve, make_pack
from raysweep.plan import make_plan
from raysweep.store import Store
from raysweep.sweep import Sweep

__all__ = ["NO_ROW", "Memory", "Reading", "Trial", "numbers", "ok_rows", "shown"]

NO_ROW = "the experiment yielded no row for this cell"
_ALONE = 6  # runs per pack that are also run alone


@dataclass(frozen=True)
class Reading:
    """The rows that an experiment returned for a pack.

    Attributes:
        rows: Ledger rows; a cell that it yielded twice is here twice.
        given: Type of each column that it yielded.
        raised: The exception that ended it, or "".
    """

    rows: pa.Table
    given: Mapping[str, pa.DataType]
    raised: str

    @cached_property
    def place(self) -> dict[str, int]:
        """Row of each cell."""
        return {cell: i for i, cell in enumerate(self.rows["cell"].to_pylist())}


class Memory:
    """A `Keep` that saves whenever it can, and notes which cells were read before."""

    def __init__(self, saved: Saved | None = None) -> None:
        self.offered, self.was_read = saved, False
        self.cells: list[str] = []
        self.states: list[tuple[bytes, int, tuple[str, ...]]] = []

    @property
    def saved(self) -> Saved | None:
        self.was_read = True
        return self.offered

    def due(self, size: int) -> bool:
        return True

    def save(self, step: int, state: Callable[[dict[str, str]], bytes], stage: int = 0) -> None:
        about = {"step": str(step), "runs": "[]", "world": "", "stage": str(stage)}
        self.states.append((state(about), stage, tuple(self.cells)))


@dataclass
class Trial:
    """One experiment under test, and the results of its runs."""

    experiment: Experiment
    sweep: Sweep
    store: Store
    tolerance: float

    @cached_property
    def world(self) -> World | None:
        """The sweep's world, made in the store."""
        recipe = self.sweep.file.world
        if recipe is None:
            return None
        from raysweep.executors.inline import Inline
        from raysweep.oracle.world import prepare

        folder = folder_of(recipe)
        found, _ = prepare(
            self.store, recipe, lambda function: Inline().train(function, self.store, folder, 1, lambda point: None)
        )
        return found

    @cached_property
    def packs(self) -> list[Pack]:
        return list(make_plan(self.sweep, self.store, slots=1).packs())

    @cached_property
    def keeps(self) -> list[Memory]:
        return [Memory() for _ in self.packs]

    @cached_property
    def whole(self) -> list[Reading]:
        """Each pack, run as planned."""
        return [self.read(pack.runs, keep) for pack, keep in zip(self.packs, self.keeps, strict=True)]

    def read(self, runs: Runs, keep: Memory | None = None) -> Reading:
        """Run a pack. Cells without a row count as failed, as under an executor."""
        keep = keep or Memory()
        schema, by = row_schema(self.experiment), Stamp("contract", 1, "cpu", experiment=self.experiment.name)
        tables: list[pa.Table] = []
        given: dict[str, pa.DataType] = {}
        raised = ""
        context = Context(world=self.world, keep=keep)

        def take(batch: pa.RecordBatch) -> None:
            given.update({field.name: field.type for field in batch.schema})
            tables.append(stamp(batch, runs, schema, by))
            keep.cells += tables[-1]["cell"].to_pylist()

        try:
            for batch in self.experiment.run(runs, context):
                take(batch)
        except Exception as error:
            raised = f"{type(error).__name__}: {error}"
        for batch in context.outbox.drain():
            take(batch)
        missing = subtract(runs, [cell for table in tables for cell in table["cell"].to_pylist()])
        if missing.cells:
            tables.append(failure_rows(missing, schema, by, "failed", raised or NO_ROW))
        return Reading(pa.concat_tables(tables, promote_options="permissive"), given, raised)

    @cached_property
    def parts(self) -> list[tuple[str, Reading, Reading]]:
        """Runs alone and halves of packs: a description, the result in the pack, and the result alone."""
        found = []
        for pack, read in zip(self.packs, self.whole, strict=True):
            chosen = np.unique(np.linspace(0, len(pack) - 1, min(len(pack), _ALONE)).astype(int)).tolist()
            for i in chosen if len(pack) > 1 else []:
                alone = make_pack(pack.runs.take(np.array([i])))
                found.append((f"run {shown(pack.runs, i)} alone", read, self.read(alone.runs)))
            for half in halve(pack) if len(pack) > 2 else ():
                found.append((f"a half of {len(half)} runs", read, self.read(half.runs)))
        return found

    @property
    def world_shape(self) -> WorldShape | None:
        return self.sweep.file.world.shape if self.sweep.file.world else None


def numbers(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """[rows] a column, NaN where it is null."""
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def shown(runs: Runs, i: int) -> str:
    """A run, described by its values of the axes that vary."""
    return str({name: value for name, value in runs.row(i).items() if len(runs.values[name]) > 1})


def ok_rows(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.equal(rows["status"], "ok"))
