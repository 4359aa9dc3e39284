"""The doctor tries in a store what a run does, says what that costs where it is lacking, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from disk_tools import no_links, no_replace, no_sync

from raysweep import doctor as module
from raysweep.doctor import Finding, as_json, doctor
from raysweep.errors import LedgerError
from raysweep.store import Store
from raysweep.store.disk import WEAKNESSES


def of_store(store: Store) -> tuple[Finding, list[str]]:
    """What the doctor says of a store, and of what it lacks."""
    found = [f for f in doctor(store) if f.name == "store"]
    assert all(f.ok for f in found[1:])
    assert all(f.weak for f in found[1:])
    return found[0], [f.value for f in found[1:]]


def test_a_sound_store_lacks_nothing_and_nothing_is_left(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "a" / "store"))
    (found, lacks) = of_store(store)
    assert (found.ok, found.value, lacks) == (True, f"{store.uri} does not exist yet; it can be created", [])
    assert os.listdir(tmp_path) == []  # nor are the folders above it
    store.write("file", b"kept")
    (found, lacks) = of_store(store)
    assert (found.ok, found.value, lacks) == (True, f"{store.uri} is writable", [])
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "store", "file"]


def test_in_memory_too(memory_store: Store) -> None:
    found, lacks = of_store(memory_store)
    assert found.ok
    assert lacks == ["it keeps no file times: with two drivers on it, one may wait for the other a minute longer"]
    assert not memory_store.exists()


def test_whatever_a_file_system_lacks_is_said_with_what_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_links(monkeypatch)
    no_sync(monkeypatch, errno.EINVAL, folders=True)
    no_replace(monkeypatch, errno.EPERM)
    found, lacks = of_store(Store(str(tmp_path / "store")))
    assert found.ok
    assert lacks == [WEAKNESSES["links"], WEAKNESSES["folders"], WEAKNESSES["rename"]]
    assert os.listdir(tmp_path) == []


def lying(monkeypatch: pytest.MonkeyPatch, name: str, answer: Any) -> None:
    honest = getattr(Store, name)
    monkeypatch.setattr(Store, name, lambda self, *more, **others: answer(honest, self, *more, **others))


def test_times_that_stand_still_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TICK", 0.1)
    lying(monkeypatch, "list", lambda honest, *more: [(name, 1.0) for name, _ in honest(*more)])
    assert of_store(Store(str(tmp_path)))[1] == [
        "its file times do not advance: with two drivers on it, each may mistake the other for dead"
    ]


def test_a_clock_that_is_far_off_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, "list", lambda honest, *more: [(name, at + 7200) for name, at in honest(*more)])
    (line,) = of_store(Store(str(tmp_path)))[1]
    assert line.endswith("s ahead of this host's: `status` goes by the store's")


def test_upper_and_lower_case_may_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, "exists", lambda honest, self, name="": honest(self, name.lower()))
    store = tmp_path.parent / tmp_path.name.lower()  # the store's own name is no part of it
    assert any("upper and lower case" in line for line in of_store(Store(str(store)))[1])
    shutil.rmtree(store, ignore_errors=True)


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("read", lambda honest, *more: b"other", "a file was made where there was one"),
        ("create", lambda honest, *more: False, "a new file cannot be created"),
        ("delete", lambda honest, *more: None, "a deleted file still exists"),
        ("list", lambda honest, *more: [], r"must list the 2 files just written, but lists \[\]"),
    ],
)
def test_a_store_that_does_not_do_what_it_says_is_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, answer: Any, said: str
) -> None:
    lying(monkeypatch, name, answer)
    found = next(f for f in doctor(Store(str(tmp_path / "store"))) if f.name == "store")
    assert not found.ok
    assert said.replace("\\", "") in found.value
    assert found.remedy == "give another --store"
    assert os.listdir(tmp_path) == []


def test_a_store_that_refuses_to_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Store, name: str, *more: Any) -> bool:
        raise LedgerError(f"store {self.uri}: {name} cannot be written: Permission denied")

    monkeypatch.setattr(Store, "create", refuse)
    found = next(f for f in doctor(Store(str(tmp_path))) if f.name == "store")
    assert not found.ok
    assert "Permission denied" in found.value


def test_a_run_that_begins_while_the_doctor_looks_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "store"))
    lying(monkeypatch, "delete", lambda honest, self, name: (honest(self, name), self.write("store.json", b"{}")))
    doctor(store)
    assert os.listdir(tmp_path / "store") == ["store.json"]


def test_little_room_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(2**29))
    found = next(f for f in doctor(Store(str(tmp_path))) if f.name == "store room")
    assert (found.ok, found.value) == (False, "0.5 GiB free")
    assert set(as_json([found])[0]) == {"name", "ok", "value", "remedy", "weak"}
