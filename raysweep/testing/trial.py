"""A trial: an experiment's packs run in this process, whole and in parts, each row kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.cost import stated_cost
from raysweep.executors.inline import Inline
from raysweep.experiment import Context, Cost, Experiment, Saved, World, WorldShape
from raysweep.experiments.function import FunctionExperiment
from raysweep.grid.runs import KEY_LENGTH, Observed, Runs
from raysweep.grid.values import Value, canonical
from raysweep.ledger.remaining import subtract
from raysweep.ledger.rows import Stamp, failure_rows, row_schema, stamp
from raysweep.oracle.recipe import folder_of
from raysweep.pack import Pack, halve, make_pack
from raysweep.plan import make_plan
from raysweep.store import Store
from raysweep.sweep import Sweep
from raysweep.testing.forked import forked

__all__ = [
    "NO_ROW",
    "Memory",
    "Reading",
    "Trial",
    "is_number",
    "is_text",
    "numbers",
    "observed_values",
    "ok_rows",
    "shown",
]

NO_ROW = "the experiment yielded no row for this cell"
_ALONE = 6  # runs per pack that are also run alone


@dataclass(frozen=True)
class Reading:
    """The rows that an experiment returned for a pack.

    Attributes:
        rows: Ledger rows; a cell that it yielded twice is here twice.
        given: Type of each column that it yielded.
        raised: The exception that ended it, or "".
        unasked: A row with a value of an observed axis that no cell of the pack has, or None.
        altered: The parts of the pack that run() overwrote.
    """

    rows: pa.Table
    given: Mapping[str, pa.DataType]
    raised: str
    unasked: dict[str, Any] | None = None
    altered: tuple[str, ...] = ()

    @cached_property
    def place(self) -> dict[str, int]:
        """Row of each cell."""
        return {cell: i for i, cell in enumerate(self.rows["cell"].to_pylist())}


class Memory:
    """A `Keep` that saves whenever it can, and notes which cells were read before."""

    lasting = False

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
        unasked: list[dict[str, Any]] = []
        asked = observed_values(runs)
        lent = copy.deepcopy(runs)  # what run() overwrites must not change what is compared
        context = Context(world=self.world, keep=keep)

        def take(batch: pa.RecordBatch) -> None:
            given.update({field.name: field.type for field in batch.schema})
            for name in asked.keys() & {*batch.schema.names} if not unasked else ():
                unasked.extend({name: v} for v in batch.column(name).to_pylist() if canonical(v) not in asked[name])
            tables.append(stamp(batch, runs, schema, by))
            keep.cells += tables[-1]["cell"].to_pylist()

        try:
            for batch in self.experiment.run(lent, context):
                take(batch)
            for batch in context.outbox.drain():
                take(batch)
        except Exception as error:
            raised = f"{type(error).__name__}: {error}"
        missing = subtract(runs, [cell for table in tables for cell in table["cell"].to_pylist()])
        if missing.cells:
            tables.append(failure_rows(missing, schema, by, "failed", raised or NO_ROW))
        rows = pa.concat_tables(tables, promote_options="permissive")
        return Reading(rows, given, raised, unasked[0] if unasked else None, tuple(_differences(runs, lent)))

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

    def cost(self, run: Mapping[str, Value], observed: Observed) -> Cost:
        return stated_cost(self.experiment, run, observed, self.world_shape)

    def costs(self, runs: Runs) -> list[Cost]:
        """The cost of each run."""
        return [self._cost(runs, i) for i in range(len(runs))]

    def _cost(self, runs: Runs, i: int) -> Cost:
        return self.cost(runs.row(i), runs.observed[int(runs.observed_code[i])])

    @cached_property
    def reversed_costs(self) -> list[Cost]:
        """The cost of each of the sweep's runs, where the last is priced first; to be read before anything is priced.

        A forked process prices them, so that what cost() keeps for later does not reach this one.
        """
        runs = self.sweep.runs
        last_first = reversed(range(len(runs)))
        found = forked(lambda: [{n: float(v) for n, v in asdict(self._cost(runs, i)).items()} for i in last_first])
        return [Cost(**one) for one in reversed(found or [])]

    @cached_property
    def few(self) -> list[tuple[Mapping[str, Value], Reading, Runs, Reading]]:
        """Each pack whose runs have several cells, asked only for the most expensive one of each run, and then only for
        the cheapest one: its observed values, the whole pack's result, the runs as asked, and their result.
        """
        found: list[tuple[Mapping[str, Value], Reading, Runs, Reading]] = []
        for pack, read in zip(self.packs, self.whole, strict=True) if self.is_declared else ():
            (observed,), ok = pack.runs.observed, ok_rows(read.rows)
            if observed.count < 2 or not len(ok):
                continue
            name = next((name for name in ("flops", "flops_eval") if name in read.given), None)
            work = np.nan_to_num(numbers(ok, name)) if name else np.arange(len(ok))
            for row in (len(ok) - 1 - int(np.argmax(work[::-1])), int(np.argmin(work))):
                suffix = ok["cell"][row].as_py()[KEY_LENGTH:]
                asked = replace(pack.runs, observed=(observed.only([suffix]),))
                cell = dict(zip(observed.names, observed.cells[suffix], strict=True))
                found.append((cell, read, asked, self.read(asked)))
        return found

    @property
    def is_declared(self) -> bool:
        """Whether the experiment declares its columns and yields the cells asked for: a plain function returns any."""
        return not isinstance(self.experiment, FunctionExperiment)

    @property
    def world_shape(self) -> WorldShape | None:
        return self.sweep.file.world.shape if self.sweep.file.world else None


def observed_values(runs: Runs) -> dict[str, set[Value]]:
    """The values of each observed axis that some run of a pack is asked for."""
    found: dict[str, set[Value]] = {}
    for observed in runs.observed:
        for name in observed.names:
            found.setdefault(name, set()).update(observed.values(name))
    return found


def _differences(one: Runs, other: Runs) -> Iterator[str]:
    """What differs between a pack and its copy."""
    if not np.array_equal(one.keys, other.keys):
        yield "keys"
    for name, code in one.codes.items():
        if not np.array_equal(code, other.codes.get(name, [])) or one.values[name] != other.values.get(name):
            yield f"the values of {name}"
    if not np.array_equal(one.observed_code, other.observed_code) or one.observed != other.observed:
        yield "observed"


def numbers(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """[rows] a column, NaN where it is null."""
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def is_number(type_: pa.DataType) -> bool:
    """Whether a column of this type holds numbers or nulls."""
    return bool(pa.types.is_floating(type_) or pa.types.is_integer(type_) or pa.types.is_null(type_))


def is_text(type_: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def shown(runs: Runs, i: int) -> str:
    """A run, described by its values of the axes that vary."""
    return str({name: value for name, value in runs.row(i).items() if len(runs.values[name]) > 1})


def ok_rows(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.equal(rows["status"], "ok"))
