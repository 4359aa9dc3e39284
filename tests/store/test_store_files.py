from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import LocalFileSystem as LocalFiles

from raysweep.errors import LedgerError
from raysweep.store import STALE, TEMPORARY, Store, UnreachableError, patience


def test_what_is_written_is_read_on_any_file_system(any_store: Store) -> None:
    any_store.write("a/b/file.bin", b"one")
    any_store.write("a/b/file.bin", b"two")
    assert any_store.read("a/b/file.bin") == b"two"
    assert [name for name, _ in any_store.list("a/b")] == ["file.bin"]
    assert any_store.folders("a") == ["b"]
    any_store.delete("a/b/file.bin")
    any_store.delete("a/b/file.bin")
    assert not any_store.exists("a/b/file.bin")


def test_a_missing_folder_is_empty(any_store: Store) -> None:
    assert any_store.list("nothing") == []
    assert any_store.folders("nothing") == []
    assert not any_store.exists()


def test_create_keeps_what_the_first_writer_wrote(any_store: Store) -> None:
    assert any_store.create("x.json", b"first")
    assert not any_store.create("x.json", b"second")
    assert any_store.read("x.json") == b"first"


def test_of_many_local_creators_exactly_one_wins(tmp_path: Path) -> None:
    store, start, wins = Store(str(tmp_path)), threading.Barrier(8), []

    def attempt(i: int) -> None:
        start.wait()
        if store.create("once", str(i).encode()):
            wins.append(str(i).encode())

    threads = [threading.Thread(target=attempt, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert store.read("once") == wins[0]
    assert os.listdir(tmp_path) == ["once"]


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    store.write("file", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(patience, "PATIENCE", 0.2)
    with pytest.raises(UnreachableError, match=r"file cannot be written.*No space left.*make room there, then run the"):
        store.write("file", b"new")
    assert store.read("file") == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_short_outage_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, calls = os.fsync, []

    def broken(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) < 4:
            raise OSError(5, "Input/output error")
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    Store(str(tmp_path)).write("a/file", b"new")
    assert (tmp_path / "a" / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path / "a") == ["file"]
    assert len(calls) == 5


class HalfWritten(LocalFileSystem):  # type: ignore[misc]
    """Not an object store: what is written is seen at once, and an interrupted write leaves half of it."""

    protocol = "halfwritten"
    failures = 0

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        opened = super()._open(path, mode, **options)
        if mode == "wb" and HalfWritten.failures > 0:
            HalfWritten.failures -= 1
            Path(self._strip_protocol(path)).write_bytes(b"ha")
            opened.close()
            raise OSError(5, "connection lost")
        return opened


def test_where_a_write_can_be_seen_half_done_it_takes_its_name_when_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("halfwritten", HalfWritten, clobber=True)
    store = Store(f"halfwritten://{tmp_path}/store")
    monkeypatch.setattr(HalfWritten, "failures", 3)
    store.write("file", b"whole")
    assert store.read("file") == b"whole"
    monkeypatch.setattr(HalfWritten, "failures", 10**9)
    with pytest.raises(UnreachableError, match="connection lost"):
        store.write("file", b"newer", patience=0.0)
    assert (tmp_path / "store" / "file").read_bytes() == b"whole"
    assert [name for name, _ in store.list("")] == ["file"]


def test_files_of_writers_long_dead_are_swept_and_no_others(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for folder in ("", "ledger/", "claims/"):
        store.write(f"{folder}{TEMPORARY}old", b"half")
        store.write(f"{folder}{TEMPORARY}new", b"half")
        store.write(f"{folder}kept", b"whole")
        for name in (f"{TEMPORARY}old", "kept"):
            then = (tmp_path / folder / name).stat().st_mtime - STALE - 1
            os.utime(tmp_path / folder / name, (then, then))
    assert store.sweep() == 3
    assert store.sweep() == 0
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {f"{folder}{name}" for folder in ("", "ledger/", "claims/") for name in (f"{TEMPORARY}new", "kept")}
    assert Store(str(tmp_path / "none")).sweep() == 0


def test_unfinished_temporary_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY}abc-part").write_bytes(b"half")
    assert Store(str(tmp_path)).list("") == []


def test_a_copy_in_another_process_does_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = pickle.loads(pickle.dumps(Store("here")))
    assert copy.uri == str(tmp_path / "here")


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(LedgerError, match="nosuch://"):
        Store("nosuch://bucket/x").exists("a")


def test_reading_what_is_not_there_names_the_file(any_store: Store) -> None:
    with pytest.raises(LedgerError, match=r"gone\.json cannot be read"):
        any_store.read("gone.json")


def test_a_bucket_whose_server_is_away_for_a_moment_is_opened_later(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def from_uri(uri: str) -> tuple[Any, str]:
        calls.append(uri)
        if len(calls) < 3:
            raise OSError("AWS Error NETWORK_CONNECTION during HeadBucket operation")
        return LocalFiles(), "/tmp"

    monkeypatch.setattr(patience, "_PAUSES", (0.001, 0.002))
    monkeypatch.setattr("raysweep.store.files.pafs.FileSystem", SimpleNamespace(from_uri=from_uri))
    assert Store("s3://bucket/demo").path() == "/tmp"
    assert len(calls) == 3
    calls[:] = []
    monkeypatch.setenv("RAYSWEEP_PATIENCE", "0")
    with pytest.raises(UnreachableError, match="cannot be opened"):
        Store("s3://bucket/other").path()
