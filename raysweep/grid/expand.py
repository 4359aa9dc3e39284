"""Grid algebra: product, zip, concat, when, derived axes and exclude, from a sweep file's mapping to terms (products of
small tables).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raysweep.errors import SweepError, nearest
from raysweep.grid.axes import Axis, axis_values
from raysweep.grid.derived import MAX_WORK, Derived, check_kinds, compute, is_derived, parse_derived
from raysweep.grid.terms import Table, Term, column, split
from raysweep.grid.values import Value, canonical

__all__ = ["derived_values", "expand"]

# concat and when multiply terms, and each is a product of tables. A large sweep has a hundred terms of ten tables.
_MOST = {"axes in one product": 500, "products": 10_000, "axes in all products": 100_000, "values": 4_000_000}
_MAX_WORK = 50_000_000  # values looked at by all rules of a `when`, or of an `exclude`


@dataclass(frozen=True, eq=False)
class _Rule:
    """A condition: each of some axes has one of its values."""

    wanted: Mapping[str, tuple[Value, ...]]
    ranges: frozenset[str]  # axes whose values are written as a range
    where: str


@dataclass(frozen=True)
class _Part:
    """An unfinished term: its tables, and what waits until all of them exist."""

    tables: Term = ()
    derived: tuple[Derived, ...] = ()
    exclude: tuple[_Rule, ...] = ()

    @property
    def names(self) -> set[str]:
        return {n for t in self.tables for n in t.names} | {d.axis.name for d in self.derived}


def expand(spec: Mapping[str, Any], axes: Mapping[str, Axis], where: str = "grid") -> tuple[Term, ...]:
    """The terms (products of tables) that a grid mapping stands for.

    Plain keys are axes and multiply; an expression over other axes (`"width * 4"`) is computed in each cell. Four keys
    are algebra, each a list (a single entry may stand alone):

    * `zip`: mappings of equally long axes that move together
    * `concat`: grids, whose union is taken
    * `when`: `{if: {axis: value or list}, then: grid}`; cells that do not match keep the defaults
    * `exclude`: `{axis: value or list}`; cells that match all axes of a mapping are left out

    Raises:
        SweepError: an unknown axis (with the nearest names), an axis named twice in one product, unequal zips, a
            derived axis that has no value in some cell or depends on itself, an exclusion of a value that no cell has.
    """
    given = _named(spec)
    parts: list[_Part] = []
    work = 0
    for part in _expand(spec, axes, where, given):
        tables = part.tables
        for own in part.derived:
            tables = compute(tables, part.derived, own.axis.name, axes)
            work += own.work * next(len(t.rows) for t in tables if own.axis.name in t.names)
            if work > MAX_WORK:
                raise SweepError(f"{own.where}: formulas for that many cells take too long; split the sweep")
        check_kinds(tables, part.derived, axes)
        parts.append(replace(part, tables=tables))
    _bounded(len(parts), parts, where)
    return _exclude(parts, axes, where)


def derived_values(spec: Mapping[str, Any], axes: Mapping[str, Axis], names: Iterable[str]) -> dict[str, set[Value]]:
    """The values that derived axes take in a grid, for learning their types.

    Args:
        axes: All axes of the grid but the derived ones.
        names: The derived ones.

    Raises:
        SweepError: as `expand`.
    """
    untyped = {name: _Untyped(name, float, "observed") for name in names}
    terms = expand(spec, {**axes, **untyped})
    return {n: set().union(*(column(term, axis, untyped) for term in terms)) for n, axis in untyped.items()}


class _Untyped(Axis):
    """A derived axis before its type is known."""

    def parse(self, raw: Any, where: str) -> Value:
        return canonical(raw)  # type: ignore[return-value]


def _named(spec: Any) -> set[str]:
    """Every axis that a grid gives values to, in any branch."""
    names: set[str] = set()
    for key, entry in spec.items() if isinstance(spec, Mapping) else ():
        parts = entry if isinstance(entry, list) else [entry]
        if key == "when":
            parts = [rule.get("then") for rule in parts if isinstance(rule, Mapping)]
        if key in ("zip", "concat", "when"):
            names.update(*map(_named, parts))
        elif key != "exclude":
            names.add(key)
    return names


def _expand(spec: Any, axes: Mapping[str, Axis], where: str, given: Collection[str]) -> tuple[_Part, ...]:
    if not isinstance(spec, Mapping):
        raise SweepError(f"{where}: a grid must be a mapping from axes to values, but got {spec!r}")
    parts: tuple[_Part, ...] = (_Part(),)
    for key, entry in spec.items():
        place = f"{where}.{key}"
        if key in ("when", "exclude"):
            continue
        if key == "zip":
            for i, group in enumerate(_entries(entry, place)):
                parts = _times(parts, (_Part((_zip(group, axes, f"{place}[{i}]"),)),), place)
        elif key == "concat":
            if entry == []:
                raise SweepError(f"{place}: concat needs at least one grid, but got {entry!r}")
            branches = [_expand(g, axes, f"{place}[{i}]", given) for i, g in enumerate(_entries(entry, place))]
            parts = _times(parts, tuple(itertools.chain(*branches)), place)
        else:
            parts = _times(parts, (_plain(_axis(key, axes, place), entry, axes, place),), place)
    for i, rule in enumerate(_rules(spec, "when", parts, where)):
        parts = _when(parts, rule, axes, f"{where}.when[{i}]", given)
    left_out = [
        _rule(rule, axes, f"{where}.exclude[{i}]") for i, rule in enumerate(_rules(spec, "exclude", parts, where))
    ]
    for rule in left_out:
        if not rule.wanted:
            raise SweepError(f"{rule.where}: must name at least one axis, as {{axis: values}}, but got {{}}")
    return tuple(replace(part, exclude=(*part.exclude, *left_out)) for part in parts)


def _entries(entry: Any, where: str) -> list[Any]:
    entries = [entry] if isinstance(entry, Mapping) else entry
    if not isinstance(entries, list):
        raise SweepError(f"{where}: must be a mapping or a list of mappings, but got {entry!r}")
    return entries


def _rules(spec: Mapping[str, Any], key: str, parts: Iterable[_Part], where: str) -> list[Any]:
    rules = _entries(spec.get(key, []), f"{where}.{key}")
    if len(rules) * sum(len(t.rows) for part in parts for t in part.tables) > _MAX_WORK:
        raise SweepError(f"{where}.{key}: {len(rules):,} rules for that many values are too many; split the sweep")
    return rules


def _axis(name: Any, axes: Mapping[str, Axis], where: str) -> Axis:
    if name not in axes:
        raise SweepError(f"{where}: must be an axis of the experiment, but got {name!r}. {nearest(str(name), axes)}")
    return axes[name]


def _plain(axis: Axis, entry: Any, axes: Mapping[str, Axis], where: str) -> _Part:
    """One axis: a table of its values, or the derived axis that computes them."""
    if not is_derived(axis, entry, axes):
        return _Part((Table((axis.name,), tuple((v,) for v in axis_values(axis, entry, where))),))
    return _Part(derived=(parse_derived(axis, entry, axes, where),))


def _zip(group: Any, axes: Mapping[str, Axis], where: str) -> Table:
    if not isinstance(group, Mapping) or len(group) < 2:
        raise SweepError(f"{where}: zip needs a mapping of two axes or more, but got {group!r}")
    columns: dict[str, list[Value]] = {}
    for name, entry in group.items():
        axis = _axis(name, axes, f"{where}.{name}")
        if is_derived(axis, entry, axes):
            raise SweepError(f"{where}.{name}: zip takes values; write the derived axis beside it, but got {entry!r}")
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


def _times(left: tuple[_Part, ...], right: tuple[_Part, ...], where: str) -> tuple[_Part, ...]:
    _bounded(len(left) * len(right), left + right, where)
    for a, b in itertools.product([p.names for p in left], [p.names for p in right]):
        if twice := a & b:
            raise SweepError(f"{where}: an axis can be given once in a product, but {sorted(twice)} is given twice")
    return tuple(
        _Part(a.tables + b.tables, a.derived + b.derived, a.exclude + b.exclude)
        for a, b in itertools.product(left, right)
    )


def _bounded(count: int, parts: Sequence[_Part], where: str) -> None:
    """Refuse a grid that would take long or much memory to expand: `count` products, made of these parts."""
    tables = {id(t): len(t.rows) for part in parts for t in part.tables}
    longest = max((len(part.tables) + len(part.derived) for part in parts), default=0)
    found = (longest, count, count * longest, sum(tables.values()))
    for (what, most), number in zip(_MOST.items(), found, strict=True):
        if number > most:
            raise SweepError(
                f"{where}: a grid may have at most {most:,} {what}, but this one has {number:,}. "
                "Make axes shorter, use fewer `concat`, `when` and `exclude`, or split the sweep"
            )


# --- conditions -------------------------------------------------------------------------------------------


def _rule(spec: Any, axes: Mapping[str, Axis], where: str) -> _Rule:
    if not isinstance(spec, Mapping):
        raise SweepError(f"{where}: must be {{axis: values}}, but got {spec!r}")
    wanted = {n: axis_values(_axis(n, axes, f"{where}.{n}"), entry, f"{where}.{n}") for n, entry in spec.items()}
    return _Rule(wanted, frozenset(n for n, entry in spec.items() if isinstance(entry, Mapping)), where)


def _when(
    parts: tuple[_Part, ...], rule: Any, axes: Mapping[str, Axis], where: str, given: Collection[str]
) -> tuple[_Part, ...]:
    if not isinstance(rule, Mapping) or set(rule) != {"if", "then"} or not isinstance(rule["if"], Mapping):
        raise SweepError(f"{where}: must be {{if: {{axis: value}}, then: grid}}, but got {rule!r}")
    then = _expand(rule["then"], axes, f"{where}.then", given)
    condition = _rule(rule["if"], axes, f"{where}.if")
    ready = []
    for part in parts:
        tables = part.tables
        for name in (n for wanted in condition.wanted for n in (wanted, axes[wanted].follows) if n):
            tables = compute(tables, part.derived, name, axes, given)
        ready.append(replace(part, tables=tables))
    yes, no = _partition(ready, condition, axes)
    return (*no, *_times(tuple(yes), then, f"{where}.then"))


def _partition(parts: Sequence[_Part], rule: _Rule, axes: Mapping[str, Axis]) -> tuple[list[_Part], list[_Part]]:
    """The parts that match a rule, and those that do not: split off one axis at a time."""
    yes, no = list(parts), []
    for name, values in rule.wanted.items():
        matching: list[_Part] = []
        for part in yes:
            inside, outside = split(part.tables, axes[name], set(values), axes)
            matching += [replace(part, tables=term) for term in inside]
            no += [replace(part, tables=term) for term in outside]
        yes = matching
        _bounded(len(yes) + len(no), (), rule.where)
    return yes, no


def _exclude(parts: Sequence[_Part], axes: Mapping[str, Axis], where: str) -> tuple[Term, ...]:
    """The terms without the cells that the parts' rules leave out."""
    rules: dict[_Rule, list[_Part]] = {}
    terms: list[Term] = []
    for part in parts:
        left = [part]
        for rule in part.exclude:
            rules.setdefault(rule, []).append(part)
            _, left = _partition(left, rule, axes)
        terms += [piece.tables for piece in left]
        _bounded(len(terms), (), f"{where}.exclude")
    for rule, scope in rules.items():
        _check_values(rule, scope, axes)
    if rules and not terms:
        raise SweepError(f"{where}.exclude: must leave a cell, but leaves none; take a rule out, or narrow it")
    return tuple(terms)


def _check_values(rule: _Rule, parts: Sequence[_Part], axes: Mapping[str, Axis]) -> None:
    """Refuse to exclude a value that no cell has: it is most likely misspelt."""
    for name, values in rule.wanted.items():
        have = set().union(*(column(part.tables, axes[name], axes) for part in parts))
        missing = [value for value in values if value not in have]
        if missing and (name not in rule.ranges or len(missing) == len(values)):
            value = missing[0]
            numbers = sorted(v for v in have if not isinstance(v, str))
            if not isinstance(value, str) and numbers:
                close = sorted(numbers, key=lambda v: abs(float(v) - float(value)))[:3]
                hint = f"Nearest values: {', '.join(map(str, sorted(close)))}"
            else:
                hint = nearest(str(value), map(str, have)).replace("Valid names", "Values")
            raise SweepError(
                f"{rule.where}.{name}: must be values that cells of this grid have, but none has {name} = {value!r}. "
                f"{hint}. (Where --set or a preset replaces {name}, replace `exclude` too)"
            )
