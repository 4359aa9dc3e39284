"""A limit on the time of a run also holds where the run holds Python's lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from raysweep.executors import limit
from raysweep.executors.lastwords import said
from raysweep.executors.limit import HELD, TimeLimitError, took_longer, watched

# The file itself: to import its package takes seconds. sum() of a range is one call of C code: no other thread of
# Python runs meanwhile, neither that of the limit nor a signal's handler.
HOLDS = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("limit", sys.argv[1])
limit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(limit)
limit._GRACE = float(sys.argv[2])
before = lambda: os.write(1, b"flushed")

def training():
    {work}

with limit.watched({seconds}, before, "run abc"):
    training()
os.write(1, b"ended")
"""


def worker(work: str, grace: float, seconds: float = 0.1) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HOLDS.format(work=work, seconds=seconds), str(Path(limit.__file__)), str(grace)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def test_a_worker_whose_run_holds_pythons_lock_is_ended_by_c_code() -> None:
    done = worker("sum(range(10**11))", 0.1)  # half an hour
    assert done.returncode == 1
    assert "ended" not in done.stdout
    assert HELD.search(done.stderr)  # by which the driver knows that it was the limit, and
    assert "in training" in done.stderr  # a user where it was


def test_a_worker_whose_run_lets_python_run_brings_its_rows_to_the_ledger_and_ends() -> None:
    done = worker("while True: pass", 60)
    assert (done.returncode, done.stdout) == (limit._CODE, "flushed")
    assert f"run abc {took_longer(0.1)}" in done.stderr
    assert "in training" in done.stderr
    assert said(done.stderr).splitlines()[-1] == f"run abc {took_longer(0.1)}"


def test_a_worker_whose_run_ends_in_time_is_left_alone() -> None:
    done = worker("import time; time.sleep(0.01)", 0.1, 100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended", "")


def test_in_the_drivers_own_process_a_call_of_c_code_ends_first_and_then_the_run() -> None:
    seen: list[int] = []

    def training() -> None:
        list(map(seen.append, range(10**6)))
        while True:
            pass

    with pytest.raises(TimeLimitError, match=f"run abc {took_longer(0.01)}"), watched(0.01, None, "run abc"):
        training()
    assert len(seen) == 10**6  # it was not broken off
