"""What Ray says of a worker that is gone, and what is made of it."""

from __future__ import annotations

from typing import Any

import pytest

from raysweep.errors import LedgerError
from raysweep.executors import lastwords, raytune
from raysweep.executors.lastwords import last_words, ray

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


def test_a_node_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(**given: Any) -> Any:
        asked.append("x")
        raise ray.exceptions.GetTimeoutError

    monkeypatch.setattr(lastwords, "_silent", set())
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": "ab" * 28, "Alive": True, "NodeManagerAddress": "10.0.0.7"}])
    monkeypatch.setattr(ray, "remote", refuse)
    for _ in range(2):
        assert last_words(DIED).startswith("its worker died")
    assert len(asked) == 1
    monkeypatch.setattr(ray, "nodes", list)  # a node that is gone is not asked at all
    assert last_words(DIED).startswith("its worker died")


def test_a_workers_error_of_ours_is_told_without_rays_traceback() -> None:
    cause = LedgerError("store s: no room")
    with pytest.raises(LedgerError, match="pid=") as wrapped:
        raise ray.exceptions.RayTaskError("fail", "Traceback ray::fail", cause).as_instanceof_cause()
    broken = RuntimeError("Tune broke off")
    broken.__context__ = wrapped.value
    assert raytune._own(broken) is cause
    assert raytune._own(RuntimeError("another")) is None
