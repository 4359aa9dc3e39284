"""What an option of a command line may write: a new file, or one in place of what the same option wrote before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

__all__ = ["replaceable"]

_MOST = 1 << 28  # bytes of a file that is looked into; a larger one is none of ours


def replaceable(path: str | Path, own: Callable[[bytes], bool]) -> bool:
    """Whether a file may be written: there is none, it is empty or no regular file (/dev/stdout), or it is one's own.

    Args:
        path: The file, or a link to it.
        own: Whether a content is of the kind that would be written.

    Raises:
        OSError: The file cannot be read.
    """
    file = Path(path)
    if not file.is_file() or not file.stat().st_size:
        return True
    return file.stat().st_size <= _MOST and own(file.read_bytes())
