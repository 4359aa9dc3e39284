"""The errors raysweep raises on purpose. Each message states the rule, the value that broke it, and a remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ExportError",
    "FitError",
    "LedgerError",
    "OracleError",
    "PackError",
    "PriceError",
    "RaysweepError",
    "SweepError",
    "nearest",
    "tail",
]


class RaysweepError(Exception):
    """Base of every error that is the caller's to mend. The CLI prints it in one line and exits with 2."""


class SweepError(RaysweepError):
    """A sweep file, a `--set` override, an axis or a grid is not valid."""


class LedgerError(RaysweepError):
    """A store cannot be opened, read or written."""


class PackError(RaysweepError):
    """A pack cannot be built or executed (not one of its runs: those become rows)."""


class FitError(RaysweepError):
    """No usable estimate exists: too few scales, non-positive values, an unknown column or law."""


class OracleError(RaysweepError):
    """A world cannot be trained, loaded or trusted (its audit failed)."""


class ExportError(RaysweepError):
    """A tracker cannot be written to, or its package is not installed."""


class PriceError(RaysweepError):
    """A price table is not valid, or a plan cannot be priced."""


def tail(text: str, lines: int = 12) -> str:
    """The last lines of a traceback or log: what a row's `error` keeps."""
    return "\n".join(text.strip().splitlines()[-lines:])


def nearest(name: str, valid: Iterable[str]) -> str:
    """`" Did you mean 'width'? Valid: ..."`: the closest valid names first, then all of them.

    Example:
        >>> nearest("widht", ["width", "seed"])
        "Did you mean 'width'? Valid names: seed, width"
    """
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    hint = f"Did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return f"{hint}Valid names: {', '.join(names)}"
