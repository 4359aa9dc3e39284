"""The contract of an experiment, as a test: what planning, packing, the ledger and fits take for granted.

Call it in a test of your own, with a small sweep (seconds of work) that varies what matters: several lanes, sizes that
cost differently, two times if time is an axis, and a run that diverges or fails if there is such a run:

    def test_my_experiment() -> None:
        sweep = from_mapping({"name": "t", "experiment": "my_module:MyExperiment", "grid": {...}})
        check_experiment(sweep.experiment, sweep)

Everything runs in this process, as under the inline executor, but for one fresh process that plans the sweep.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.errors import ContractError, SweepError, tail
from raysweep.experiment import Context, Cost, Experiment, Saved, TheoryExperiment, World
from raysweep.grid.axes import Axis, KindBy
from raysweep.grid.runs import Runs
from raysweep.grid.values import Json, Value
from raysweep.laws.column import of_schema, of_text
from raysweep.laws.points import points
from raysweep.ledger.log import Ledger, sequence
from raysweep.ledger.remaining import subtract
from raysweep.ledger.rows import COLUMNS, STATUSES, Stamp, failure_rows, row_schema, stamp
from raysweep.oracle.recipe import shape_of
from raysweep.pack import Pack, halve, make_pack, shape_groups
from raysweep.plan import make_plan
from raysweep.store import Store
from raysweep.sweep import Sweep

__all__ = ["check_experiment"]

_ALONE = 6  # runs of a pack that are run alone, too
_HEAVY = ("torch", "ray", "polars")
_PLAN = """
import json, sys, traceback
asked = json.load(sys.stdin)
sys.path[:] = asked["path"]
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in asked["heavy"]:
            files = [f.filename for f in traceback.extract_stack()[:-1] if "importlib" not in f.filename]
            print(f"{name} (by {files[-1]})")
sys.meta_path.insert(0, Watch())
import tempfile
from pathlib import Path
from raysweep.plan import make_plan
from raysweep.store import Store
from raysweep.sweep import from_mapping
sweep = from_mapping(asked["sweep"], "sweep", [Path(folder) for folder in asked["folders"]])
make_plan(sweep, Store(tempfile.mkdtemp()), 1)
"""


def check_experiment(experiment: Experiment, sweep: Sweep, tolerance: float = 1e-9) -> None:
    """Check an experiment against all that raysweep takes for granted of one.

    * cost: what a plan says a mixed pack takes is what its runs cost one by one, and no less than its rows report.
    * imports: planning imports neither torch nor Ray nor Polars (of an experiment that the sweep names; what was given
      as a Python object is not imported again).
    * rows: every cell asked for comes back exactly once, with a number or null for each declared metric.
    * isolation: a run that raises or diverges leaves the others of its pack as they are.
    * packing: a run gives the same rows alone, in a pack and in a halved pack.
    * resume: so it does from a saved state, where the experiment keeps one.
    * kind: the ledger says what kind an axis is in each cell, and no fit pools values of an axis that nobody named.
    * theory: where there is one, every row gets a value or a reason, in whatever order rows come.

    Args:
        experiment: It.
        sweep: A small sweep of it, e.g. by `raysweep.sweep.from_mapping`.
        tolerance: How far two readings of a metric may lie apart, relative to the larger of them and of the metric's
            median. 1e-9 suits float64; single precision takes about 1e-4.

    Raises:
        ContractError: the rules that are broken, with the values and what to do about it.
    """
    if (sweep.experiment.name, sweep.experiment.version) != (experiment.name, experiment.version):
        raise ContractError(
            f"check_experiment: the sweep must be of the experiment, but is of {sweep.experiment.name} (version "
            f"{sweep.experiment.version}), not of {experiment.name} (version {experiment.version})"
        )
    with tempfile.TemporaryDirectory(prefix="raysweep-") as folder:
        trial = _Trial(experiment, replace(sweep, experiment=experiment), Store(folder), tolerance)
        broken = [
            f"{rule}: {said}"
            for rule, check in (
                ("cost", trial.costs),
                ("imports", trial.imports),
                ("rows", trial.rows),
                ("", trial.packing),
                ("resume", trial.resuming),
                ("kind", trial.kinds),
                ("theory", trial.theory),
            )
            for said in _said(check)
        ]
    if broken:
        lines = "\n".join(f"- {line.removeprefix(': ')}" for line in dict.fromkeys(broken))
        raise ContractError(f"experiment {experiment.name}: {len(broken)} rules of an Experiment are broken:\n{lines}")


def _said(check: Callable[[], Iterable[str]]) -> Iterator[str]:
    """What a check finds; an exception of the experiment's is a finding, too."""
    try:
        yield from check()
    except Exception:
        yield f"must not raise, but did:\n{tail(traceback.format_exc(), 6)}"


@dataclass(frozen=True)
class _Read:
    """What an experiment made of a pack.

    Attributes:
        rows: Ledger rows; a cell that it yielded twice is here twice.
        given: Names of the columns that it yielded.
        raised: What ended it, or "".
    """

    rows: pa.Table
    given: frozenset[str]
    raised: str

    @cached_property
    def place(self) -> dict[str, int]:
        """Row of each cell."""
        return {cell: i for i, cell in enumerate(self.rows["cell"].to_pylist())}


class _Memory:
    """A `Keep` that saves whenever it can, and notes which cells were read before."""

    def __init__(self, saved: Saved | None = None) -> None:
        self.offered, self.was_read = saved, False
        self.cells: list[str] = []
        self.states: list[tuple[bytes, tuple[str, ...]]] = []

    @property
    def saved(self) -> Saved | None:
        self.was_read = True
        return self.offered

    def due(self, size: int) -> bool:
        return True

    def save(self, step: int, state: Callable[[dict[str, str]], bytes]) -> None:
        self.states.append((state({"step": str(step), "runs": "[]", "world": ""}), tuple(self.cells)))


@dataclass
class _Trial:
    """One experiment under test, and what its runs gave."""

    experiment: Experiment
    sweep: Sweep
    store: Store
    tolerance: float

    @cached_property
    def world(self) -> World | None:
        """The sweep's world, made in the store."""
        if self.sweep.file.world is None:
            return None
        from raysweep.executors.inline import Inline
        from raysweep.oracle.world import prepare

        found, _ = prepare(
            self.store,
            self.sweep.file.world,
            lambda flow: Inline().train_flow(flow, self.store, 1, lambda point: None),
        )
        return found

    @cached_property
    def packs(self) -> list[Pack]:
        return list(make_plan(self.sweep, self.store, slots=1).packs())

    @cached_property
    def keeps(self) -> list[_Memory]:
        return [_Memory() for _ in self.packs]

    @cached_property
    def whole(self) -> list[_Read]:
        """Each pack, run as planned."""
        return [self.read(pack.runs, keep) for pack, keep in zip(self.packs, self.keeps, strict=True)]

    def read(self, runs: Runs, keep: _Memory | None = None) -> _Read:
        """Run a pack. Cells without a row are failed, as an executor would say."""
        keep = keep or _Memory()
        schema, by = row_schema(self.experiment), Stamp("contract", 1, "cpu", experiment=self.experiment.name)
        tables: list[pa.Table] = []
        given: set[str] = set()
        raised = ""
        context = Context(world=self.world, keep=keep)

        def take(batch: pa.RecordBatch) -> None:
            tables.append(stamp(batch, runs, schema, by))
            keep.cells += tables[-1]["cell"].to_pylist()
            given.update(batch.schema.names)

        try:
            for batch in self.experiment.run(runs, context):
                take(batch)
        except Exception as error:
            raised = f"{type(error).__name__}: {error}"
        for batch in context.outbox.drain():
            take(batch)
        missing = subtract(runs, [cell for table in tables for cell in table["cell"].to_pylist()])
        if missing.cells:
            reason = raised or "the experiment yielded no row for this cell"
            tables.append(failure_rows(missing, schema, by, "failed", reason))
        return _Read(pa.concat_tables(tables, promote_options="permissive"), frozenset(given), raised)

    def cost_of(self, runs: Runs, i: int) -> Cost:
        world = shape_of(self.sweep.file.world) if self.sweep.file.world else None
        return self.experiment.cost(runs.row(i), runs.observed[int(runs.observed_code[i])], world)

    def costs(self) -> Iterator[str]:
        """The plan against its runs, one by one; then against two runs that differ in one lane."""
        runs = self.sweep.runs
        yield from self._priced(runs, "the sweep's runs")
        for name, axis in self.sweep.axes.items():
            first = runs.row(0)
            if axis.kind_for(first) == "lane" and (other := _other(axis, first.get(name))) is not None:
                both = _doubled(runs, name, other)
                try:
                    self.experiment.check(both, shape_of(self.sweep.file.world) if self.sweep.file.world else None, 0)
                except SweepError:
                    continue  # such a run makes no sense
                yield from self._priced(both, f"two runs with {name}={first[name]} and {name}={other}")
        for pack, read in zip(self.packs, self.whole, strict=True):
            yield from self._reported(pack.runs, read)

    def _priced(self, runs: Runs, which: str) -> Iterator[str]:
        world = shape_of(self.sweep.file.world) if self.sweep.file.world else None
        groups = shape_groups(runs, self.sweep.axes, lambda run, observed: self.experiment.cost(run, observed, world))
        each = [self.cost_of(runs, i) for i in range(len(runs))]
        for name in ("flops", "flops_eval"):
            planned = sum(len(g.index) * getattr(g.cost, name) for g in groups)
            summed = sum(getattr(c, name) for c in each)
            if not np.isclose(planned, summed, rtol=1e-9):
                yield (
                    f"a plan's {name} must be the sum over its runs, but {which} are planned at {planned:.6g} and cost "
                    f"{summed:.6g}. Let cost() be a function of its arguments alone"
                )
        for group in groups:
            most = max(each[i].bytes for i in group.index.tolist())
            if group.cost.bytes < most * (1 - 1e-9):
                yield (
                    f"bytes of a lane must bound every lane of the pack, but {which} are planned at "
                    f"{group.cost.bytes:.6g} and take up to {most:.6g}. Let cost() be a function of its arguments alone"
                )

    def _reported(self, runs: Runs, read: _Read) -> Iterator[str]:
        """What rows say they took, where they say it, against what was planned for them."""
        for name in {"flops", "flops_eval"} & read.given:
            frame = read.rows.filter(pc.equal(read.rows["status"], "ok")).group_by("run").aggregate([(name, "max")])
            said = dict(zip(frame["run"].to_pylist(), frame[f"{name}_max"].to_pylist(), strict=True))
            for i in range(len(runs)):
                found, planned = said.get(runs.key(i)), getattr(self.cost_of(runs, i), name)
                one = runs.observed[int(runs.observed_code[i])].count == 1  # no branches of a schedule, no other times
                if found is None or (found <= planned * (1 + 1e-6) and not (one and found < planned * (1 - 1e-6))):
                    continue
                yield (
                    f"cost() must state the {name} that a run's rows report, but run {_shown(runs, i)} reports "
                    f"{found:.6g} and cost() states {planned:.6g}. Work out both in one function"
                )
                break

    def imports(self) -> Iterator[str]:
        """A fresh process plans the sweep, and says which heavy packages that took."""
        if self.sweep.given is not None:
            return
        asked = {
            "sweep": self.sweep.file.model_dump(mode="json", exclude_unset=True),
            "folders": [str(folder.absolute()) for folder in self.sweep.folders],
            "path": [str(Path(entry).absolute()) for entry in sys.path],
            "heavy": _HEAVY,
        }
        if self.sweep.file.command:
            del asked["sweep"]["experiment"]
        done = subprocess.run(
            [sys.executable, "-c", _PLAN], input=json.dumps(asked), capture_output=True, text=True, check=False
        )
        for line in done.stdout.splitlines():
            yield (
                f"planning must import none of {', '.join(_HEAVY)}, but imports {line}. Import it inside run(), where "
                "it is used"
            )
        if done.returncode:
            yield f"a fresh process must be able to plan the sweep, but could not:\n{tail(done.stderr, 6)}"

    def rows(self) -> Iterator[str]:
        """Every cell once, typed and whole."""
        for pack, read in zip(self.packs, self.whole, strict=True):
            cells = read.rows["cell"].to_pylist()
            if len(cells) > len(set(cells)):
                (twice,) = {cell for cell in cells if cells.count(cell) > 1}.__iter__().__next__(),
                yield (
                    f"every cell must come back once, but of {pack.runs.cells} cells {len(cells) - len(set(cells))} "
                    f"rows are repeated, e.g. {_cell(read.rows, cells.index(twice), self.sweep.axes)}. Yield each once"
                )
            failed = read.rows.filter(pc.equal(read.rows["status"], "failed"))
            silent = failed.filter(pc.match_substring(failed["error"], "yielded no row"))
            if len(silent):
                yield (
                    f"every cell asked for must come back, but {len(silent)} of {pack.runs.cells} do not, e.g. "
                    f"{_cell(silent, 0, self.sweep.axes)}. Yield a row for every value in `pack.observed`"
                )
            yield from self._typed(read)
        rows = pa.concat_tables([read.rows for read in self.whole], promote_options="permissive")
        ok = rows.filter(pc.equal(rows["status"], "ok"))
        if not len(ok):
            yield f"some run of the sweep must end ok, but none does, e.g. {rows['error'][0].as_py()!r}"
        for metric in self.experiment.metrics if len(ok) else ():
            if ok[metric.name].null_count == len(ok):
                yield f"every metric must be measured somewhere, but {metric.name} is null in all {len(ok)} rows"

    def _typed(self, read: _Read) -> Iterator[str]:
        for metric in self.experiment.metrics:
            if read.given and metric.name not in read.given:
                yield f"every declared metric must be yielded, but {metric.name} is not. Yield it, or do not declare it"
        for column in (f for f in read.rows.schema if pa.types.is_floating(f.type)):
            ok = read.rows.filter(pc.equal(read.rows["status"], "ok"))[column.name].drop_null()
            if not pc.all(pc.is_finite(ok)).as_py():
                yield f"a row that is ok must hold finite numbers or null, but {column.name} holds NaN or infinity"
        for status, error in {
            (s, bool(e)) for s, e in zip(read.rows["status"].to_pylist(), read.rows["error"].to_pylist(), strict=True)
        }:
            if status not in STATUSES:
                yield f"a row's status must be one of {', '.join(STATUSES)}, but is {status!r}"
            elif status != "ok" and not error:
                yield f"a row that is {status} must say why in the column `error`, but does not"

    def packing(self) -> Iterator[str]:
        """Runs alone and in halves against the pack."""
        for pack, read in zip(self.packs, self.whole, strict=True):
            chosen = np.unique(np.linspace(0, len(pack) - 1, min(len(pack), _ALONE)).astype(int)).tolist()
            for i in chosen if len(pack) > 1 else []:
                alone = make_pack(pack.runs.take(np.array([i])))
                yield from self._same(read, self.read(alone.runs), f"run {_shown(pack.runs, i)} alone", "packing")
            for half in halve(pack) if len(pack) > 2 else ():
                yield from self._same(read, self.read(half.runs), f"a half of {len(half)} runs", "packing")

    def resuming(self) -> Iterator[str]:
        """From every second saved state on, the whole pack and its last run; only what was not read before."""
        for pack, read, keep in zip(self.packs, self.whole, self.keeps, strict=True):
            for state, done in keep.states[:: max(1, len(keep.states) // 2)]:
                for index in {(*range(len(pack)),), (len(pack) - 1,)}:
                    left = subtract(pack.runs.take(np.array(index)), done)
                    rows = {pack.runs.key(i): i for i in range(len(pack))}
                    saved = Saved(state, [rows[left.key(i)] for i in range(len(left))], len(pack))
                    memory = _Memory(saved)
                    if not len(left):
                        continue
                    resumed = self.read(left, memory)
                    for said in self._same(read, resumed, f"{len(left)} runs resumed from a saved state", "resume"):
                        yield said.removeprefix("resume: ")
                    if not memory.was_read:
                        yield "a state that is saved must be read by a later try, but `context.keep.saved` is not asked"

    def _same(self, whole: _Read, part: _Read, which: str, rule: str) -> Iterator[str]:
        """The first column in which some rows of a pack differ from those that the whole pack gave."""
        at = pa.array([whole.place[cell] for cell in part.rows["cell"].to_pylist()])
        before, after = whole.rows.take(at), part.rows
        for one, other in zip(before["status"].to_pylist(), after["status"].to_pylist(), strict=True):
            if one != other:
                why = whole.raised if one == "failed" else part.raised
                yield (
                    f"isolation: a run must end as it does beside others, but {which} is {other}, in its pack {one}"
                    f"{f' ({why})' if why else ''}. Catch what one run raises, and give its rows a status and an error"
                )
                return
        for name in ("flops", "flops_eval", *(metric.name for metric in self.experiment.metrics)):
            if name not in after.schema.names or name not in before.schema.names:
                continue
            one, other = _numbers(before, name), _numbers(after, name)
            scale = np.maximum(np.abs(one), np.abs(other))
            usual = np.nanmedian(np.abs(_numbers(whole.rows, name))) if np.isfinite(one).any() else 0.0
            apart = np.abs(one - other) > self.tolerance * np.maximum(scale, usual)
            if (apart | (np.isnan(one) != np.isnan(other))).any():
                i = int(np.argmax(apart | (np.isnan(one) != np.isnan(other))))
                yield (
                    f"{rule}: {which} must give the rows of its whole pack to {self.tolerance:g}, but {name} is "
                    f"{other[i]!r} instead of {one[i]!r} at {_cell(after, i, self.sweep.axes)}. A run may depend on its "
                    "own axes alone: key random numbers by its seed, not by its place in the pack"
                )
                return

    def kinds(self) -> Iterator[str]:
        """What the ledger says of axes, and what a fit makes of that."""
        runs = self.sweep.runs
        ledger = Ledger(self.store)
        for read in self.whole:
            ledger.append(read.rows, next(sequence()))
        table = ledger.scan().table
        cells = [runs.row(i) for i in range(len(runs))]
        text = str(table[COLUMNS][0].as_py())
        for where, columns in (("metadata", of_schema(table.schema)), ("text", of_text(text, table.schema.names))):
            for name, axis in self.sweep.axes.items():
                ruled = isinstance(axis.kind, KindBy)
                tried = [*cells, *({axis.kind.axis: v} for v in axis.kind.kinds)] if isinstance(axis.kind, KindBy) else cells[:1]
                for cell in tried:
                    if columns[name].kind_for(cell) != axis.kind_for(cell):
                        given = {axis.kind.axis: cell.get(axis.kind.axis)} if isinstance(axis.kind, KindBy) else {}
                        yield (
                            f"the ledger's {where} must say that {name} is {axis.kind_for(cell)} where {given}, but says "
                            f"{columns[name].kind_for(cell)}"
                        )
                        break
        yield from self._pooled(table, dict(zip(map(runs.key, range(len(runs))), cells, strict=True)))

    def _pooled(self, table: pa.Table, cells: Mapping[str, Mapping[str, Value]]) -> Iterator[str]:
        """A fit in which no axis is named: each group it makes may hold one value of every axis but seeds, and of what
        is observed in its runs.
        """
        ok = table.filter(pc.equal(table["status"], "ok"))
        ok = ok.append_column("contract_x", pa.array(np.ones(len(ok))))
        ok = ok.append_column("contract_y", pa.array(np.arange(1.0, len(ok) + 1)))  # differs in every row
        fitted = points(ok, "contract_x", "contract_y")
        for part in fitted.parts:
            rows = fitted.of(part.group)
            for name, axis in self.sweep.axes.items():
                if axis.role == "seed" or name not in rows.columns:
                    continue
                owners = zip(rows[name].to_list(), rows["run"].to_list(), strict=True)
                pooled = {value for value, run in owners if axis.kind_for(cells[run]) != "observed"}
                if len(pooled) > 1:
                    yield (
                        f"a fit that does not name {name} must take each of its values by itself where it is no "
                        f"observed axis, but pools {sorted(map(str, pooled))}. Give the axis its kind in every cell"
                    )
                    return

    def theory(self) -> Iterator[str]:
        """The theory of all cells, of them shuffled and twice, and of none."""
        if not isinstance(self.experiment, TheoryExperiment):
            return
        names = [axis.name for axis in self.experiment.axes if axis.role != "seed"]
        cells = pa.concat_tables([read.rows.select(names) for read in self.whole])
        metrics = [metric.name for metric in self.experiment.metrics]
        order = np.random.default_rng(0).permutation(np.tile(np.arange(len(cells)), 2))
        whole = self.experiment.theory(cells, metrics)
        yield from _answered(whole, len(cells), metrics)
        mixed = self.experiment.theory(cells.take(pa.array(order)), metrics)
        for said in _answered(mixed, len(order), metrics):
            yield f"of shuffled and repeated cells: {said}"
        if len(mixed) == len(order) and len(whole) == len(cells):
            for name in set(metrics) & set(whole.schema.names) & set(mixed.schema.names):
                one, other = _numbers(whole, name)[order], _numbers(mixed, name)
                if not np.allclose(one, other, rtol=1e-9, atol=0, equal_nan=True):
                    yield (
                        f"a cell's theory must not depend on the other cells, but {name} changes when they are shuffled"
                    )
        for said in _answered(self.experiment.theory(cells.slice(0, 0), metrics), 0, metrics):
            yield f"of no cells: {said}"


def _answered(found: Any, rows: int, metrics: Sequence[str]) -> Iterator[str]:
    """What is wrong with the answers of a theory."""
    if not isinstance(found, pa.Table) or len(found) != rows or "reason" not in found.schema.names:
        size = f"{len(found)} rows of {found.schema.names}" if isinstance(found, pa.Table) else repr(type(found))
        yield f"theory() must return a table of {rows} rows with a column `reason`, but returns {size}"
        return
    values = [np.isfinite(_numbers(found, name)) for name in metrics if name in found.schema.names]
    reasoned = np.array([bool(reason) for reason in found["reason"].to_pylist()], dtype=bool)
    silent = ~(np.all(values, axis=0) if values else np.zeros(rows, dtype=bool)) & ~reasoned
    if silent.any():
        yield (
            f"every row must have a value or a reason, but {silent.sum()} of {rows} have neither, e.g. row "
            f"{int(np.argmax(silent))}. Say in `reason` why there is no value"
        )


def _numbers(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """[rows] a column, NaN where it is null."""
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def _shown(runs: Runs, i: int) -> str:
    """A run by what tells it from the others."""
    return str({name: value for name, value in runs.row(i).items() if len(runs.values[name]) > 1})


def _cell(rows: pa.Table, i: int, axes: Mapping[str, Axis]) -> str:
    return str({name: rows[name][i].as_py() for name, axis in axes.items() if name in rows.schema.names and len(rows[name].unique()) > 1})


def _other(axis: Axis, value: Value | None) -> Value | None:
    """Another value that a lane may take; None where there is no telling."""
    if axis.type is Json or value is None:
        return None
    tried: list[Any] = [v for v in axis.choices if v != value]
    if isinstance(value, bool):
        tried = [not value]
    elif isinstance(value, int | float) and not tried:
        tried = [value * 2, value * 8, value + 1, value / 2, axis.low, axis.high]
    for other in tried:
        try:
            parsed = axis.parse(other, "contract")
        except SweepError:
            continue
        if parsed != value:
            return parsed
    return None


def _doubled(runs: Runs, name: str, other: Value) -> Runs:
    """The first run twice, with another value of one axis; the axes that follow it stay."""
    two = runs.take(np.array([0, 0]))
    values = {**two.values, name: (two.row(0)[name], other)}
    return replace(two, values=values, codes={**two.codes, name: np.array([0, 1])})
