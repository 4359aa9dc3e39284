"""Guards: which names a store may have, which of its paths may be accessed, and how much of a file is read."""

from __future__ import annotations

import os
import stat
from typing import Any
from urllib.parse import unquote

from raysweep.errors import LedgerError, redact

__all__ = ["base_name", "below", "check_uri", "read_stream", "regular"]

_PIECE = 1 << 20
_KEYED = ("s3", "s3a", "http", "https")  # schemes whose user can only be a key


def check_uri(uri: str) -> None:
    """Refuse a store's URI that holds credentials: it would be printed, logged, and passed to Ray's workers.

    Raises:
        LedgerError: it does, or holds control characters.
    """
    if not uri.isprintable():
        raise LedgerError(f"store: a path or URI must be printable, but got {uri!r}")
    for text in (uri, unquote(uri)) if "://" in uri else ():
        scheme, _, rest = text.rpartition("::")[2].partition("://")
        if redact(text) != text or (scheme in _KEYED and "@" in rest.split("/")[0]):
            raise LedgerError(
                f"store: a URI must not hold credentials, but got {uri.split('://')[0]}://*** . Give them by the "
                "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS), a profile "
                "or a role"
            )


def below(root: str, name: str, local: bool) -> str:
    """The path of a file of a store, checked to lie inside it: links in a store may come from anybody.

    Raises:
        LedgerError: the name climbs out by `..`, or a link leads out.
    """
    path = f"{root.rstrip('/')}/{name}"
    if {"", ".", ".."} & set(name.split("/")) or "\0" in name:
        raise LedgerError(f"store {root}: a name must be a plain path below it, but got {name!r}")
    if local:
        real, inside = os.path.realpath(path), os.path.realpath(root)
        if not real.startswith(f"{inside.rstrip('/')}/"):
            raise LedgerError(f"store {root}: {name} must lie in the store, but is a link to {real}; copy it here")
    return path


def regular(path: str) -> None:
    """Refuse a local path that is not a regular file: a pipe blocks its reader, a device never ends.

    Raises:
        LedgerError: it is not one.
        OSError: it cannot be inspected.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise LedgerError(f"{path} cannot be read: it is not a regular file")


def read_stream(stream: Any, most: int, name: str) -> bytes:
    """All bytes of a stream; no more than `most` are held.

    Raises:
        LedgerError: it has more.
    """
    pieces, size = [], 0
    while piece := stream.read(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise LedgerError(f"{name} cannot be read: it has more than {most:,} bytes")
    return b"".join(pieces)


def base_name(info: Any) -> str:
    """A listed file's name; one that is not UTF-8 is reported, not read."""
    try:
        return str(info.base_name)
    except UnicodeDecodeError:
        return "(a name that is not UTF-8)"
