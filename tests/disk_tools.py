"""Local file systems that lack something: hard links, syncs, renames onto a name that is taken."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

import pytest


def refuse(code: int) -> Callable[..., Any]:
    def refused(*arguments: Any, **options: Any) -> None:
        raise OSError(code, os.strerror(code))

    return refused


def no_links(monkeypatch: pytest.MonkeyPatch, code: int = errno.EPERM) -> None:
    monkeypatch.setattr(os, "link", refuse(code))


def no_sync(monkeypatch: pytest.MonkeyPatch, code: int, folders: bool) -> None:
    """Make every fsync of folders, or every one of files, fail."""
    honest = os.fsync

    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == folders:
            refuse(code)()
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", sync)


def no_replace(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """As over SFTP: a name that is taken stays taken."""
    honest = os.rename

    def rename(source: Any, target: Any) -> None:
        if os.path.lexists(target):
            refuse(code)()
        honest(source, target)

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "replace", rename)
