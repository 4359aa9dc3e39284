"""A store: one sweep's folder, on a local path or any URI that pyarrow or fsspec can open.

Everything is written whole: a temporary file (locally a synced one, `disk.py`) takes the final name, on an object store
one completed upload appears at it. A reader therefore sees a file entire or not at all. A transient failure
is retried for a minute (`patience.py`) before it is an error.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs as pafs

from raysweep.errors import LedgerError, RaysweepError
from raysweep.store import disk
from raysweep.store.disk import TEMPORARY, WEAKNESSES, Content, temporary_name
from raysweep.store.guard import base_name, below, check_uri, read_stream, regular
from raysweep.store.patience import full, patiently, transient

__all__ = ["STALE", "TEMPORARY", "Store", "UnreachableError"]

STALE = 3600.0  # seconds after which a temporary file's writer is taken for dead
_WHOLE = re.compile(r"s3|gcs|abfs|py::fsspec\+(s3a?|gc?s|abfss?|az|memory)")  # a file appears when its upload completes
_TRIES = 3  # tries of a request by Amazon's own client
T = TypeVar("T")
_MOST = 1 << 40  # bytes of any file
_PIECE = 1 << 24  # bytes
_MOST_TEXT = 1 << 26  # bytes of a text or JSON file


class UnreachableError(LedgerError):
    """A store does not answer, or has no room, for a transient reason; it was retried for `patience.PATIENCE`."""


@dataclass(frozen=True)
class Store:
    """A folder by URI. Cheap to make and to pickle; nothing is touched until it is used.

    Args:
        uri: A local path, `file://...`, or a URI such as `s3://bucket/sweep?region=...`, `gs://...`, `memory://...`.

    Raises:
        LedgerError: the URI holds credentials.
    """

    uri: str

    def __post_init__(self) -> None:
        check_uri(self.uri)

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.absolute,)  # the file system is reopened where the copy lands

    @property
    def absolute(self) -> str:
        """The URI, independent of the working directory."""
        return self.uri if "://" in self.uri else self.path()

    @cached_property
    def _opened(self) -> tuple[pafs.FileSystem, str]:
        if "://" not in self.uri:
            folder = Path(self.uri).expanduser().absolute()
            if folder.is_file():
                raise LedgerError(f"store {self.uri}: must be a folder, but is a file")
            return pafs.LocalFileSystem(), str(folder)
        try:
            # For a bucket without a region, S3 is asked for it: a request, which may fail transiently.
            opened, path = patiently(lambda: pafs.FileSystem.from_uri(self.uri))
            return _one_request(opened), path
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as unknown:
            import fsspec

            try:
                opened, path = fsspec.core.url_to_fs(self.uri)
            except Exception as error:  # file systems raise what they like
                raise LedgerError(
                    f"store: must be a path or a URI that pyarrow or fsspec opens, got {self.uri!r}: {error}"
                ) from unknown
            return pafs.PyFileSystem(pafs.FSSpecHandler(opened)), path
        except (OSError, ValueError, pa.ArrowException) as error:
            kind = UnreachableError if transient(error) else LedgerError
            raise kind(f"store: cannot be opened, got {self.uri!r}: {error}") from error

    @cached_property
    def _weak(self) -> set[str]:
        return set()

    def weaknesses(self) -> builtins.list[str]:
        """Features that the file system lacked when this object wrote to it, with their cost, in a phrase each."""
        return [cost for name, cost in WEAKNESSES.items() if name in self._weak]

    @property
    def fs(self) -> pafs.FileSystem:
        return self._opened[0]

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, pafs.LocalFileSystem)

    def path(self, name: str = "") -> str:
        """The path of a file of this store within its file system.

        Raises:
            LedgerError: it would lie outside of the store, by `..` or by a link.
        """
        return below(self._opened[1], name, self.is_local) if name else self._opened[1]

    def _do(self, what: str, action: Callable[[], T], patience: float | None = None) -> T:
        """An action on the file system, tried again as `patience.patiently` does.

        Raises:
            UnreachableError: it still fails for a transient reason.
            LedgerError: it fails for any other reason.
        """
        try:
            return patiently(action, patience)
        except RaysweepError:
            raise
        except Exception as error:  # file systems raise what they like
            lasting = LedgerError(f"store {self.uri}: {what}: {error}")
            if not transient(error):
                raise lasting from error
            remedy = "make room there" if full(error) else "see that it is up and in reach"
            raise UnreachableError(
                f"{lasting}. Retried to no avail; {remedy}, then run the same command: what was finished is kept"
            ) from error

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder exists.

        Raises:
            LedgerError: the store cannot be reached, or lies below a file.
        """
        return bool(self._info(self.path(name)).type != pafs.FileType.NotFound)

    def _info(self, where: str | pafs.FileSelector) -> Any:
        return self._do("cannot be looked into", lambda: self.fs.get_file_info(where))

    def list(self, folder: str) -> builtins.list[tuple[str, float]]:
        """(name, modification time in seconds or 0) of the files in a folder, by name; none if it is missing.

        Unfinished temporary files are not shown.
        """
        selector = pafs.FileSelector(self.path(folder), allow_not_found=True)
        found = [
            (base_name(info), (info.mtime_ns or 0) / 1e9)
            for info in self._info(selector)
            if info.type == pafs.FileType.File and not base_name(info).startswith(TEMPORARY)
        ]
        return sorted(found)

    def folders(self, folder: str) -> builtins.list[str]:
        """The names of the folders in a folder, sorted; none if it is missing."""
        selector = pafs.FileSelector(self.path(folder), allow_not_found=True)
        return sorted(base_name(info) for info in self._info(selector) if info.type == pafs.FileType.Directory)

    def read(self, name: str, most: int = _MOST) -> bytes:
        """The whole of a file.

        Args:
            name: Path within the store.
            most: Largest size in bytes; no more is read.

        Raises:
            UnreachableError: the store does not answer.
            LedgerError: it does not exist, cannot be read, is not a regular file, or is longer than `most`.
        """
        path = self.path(name)

        def get() -> bytes:
            if self.is_local:
                regular(path)
            with self.fs.open_input_stream(path) as stream:
                return read_stream(stream, most, path)

        return self._do(f"{name} cannot be read", get)

    def open(self, name: str) -> Any:
        """A file with random access, as a context; raises LedgerError as `read`."""
        path = self.path(name)

        def opened() -> Any:
            if self.is_local:
                regular(path)
            return self.fs.open_input_file(path)

        return self._do(f"{name} cannot be read", opened)

    def read_text(self, name: str) -> str:
        """The whole of a text file; raises LedgerError as `read`, and where it is not UTF-8."""
        try:
            return self.read(name, _MOST_TEXT).decode()
        except UnicodeDecodeError as error:
            raise LedgerError(f"store {self.uri}: {name} must be UTF-8 text, but is not: {error}") from error

    def read_json(self, name: str) -> Any:
        """A JSON file's content; raises LedgerError as `read_text`, and where it is not JSON."""
        try:
            return json.loads(self.read_text(name))
        except (ValueError, RecursionError) as error:
            raise LedgerError(f"store {self.uri}: {name} must be JSON, but is not: {error}") from error

    def write(self, name: str, data: Content, patience: float | None = None) -> None:
        """Create or replace a file, all or nothing.

        Args:
            name: Path within the store.
            data: Its content, or a function that writes it to a stream, from the start if called again.
            patience: Seconds for which a transient failure is retried; None is `patience.PATIENCE`.

        Raises:
            UnreachableError: the store does not answer, or its disk is full.
            LedgerError: it cannot be written (permission, a file where a folder must be).
        """
        path = self.path(name)

        def put() -> None:
            try:
                self._put(path, data)
            except OSError as error:  # folders (and a bucket, where the URI allows it) are created when found missing
                if not isinstance(error, FileNotFoundError) and "NO_SUCH_BUCKET" not in str(error):
                    raise
                self.fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
                self._put(path, data)

        self._do(f"{name} cannot be written", put, patience)

    def _put(self, path: str, data: Content) -> None:
        if self.is_local:
            disk.replace(Path(path), data, self._weak)
            return
        if not callable(data):
            self._upload(path, pa.BufferReader(data))
            return
        with tempfile.TemporaryFile() as spool:  # complete, before any of it is visible
            data(spool)
            spool.seek(0)
            self._upload(path, spool)

    def _upload(self, path: str, source: Any) -> None:
        whole = _WHOLE.fullmatch(self.fs.type_name) is not None
        folder, _, name = path.rpartition("/")
        target = path if whole else f"{folder}/{temporary_name(name)}"
        try:
            with self.fs.open_output_stream(target) as stream:
                shutil.copyfileobj(source, stream, _PIECE)
            if not whole:
                self.fs.move(target, path)
        except BaseException:
            if not whole:
                with contextlib.suppress(Exception):
                    self.fs.delete_file(target)
            raise

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; returns whether this call did. One of two writers wins (locally for sure)."""
        if self.exists(name):
            return False
        if not self.is_local:
            self.write(name, data)
            return True
        path = Path(self.path(name))

        def make() -> bool:
            path.parent.mkdir(parents=True, exist_ok=True)
            return disk.create(path, data, self._weak)

        return self._do(f"{name} cannot be written", make)

    def write_json(self, name: str, data: Any) -> None:
        self.write(name, json.dumps(data, indent=1, sort_keys=True).encode())

    def delete(self, name: str) -> None:
        """Remove a file if it exists."""

        def remove() -> None:
            try:
                self.fs.delete_file(self.path(name))
            except FileNotFoundError:
                pass
            except OSError:  # Arrow then writes a marker for the folder, which some servers refuse
                if self.fs.get_file_info(self.path(name)).type != pafs.FileType.NotFound:
                    raise

        self._do(f"{name} cannot be deleted", remove)

    def sweep(self) -> int:
        """Delete the temporary files of writers that died at least an hour ago; returns their number.

        Only local folders have any. Their age is by the store's own clock.
        """
        root = Path(self.path())
        if not self.is_local or not root.is_dir():
            return 0
        clock = root / temporary_name("clock")
        self._do("cannot be written", lambda: clock.write_bytes(b""))
        now, swept = clock.stat().st_mtime, 0
        clock.unlink(missing_ok=True)
        for folder, _, files in os.walk(root):
            for path in (Path(folder, name) for name in files if name.startswith(TEMPORARY)):
                with contextlib.suppress(OSError):  # its writer, or another sweeper, was faster
                    if now - path.lstat().st_mtime > STALE:
                        path.unlink()
                        swept += 1
        return swept


def _one_request(opened: pafs.FileSystem) -> pafs.FileSystem:
    """The same S3, but a small file is written in one request (and so whole) instead of a multipart upload's three.

    Its own retries, with timeouts of seconds each, are cut short: `patience` takes over.
    """
    if opened.type_name != "s3":
        return opened
    remake, (options,) = opened.__reduce__()
    options["retry_strategy"] = pafs.AwsStandardS3RetryStrategy(max_attempts=_TRIES)
    return remake({**options, "allow_delayed_open": True} if "allow_delayed_open" in options else options)
