"""The errors raysweep raises on purpose. Each message states the rule, the value that broke it, and a remedy.

What a message quotes may come from anywhere: it is kept short, its control characters are spelt out, and what looks
like a credential is taken out.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable

__all__ = [
    "ClaimError",
    "ContractError",
    "ExportError",
    "FitError",
    "LedgerError",
    "MetricError",
    "OracleError",
    "PackError",
    "PriceError",
    "RaysweepError",
    "StudyError",
    "SweepError",
    "nearest",
    "plain",
    "redact",
    "tail",
]

_LONGEST = 4000  # characters of a message; the middle of a longer one is left out
_LONGEST_TAIL = 8000  # characters of the end of a traceback
_MOST_NAMES = 60  # valid names that a message lists
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|API_KEY|ACCESS_KEY|PRIVATE_KEY")
_USER = re.compile(r"(?<=://)[^@\s:]{0,500}:(?!\d+/)[^@\s]{0,500}@")
_QUERY = re.compile(
    r"(?i)([?&](?:[\w.%-]*(?:secret|token|passw(?:or)?d|signature|credential|(?:access|api|account)[_-]?key)[\w.%-]*"
    r"|key|sig|sas)=)[^&#\s'\"]+"
)
# C0 and C1 except tab and line feed, and changes of text direction: a terminal would obey them.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def redact(text: str) -> str:
    """The text without credentials: user and password of a URI, signed or secret parts of its query, and the value of
    any environment variable called a secret, token, password or key.

    Example:
        >>> redact("cannot open s3://AKIA:hidden@bucket/x?region=eu&session_token=abc")
        'cannot open s3://***@bucket/x?region=eu&session_token=***'
    """
    text = _QUERY.sub(r"\1***", _USER.sub("***@", text))
    for name, value in os.environ.items():
        if len(value) >= 8 and value in text and _SECRET_NAME.search(name.upper()):
            text = text.replace(value, "***")
    return text


def plain(text: str) -> str:
    r"""The text with control characters spelt out (`\x1b`): text from a store must not control a terminal."""
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], text)


class RaysweepError(Exception):
    """Base of every error that the caller can fix. The CLI prints it in one line and exits with 2."""

    def __init__(self, message: str = "") -> None:
        text = _shortened(str(message), 4 * _LONGEST)  # first, as the rest may take quadratic time
        super().__init__(_shortened(plain(redact(text)), _LONGEST))


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most * 3 // 4]} ... {text[-most // 5 :]}"


class SweepError(RaysweepError):
    """A sweep file, a `--set` override, an axis or a grid is not valid."""


class LedgerError(RaysweepError):
    """A store cannot be opened, read or written."""


class PackError(RaysweepError):
    """A pack cannot be built or executed (not one of its runs: those become rows)."""


class MetricError(RaysweepError):
    """A metric is not defined for what it is asked of, such as the mean dimension of a constant."""


class FitError(RaysweepError):
    """No usable estimate exists: too few scales, non-positive values, an unknown column or law."""


class OracleError(RaysweepError):
    """A world cannot be trained, loaded or trusted (its audit failed)."""


class ExportError(RaysweepError):
    """A tracker cannot be written to, or its package is not installed."""


class StudyError(RaysweepError):
    """Results of another tool cannot be read, or do not match the sweep that they are imported for."""


class ClaimError(RaysweepError):
    """A claim contradicts itself, or a table of claims is not valid."""


class PriceError(RaysweepError):
    """A price table is not valid, or a plan cannot be priced."""


class ContractError(RaysweepError, AssertionError):
    """An experiment breaks rules of `raysweep.experiment.Experiment`; `testing.check_experiment` names them."""


def tail(text: str, lines: int = 12) -> str:
    """The last lines of a traceback or log: what a row's `error` keeps. Credentials are taken out."""
    text = text[-4 * _LONGEST_TAIL :].encode(errors="backslashreplace").decode()  # half a surrogate pair is not UTF-8
    return redact("\n".join(text.strip().splitlines()[-lines:])[-_LONGEST_TAIL:])


def nearest(name: str, valid: Iterable[str]) -> str:
    """`" Did you mean 'width'? Valid: ..."`: the closest valid names first, then all of them.

    Example:
        >>> nearest("widht", ["width", "seed"])
        "Did you mean 'width'? Valid names: seed, width"
    """
    names = sorted(valid)
    name = name[:200]  # the search for close names takes quadratic time
    same = [n for n in names if n.casefold() == name.casefold()]  # `N` and `n` have no letter in common
    close = same or difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    hint = f"Did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return f"{hint}Valid names: {', '.join(names[:_MOST_NAMES])}{more}"
