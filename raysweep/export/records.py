"""A store's rows as a tracker wants them: for each run its parameters, how it ended, and points of metrics."""

from __future__ import annotations

import hashlib
import importlib
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysweep.errors import ExportError, nearest
from raysweep.grid.values import Value
from raysweep.store import Store
from raysweep.sweep.current import cells
from raysweep.sweep.stored import stored_sweep

__all__ = ["Exported", "Point", "Record", "package", "read_records"]

_WORST = ("failed", "diverged", "skipped", "ok")  # a run has the first of these that one of its cells has
_COSTS = ("flops", "seconds")  # stamped columns that are metrics to a tracker
_MILLI = 1000  # steps are whole numbers: a time axis of fractions is counted in thousandths


class Point(NamedTuple):
    """One value of a metric.

    Attributes:
        step: A tracker has one time axis, so several are combined into one that increases with each of them. The axes
            of role `time` are taken in the order in which the experiment declares them; each counts in units of the
            power of 1,000 above all values of those after it. Step 250 of round 3 is 3,250, as long as rounds have
            fewer than 1,000 steps.
    """

    name: str
    step: int
    made: float  # seconds since 1970
    value: float


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        run: Its key.
        status: ok | diverged | failed | skipped: the worst status of its cells.
        reason: Why it is not ok.
        params: Its axes, except observed ones.
        tags: Its sweep, pack, device, world and attempt.
        points: Finite values of its metrics, by time.
        began, ended: When its first and last rows were made, in seconds since 1970.
    """

    run: str
    status: str
    reason: str
    params: Mapping[str, Value]
    tags: Mapping[str, str]
    points: tuple[Point, ...]
    began: float
    ended: float

    @cached_property
    def digest(self) -> str:
        """A hash of all that is exported: a run with the same digest has nothing new."""
        content = (
            self.run,
            self.status,
            self.reason,
            sorted(self.params.items()),
            [(p[0], p[1], p[3]) for p in self.points],
        )
        return hashlib.blake2b(repr(content).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes:
        dest: Where the export is.
        runs: Runs in the store.
        written: Runs that were new there or had something new.
        points: Values of metrics that were added.
    """

    dest: str
    runs: int
    written: int
    points: int


def package(module: str, tracker: str) -> Any:
    """A module of a tracker's package.

    Raises:
        ExportError: it is not installed.
    """
    try:
        found = importlib.import_module(module)
        # Trackers leave folders of the same name where they are run, which Python imports as empty namespaces.
        if hasattr(found, "__path__") and getattr(found, "__file__", None) is None:
            sys.modules.pop(module)
            raise ImportError(f"only a folder of that name, {next(iter(found.__path__))}")
    except ImportError as error:
        raise ExportError(
            f"export: --to {tracker} needs a package that is not installed here ({error}). "
            f"Install it by: pip install 'raysweep[{tracker}]'"
        ) from error
    return found


def read_records(store: Store, metrics: Sequence[str] = ()) -> tuple[str, list[Record]]:
    """The sweep's name, and every run of it as it is now, in the order of run keys.

    Raises:
        LedgerError: `store` is not a store, or holds no rows.
        ExportError: the store has no such metric.
    """
    file, name = stored_sweep(store)
    table, _ = cells(store)
    return file.name, list(_records(table, _columns(table.schema, metrics), file.name, name))


class _Columns(NamedTuple):
    params: list[str]
    times: list[str]  # outermost first
    budgets: list[str]  # observed, and not time
    metrics: list[str]


def _columns(schema: pa.Schema, wanted: Sequence[str]) -> _Columns:
    """Sort a ledger's columns by their meaning to a tracker."""
    meta = {f.name: {k.decode(): v.decode() for k, v in (f.metadata or {}).items()} for f in schema}
    axes = [n for n in schema.names if meta[n].get("role") == "axis"]
    observed = [n for n in axes if meta[n].get("kind") == "observed"]
    times = [n for n in axes if meta[n].get("axis_role") == "time"]
    numbers = [
        n for n in observed if pa.types.is_integer(schema.field(n).type) or pa.types.is_floating(schema.field(n).type)
    ]
    if not times and len(numbers) == 1:
        times = numbers  # a plain function's one observed number
    known = [n for n in schema.names if meta[n].get("role") == "metric" and pa.types.is_floating(schema.field(n).type)]
    known += [n for n in _COSTS if n in schema.names and n not in known]
    for name in wanted:
        if name not in known:
            raise ExportError(
                f"export: --metric must be a metric of the store, but got {name!r}. {nearest(name, known)}"
            )
    return _Columns(
        [n for n in axes if n not in times and n not in observed],
        times,
        [n for n in observed if n not in times],
        [n for n in known if not wanted or n in wanted],
    )


def _records(table: pa.Table, columns: _Columns, sweep: str, file: str) -> Iterator[Record]:
    steps = _steps(table, columns.times)
    order = pc.sort_indices(
        table.select(["run", "cell"]).append_column("step", pa.array(steps)),
        sort_keys=[("run", "ascending"), ("step", "ascending"), ("cell", "ascending")],
    )
    table, steps = table.take(order), steps[order.to_numpy()]
    runs = table.column("run").combine_chunks().dictionary_encode().indices.to_numpy()
    bounds = np.append(np.flatnonzero(np.diff(runs, prepend=-1)), len(runs)).tolist()
    made = _seconds(table)
    # The same run and step as the row before: another budget.
    same = (np.diff(runs, prepend=-1) == 0) & (np.diff(steps, prepend=-1) == 0)
    values = {n: table.column(n).to_numpy().astype(np.float64) for n in columns.metrics}
    budgets = [table.column(n).to_pylist() for n in columns.budgets if len(table.column(n).unique()) > 1]
    names = [n for n in columns.budgets if len(table.column(n).unique()) > 1]
    labels = ["".join(_label(n, v) for n, v in zip(names, row, strict=True)) for row in zip(*budgets, strict=True)]
    by_budget = {n: bool(labels) and _varies(v, same) for n, v in values.items()}
    text = {n: table.column(n).to_pylist() for n in ("run", "status", "error", "pack", "device", "world_sha", "attempt")
            if n in table.schema.names}  # fmt: skip
    params = {n: table.column(n).to_pylist() for n in columns.params}
    whole = steps.tolist()
    for start, stop in pairwise(bounds):
        states = text["status"][start:stop]
        status = min(states, key=_WORST.index)
        worst = start + states.index(status)
        points = []
        for name, column in values.items():
            for i, value in zip(range(start, stop), column[start:stop].tolist(), strict=True):
                if math.isfinite(value) and (by_budget[name] or not same[i]):
                    full = f"{name}{labels[i]}" if by_budget[name] else name
                    points.append(Point(full, whole[i], made[i], value))
        yield Record(
            run=text["run"][start],
            status=status,
            reason=str(text["error"][worst] or "") if "error" in text else "",
            params={n: c[start] for n, c in params.items() if c[start] is not None},
            tags={
                "raysweep.sweep": sweep,
                "raysweep.sweep_hash": file.removeprefix("sweeps/").removesuffix(".yaml"),
                **{f"raysweep.{n}": str(text[n][worst]) for n in ("pack", "device", "world_sha", "attempt")
                   if n in text and text[n][worst] is not None},
            },
            points=tuple(sorted(points, key=lambda p: (p.step, p.name))),
            began=min(made[start:stop]),
            ended=max(made[start:stop]),
        )  # fmt: skip


def _steps(table: pa.Table, times: Sequence[str]) -> npt.NDArray[np.int64]:
    """[rows] the combined step that `Point` describes."""
    steps, unit = np.zeros(len(table), dtype=np.int64), 1
    for name in reversed(times):
        column = pc.fill_null(table.column(name), 0)
        if pa.types.is_floating(column.type):
            column = pc.round(pc.multiply(column, float(_MILLI)))
        steps += unit * np.asarray(column.to_numpy(), dtype=np.int64)
        while unit <= steps.max(initial=0):
            unit *= 1000
    return steps


def _seconds(table: pa.Table) -> list[float]:
    if "finished_at" not in table.schema.names:
        return [0.0] * len(table)
    made = pc.fill_null(pc.cast(table.column("finished_at"), pa.int64()), 0)
    return [m / 1e6 for m in made.to_pylist()]


def _varies(column: npt.NDArray[np.float64], same: npt.NDArray[np.bool_]) -> bool:
    """Whether a metric depends on a budget, that is, differs between rows of one run at one time."""
    before = np.roll(column, 1)
    return bool((same & (column != before) & ~(np.isnan(column) & np.isnan(before))).any())


def _label(name: str, value: Any) -> str:
    """A suffix such as `.k-10`, which every tracker allows in a name; without a slash, which some take as a folder."""
    return "." + re.sub(r"[^\w.\- ]", "_", f"{name}-{value:g}" if isinstance(value, float) else f"{name}-{value}")
