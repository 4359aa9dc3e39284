"""What a dead worker left in its log: Ray keeps its standard error on its node, and says only that it is gone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysweep.errors import tail
from raysweep.executors.internals import own_logs
from raysweep.executors.limit import HELD, LATE
from raysweep.executors.place import RUNNING

__all__ = ["at_work", "last_words", "said"]

_WAIT = 30.0  # seconds for a process on the dead worker's node to start and read a file: a busy node takes ten
_PAUSE = 300.0  # seconds for which a node that did not answer is not asked again: the driver waits for each answer
_LINES, _CHARACTERS = 20, 4000
_NOISE = re.compile(r"^:|^Extension modules: |logging\.cc:\d+: |^PC: @|^\s+@ +0x")  # Ray's marks; bare addresses
_WHO = re.compile(r"\bpid: (\d+)\b.*?\bip: (\S+)", re.DOTALL)
_HOW = re.compile(r"Worker exit detail: (.*?[.!])(?:\s|$)")
_RUN = re.compile(rf"^{re.escape(RUNNING)}([0-9a-f]+)$", re.MULTILINE)
_FATAL = re.compile(r"^Fatal Python error: .*", re.MULTILINE)  # printed by faulthandler, which Ray turns on
_silent: dict[str, float] = {}  # when a node did not answer


def at_work(words: str) -> str:
    """The key of the run that a worker was executing when it died, or ""."""
    found = _RUN.findall(words)
    return found[-1] if found else ""


def said(words: str) -> str:
    """A worker's last words after the last mark that a run begins."""
    own = _RUN.split(words)[-1].strip()
    if late := LATE.search(own):  # that its process then ended adds nothing
        own = own[: late.end()]
    return own or "its worker died"


def last_words(report: str) -> str:
    """Why a worker died: the end of its log, then the cause in the last line.

    Args:
        report: Ray's text about it. Unless a process died, its last lines are all there is to know.
    """
    who = _WHO.search(report)
    if who is None or "its worker process has died" not in report:
        return tail(report)
    pid, host = int(who[1]), who[2]
    how = _HOW.search(report)
    log = _log_of(pid, host)
    fatal = _FATAL.search(log)
    cause = fatal[0] if fatal else how[1] if how else "it left no word"
    if not fatal and "connection error" in cause:  # Ray's words for a process that is suddenly gone
        cause = "its process ended without a word (os._exit, a kill from outside, or a crash of C code)"
    return f"{log}\nits worker died (process {pid} on {host}): {cause}".strip()


def _log_of(pid: int, host: str) -> str:
    """The last lines a process wrote; nothing if its node does not answer."""
    nodes = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeManagerAddress"] == host]
    if not nodes:
        return ""
    here = own_logs(nodes[0])  # on the driver's own node no task is needed, which a busy machine starts late
    texts = _reader()(here, pid) if here else _ask(nodes[0], pid)
    mark = [run for text in texts for run in _RUN.findall(text)]
    text = "\n".join(_RUN.split(text)[-1] for text in texts)  # what the last run printed and warned
    kept = [line.rstrip() for line in text.splitlines() if line.strip() and not _NOISE.search(line)]
    words = "\n".join(kept[-_LINES:])[-_CHARACTERS:]
    late = HELD.findall(text)  # above a long dump of all threads
    words = f"{late[-1]}\n{words}" if late and late[-1] not in words else words
    return f"{RUNNING}{mark[-1]}\n{words}" if mark and not at_work(words) else words


def _ask(node: str, pid: int) -> list[str]:
    """The ends of a process's logs, read by a task on its node."""
    if time.monotonic() - _silent.get(node, -_PAUSE) < _PAUSE:
        return []
    there: Any = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    try:
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_reader())
        texts: list[str] = ray.get(task.remote("", pid), timeout=_WAIT)
    except (ray.exceptions.RayError, OSError):
        _silent[node] = time.monotonic()
        return []
    _silent.pop(node, None)
    return texts


def _reader() -> Callable[[str, int], list[str]]:
    def read(folder: str, pid: int) -> list[str]:  # nested, so that it is shipped whole: importing raysweep takes long
        import contextlib
        import os
        from pathlib import Path

        # A task finds the folder where Ray put its own standard error.
        here = Path(folder) if folder else Path(os.readlink("/proc/self/fd/2")).parent
        texts = []
        for file in (f for kind in ("out", "err") for f in here.glob(f"worker-*-{pid}.{kind}")):
            with contextlib.suppress(OSError), open(file, "rb") as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - 32768))
                texts.append(stream.read().decode(errors="replace"))
        return texts

    return read
