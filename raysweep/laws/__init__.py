"""Scaling laws with honest intervals.

`fit` takes a table and returns a `Fit`; the files below it take and return NumPy arrays. Polars and SciPy are imported
when `fit`, `Fit` or `GroupFit` is first asked for, so that a sweep is planned without either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raysweep.laws.forms import LAWS, Law, law

if TYPE_CHECKING:
    from raysweep.laws.group import GroupFit
    from raysweep.laws.table import Fit, fit

__all__ = ["LAWS", "Fit", "GroupFit", "Law", "fit", "law"]


def __getattr__(name: str) -> Any:
    if name in ("Fit", "fit"):
        from raysweep.laws import table

        return getattr(table, name)
    if name == "GroupFit":
        from raysweep.laws.group import GroupFit

        return GroupFit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
