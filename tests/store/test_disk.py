"""File systems that lack something: what is written is there, whole, and nothing else is; and the lack is said."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import FUNCTION_SWEEP, HERE
from disk_tools import no_links, no_replace, no_sync, refuse

from raysweep.errors import LedgerError
from raysweep.executors import make_executor
from raysweep.run import run
from raysweep.store import Store, disk, patience
from raysweep.store.disk import WEAKNESSES, create, replace
from raysweep.sweep import Sweep

NO_LINKS = [errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EACCES, errno.EXDEV]
NO_SYNC = [errno.EINVAL, errno.EBADF, errno.EACCES, errno.ENOTSUP, errno.ENOSYS]


@pytest.mark.parametrize("code", NO_LINKS)
def test_without_hard_links_a_file_is_made_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    no_links(monkeypatch, code)
    store = Store(str(tmp_path))
    assert store.create("a/x.json", b"first")
    assert not store.create("a/x.json", b"second")
    assert not create(tmp_path / "a/x.json", b"third", set())
    assert store.read("a/x.json") == b"first"
    assert os.listdir(tmp_path / "a") == ["x.json"]
    assert store.weaknesses() == [WEAKNESSES["links"]]


def test_without_hard_links_one_of_many_creators_wins_and_no_reader_sees_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_links(monkeypatch)
    start, path, seen = threading.Barrier(9), tmp_path / "once", set()
    wins: list[bytes] = []

    def attempt(i: int) -> None:
        start.wait()
        if create(path, str(i).encode() * 10_000, set()):
            wins.append(str(i).encode() * 10_000)

    threads = [threading.Thread(target=attempt, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    start.wait()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            seen.add(path.read_bytes())
    seen.add(path.read_bytes())
    assert seen == set(wins)
    assert len(wins) == 1
    assert os.listdir(tmp_path) == ["once"]


def test_a_name_reserved_by_a_writer_that_died_is_free_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_links(monkeypatch)
    monkeypatch.setattr(disk, "_DEAD", 0.1)
    (tmp_path / f"{disk.TEMPORARY}reserved-x").write_bytes(b"")
    started = time.monotonic()
    assert create(tmp_path / "x", b"whole", set())
    assert time.monotonic() - started >= 0.1
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.ENOENT])
def test_errors_that_are_no_weakness_stay_errors_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.0)
    no_links(monkeypatch, code)
    store = Store(str(tmp_path))
    with pytest.raises(LedgerError, match=os.strerror(code)):
        store.create("x.json", b"first")
    assert os.listdir(tmp_path) == []
    assert store.weaknesses() == []


@pytest.mark.parametrize("code", NO_SYNC)
@pytest.mark.parametrize("folders", [True, False])
def test_without_sync_of_folders_or_files_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, folders: bool
) -> None:
    no_sync(monkeypatch, code, folders)
    store = Store(str(tmp_path))
    store.write("a/file", b"one")
    store.write("a/file", b"two")
    assert store.create("a/other", b"three")
    assert (store.read("a/file"), store.read("a/other")) == (b"two", b"three")
    assert sorted(os.listdir(tmp_path / "a")) == ["file", "other"]
    assert store.weaknesses() == [WEAKNESSES["folders" if folders else "sync"]]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EISDIR, errno.EINVAL])
def test_folders_that_cannot_be_opened_are_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    honest = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *more, **options: (refuse(code) if Path(path).is_dir() else honest)(path, *more)
    )
    store = Store(str(tmp_path))
    store.write("file", b"one")
    assert store.read("file") == b"one"
    assert store.weaknesses() == [WEAKNESSES["folders"]]


@pytest.mark.parametrize("code", [errno.EEXIST, errno.EPERM, errno.EACCES, errno.EBUSY, errno.ENOTSUP])
def test_where_a_rename_refuses_a_taken_name_the_old_file_is_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    no_replace(monkeypatch, code)
    weak: set[str] = set()
    replace(tmp_path / "file", b"old", weak)
    assert weak == set()
    replace(tmp_path / "file", b"new", weak)
    assert weak == {"rename"}
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_can_neither_be_replaced_nor_put_aside_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "rename", refuse(errno.EPERM))
    monkeypatch.setattr(os, "replace", refuse(errno.EACCES))
    with pytest.raises(PermissionError, match=os.strerror(errno.EACCES)):
        replace(tmp_path / "file", b"new", set())
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_put_aside_comes_back_if_the_new_one_cannot_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    honest, calls = os.rename, []

    def rename(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 2:
            refuse(errno.ENOSPC)()
        honest(source, target)

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "replace", refuse(errno.EEXIST))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        replace(tmp_path / "file", b"new", set())
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_run_on_a_weak_file_system_ends_well_and_says_so_once(
    tmp_path: Path,
    make_sweep: Callable[..., Sweep],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    no_links(monkeypatch)
    no_sync(monkeypatch, errno.EINVAL, folders=True)
    no_replace(monkeypatch, errno.EEXIST)
    store = Store(str(tmp_path / "store"))
    outcome = run(make_sweep(FUNCTION_SWEEP), store, make_executor("inline"))
    assert (outcome.counts.ok, outcome.pending) == (18, 0)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning")]
    assert line.startswith(f"warning: store {store.uri}: it makes no hard links: ")
    assert line.count("it does not sync folders") == 1
    assert not list((tmp_path / "store").rglob(f"{disk.TEMPORARY}*"))


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
static int weak(const char *p) { const char *w = getenv("WEAK"); return w && p && strstr(p, w); }
int link(const char *a, const char *b) {
  if (weak(a) || weak(b)) { errno = EPERM; return -1; }
  return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "link"))(a, b); }
int linkat(int x, const char *a, int y, const char *b, int f) {
  if (weak(a) || weak(b)) { errno = EPERM; return -1; }
  return ((int (*)(int, const char *, int, const char *, int))dlsym(RTLD_NEXT, "linkat"))(x, a, y, b, f); }
int fsync(int fd) {
  struct stat s;
  if (!fstat(fd, &s) && S_ISDIR(s.st_mode)) { errno = EINVAL; return -1; }
  return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
"""


@pytest.mark.skipif(shutil.which("gcc") is None or not sys.platform.startswith("linux"), reason="needs gcc on Linux")
def test_the_command_on_a_mount_without_links_and_folder_syncs(tmp_path: Path) -> None:
    (tmp_path / "shim.c").write_text(SHIM)
    shim = tmp_path / "shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, tmp_path / "shim.c", "-ldl"], check=True)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump({**FUNCTION_SWEEP, "fit": []}))
    environment = {**os.environ, "LD_PRELOAD": str(shim), "WEAK": "weakfs", "PYTHONPATH": os.pathsep.join(sys.path)}
    store = str(tmp_path / "weakfs" / "store")
    command = [sys.executable, "-m", "raysweep", "run", str(tmp_path / "toy.yaml"), "--store", store]
    done = subprocess.run(
        [*command, "--executor", "inline"], env=environment, cwd=HERE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "18 ok of 18 cells" in done.stdout
    assert done.stderr.count("it makes no hard links") == done.stderr.count("it does not sync folders") == 1
    assert not list(Path(store).rglob(f"{disk.TEMPORARY}*"))
