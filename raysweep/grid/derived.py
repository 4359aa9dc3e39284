"""Derived axes: values computed from the other axes of a cell, joined into a term's tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysweep.errors import SweepError
from raysweep.grid.axes import Axis, KindBy
from raysweep.grid.formula import Formula, is_formula, parse_formula
from raysweep.grid.terms import Table, Term, column
from raysweep.grid.values import Value

__all__ = ["MAX_WORK", "Derived", "check_kinds", "compute", "is_derived", "parse_derived"]

_MOST = 4_000_000  # values of one derived axis, repeated for the axes that are zipped with its sources
MAX_WORK = 100_000_000  # characters of formulas evaluated, at about 7 million a second


@dataclass(frozen=True)
class Derived:
    """An axis that is computed: in each cell it has one value for each entry."""

    axis: Axis
    entries: tuple[Formula | Value, ...]
    where: str

    @property
    def sources(self) -> list[str]:
        return sorted({name for entry in self.entries if isinstance(entry, Formula) for name in entry.names})

    @property
    def work(self) -> int:
        """The cost of one cell, in characters; a call counts as 16."""
        return sum(16 + len(entry.text) for entry in self.entries if isinstance(entry, Formula))


def is_derived(axis: Axis, entry: Any, axes: Mapping[str, Axis]) -> bool:
    """Whether a grid's entry for an axis, or one of a list, is computed from axes."""
    if axis.type is str:  # arithmetic makes no words; a choice between words does
        parts = entry if isinstance(entry, list | tuple) else [entry]
        entry = [part for part in parts if isinstance(part, str) and " if " in part]
    return is_formula(entry, axes)


def parse_derived(axis: Axis, entry: Any, axes: Mapping[str, Axis], where: str) -> Derived:
    """An axis whose entry is derived.

    Raises:
        SweepError: a formula, or a value beside it, is not valid.
    """
    parts = entry if isinstance(entry, list | tuple) else [entry]
    return Derived(
        axis,
        tuple(parse_formula(p, axes, where) if is_derived(axis, p, axes) else axis.parse(p, where) for p in parts),
        where,
    )


def compute(
    tables: Term,
    derived: Sequence[Derived],
    name: str,
    axes: Mapping[str, Axis],
    given: Collection[str] = (),
    path: tuple[str, ...] = (),
) -> Term:
    """The tables with a derived axis in them, and those that it depends on.

    Args:
        derived: The derived axes of these tables.
        name: The one to compute; one that is not derived, or was computed already, changes nothing.
        given: Axes that the grid gives somewhere, if these tables may still lack some of them.
        path: The derived axes that lead to this one.

    Raises:
        SweepError: it depends on itself, or has no value in some cell.
    """
    known = {n for t in tables for n in t.names}
    waiting = {d.axis.name: d for d in derived if d.axis.name not in known}
    if name not in waiting:
        return tables
    own = waiting[name]
    if name in path:
        cycle = " -> ".join((*path[path.index(name) :], name))
        raise SweepError(f"{own.where}: a derived axis must not depend on itself, but {cycle}")
    for source in own.sources:
        lead = source if source in known or source in waiting else axes[source].follows
        if lead is not None:
            tables = compute(tables, derived, lead, axes, given, (*path, name))
    return _joined(tables, own, axes, given)


def _joined(tables: Term, own: Derived, axes: Mapping[str, Axis], given: Collection[str]) -> Term:
    """The tables with a derived axis: those that it needs become one, which holds its values too."""
    known = {n for t in tables for n in t.names}
    columns: dict[str, str] = {}
    cell: dict[str, Value] = {}
    for source in own.sources:
        lead = source if source in known else axes[source].follows or source
        default = axes[lead].default
        if lead in known:
            columns[source] = lead
        elif lead in given:
            raise SweepError(
                f"{own.where}: a condition asks for {own.axis.name}, so that {source} must be given in the same branch "
                "as both, and not by a later `when`, but is not"
            )
        elif default is None:
            raise SweepError(
                f"{own.where}: {own.axis.name} depends on {source}, which must have a value in every cell that has "
                f"{own.axis.name}, but has none in some branch. Give {own.axis.name} in the branches that have both"
            )
        else:
            cell[source] = default
    needed = [t for t in tables if not set(columns.values()).isdisjoint(t.names)]
    names = [n for t in needed for n in t.names]
    count = math.prod(len(t.rows) for t in needed) * len(own.entries)
    if count > _MOST or count * own.work > MAX_WORK:
        most = min(_MOST, MAX_WORK // own.work)
        raise SweepError(
            f"{own.where}: at most {most:,} values of such a formula can be derived, but the axes it depends on, and "
            f"those zipped with them, make {count:,}. Make them shorter, or split the sweep"
        )
    at = [names.index(lead) for lead in columns.values()]
    found: dict[tuple[Value, ...], tuple[Value, ...]] = {}
    rows: list[tuple[Value, ...]] = []
    for combination in itertools.product(*(t.rows for t in needed)):
        row = tuple(itertools.chain.from_iterable(combination))
        key = tuple(row[i] for i in at)
        if key not in found:
            found[key] = _values(own, cell | dict(zip(columns, key, strict=True)))
        rows += [(*row, value) for value in found[key]]
    joined = Table((*names, own.axis.name), tuple(rows))
    place = tables.index(needed[0]) if needed else len(tables)
    rest = [t for t in tables if t not in needed]
    return (*rest[:place], joined, *rest[place:])


def _values(own: Derived, cell: Mapping[str, Value]) -> tuple[Value, ...]:
    values: dict[Value, None] = {}
    for entry in own.entries:
        found = entry.value(cell, own.where) if isinstance(entry, Formula) else entry
        try:
            values[own.axis.parse(found, own.where)] = None
        except SweepError:
            assert isinstance(entry, Formula)  # entries that are not formulas were parsed before
            at = ", ".join(f"{n}={cell[n]}" for n in entry.names)
            own.axis.parse(found, f"{own.where}: `{entry.text}` at {at}")
    return tuple(values)


def check_kinds(tables: Term, derived: Sequence[Derived], axes: Mapping[str, Axis]) -> None:
    """Refuse axes of a run that depend on what is measured during it.

    Raises:
        SweepError: a derived axis that is not observed depends on one that is, in some cell of these tables.
    """
    for own in derived:
        for source in own.sources if own.axis.kind != "observed" else ():
            axis = axes[source]
            kinds = {axis.kind_for({})}
            if isinstance(axis.kind, KindBy):
                control = axes[axis.kind.axis]
                kinds = {axis.kind_for({control.name: value}) for value in column(tables, control, axes)}
            if "observed" in kinds and axis.kind != own.axis.kind:
                raise SweepError(
                    f"{own.where}: {own.axis.name} must not depend on observed axes, as it is not observed itself, but "
                    f"names {source}, which is measured during a run. Write {own.axis.name}'s values out, or `zip` them"
                )
