"""Trials as ledger rows, under the keys that a run of the sweep would give them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from raysweep.errors import StudyError, SweepError, nearest
from raysweep.experiments.function import FunctionExperiment
from raysweep.experiments.returned import flattened, matched, not_finite, renamed, snapped
from raysweep.grid.axes import Axis
from raysweep.grid.enumeration import enumerate_runs
from raysweep.grid.runs import KEY_LENGTH, Observed, Runs
from raysweep.grid.terms import Table
from raysweep.grid.values import Value
from raysweep.imports.matching import Matched, Wanted, parameters
from raysweep.imports.trial import Study
from raysweep.ledger.remaining import locate
from raysweep.ledger.rows import OTHERWISE, Stamp, row_schema, stamp
from raysweep.ledger.scan import Scan
from raysweep.sweep import Sweep

__all__ = ["Metrics", "make_rows", "metrics_of", "news", "observed_of"]

_FINISHED = ("ok", "diverged")


@dataclass(frozen=True)
class Metrics:
    """Which columns of the results become metrics.

    Attributes:
        names: Their names here.
        watched: The metrics that the sweep fits; a cell must have them to count as measured.
    """

    names: frozenset[str]
    watched: frozenset[str]

    def of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row's metrics, with the status that follows from them; empty where a watched metric is missing."""
        found = {n: v for n, v in flattened(row).items() if n in self.names and v is not None}
        if not found or not self.watched <= set(found):
            return {}
        return found | not_finite(found, self.watched, OTHERWISE)


def metrics_of(study: Study, trials: Sequence[Matched], sweep: Sweep, wanted: Wanted) -> Metrics:
    """The metrics that are kept: those asked for, or every column that holds only numbers.

    Raises:
        StudyError: a metric that is asked for, or that the sweep fits, is missing, or is not a number in all rows.
    """
    params = parameters(study, sweep.axes, wanted)
    kinds: dict[str, set[type]] = {}
    for one in trials:
        for row in (*one.trial.rows, one.trial.final):
            for name, value in flattened(wanted.here({k: v for k, v in row.items() if k not in params})).items():
                if value is not None:
                    kinds.setdefault(name, set()).add(type(value))
    known = {n for n in kinds if n not in sweep.axes}
    asked = frozenset(renamed(n) for n in wanted.metrics)
    for name in asked:
        if name not in known:
            raise StudyError(
                f"{study.name}: --metric must name a column of results, but got {name!r}. {nearest(name, known)}"
            )
        if len(kinds[name]) > 1:
            raise StudyError(f"{study.name}: a metric must be a number or a word in all trials, but {name} is both")
    aside = {renamed(n) for n in study.bookkeeping} - asked
    names = asked or frozenset(n for n in known if kinds[n] == {float} and n not in aside)
    fitted = sweep.experiment.watched if isinstance(sweep.experiment, FunctionExperiment) else ()
    watched = frozenset(fitted) - OTHERWISE - {"seconds"}
    measured = any(one.trial.state == "complete" for one in trials)
    for name in sorted(watched - names):
        if measured:
            raise StudyError(
                f"{study.name}: must have the metric {name}, which {sweep.path} fits, but has none of that name. Give "
                f"its name there by --rename {name}=COLUMN. {nearest(name, known)}"
            )
    if measured and not names:
        raise StudyError(f"{study.name}: must have a metric, a column of numbers that is no parameter, but has none")
    return Metrics(names, watched & names)


def observed_of(sweep: Sweep) -> Observed:
    """The observed values that the sweep asks of its first run.

    Raises:
        StudyError: its runs do not observe the same axes.
    """
    if len({observed.names for observed in sweep.runs.observed}) > 1:
        raise StudyError(f"{sweep.path}: must observe the same axes in all runs to import results, but does not")
    return sweep.runs.observed[0]


def make_rows(
    study: Study, trials: Sequence[Matched], sweep: Sweep, metrics: Metrics, wanted: Wanted
) -> tuple[list[pa.Table], int]:
    """Tables of ledger rows, and the number of trials that are left out because they measured nothing that counts.

    Raises:
        StudyError: a value does not fit its axis, or two trials are one run.
    """
    axes = _widened(trials, sweep)
    groups: dict[tuple[str, ...], list[Matched]] = {}
    for one in trials:
        groups.setdefault(tuple(n for n in axes if n in one.values), []).append(one)
    tables, empty = [], 0
    for names, members in groups.items():
        table, lost = _rows(study, names, members, replace(sweep, axes=axes), metrics, wanted)
        tables += [] if table is None else [table]
        empty += lost
    return tables, empty


def _widened(trials: Sequence[Matched], sweep: Sweep) -> dict[str, Axis]:
    """The sweep's axes; an axis inferred as whole numbers becomes one of fractions if a trial has a fraction."""
    axes = dict(sweep.axes)
    for name, axis in sweep.axes.items():
        if axis.inferred and axis.type is int:
            values = [one.values.get(name) for one in trials]
            if any(isinstance(v, float) and not v.is_integer() for v in values):
                axes[name] = replace(axis, type=float)
    return axes


def _rows(
    study: Study, names: tuple[str, ...], trials: Sequence[Matched], sweep: Sweep, metrics: Metrics, wanted: Wanted
) -> tuple[pa.Table | None, int]:
    """The rows of trials that have the same axes, and the number of trials without rows."""
    seen = observed_of(sweep)
    near = {n: snapped(sweep.runs.values[n]) for n in names if n in sweep.runs.values}  # type: ignore[arg-type]
    given = [tuple(_parsed(sweep.axes[n], one, study, near.get(n, {})) for n in names) for one in trials]
    owner: dict[tuple[Value, ...], Matched] = {}
    for row, one in zip(given, trials, strict=True):
        if owner.setdefault(row, one) is not one:
            raise StudyError(
                f"{study.name}: two trials must differ in an axis, but {owner[row].trial.id} and {one.trial.id} are "
                f"both {', '.join(f'{n} = {v}' for n, v in zip(names, row, strict=True))}"
            )
    measured = [_measured(one, seen, sweep, metrics, wanted, study) for one in trials]
    cells = list(dict.fromkeys([*seen.cells.values(), *(cell for found in measured for cell in found)]))
    term = [Table(names, tuple(given)), *([Table(seen.names, tuple(cells))] if seen.names else [])]
    runs = enumerate_runs([tuple(term)], sweep.axes, sweep.identity)
    columns = [runs.column(n) for n in names]
    lane = (
        {row: i for i, row in enumerate(zip(*columns, strict=True))} if names else dict[tuple[Any, ...], int]({(): 0})
    )
    asked = _asked(sweep, runs)
    rows: list[dict[str, Any]] = []
    made: list[float | None] = []
    lost = 0
    for row, one, found in zip(given, trials, measured, strict=True):
        trial, before = one.trial, len(rows)
        mine = {"lane": lane[row], "training_id": trial.id}
        for cell, (values, seconds, when) in found.items():
            rows.append({**mine, **dict(zip(seen.names, cell, strict=True)), **values, "seconds": seconds})
            made.append(when)
        if trial.state != "complete":
            status = "failed" if trial.state == "failed" else "skipped"
            for cell in asked[lane[row]]:
                if cell not in found:
                    ending = {"status": status, "error": trial.reason, "seconds": trial.seconds}
                    rows.append({**mine, **dict(zip(seen.names, cell, strict=True)), **ending})
                    made.append(trial.finished)
        lost += len(rows) == before
    if not rows:
        return None, lost
    return _stamped(study, rows, made, runs, sweep), lost


def _parsed(axis: Axis, one: Matched, study: Study, near: Mapping[float, Value]) -> Value:
    try:
        value = axis.parse(one.values[axis.name], f"{study.name}: trial {one.trial.id}")
    except SweepError as error:
        raise StudyError(str(error)) from error
    return near.get(value, value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _measured(
    one: Matched, seen: Observed, sweep: Sweep, metrics: Metrics, wanted: Wanted, study: Study
) -> dict[tuple[Value, ...], tuple[dict[str, Any], float | None, float | None]]:
    """Cell -> (metrics, seconds, time made). Where a cell was logged in pieces or repeatedly, later values count."""
    trial = one.trial
    if not seen.names:
        if trial.state != "complete":  # its last value is not that of the whole training
            return {}
        values = metrics.of(wanted.here(trial.final))
        return {(): (values, trial.seconds, trial.finished)} if values else {}
    asked = {n: frozenset(seen.values(n)) for n in seen.names}
    near = {n: snapped(values) for n, values in asked.items()}
    pieces: dict[tuple[Value, ...], dict[str, Any]] = {}
    for row in trial.rows or (trial.final,):
        here = {k: v for k, v in wanted.here(row).items() if v is not None}
        if not all(n in here for n in seen.names):
            continue
        try:
            cell = tuple(matched(sweep.axes[n], here[n], asked[n], near[n]) for n in seen.names)
        except (SweepError, ValueError) as error:
            raise StudyError(f"{study.name}: trial {trial.id}: {error}") from error
        pieces[cell] = {**pieces.get(cell, {}), **here}
    found = {}
    for cell, row in pieces.items():
        if values := metrics.of({k: v for k, v in row.items() if k not in seen.names}):
            found[cell] = (values, _float(row.get(study.clock)), _float(row.get(study.made)))
    return found


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _asked(sweep: Sweep, runs: Runs) -> list[Sequence[tuple[Value, ...]]]:
    """Per run, the cells that the sweep asks of it; for a run outside the grid, those of the sweep's first run."""
    of = locate(sweep.runs, [key.decode() for key in runs.keys.tolist()])
    sets = [list(observed.cells.values()) for observed in sweep.runs.observed]
    return [sets[int(sweep.runs.observed_code[i]) if i >= 0 else 0] for i in of.tolist()]


def _stamped(
    study: Study, rows: Sequence[Mapping[str, Any]], made: Sequence[float | None], runs: Runs, sweep: Sweep
) -> pa.Table:
    experiment = sweep.experiment
    if isinstance(experiment, FunctionExperiment):
        experiment = replace(experiment, axes=tuple(sweep.axes.values()))
    names = dict.fromkeys(name for row in rows for name in row)
    batch = pa.RecordBatch.from_pydict({name: [row.get(name) for row in rows] for name in names})
    pack = re.sub(r"[^A-Za-z0-9._-]+", "-", f"import-{study.tool}-{study.name}")[:100]
    by = Stamp(pack, 1, f"imported from {study.tool}", None, 0.0, "grid", experiment.name, experiment.version)
    table = stamp(batch, runs, row_schema(experiment), by)
    now = datetime.now(UTC)
    times = [now if when is None else _date(when, now) for when in made]
    at = table.schema.get_field_index("finished_at")
    return table.set_column(at, table.schema.field(at), pa.array(times, table.schema.field(at).type))


def _date(seconds: float, now: datetime) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return now


def news(rows: pa.Table, scan: Scan) -> pa.Table:
    """The rows that add something to a ledger.

    A run keeps the rows of one training. If the ledger already has that training, new cells and better statuses are
    added; another training replaces it with all of its rows if it has finished more cells of the run.
    """
    if not len(scan.table):
        return rows
    runs = set(rows.column("run").to_pylist())
    held: dict[str, dict[str, tuple[str, str, int]]] = {}
    table = scan.table
    if "training_id" not in table.schema.names:
        table = table.append_column("training_id", pa.nulls(len(table), pa.string()))
    stored = table.select(["cell", "status", "training_id", "attempt"]).to_pydict()
    for cell, status, training, attempt in zip(*stored.values(), strict=True):
        if (run := cell[:KEY_LENGTH]) in runs:
            held.setdefault(run, {})[cell] = (status, training or "", attempt or 0)
    new = rows.select(["cell", "run", "status", "training_id"]).to_pylist()
    mine = Counter(row["run"] for row in new if row["status"] in _FINISHED)
    keep, attempts = [], []
    for row in new:
        there = held.get(row["run"], {})
        status, _, attempt = there.get(row["cell"], ("", "", 0))
        if any(training == row["training_id"] for _, training, _ in there.values()):
            keep.append(not status or (row["status"] in _FINISHED and status not in _FINISHED))
        else:
            keep.append(not there or mine[row["run"]] > sum(s in _FINISHED for s, _, _ in there.values()))
        attempts.append(attempt + 1)  # so that a value replaces an earlier failure, not the reverse
    at = rows.schema.get_field_index("attempt")
    rows = rows.set_column(at, rows.schema.field(at), pa.array(attempts, pa.int32()))
    return rows.filter(pa.array(keep, pa.bool_()))
