"""Successive halving of candidates: at which of the times that a run is read the rungs lie, and its cells up to one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from raysweep.errors import SweepError
from raysweep.grid.axes import Axis
from raysweep.grid.runs import Observed, Runs
from raysweep.grid.terms import Table, Term
from raysweep.grid.values import Value

if TYPE_CHECKING:
    from raysweep.sweep.schema import Halving

__all__ = ["Ladder", "ladder_of"]


@dataclass(frozen=True)
class Ladder:
    """The rungs of a sweep that halves, and how many candidates pass one.

    Jamieson & Talwalkar 2016 (arXiv 1502.07943). All candidates of a round that are left reach a rung before any is
    retired there, unlike in the asynchronous kind (arXiv 1810.05934), so that what is retired depends on neither the
    order in which they were trained nor how they were packed.

    Attributes:
        axis: The observed axis along which candidates are retired.
        factor: Of so many candidates that reach a rung, one passes it.
        least: Least time of the first rung.
    """

    axis: str
    factor: float
    least: float

    @property
    def text(self) -> str:
        """What it decides, for hashes."""
        return f"halving={self.axis}:{self.factor}:{self.least}"

    def rungs(self, observed: Observed) -> tuple[float, ...]:
        """The times of the rungs of a run: of those at which it is read, the first at or beyond `least`, then always
        the first at or beyond `factor` times `least`, its square, and so on; the last time is no rung.
        """
        times = [float(t) for t in _times(observed, self.axis)]
        wanted, found = self.least, []
        for time in times[:-1]:
            if time >= wanted:
                found.append(time)
                while wanted <= time:
                    wanted *= self.factor
        return tuple(found)

    def rungs_of(self, runs: Runs) -> tuple[float, ...]:
        """The times of the rungs of any of these runs."""
        return tuple(sorted({t for code in np.unique(runs.observed_code) for t in self.rungs(runs.observed[code])}))

    def passing(self, count: int) -> int:
        """How many candidates pass a rung that `count` of them reach: at least one."""
        return max(1, math.floor(round(count / self.factor, 9)))

    def until(self, runs: Runs, retired: npt.NDArray[np.float64], reached: npt.NDArray[np.float64]) -> Runs:
        """The runs, each asked only for cells up to its own limit.

        Args:
            retired: [n] time at which a run ends, as its candidate was retired there; infinity where it was not.
            reached: [n] time of the last rung that its candidate passed, 0 before the first; infinity where it has
                passed them all. The next rung is its limit.
        """
        of_kind = [np.array([*self.rungs(observed), np.inf]) for observed in runs.observed]
        limit = retired.copy()
        for kind, rungs in enumerate(of_kind):
            mine = np.flatnonzero(runs.observed_code == kind)
            following = np.searchsorted(rungs, reached[mine], side="right")
            limit[mine] = np.minimum(limit[mine], np.append(rungs, np.inf)[following])
        kinds, code = np.unique(np.stack([runs.observed_code, limit]), axis=1, return_inverse=True)
        observed = tuple(_before(runs.observed[int(at)], self.axis, last) for at, last in kinds.T.tolist())
        return replace(runs, observed=observed, observed_code=code.reshape(-1))

    def share(self, part: Runs, whole: Runs) -> float:
        """The mean share of their last time up to which runs are trained.

        Args:
            part, whole: The same runs, as they are asked for and as they would be without halving.
        """
        last = [[_last(observed, self.axis) for observed in runs.observed] for runs in (part, whole)]
        ends = [np.array(times)[runs.observed_code] for times, runs in zip(last, (part, whole), strict=True)]
        return float(np.mean(ends[0] / ends[1]))

    def check(self, runs: Runs) -> None:
        """Refuse runs without a rung.

        Raises:
            SweepError: no run is read at two times with a rung below the last.
        """
        if self.rungs_of(runs):
            return
        times = sorted({t for code in np.unique(runs.observed_code) for t in _times(runs.observed[code], self.axis)})
        if not times:
            raise SweepError(
                f"tuner.halving: {self.axis} must be observed, so that candidates can be compared along the way, but "
                "it is each run's own length here. Use a schedule under which it is observed, or leave halving out"
            )
        raise SweepError(
            f"tuner.halving: a time of {self.axis} must lie at or above min_resource and below the last one, but got "
            f"({self.axis}={times}, min_resource={self.least:g}). Read {self.axis} at an earlier time, too, or lower "
            "min_resource"
        )


def ladder_of(halving: Halving | None, axes: Mapping[str, Axis], checkpoint_seconds: float) -> Ladder | None:
    """The ladder that a sweep file describes.

    Raises:
        SweepError: there is not exactly one axis of training time, or no training state is saved.
    """
    if halving is None:
        return None
    times = [axis.name for axis in axes.values() if axis.role == "time"]
    times = times or [a.name for a in axes.values() if a.kind == "observed" and a.inferred and a.type in (int, float)]
    if len(times) != 1:
        raise SweepError(
            "tuner.halving: a sweep must have one observed axis of numbers that is its training time, along which "
            f"candidates are retired, but has {', '.join(times) or 'none'}. Leave halving out"
        )
    if not checkpoint_seconds:
        raise SweepError(
            "resources.checkpoint_seconds: must be above 0 with tuner.halving, as the candidates that pass a rung "
            "continue from their saved state, but got 0. Leave it out, or leave halving out"
        )
    return Ladder(times[0], halving.reduction_factor, halving.min_resource)


def _times(observed: Observed, axis: str) -> tuple[Value, ...]:
    """The values at which a run is read, in order; none where the axis is not observed in it."""
    there = dict(observed.defaults).get(axis) is not None
    return observed.values(axis) if there or any(axis in t.names for b in observed.blocks for t in b) else ()


def _last(observed: Observed, axis: str) -> float:
    return float(max(_times(observed, axis), default=0)) or 1.0


def _before(observed: Observed, axis: str, last: float) -> Observed:
    """The cells up to a time."""
    if last == np.inf:
        return observed
    default = dict(observed.defaults).get(axis)
    kept = (_block(block, axis, default, last) for block in observed.blocks)
    return replace(observed, blocks=tuple(block for block in kept if block is not None))


def _block(block: Term, axis: str, default: Value | None, last: float) -> Term | None:
    """A product of tables without later times; None where nothing is left."""
    if not any(axis in table.names for table in block):
        return block if default is None or float(default) <= last else None
    tables = tuple(_earlier(table, axis, last) for table in block)
    return tables if all(table.rows for table in tables) else None


def _earlier(table: Table, axis: str, last: float) -> Table:
    if axis not in table.names:
        return table
    at = table.names.index(axis)
    return replace(table, rows=tuple(row for row in table.rows if float(row[at]) <= last))
