"""Successive halving of candidates: at which of the times that a run is read at a rung lies, and its cells up to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raysweep.errors import SweepError
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.terms import Table, Term
from raysweep.grid.values import Value
from raysweep.sweep.schema import Halving

__all__ = ["Ladder", "ladder_of"]


@dataclass(frozen=True)
class Ladder:
    """The rungs of a sweep that halves.

    Attributes:
        axis: The observed axis along which candidates are retired.
        eta: At a rung, the best of so many candidates goes on.
        least: Time of the first rung; None for the first time of a run.
    """

    axis: str
    eta: float
    least: float | None = None

    @property
    def text(self) -> str:
        """What it decides, for hashes."""
        return f"halving={self.axis}:{self.eta}:{self.least}"

    def rungs(self, observed: Observed) -> tuple[float, ...]:
        """The times of the rungs: of those that are read, the first at or beyond each `least * eta**i`, the last time
        left out.
        """
        times = [float(t) for t in _times(observed, self.axis)]
        wanted = self.least or next((t for t in times if t > 0), 1.0)
        found = []
        for time in times[:-1]:
            if time >= wanted:
                found.append(time)
                while wanted <= time:
                    wanted *= self.eta
        return tuple(found)

    def count(self, runs: Runs) -> int:
        """Most rungs that one of these runs has."""
        return max((len(self.rungs(runs.observed[code])) for code in np.unique(runs.observed_code)), default=0)

    def limits(self, runs: Runs, rung: int) -> npt.NDArray[np.float64]:
        """[n] the time of a rung in each run; infinity where it has fewer."""
        every = [self.rungs(observed) for observed in runs.observed]
        each = np.array([rungs[rung] if rung < len(rungs) else np.inf for rungs in every])
        return np.asarray(each[runs.observed_code])

    def until(self, runs: Runs, limit: npt.NDArray[np.float64]) -> Runs:
        """The runs, each asked only for cells up to its own limit.

        Args:
            limit: [n] times, at least the first of each run.
        """
        kinds, code = np.unique(np.stack([runs.observed_code, limit]), axis=1, return_inverse=True)
        observed = tuple(_before(runs.observed[int(at)], self.axis, last) for at, last in kinds.T.tolist())
        return replace(runs, observed=observed, observed_code=code.reshape(-1))

    def check(self, runs: Runs) -> None:
        """Refuse runs without a rung.

        Raises:
            SweepError: no run is read at two times with a rung below the last.
        """
        if self.count(runs):
            return
        times = sorted({t for observed in runs.observed for t in _times(observed, self.axis)})
        if not times:
            raise SweepError(
                f"tuner.halving: `{self.axis}` must be read along the way, but it is a run's own length here. Choose a "
                "schedule under which it is observed, or leave halving out"
            )
        raise SweepError(
            f"tuner.halving: a time of {self.axis} must lie at or above `min` and below the last one, but got "
            f"({self.axis}={times}, min={self.least}). Read {self.axis} at earlier times, too, or lower min"
        )


def ladder_of(halving: Halving | None, axes: Mapping[str, Axis]) -> Ladder | None:
    """The ladder that a sweep file describes.

    Raises:
        SweepError: there is not exactly one axis of training time.
    """
    if halving is None:
        return None
    times = [axis.name for axis in axes.values() if axis.role == "time"]
    times = times or [a.name for a in axes.values() if a.kind == "observed" and a.type in (int, float)]
    if len(times) != 1:
        raise SweepError(
            "tuner.halving: a sweep must have one observed axis of training time, along which candidates are retired, "
            f"but has {', '.join(times) or 'none'}. Leave halving out"
        )
    return Ladder(times[0], halving.eta, halving.min)


def _times(observed: Observed, axis: str) -> tuple[Value, ...]:
    """The values at which a run is read, in order; none where the axis is not observed in it."""
    there = dict(observed.defaults).get(axis) is not None
    return observed.values(axis) if there or any(axis in t.names for b in observed.blocks for t in b) else ()


def _before(observed: Observed, axis: str, last: float) -> Observed:
    if last == np.inf:
        return observed
    kept = (_block(block, axis, dict(observed.defaults).get(axis), last) for block in observed.blocks)
    return replace(observed, blocks=tuple(block for block in kept if block is not None))


def _block(block: Term, axis: str, default: Value | None, last: float) -> Term | None:
    """A product of tables without later times; None where nothing is left."""
    if not any(axis in table.names for table in block):
        return block if default is None or float(default) <= last else None
    tables = []
    for table in block:
        at = table.names.index(axis) if axis in table.names else None
        rows = table.rows if at is None else tuple(row for row in table.rows if float(row[at]) <= last)
        tables.append(Table(table.names, rows))
    return tuple(tables) if all(table.rows for table in tables) else None
