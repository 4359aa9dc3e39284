from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import pytest

from raysweep.errors import LedgerError
from raysweep.store import TEMPORARY, Store


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
    with pytest.raises(LedgerError, match=r"file cannot be written.*No space left"):
        store.write("file", b"new")
    assert store.read("file") == b"old"
    assert os.listdir(tmp_path) == ["file"]


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
