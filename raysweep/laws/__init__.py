"""Scaling laws with honest intervals.

`fit` takes a table and returns a `Fit`; the files below it take and return NumPy arrays. Polars is imported when
`fit` or `Fit` is first asked for, so planning and running a sweep work where it is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raysweep.laws.forms import LAWS, Law, law
from raysweep.laws.group import GroupFit

if TYPE_CHECKING:
    from raysweep.laws.table import Fit, fit

__all__ = ["LAWS", "Fit", "GroupFit", "Law", "fit", "law"]


def __getattr__(name: str) -> Any:
    if name in ("Fit", "fit"):
        from raysweep.laws import table

        return getattr(table, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
