"""Where the runs of a sweep that tunes come from: the setting that each was proposed for, and its role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysweep.grid.axes import Axis
from raysweep.grid.enumeration import run_keys
from raysweep.grid.runs import Runs
from raysweep.grid.values import Value

__all__ = ["CANDIDATE", "SELECTED", "Lineage"]

CANDIDATE, SELECTED = "candidate", "selected"


@dataclass(frozen=True)
class Lineage:
    """How the parent and the role of a run follow from its axes.

    Attributes:
        identity: The contents of run keys besides the axes.
        tuned: Axes that are tuned.
        lead: The seed that is fresh in runs of the winners.
        known: Its values in candidates; None where a run has no seed.
    """

    axes: Mapping[str, Axis]
    identity: str
    tuned: frozenset[str]
    lead: str
    known: frozenset[Value | None]

    def parents(self, runs: Runs) -> npt.NDArray[np.bytes_]:
        """[n] the key of each run's setting: its run key without tuned axes and seeds."""
        values = {n: v for n, v in runs.values.items() if n not in self.tuned and not self._is_seed(n)}
        return run_keys(values, runs.codes, self.axes, self.identity, len(runs))

    def _is_seed(self, name: str) -> bool:
        axis = self.axes[name]
        return axis.role == "seed" or (axis.follows is not None and self._is_seed(axis.follows))

    def roles(self, runs: Runs) -> list[str]:
        """[n] `candidate`, or `selected` for runs of a winner on fresh seeds."""
        role = [CANDIDATE if value in self.known else SELECTED for value in runs.values[self.lead]]
        return [role[code] for code in runs.codes[self.lead].tolist()]
