"""Grid algebra: product, zip, concat and when, from a sweep file's mapping to terms (products of small tables)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raysweep.axes import Axis, Value, axis_values
from raysweep.errors import SweepError, nearest

__all__ = ["Table", "Term", "expand", "split"]


@dataclass(frozen=True)
class Table:
    """Distinct rows over a few axes: one factor of a product."""

    names: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def project(self, names: Sequence[str]) -> list[tuple[Value, ...]]:
        """Each row restricted to `names`, in order, duplicates kept."""
        if tuple(names) == self.names:
            return list(self.rows)
        at = [self.names.index(n) for n in names]
        return [tuple(row[i] for i in at) for row in self.rows]


Term = tuple[Table, ...]
# concat and when multiply terms, and each is a product of tables. A large sweep has a hundred terms of ten tables.
_MOST = {"axes in one product": 500, "products": 10_000, "axes in all products": 100_000, "values": 4_000_000}
_MAX_WORK = 50_000_000  # values looked at by all rules of a `when`


def expand(spec: Mapping[str, Any], axes: Mapping[str, Axis], where: str = "grid") -> tuple[Term, ...]:
    """The terms (products of tables) that a grid mapping stands for.

    Plain keys are axes and multiply. Three keys are algebra, each a list (a single entry may stand alone):

    * `zip`: mappings of equally long axes that move together
    * `concat`: grids, of which a cell is in one (their union)
    * `when`: `{if: {axis: value or list}, then: grid}`; cells that do not match keep the defaults

    Raises:
        SweepError: an unknown axis (with the nearest names), an axis named twice in one product, unequal zips.
    """
    if not isinstance(spec, Mapping):
        raise SweepError(f"{where}: a grid must be a mapping from axes to values, but got {spec!r}")
    terms: tuple[Term, ...] = ((),)
    for key, entry in spec.items():
        place = f"{where}.{key}"
        if key == "when":
            continue
        if key == "zip":
            for i, group in enumerate(_entries(entry, place)):
                terms = _times(terms, ((_zip(group, axes, f"{place}[{i}]"),),), place)
        elif key == "concat":
            if entry == []:
                raise SweepError(f"{place}: concat needs at least one grid, but got {entry!r}")
            branches = [expand(g, axes, f"{place}[{i}]") for i, g in enumerate(_entries(entry, place))]
            terms = _times(terms, tuple(itertools.chain(*branches)), place)
        else:
            axis = _axis(key, axes, place)
            table = Table((axis.name,), tuple((v,) for v in axis_values(axis, entry, place)))
            terms = _times(terms, ((table,),), place)
    rules = _entries(spec.get("when", []), f"{where}.when")
    work = len(rules) * sum(len(t.rows) for term in terms for t in term)
    if work > _MAX_WORK:
        raise SweepError(f"{where}.when: {len(rules):,} rules for that many values are too many; split the sweep")
    for i, rule in enumerate(rules):
        terms = _when(terms, rule, axes, f"{where}.when[{i}]")
    return terms


def _entries(entry: Any, where: str) -> list[Any]:
    entries = [entry] if isinstance(entry, Mapping) else entry
    if not isinstance(entries, list):
        raise SweepError(f"{where}: must be a mapping or a list of mappings, but got {entry!r}")
    return entries


def _axis(name: Any, axes: Mapping[str, Axis], where: str) -> Axis:
    if name not in axes:
        raise SweepError(f"{where}: must be an axis of the experiment, but got {name!r}. {nearest(str(name), axes)}")
    return axes[name]


def _zip(group: Any, axes: Mapping[str, Axis], where: str) -> Table:
    if not isinstance(group, Mapping) or len(group) < 2:
        raise SweepError(f"{where}: zip needs a mapping of two axes or more, but got {group!r}")
    columns: dict[str, list[Value]] = {}
    for name, entry in group.items():
        axis = _axis(name, axes, f"{where}.{name}")
        plain = isinstance(entry, list | tuple)  # a plain list may repeat a value here; ranges are distinct anyway
        columns[name] = (
            [axis.parse(v, f"{where}.{name}") for v in entry]
            if plain
            else list(axis_values(axis, entry, f"{where}.{name}"))
        )
    lengths = {name: len(c) for name, c in columns.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise SweepError(f"{where}: zipped axes must have equally many values, but got {lengths}")
    return Table(tuple(columns), tuple(dict.fromkeys(zip(*columns.values(), strict=True))))


def _times(left: tuple[Term, ...], right: tuple[Term, ...], where: str) -> tuple[Term, ...]:
    _bounded(len(left) * len(right), left + right, where)
    for a, b in itertools.product(left, right):
        twice = {n for t in a for n in t.names} & {n for t in b for n in t.names}
        if twice:
            raise SweepError(f"{where}: an axis can be given once in a product, but {sorted(twice)} is given twice")
    return tuple(a + b for a, b in itertools.product(left, right))


def _bounded(count: int, terms: tuple[Term, ...], where: str) -> None:
    """Refuse a grid that would take long or much memory to expand: `count` products, made of these terms."""
    tables = {id(t): len(t.rows) for term in terms for t in term}
    longest = max(map(len, terms), default=0)
    found = (longest, count, count * longest, sum(tables.values()))
    for (what, most), number in zip(_MOST.items(), found, strict=True):
        if number > most:
            raise SweepError(
                f"{where}: a grid may have at most {most:,} {what}, but this one has {number:,}. "
                "Make axes shorter, use fewer `concat` and `when`, or split the sweep"
            )


def _when(terms: tuple[Term, ...], rule: Any, axes: Mapping[str, Axis], where: str) -> tuple[Term, ...]:
    if not isinstance(rule, Mapping) or set(rule) != {"if", "then"} or not isinstance(rule["if"], Mapping):
        raise SweepError(f"{where}: must be {{if: {{axis: value}}, then: grid}}, but got {rule!r}")
    then = expand(rule["then"], axes, f"{where}.then")
    rest = terms
    # Split off, one condition at a time, what does not match; what is left matches all of them.
    kept: tuple[Term, ...] = ()
    for name, entry in rule["if"].items():
        axis = _axis(name, axes, f"{where}.if.{name}")
        wanted = set(axis_values(axis, entry, f"{where}.if.{name}"))
        matching: tuple[Term, ...] = ()
        for term in rest:
            yes, no = split(term, axis, wanted, axes)
            matching += yes
            kept += no
        rest = matching
        _bounded(len(kept) + len(rest), (), where)
    return kept + _times(rest, then, f"{where}.then")


def split(
    term: Term, axis: Axis, wanted: set[Value], axes: Mapping[str, Axis]
) -> tuple[tuple[Term, ...], tuple[Term, ...]]:
    """The parts of a term in which `axis` is, and is not, among `wanted` (each () or one term)."""
    for i, table in enumerate(term):
        if axis.name in table.names:
            at = table.names.index(axis.name)
            parts = []
            for inside in (True, False):
                rows = tuple(r for r in table.rows if (r[at] in wanted) == inside)
                parts.append(((*term[:i], replace(table, rows=rows), *term[i + 1 :]),) if rows else ())
            return parts[0], parts[1]
    if axis.follows is not None:
        return split(term, axes[axis.follows], wanted, axes)
    return ((term,), ()) if axis.default in wanted else ((), (term,))
