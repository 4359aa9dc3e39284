"""The candidates of a sweep that tunes by Ray Tune's OptunaSearch: a trial each, proposed as others end.

There is no barrier between them, so a proposal depends on which trials had ended by then and cannot be computed again.
What was asked for is therefore read from the store: from `tuning/`, or from the candidates' rows if that is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raysweep.errors import LedgerError, SweepError
from raysweep.executors import Job
from raysweep.executors.search import Begun, Search, Searching
from raysweep.grid.lineage import CANDIDATE, Lineage
from raysweep.grid.runs import Runs
from raysweep.grid.values import column_values
from raysweep.ledger.log import Ledger, sequence
from raysweep.ledger.remaining import locate
from raysweep.ledger.rows import Counts, Stamp, failure_rows, row_schema
from raysweep.ledger.scan import Scan
from raysweep.pack import make_pack
from raysweep.plan import whole
from raysweep.selection import STOPPED, run_scores
from raysweep.store import Store
from raysweep.store.leases import Claims, who
from raysweep.sweep import Sweep
from raysweep.sweep.current import ledger_of
from raysweep.sweep.tuned import Layout, Tuning
from raysweep.tuning import SEARCH, Dimension, Point, seed_of, size

__all__ = ["asked_in", "check_search", "search_all", "searching"]


def check_search(sweep: Sweep, executor: object) -> Searching:
    """The executor, if the search can be made.

    Raises:
        SweepError: the executor is not Ray, or a scheduler has nothing to stop.
    """
    if not isinstance(executor, Searching):
        raise SweepError(
            f"{sweep.path}: tuner.sampler: {SEARCH} must run on Ray, but got an executor that runs here. Leave "
            "`--executor inline` out, or use tpe"
        )
    tuning = sweep.tuning
    if tuning is not None and tuning.scheduler and all(len(o.cells) < 2 for o in sweep.runs.observed):
        raise SweepError(
            f"{sweep.path}: tuner.scheduler: a function must be read along the way, for {tuning.scheduler} to stop it "
            "early, but each run has one row. Name an axis in `observed`, such as the epoch, or leave the scheduler out"
        )
    return executor


def searching(sweep: Sweep) -> bool:
    """Whether candidates are still to be proposed by a search."""
    tuning = sweep.tuning
    return (
        tuning is not None
        and tuning.searches
        and any(study.winner is None and 0 < len(study.points) < wanted(tuning) for study in sweep.studies.values())
    )


def wanted(tuning: Tuning) -> int:
    """Candidates of a setting."""
    return int(min(tuning.rounds * tuning.candidates, size(tuning.space)))


def asked_in(store: Store, sweep: Sweep, tuning: Tuning, layout: Layout) -> dict[str, tuple[Point, ...]]:
    """By setting, the candidates that have rows in the ledger, in the order of their run keys."""
    names = [d.axis.name for d in tuning.space]
    table = ledger_of(store, sweep.runs, dict(sweep.axes), sweep.identity).scan(["parent", "role", "run", *names]).table
    if not {"parent", "role", *names} <= {*table.schema.names}:
        return {}
    found: dict[str, dict[Point, None]] = {name: {} for name in layout.settings}
    for row in sorted(table.select(["run", "parent", "role", *names]).to_pylist(), key=lambda row: str(row["run"])):
        if row["role"] == CANDIDATE and row["parent"] in found:
            point = tuple(_value(d, row[d.axis.name]) for d in tuning.space)
            if None not in point:
                found[row["parent"]][point] = None
    return {name: tuple(points) for name, points in found.items()}


def _value(dimension: Dimension, stored: Any) -> Any:
    """A value as the space holds it, from a column of the ledger; None where it is none of the space's."""
    if dimension.choices:
        shown = column_values(dimension.choices, dimension.axis.type)
        return dict(zip(shown, dimension.choices, strict=True)).get(stored)
    value = None if stored is None else dimension.parse(stored)
    return value if value is not None and dimension.holds(value) else None


@dataclass
class _Setting:
    """The search of one setting, as it goes on.

    Attributes:
        base: The runs of the grid that belong to it.
        asked: Its candidates so far, in the order asked for.
        todo: Those of them that have not ended.
    """

    sweep: Sweep
    tuning: Tuning
    lineage: Lineage
    store: Store
    base: Runs
    scan: Scan
    made_by: Stamp
    keep: Callable[[tuple[Point, ...]], None]
    asked: dict[Point, None]
    todo: dict[Point, None] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=sequence)

    def __post_init__(self) -> None:
        for point in self.asked:
            if len(self.scan.pending(self.runs(point), skip_failed=True)):
                self.todo[point] = None

    def runs(self, point: Point) -> Runs:
        return self.tuning.candidate(self.base, self.lineage, point)

    def scores(self, runs: Runs) -> npt.NDArray[np.float64]:
        metric = next((name for name in self.tuning.metrics if name in self.scan.table.schema.names), None)
        return run_scores(self.scan.table, runs, metric, self.tuning.sign, ())

    def begin(self, point: Point) -> Begun | None:
        """See `Search.begin`."""
        if point in self.todo:
            del self.todo[point]
        elif point in self.asked:
            return None
        if point not in self.asked:
            self.asked[point] = None
            self.keep(tuple(self.asked))
        runs = self.runs(point)
        rest = whole(runs, self.scan.pending(runs))
        ended = runs.take(~np.isin(runs.keys, rest.keys))
        before = tuple(self.scores(ended).tolist()) if len(ended) else ()
        return Begun(make_pack(rest) if len(rest) else None, before)

    def retire(self, point: Point, trainings: Mapping[str, str]) -> Counts:
        """See `Search.retire`."""
        runs = self.runs(point)
        ledger = Ledger(self.store)
        left = ledger.pending(runs)
        if not len(left):
            return Counts()
        reason = f"{STOPPED} {self.tuning.scheduler}: other candidates were better by then"
        rows = failure_rows(left, row_schema(self.sweep.experiment), self.made_by, "skipped", reason)
        # A run keeps the rows of one training: these belong to the one that was stopped.
        of = [trainings.get(run) for run in rows.column("run").to_pylist()]
        at = rows.schema.get_field_index("training_id")
        rows = rows.set_column(at, rows.schema.field(at), pa.array(of, pa.string()))
        ledger.append(rows, next(self.numbers))
        return Counts(skipped=len(rows))


def search_all(
    stage: Sweep,
    tuning: Tuning,
    lineage: Lineage,
    layout: Layout,
    store: Store,
    executor: Searching,
    job: Job,
    claims: Claims,
    keep: Callable[[Sweep], None],
    on_counts: Callable[[Counts], None],
) -> tuple[Sweep, str]:
    """Search one setting after another.

    Args:
        keep: Records what a stage asks for.

    Returns:
        The stage with the candidates that were asked for, and why the search ended early, or "".

    Raises:
        LedgerError: another driver searches.
    """
    if not claims.take("search", {f"search {stage.hash}"}):
        raise LedgerError(
            f"store {store.uri}: one driver at a time must search with {SEARCH}, but {who(claims.holders['search'])} "
            "does. Run again when it has ended"
        )
    parents = [name.decode() for name in lineage.parents(layout.runs).tolist()]
    by = Stamp("", 1, "", None, 0.0, "grid", *job.made_by, lineage)
    total = wanted(tuning)
    for name in layout.searched:
        study = stage.studies[name]
        if study.winner is not None:
            continue
        mine = layout.runs.take(np.array([parent == name for parent in parents]) & (layout.point == 0))
        scan = ledger_of(store, stage.runs, dict(stage.axes), stage.identity).scan(["error", *tuning.metrics])

        def record(points: tuple[Point, ...], name: str = name) -> None:
            nonlocal stage
            stage = replace(stage, studies={**stage.studies, name: tuning.study(points)})
            keep(stage)

        setting = _Setting(stage, tuning, lineage, store, mine, scan, by, record, dict.fromkeys(study.points))
        ended = [point for point in setting.asked if point not in setting.todo]
        means = {point: float(np.mean(setting.scores(setting.runs(point)))) for point in ended}
        early = [point for point in ended if _stopped(scan, setting.runs(point))]
        cells = setting.runs(next(iter(setting.asked))).cells
        count = total - len(ended)
        if count > 0:
            stopped = executor.search(
                job,
                Search(
                    space=tuning.space,
                    seed=seed_of(name, tuning.digest, len(ended)),
                    known={point: score for point, score in means.items() if point not in early},
                    stopped=early,
                    first=[*setting.todo],
                    spare=tuning.first(name, total + len(setting.asked)),
                    count=count,
                    startup=tuning.candidates,
                    scheduler=tuning.scheduler,
                    cells=cells,
                    metrics=tuning.metrics,
                    sign=tuning.sign,
                    most=stage.file.resources.max_failures,
                    begin=setting.begin,
                    retire=setting.retire,
                ),
                on_counts,
            )
            if stopped:
                return stage, stopped
    claims.release("search")
    return stage, ""


def _stopped(scan: Scan, runs: Runs) -> bool:
    """Whether a scheduler stopped a candidate early."""
    at = locate(runs, scan.table.column("cell")) >= 0
    reasons = scan.table.filter(pa.array(at)).column("error").to_pylist() if at.any() else []
    return any(str(reason).startswith(STOPPED) for reason in reasons if reason)
