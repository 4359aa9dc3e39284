"""The rows of a sweep as it is now: its axes, its version. Other rows are counted separately."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysweep.errors import LedgerError, SweepError
from raysweep.experiments import built_in
from raysweep.grid.axes import Axis, KindBy
from raysweep.grid.enumeration import run_keys
from raysweep.grid.runs import Runs
from raysweep.ledger.log import Ledger, sequence
from raysweep.ledger.own import Own
from raysweep.ledger.respelled import Respelled
from raysweep.ledger.rows import COLUMNS, with_accepted
from raysweep.ledger.scan import Scan
from raysweep.store import Store
from raysweep.sweep import Sweep
from raysweep.sweep.provenance import accepted_codes
from raysweep.sweep.stored import stored_declaration, stored_runs, stored_sweep

__all__ = ["ROWS", "Current", "adopt_renamed", "cells", "current", "ledger_of", "left_out", "own_rows", "split"]

_MOST_AXES = 8  # axes of which both spellings are tried
ROWS = ("current", "all")


@dataclass(frozen=True)
class Current:
    """A store's sweep as it is now."""

    own: Own
    ledger: Ledger

    @property
    def runs(self) -> Runs | None:
        """Every run of its grid; None where the store does not record it."""
        return self.own.runs


def current(store: Store) -> Current:
    """The sweep last run into a store, as it is now.

    Raises:
        LedgerError: it is not a store, or its files are damaged.
    """
    runs = stored_runs(store)
    declaration = stored_declaration(store)
    if declaration is None or runs is None:
        experiment = built_in(stored_sweep(store)[0].experiment)
        axes = () if experiment is None else experiment.axes
        return Current(Own(None, "", 0, _ruled(axes)), Ledger(store))
    own = own_rows(runs, declaration.axes, declaration.identity)
    return Current(own, ledger_of(store, runs, declaration.axes, declaration.identity))


def own_rows(runs: Runs, axes: Mapping[str, Axis], identity: str) -> Own:
    """The rows of a sweep, by its runs, its axes and what else its run keys hold."""
    known = dict(line.split("=", 1) for line in identity.splitlines() if "=" in line)
    version = known.get("version", "0")
    return Own(runs, known.get("experiment", ""), int(version) if version.isdigit() else 0, _ruled(axes.values()))


def _ruled(axes: Iterable[Axis]) -> dict[str, KindBy]:
    return {axis.name: axis.kind for axis in axes if isinstance(axis.kind, KindBy)}


def ledger_of(store: Store, runs: Runs, axes: dict[str, Axis], identity: str) -> Ledger:
    """A store's ledger, with what an older raysweep wrote under other spellings of the same numbers."""
    environment = store.read_json("env.json") if store.exists("env.json") else {}
    if isinstance(environment, dict) and environment.get("respelled") is False:
        return Ledger(store)
    return Ledger(store, respelled(runs, axes, identity))


def respelled(runs: Runs, axes: dict[str, Axis], identity: str) -> Respelled | None:
    """The keys that runs and observed values of a plain function had where whole numbers of an axis were floats (1.0);
    None where there is no such axis.
    """
    numeric = [n for n, a in axes.items() if a.inferred and a.type in (int, float)]
    plain = [n for n in numeric if n in runs.values and any(type(v) is int for v in runs.values[n])]
    seen = [n for n in numeric if axes[n].kind == "observed"]
    if not plain and not seen:
        return None
    found: dict[str, str] = {}
    today = [key.decode() for key in runs.keys.tolist()]
    for floats in _subsets(plain):
        values = {n: tuple(_float(v) for v in vs) if n in floats else vs for n, vs in runs.values.items()}
        keys = run_keys(values, runs.codes, axes, identity, len(runs))
        found |= {old.decode(): new for old, new in zip(keys.tolist(), today, strict=True) if old.decode() != new}
    suffixes: dict[str, str] = {}
    for observed in runs.observed:
        names = observed.names
        for floats in _subsets([n for n in seen if n in names]):
            for suffix, cell in observed.cells.items():
                old = observed.suffix([_float(v) if n in floats else v for n, v in zip(names, cell, strict=True)])
                if old != suffix:
                    suffixes[old] = suffix
    return Respelled(found, suffixes) if found or suffixes else None


def _subsets(names: Sequence[str]) -> list[frozenset[str]]:
    """Sets of axes that were floats: all of them where they are few, else all axes at once."""
    if len(names) > _MOST_AXES:
        return [frozenset(names)]
    return [frozenset(c) for n in range(1, len(names) + 1) for c in itertools.combinations(names, n)]


def _float(value: Any) -> Any:
    return float(value) if type(value) is int else value


def cells(store: Store, rows: str = "current") -> tuple[pa.Table, list[str]]:
    """A store's rows, and what was left out of them, in one sentence each.

    Args:
        rows: `current` for the rows of the sweep as it is now; `all` for those of every version and grid.

    Raises:
        LedgerError: it is not a store, or holds no rows.
    """
    if rows not in ROWS:
        raise LedgerError(f"rows must be one of {', '.join(ROWS)}, but got {rows!r}")
    now = current(store)
    scan = now.ledger.scan()
    if not scan.parts:
        raise LedgerError(f"store {store.uri}: must hold finished cells, but its ledger is empty")
    mine = now.own.mine(scan.table.column("cell"))
    table, notes = now.own.completed(scan.table, mine), []
    if rows == "current" and not mine.all():
        notes = _left_out(now, table.filter(pa.array(~mine)))
        table = table.filter(pa.array(mine))
        if not len(table):
            raise LedgerError(
                f"store {store.uri}: must hold finished cells of its sweep as it is now, but {' '.join(notes)}"
            )
    return table.cast(with_accepted(table.schema, accepted_codes(store))), notes


def left_out(now: Current, scan: Scan) -> list[str]:
    """Sentences that count the rows of a scan which are not of the sweep as it is now."""
    if now.runs is None or not len(scan.table) or now.own.mine(scan.table.column("cell")).all():
        return []
    return split(now, now.ledger.scan(["experiment", "experiment_version"]))[1]


def _left_out(now: Current, table: pa.Table) -> list[str]:
    """Sentences that count rows which are not of the sweep as it is now."""
    if not len(table):
        return []
    reasons: dict[str, int] = {}
    names = [n for n in ("experiment", "experiment_version") if n in table.schema.names]
    if not names:
        return [_sentence(len(table), "of other grids or versions")]
    groups = table.select([*names, "cell"]).group_by(names).aggregate([("cell", "count")])
    for row in groups.to_pylist():
        name, version = row.get("experiment"), row.get("experiment_version")
        if name is None:
            why = "of other grids or versions"
        elif name != now.own.experiment:
            why = f"of {name}"
        elif version != now.own.version:
            why = f"of version {version}"
        else:
            why = "of other grids"
        reasons[why] = reasons.get(why, 0) + row["cell_count"]
    return [_sentence(count, why) for why, count in sorted(reasons.items())]


def adopt_renamed(store: Store, sweep: Sweep, old: str) -> int:
    """Take over the rows of a function that was renamed or moved, under today's keys, except for runs that already have
    rows under the new name; returns their number.

    Raises:
        SweepError: the store has no rows of `old` that the sweep asks for.
    """
    experiment = sweep.experiment
    identity = sweep.identity.replace(f"experiment={experiment.name}\n", f"experiment={old}\n", 1)
    runs = sweep.runs
    before = run_keys(runs.values, runs.codes, sweep.axes, identity, len(runs))
    renamed = {o.decode(): n.decode() for o, n in zip(before.tolist(), runs.keys.tolist(), strict=True)}
    table = Ledger(store).scan().table
    theirs = table.filter(pc.is_in(table.column("run"), pa.array(list(renamed), pa.string()))) if len(table) else table
    if not len(theirs):
        raise SweepError(
            f"--same-as {old}: the store {store.uri} must hold rows of {old} at version {experiment.version} that "
            "this sweep asks for, but holds none"
        )
    have = set(table.filter(pc.not_equal(table.column("status"), "failed")).column("run").to_pylist())
    mine = pa.array([renamed[run] not in have for run in theirs.column("run").to_pylist()])
    theirs = theirs.filter(mine)  # rows measured under the new name remain
    if not len(theirs):
        return 0
    theirs = Respelled(renamed, {}).apply(theirs.drop_columns([COLUMNS]))
    if "experiment" in theirs.schema.names:
        at = theirs.schema.get_field_index("experiment")
        name = pa.array([experiment.name] * len(theirs), pa.string())
        theirs = theirs.set_column(at, theirs.schema.field(at), name)
    Ledger(store).append(theirs, next(sequence()))
    return len(theirs)


def _sentence(count: int, why: str) -> str:
    return f"{count:,} {'rows' if count != 1 else 'row'} {why} {'are' if count != 1 else 'is'} left out."


def split(now: Current, scan: Scan) -> tuple[Scan, list[str]]:
    """A scan without the rows of other grids and versions, and the number of those."""
    if now.runs is None or not len(scan.table):
        return scan, []
    mine = now.own.mine(scan.table.column("cell"))
    if mine.all():
        return scan, []
    notes = _left_out(now, scan.table.filter(pa.array(~mine)))
    return Scan(scan.table.filter(pa.array(mine)), scan.skipped, scan.parts, scan.landed[mine]), notes
