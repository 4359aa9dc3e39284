"""Whole files on a disk: a file appears under its name complete or not at all, as far as the file system allows.

Shared and foreign file systems lack some features of a local one: exFAT, SMB and mounted object stores have no hard
links; some refuse to sync a folder, or even a file; over SFTP a rename refuses an existing name. None of that is a
reason to stop. Each lack has a fallback here and is recorded by name, so that the user is informed of its cost.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeAlias

import pyarrow as pa

__all__ = ["TEMPORARY", "WEAKNESSES", "Content", "create", "replace", "temporary_name"]

TEMPORARY = ".tmp-"
WEAKNESSES = {  # features that a file system may lack, and the cost
    "links": "it makes no hard links: should a driver die in the instant in which it makes a file, the next one waits "
    "10 s for it",
    "sync": "it does not sync files: a power cut may take back what was written in the last seconds",
    "folders": "it does not sync folders: a power cut may take back files of the last seconds",
    "rename": "it does not rename over a file: a file that is written again is missing for an instant",
}
_DEAD = 10.0  # seconds after which a reserved name's owner is taken for dead; it needs milliseconds
_PAUSE = 0.02  # seconds between looks at a name that another writer reserved
# Error codes of file systems for unsupported operations. EACCES and EPERM are among them: without permission to write,
# creating the temporary file would have failed before.
_CANNOT = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY}
_NO_LINK = _CANNOT | {errno.EMLINK, errno.EXDEV}
_NO_SYNC = _CANNOT | {errno.EBADF, errno.EISDIR}
_NO_RENAME = _CANNOT | {errno.EEXIST, errno.EBUSY, errno.ETXTBSY}
Content: TypeAlias = "bytes | pa.Buffer | Callable[[BinaryIO], None]"


def temporary_name(name: str) -> str:
    """A name beside another one, hidden from listings of a store."""
    return f"{TEMPORARY}{secrets.token_hex(6)}-{name}"[:200]


def replace(path: Path, data: Content, weak: set[str]) -> None:
    """Create or replace a file, and force it to the disk.

    Args:
        path: In a folder that exists.
        data: Its content, or a function that writes it to a stream.
        weak: Receives the names of `WEAKNESSES` that were met.

    Raises:
        OSError: it cannot be written; the old file, if there was one, is still there.
    """
    temporary = _written(path, data, weak)
    try:
        _rename(temporary, path, weak)
    except BaseException:
        _remove(temporary)
        raise
    _sync_folder(path.parent, weak)


def create(path: Path, data: Content, weak: set[str]) -> bool:
    """Write a file unless its name is taken; returns whether this call wrote it. One of several writers wins.

    Args and errors as for `replace`.
    """
    temporary = _written(path, data, weak)
    try:
        made = _link(temporary, path, weak)
    finally:
        _remove(temporary)
    _sync_folder(path.parent, weak)
    return made


def _written(path: Path, data: Content, weak: set[str]) -> Path:
    """A temporary file next to a path, with all of the content."""
    temporary = path.with_name(temporary_name(path.name))
    try:
        with open(temporary, "xb") as stream:
            data(stream) if callable(data) else stream.write(data)
            stream.flush()
            try:
                os.fsync(stream.fileno())
            except OSError as error:
                if error.errno not in _NO_SYNC:
                    raise
                weak.add("sync")
    except BaseException:
        _remove(temporary)
        raise
    return temporary


def _link(temporary: Path, path: Path, weak: set[str]) -> bool:
    """Give a file its name unless that is taken; returns whether it was free."""
    try:
        os.link(temporary, path)  # unlike a rename, fails where the name is taken
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
    weak.add("links")
    # The name itself, created exclusively, would be visible while still empty. So a second name is reserved.
    reserved = path.with_name(f"{TEMPORARY}reserved-{path.name}"[:200])
    since = time.monotonic()
    while True:
        try:
            os.close(os.open(reserved, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            break
        except FileExistsError:
            if time.monotonic() - since > _DEAD:
                reserved.unlink(missing_ok=True)
                since = time.monotonic()
        time.sleep(_PAUSE)
    try:
        if os.path.lexists(path):
            return False
        os.rename(temporary, path)
        return True
    finally:
        _remove(reserved)


def _rename(temporary: Path, path: Path, weak: set[str]) -> None:
    """Give a file its name, replacing the file that has it."""
    try:
        os.replace(temporary, path)
        return
    except OSError as error:
        if error.errno not in _NO_RENAME or not path.is_file():
            raise
        refused = error
    # Some refuse a taken name, or a file being read: move the old file aside, and back if that fails, too.
    old = path.with_name(temporary_name(path.name))
    try:
        os.rename(path, old)
    except OSError:
        raise refused from None
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(old, path)
        raise
    weak.add("rename")
    _remove(old)


def _remove(path: Path) -> None:
    """Delete a file of our own; if that fails, its name hides it, and it is swept later."""
    with contextlib.suppress(OSError):
        path.unlink()


def _sync_folder(folder: Path, weak: set[str]) -> None:
    """Sync a folder's names to the disk."""
    try:
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
        weak.add("folders")
