"""Files of other tools, which may come from anybody: only regular files of bounded size, parsed and never executed."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raysweep.errors import StudyError

__all__ = ["folders", "json_lines", "json_of", "plural", "read", "whole_lines"]

MOST_BYTES = 1 << 28  # per file
MOST_TRIALS = 200_000
_MOST_ENTRIES = 1_000_000  # per folder that is listed


def read(path: Path, most: int = MOST_BYTES) -> str:
    """A text file's content; the file itself must not be a link.

    Raises:
        StudyError: the file is missing, not regular, a link, too large, or not UTF-8.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # reading a pipe would block
    except (OSError, ValueError) as error:
        why = "it is a link, and links are not followed" if path.is_symlink() else str(error)
        raise StudyError(f"{path}: cannot be read: {why}") from error
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StudyError(f"{path}: cannot be read: it must be a regular file")
        data = stream.read(most + 1)
    if len(data) > most:
        raise StudyError(f"{path}: must have at most {most:,} bytes to be imported, but has more")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: must be UTF-8 text, but is not: {error}") from error


def json_of(text: str, where: str) -> Any:
    """A JSON text's value; raises a StudyError that names the place."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{where}: must be JSON, but is not: {str(error)[:200]}") from error


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines. An incomplete last line, as a crash leaves it, is left out.

    Raises:
        StudyError: as `read`, and where another line holds no JSON object.
    """
    text = read(path)
    found = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for place, (number, line) in enumerate(found, 1):
        try:
            row = json_of(line, f"{path}: line {number}")
        except StudyError:
            if place == len(found) and line.lstrip().startswith("{"):
                return
            raise
        if not isinstance(row, dict):
            raise StudyError(f"{path}: line {number} must hold a JSON object, but holds {type(row).__name__}")
        yield row


def whole_lines(text: str) -> str:
    """A text without an unterminated last line."""
    return text[: text.rfind("\n") + 1]


def folders(root: Path) -> list[Path]:
    """The folders in a folder, by name; links are not followed.

    Raises:
        StudyError: the folder cannot be listed, or holds too many files.
    """
    try:
        with os.scandir(root) as entries:
            found = []
            for count, entry in enumerate(entries):
                if count >= _MOST_ENTRIES:
                    raise StudyError(f"{root}: may hold at most {_MOST_ENTRIES:,} files to be imported, but holds more")
                if entry.is_dir(follow_symlinks=False):
                    found.append(Path(entry.path))
    except OSError as error:
        raise StudyError(f"{root}: cannot be read: {error}") from error
    return sorted(found)


def plural(count: int, noun: str) -> str:
    """`1 trial`, `1,000 trials`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
