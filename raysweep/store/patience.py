"""Patience: transient failures (a server down, a full disk, a lost connection) are retried for a while.

One place decides which errors are transient and how long they are retried, so that a short outage of the storage costs
time and nothing else.
"""

from __future__ import annotations

import errno
import math
import os
import re
import secrets
import time
from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

from raysweep.errors import LedgerError, RaysweepError

__all__ = ["PATIENCE", "full", "patience", "patiently", "transient"]

PATIENCE = 60.0  # seconds from the first failure to the last retry, unless RAYSWEEP_PATIENCE is set
_PAUSES = (0.1, 8.0)  # seconds after the first failure, and at most; doubled in between
_LASTING = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
_LASTING_CODES = {
    *(errno.EROFS, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.EFBIG, errno.EMLINK, errno.EXDEV),
    *(errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTTY),  # a file system that does not support it
}
_MISTAKES = (RaysweepError, TypeError, ValueError, LookupError, AttributeError, NotImplementedError, MemoryError)
_REFUSED = re.compile(  # object stores say so in words
    r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|HTTP status 4(?!08|29)\d\d"
)
T = TypeVar("T")


def transient(error: BaseException) -> bool:
    """Whether the same operation may succeed later with the same command."""
    if not isinstance(error, Exception) or isinstance(error, (*_LASTING, *_MISTAKES, pa.ArrowNotImplementedError)):
        return False
    return getattr(error, "errno", None) not in _LASTING_CODES and not _REFUSED.search(str(error))


def full(error: BaseException) -> bool:
    """Whether an error says that there is no room left."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def patiently(action: Callable[[], T], seconds: float | None = None) -> T:
    """The result of an action, retried while its failures are transient.

    Args:
        action: An idempotent function: the first call may have succeeded without saying so.
        seconds: Seconds after the first failure within which retries begin; None is `patience()`.

    Raises:
        LedgerError: RAYSWEEP_PATIENCE is not a number of seconds.
        Exception: the last one of the action, when it is not transient or time is up.
    """
    pause, most = _PAUSES
    end: float | None = None
    while True:
        try:
            return action()
        except Exception as error:
            now = time.monotonic()
            end = now + (patience() if seconds is None else seconds) if end is None else end
            if now >= end or not transient(error):
                raise
        jitter = 0.5 + secrets.randbelow(1000) / 1000  # a user's function may have seeded `random`
        time.sleep(min(pause * jitter, max(0.001, end - time.monotonic())))
        pause = min(2 * pause, most)


def patience() -> float:
    """Seconds for which failures are retried by default.

    Raises:
        LedgerError: RAYSWEEP_PATIENCE is not a number of seconds.
    """
    given = os.environ.get("RAYSWEEP_PATIENCE", "")
    try:
        seconds = float(given) if given else PATIENCE
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise LedgerError(f"RAYSWEEP_PATIENCE: must be a number of seconds, 0 or more, but got {given!r}")
    return seconds
