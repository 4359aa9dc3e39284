"""Scaling laws with honest intervals.

`fit` takes a table and returns a `Fit`; the files below it take and return NumPy arrays. Polars is imported when
`fit` or `Fit` is first asked for, so planning and running a sweep work where it is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raysweep.laws.definition import Law
from raysweep.laws.forms import LAWS, law
from raysweep.laws.group import GroupFit

if TYPE_CHECKING:
    from raysweep.laws.result import Fit
    from raysweep.laws.table import fit

__all__ = ["LAWS", "Fit", "GroupFit", "Law", "fit", "law"]


def __getattr__(name: str) -> Any:
    if name == "fit":
        from raysweep.laws.table import fit

        return fit
    if name == "Fit":
        from raysweep.laws.result import Fit

        return Fit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
