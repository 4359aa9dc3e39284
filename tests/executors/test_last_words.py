"""What Ray says of a worker that is gone, and what is made of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from raysweep.errors import LedgerError
from raysweep.executors import lastwords, raytune
from raysweep.executors.lastwords import last_words, ray
from raysweep.executors.place import RUNNING
from raysweep.executors.runlog import log_name
from raysweep.ledger.rows import Counts
from raysweep.store import Store

DIED = """Failure # 1 (occurred at 2026-11-22_19-50-51)
The actor died unexpectedly before finishing this task.
\tclass_name: with_resources.<locals>.ResourceTrainable
\tactor_id: 563ff8f94e8f2a6c1451966601000000
\tpid: 4309
\tnamespace: raysweep
\tip: 10.0.0.7
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the OOM killer
"""


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, str], str]:
    """Logs by process and host."""
    found: dict[tuple[int, str], str] = {}
    monkeypatch.setattr(lastwords, "_log_of", lambda pid, host: found.get((pid, host), ""))
    return found


def test_the_end_of_its_log_and_then_the_cause(logs: dict[tuple[int, str], str]) -> None:
    logs[4309, "10.0.0.7"] = "loading\nFatal Python error: Bus error\n  File a.py"
    assert last_words(DIED).splitlines() == [
        "loading",
        "Fatal Python error: Bus error",
        "  File a.py",
        "its worker died (process 4309 on 10.0.0.7): Fatal Python error: Bus error",
    ]
    logs[4309, "10.0.0.7"] = "loading"
    assert last_words(DIED).splitlines()[1].endswith("a kill from outside, or a crash of C code)")


def test_a_log_that_cannot_be_had_leaves_the_cause(logs: dict[tuple[int, str], str]) -> None:
    assert last_words(DIED).startswith("its worker died (process 4309 on 10.0.0.7): its process ended without a word")


def test_what_is_no_dead_process_stays_as_it_was_told(logs: dict[tuple[int, str], str]) -> None:
    assert last_words("") == ""
    assert (
        last_words("ray.exceptions.RayTaskError: x\nValueError: y") == "ray.exceptions.RayTaskError: x\nValueError: y"
    )
    node = DIED.replace("its worker process has died", "its node has died")
    assert "its worker died" not in last_words(node)


def _nodes() -> list[dict[str, Any]]:
    return [{"NodeID": "ab" * 28, "Alive": True, "NodeManagerAddress": "10.0.0.7"}]


def test_a_node_that_does_not_answer_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    now = [1000.0]

    def refuse(**given: Any) -> Any:
        asked.append(now[0])
        raise ray.exceptions.GetTimeoutError

    monkeypatch.setattr(lastwords, "_silent", {})
    monkeypatch.setattr(lastwords, "own_logs", lambda node: "")
    monkeypatch.setattr(lastwords, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(ray, "nodes", _nodes)
    monkeypatch.setattr(ray, "remote", refuse)
    for now[0] in (1000.0, 1010.0, 1010.0 + lastwords._PAUSE, 1020.0 + lastwords._PAUSE):
        assert last_words(DIED).startswith("its worker died")
    assert asked == [1000.0, 1010.0 + lastwords._PAUSE]
    monkeypatch.setattr(ray, "nodes", list)  # a node that is gone is not asked at all
    now[0] += 10 * lastwords._PAUSE
    assert last_words(DIED).startswith("its worker died")
    assert len(asked) == 2


def test_on_the_drivers_own_node_the_log_is_read_without_a_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(**given: Any) -> Any:
        raise AssertionError("a task was started")

    monkeypatch.setattr(ray, "nodes", _nodes)
    monkeypatch.setattr(ray, "remote", refuse)
    monkeypatch.setattr(lastwords, "own_logs", {"ab" * 28: str(tmp_path)}.__getitem__)
    (tmp_path / "worker-0f-01000000-4309.out").write_text(f"{RUNNING}0a\nloading\n")
    (tmp_path / "worker-0f-01000000-4309.err").write_text(
        f"{RUNNING}0a\nrun 0a took longer than 6 s, the limit of a run\n"
    )
    (tmp_path / "worker-0f-01000000-14309.err").write_text("another process\n")
    (tmp_path / "worker-0e-01000000-4309.err").mkdir()  # cannot be read: no reason to stop
    words = last_words(DIED)
    assert lastwords.at_work(words) == "0a"
    assert lastwords.said(words) == "loading\nrun 0a took longer than 6 s, the limit of a run"


@dataclasses.dataclass
class Lost:
    """A feed and a pack of one run, as far as a crash concerns them."""

    id: str = "pack"
    reasons: list[tuple[str, bool]] = dataclasses.field(default_factory=list)

    @property
    def runs(self) -> Lost:
        return self

    def key(self, lane: int) -> str:
        return "0a" * 10

    def __len__(self) -> int:
        return 1

    def lost(self, pack: str, reason: str, own_fault: bool, run: str, final: bool) -> Counts:
        assert (pack, own_fault, run) == (self.id, True, self.key(0))
        self.reasons.append((reason, final))
        return Counts()


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize(
    ("printed", "seconds", "reason", "final"),
    [
        ("epoch 3", None, "its worker died", False),
        ("epoch 3", 60.0, "its worker died", False),
        ("Timeout (0:01:20)!\nThread 0x1 in train", 60.0, "took longer than 1 minutes, the limit of a run", True),
        ("Timeout (3 s) of the database", 60.0, "its worker died", False),  # the run's own words
        ("it took longer than I thought", 60.0, "its worker died", False),
    ],
)
def test_what_a_run_printed_before_its_process_crashed_is_its_log(
    logs: dict[tuple[int, str], str],
    tmp_path: Path,
    memory_store: Store,
    printed: str,
    seconds: float | None,
    reason: str,
    final: bool,
    marked: bool,
) -> None:
    feed = Lost()
    logs[4309, "10.0.0.7"] = f"{RUNNING}{feed.key(0)}\n{printed}" if marked else printed
    (tmp_path / "error.txt").write_text(DIED)
    job: Any = SimpleNamespace(store=memory_store, seconds=seconds)
    watch = raytune.PackWatch(cast(Any, feed), lambda counts: None, cast(Any, None), job)
    trial = SimpleNamespace(
        config={"pack": feed}, error_file=str(tmp_path / "error.txt"), run_metadata=Mock(), last_result=None
    )
    watch.on_trial_error(0, [], trial)
    ((told, was_final),) = feed.reasons
    assert (reason in told, was_final) == (True, final)
    kept = memory_store.read_text(log_name(feed.key(0)))
    assert printed in kept
    assert RUNNING not in kept
    memory_store.write(log_name(feed.key(0)), b"a longer one, kept while it ran")
    trial.config["pack"] = feed
    watch.on_trial_error(0, [], trial)
    assert memory_store.read_text(log_name(feed.key(0))) == "a longer one, kept while it ran"


def test_a_workers_error_of_ours_is_told_without_rays_traceback() -> None:
    cause = LedgerError("store s: no room")
    with pytest.raises(LedgerError, match="pid=") as wrapped:
        raise ray.exceptions.RayTaskError("fail", "Traceback ray::fail", cause).as_instanceof_cause()
    broken = RuntimeError("Tune broke off")
    broken.__context__ = wrapped.value
    assert raytune._own(broken) is cause
    assert raytune._own(RuntimeError("another")) is None
