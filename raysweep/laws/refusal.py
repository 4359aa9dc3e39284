"""Refusals that know what is at fault: a part of a request, or a column of a table."""

from __future__ import annotations

from raysweep.errors import FitError

__all__ = ["ColumnError", "RequestError"]


class RequestError(FitError):
    """A fit that no table could answer.

    Attributes:
        key: What is at fault: an argument of `fit`, a key of a sweep file's fit, an option of `raysweep fit`.
        rule: What must hold, what was given, and what to do.
    """

    def __init__(self, key: str, rule: str) -> None:
        super().__init__(f"{key}: {rule}")
        self.key, self.rule = key, rule


class ColumnError(FitError):
    """A column that the table lacks, or that holds no numbers where it must.

    Attributes:
        column: Its name.
    """

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column
