"""Places of a grid at which an axis stands, and the grid with other values there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raysweep.errors import SweepError
from raysweep.grid.axes import Axis, axis_values

__all__ = ["entries", "replaced"]

_BRANCHES = ("zip", "concat", "when")


def entries(grid: Mapping[str, Any], name: str) -> list[Any]:
    """What a grid gives for an axis, at each place where it stands."""
    return [group[name] for _, _, group in _groups(grid, "grid") if name in group]


def replaced(grid: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The grid with the entries that `--set` gives: each wherever its axis stands, in every branch of `concat` and
    `when` that has it and in every `zip`; an axis that stands nowhere multiplies the whole grid.

    Raises:
        SweepError: An axis stands in a `zip` beside axes of another length.
    """
    found: dict[str, Any] = {**grid}
    for name, entry in given.items():
        nested = name not in grid and bool(entries(grid, name))
        found = _with(found, name, entry) if nested else {**found, name: entry}
    for place, zipped, group in _groups(found, "grid"):
        mine = [name for name in group if name in given]
        if zipped and mine:
            _check_zip(place, group, mine[0])
    return found


def _groups(grid: Any, place: str, zipped: bool = False) -> Iterator[tuple[str, bool, Mapping[str, Any]]]:
    """The mappings from axes to values within a grid, at any depth: where each stands, and whether it is a `zip`."""
    if not isinstance(grid, Mapping):
        return  # what is no grid is reported where it is expanded
    yield place, zipped, grid
    for key in () if zipped else _BRANCHES:
        many = grid.get(key, ())
        for i, part in enumerate(many if isinstance(many, list | tuple) else [many]):
            inner = f"{place}.{key}[{i}]"
            if key != "when":
                yield from _groups(part, inner, key == "zip")
            elif isinstance(part, Mapping):
                yield from _groups(part.get("then"), f"{inner}.then")


def _with(grid: Any, name: str, entry: Any, zipped: bool = False) -> Any:
    """The grid with an axis's entry wherever the axis stands."""
    if not isinstance(grid, Mapping):
        return grid
    found = {key: entry if key == name else value for key, value in grid.items()}
    for key in () if zipped else _BRANCHES:
        if key not in grid:
            continue
        many = grid[key] if isinstance(grid[key], list | tuple) else [grid[key]]
        if key == "when":
            found[key] = [
                {**rule, "then": _with(rule["then"], name, entry)}
                if isinstance(rule, Mapping) and "then" in rule
                else rule
                for rule in many
            ]
        else:
            found[key] = [_with(part, name, entry, key == "zip") for part in many]
    return found


def _check_zip(place: str, group: Mapping[str, Any], name: str) -> None:
    counts = {other: _count(entry) for other, entry in group.items()}
    if None in counts.values() or len(set(counts.values())) == 1:
        return
    beside = ", ".join(f"{other} ({count:,})" for other, count in counts.items() if other != name)
    raise SweepError(
        f"--set {name}: must have as many values as the axes that {name} moves with, because it stands in {place} "
        f"beside {beside}, but got {counts[name]:,}. Give as many values, or give those axes by --set, too"
    )


def _count(entry: Any) -> int | None:
    """How many values an entry has; None for a range that is not valid, which is reported where it is expanded."""
    if isinstance(entry, list | tuple):
        return len(entry)
    try:
        return len(axis_values(Axis("count", float, "lane"), entry, "")) if isinstance(entry, Mapping) else 1
    except SweepError:
        return None
