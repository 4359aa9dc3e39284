"""A store: one sweep's folder, on a local path or any URI that pyarrow or fsspec can open.

Everything is written whole: locally a synced temporary file takes the final name, on an object store one
completed upload appears at it. A reader therefore sees a file entire or not at all.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import secrets
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs

from raysweep.errors import LedgerError
from raysweep.guard import base_name, below, check_uri, read_stream, regular

__all__ = ["TEMPORARY", "Store"]

TEMPORARY = ".tmp-"
_MOST = 1 << 40  # bytes of any file
_MOST_TEXT = 1 << 26  # bytes of a text or JSON file


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
        """The URI with no dependence on the working directory."""
        return self.uri if "://" in self.uri else self.path()

    @cached_property
    def _opened(self) -> tuple[pafs.FileSystem, str]:
        if "://" not in self.uri:
            folder = Path(self.uri).expanduser().absolute()
            if folder.is_file():
                raise LedgerError(f"store {self.uri}: must be a folder, but is a file")
            return pafs.LocalFileSystem(), str(folder)
        try:
            opened, path = pafs.FileSystem.from_uri(self.uri)
            return opened, path
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
            raise LedgerError(f"store: cannot be opened, got {self.uri!r}: {error}") from error

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

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file or folder.

        Raises:
            LedgerError: the store cannot be reached, or lies below a file.
        """
        return bool(self._info(self.path(name)).type != pafs.FileType.NotFound)

    def _info(self, where: str | pafs.FileSelector) -> Any:
        try:
            return self.fs.get_file_info(where)
        except (OSError, pa.ArrowException) as error:
            raise LedgerError(f"store {self.uri}: cannot be looked into: {error}") from error

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
            name: Within the store.
            most: Bytes; of a longer file no more are read.

        Raises:
            LedgerError: it is not there, cannot be read, is no regular file, or is longer than `most`.
        """
        path = self.path(name)
        try:
            if self.is_local:
                regular(path)
            with self.fs.open_input_stream(path) as stream:
                return read_stream(stream, most)
        except (OSError, pa.ArrowException) as error:
            raise LedgerError(f"store {self.uri}: {name} cannot be read: {error}") from error

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

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Create or replace a file, all or nothing.

        Raises:
            LedgerError: it cannot be written (permission, full disk, unreachable store).
        """
        path = self.path(name)
        try:
            self.fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
            if self.is_local:
                _replace(Path(path), data)
            else:
                with self.fs.open_output_stream(path) as stream:
                    stream.write(data)
        except OSError as error:
            raise LedgerError(f"store {self.uri}: {name} cannot be written: {error}") from error

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; whether this call wrote it. Of two writers, one wins (locally for sure)."""
        if self.exists(name):
            return False
        if not self.is_local:
            self.write(name, data)
            return True
        path = Path(self.path(name))
        temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(temporary, data)
            os.link(temporary, path)  # unlike a rename, fails where the name is taken
        except FileExistsError:
            return False
        except OSError as error:
            raise LedgerError(f"store {self.uri}: {name} cannot be written: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        return True

    def write_json(self, name: str, data: Any) -> None:
        self.write(name, json.dumps(data, indent=1, sort_keys=True).encode())

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_file(self.path(name))


def _replace(path: Path, data: bytes | pa.Buffer) -> None:
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}-{path.name}"[:200])
    try:
        with open(temporary, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
