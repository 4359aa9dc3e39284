"""Axes that have no effect on a run: several of their values would be the same training, several times."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from raysweep.errors import SweepError
from raysweep.grid.runs import Runs
from raysweep.grid.values import Value

__all__ = ["refuse_duplicates"]


def refuse_duplicates(runs: Runs, idle: Callable[[Mapping[str, Value]], Mapping[str, str]]) -> None:
    """Refuse runs that differ only in axes without an effect on them.

    Args:
        idle: Of a run's axes those without an effect on it, each with the reason; a function of the other axes.

    Raises:
        SweepError: two runs are the same training.
    """
    seen: dict[tuple[Value | None, ...], Mapping[str, Value]] = {}
    for i in range(len(runs)):
        row = runs.row(i)
        without = idle(row)
        first = seen.setdefault(tuple(None if name in without else value for name, value in row.items()), row)
        for name, why in without.items():
            if first[name] != row[name]:
                raise SweepError(
                    f"grid.{name}: must have one value where it has no effect, as {why}, but got "
                    f"({name}={first[name]} and {row[name]}). Leave it out there: `concat` or `when` gives its values "
                    "to the other runs alone"
                )
