"""Files in the user's cache folder, where measurements of this machine outlive a process."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_file"]


def cache_file(name: str) -> Path:
    """`$XDG_CACHE_HOME/raysweep/<name>`, by default below `~/.cache`. The folder need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raysweep" / name
