"""Scaling laws with honest intervals.

`fit` takes a table and returns a `Fit`, `peak` the peaks of curves, `rank_correlation` how alike two columns order the
rows; the files below them take and return NumPy arrays. Polars and SciPy are imported when one of these or its result
is first asked for, so that a sweep is planned without.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from raysweep.laws.definition import Law
from raysweep.laws.forms import LAWS, law
from raysweep.laws.window import Window

if TYPE_CHECKING:
    from raysweep.laws.group import GroupFit
    from raysweep.laws.peaks import GroupPeaks, peak
    from raysweep.laws.rank import GroupCorrelation, rank_correlation
    from raysweep.laws.result import Fit
    from raysweep.laws.table import fit

__all__ = [
    "LAWS", "Fit", "GroupCorrelation", "GroupFit", "GroupPeaks", "Law", "Window", "fit", "law", "peak",
    "rank_correlation",
]  # fmt: skip

_HOMES = {
    "fit": "table", "Fit": "result", "GroupFit": "group", "peak": "peaks", "GroupPeaks": "peaks",
    "rank_correlation": "rank", "GroupCorrelation": "rank",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"raysweep.laws.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
