"""`raysweep status` as a user reads it: long, narrow, quiet, watched."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import FUNCTION_SWEEP, HERE

from raysweep.cli.status import lines
from raysweep.executors import make_executor
from raysweep.progress import Progress
from raysweep.run import open_store, run
from raysweep.store import Store
from raysweep.sweep import from_mapping

FOUND: dict[str, Any] = {
    "store": "s3://bucket/digits", "sweep": "digits", "cells": {"ok": 900, "diverged": 3, "failed": 12, "skipped": 0},
    "total": 2240, "runs": 160, "pending": 1337, "done": 903, "failures": [], "parts": 44, "unreadable": [],
    "left_out": [],
    "pace": {"busy_seconds": 4000.0, "last_rows_age": 4.2, "window_seconds": 598.0, "cells_per_second": 12.5,
             "remaining_seconds": 107.0},
    "drivers": [{"driver": "node7-42-ab", "host": "node7", "process": "42", "heartbeat_age": 3.0, "alive": True,
                 "packs": 3, "dashboard": "http://10.0.0.2:8265"}],
    "worlds": [{"recipe": "ab12", "ready": True, "audited": [1.0], "passed": True}], "clock": "store",
}  # fmt: skip


def failure(cause: str, error: str, cells: int = 1) -> dict[str, Any]:
    return {"status": "failed", "cause": cause, "cells": cells, "example": {"cell": "c", "attempt": 3, "error": error}}


def test_a_sweep_at_work_in_a_few_lines() -> None:
    assert lines(FOUND) == [
        "digits  s3://bucket/digits",
        "  [################------------------------] 40 %",
        "  900 ok, 3 diverged, 12 failed of 2,240; 1,337 pending",
        "  12 cells/s over the last 9:58; about 1:47 left; last rows 4 s ago; 1:06:40 of pack time; 44 parts",
        "  world ab12: ready, audit passed",
        "  driver node7 (process 42): 3 packs, last heard from 3 s ago, dashboard http://10.0.0.2:8265",
    ]


def test_no_rate_and_no_end_are_claimed_when_nobody_works() -> None:
    silent = {**FOUND["drivers"][0], "alive": False, "heartbeat_age": 190.0}
    text = "\n".join(lines({**FOUND, "drivers": [silent]}))
    assert "driver node7 (process 42): SILENT for 3:10; 3 packs free for other drivers" in text
    assert "no driver at work; `raysweep run` continues from here" in text
    assert "left" not in text
    assert "cells/s" not in text
    assert "8265" not in text


def test_long_reasons_many_causes_and_many_drivers_fit_a_terminal() -> None:
    word = failure("E: " + "x" * 500, "\n".join(f"line {i} " + "y" * 300 for i in range(400)) + "\nE: " + "x" * 500)
    found = {
        **FOUND,
        "failures": [word, *(failure(f"cause {i}", f"cause {i}") for i in range(200))],
        "drivers": FOUND["drivers"] * 30,
        "unreadable": [{"file": f"f{i}", "reason": "torn"} for i in range(100)],
    }
    page = lines(found, 80)
    assert max(map(len, page)) == 80
    assert "".join(line.strip() for line in page).count("x" * 500) == 2  # folded, not cut
    assert len(page) < 200
    assert any("... and 191 more causes; --json has them all" in line for line in page)
    assert any("... and 95 more unreadable files" in line for line in page)
    assert any(line.strip().startswith("line 399") for line in page)
    assert not any("line 300 " in line for line in page)
    assert any(len(line) > 500 for line in lines(found))  # into a file nothing is cut


def test_what_a_worker_printed_does_not_command_the_terminal() -> None:
    said = "\x1b[31mred\x1b[0m\x1b]0;title\x07\x1b[2J\tend\r\nValueError: \x9b31m"
    page = lines({**FOUND, "failures": [failure("ValueError: \x9b31m", said)]})
    assert page[-4] == "  failed x 1: ValueError: ?31m"
    assert page[-2].split() == ["red?]0;title??[2J", "end"]
    assert page[-1] == "      ValueError: ?31m"
    assert all(line.isprintable() for line in page)


def test_what_cannot_be_known_is_not_made_up() -> None:
    unknown = {
        **FOUND,
        "total": None,
        "done": None,
        "pending": None,
        "pace": {**FOUND["pace"], "remaining_seconds": None},
    }
    text = "\n".join(lines(unknown))
    assert "how many are pending is unknown" in text
    assert "left" not in text
    assert "%" not in text
    empty = {**FOUND, "cells": {"ok": 0}, "done": 0, "pending": 2240, "parts": 0, "pace": None, "drivers": []}
    assert lines(empty)[1:3] == [f"  [{'-' * 40}] 0 %", "  no finished cells of 2,240; 2,240 pending"]
    ageless = {**FOUND["drivers"][0], "heartbeat_age": None}
    assert "age unknown" in lines({**FOUND, "drivers": [ageless]})[5]


@pytest.mark.parametrize("arguments", [["--json"], []])
def test_watching_ends_when_nothing_is_pending(arguments: list[str], tmp_path: Path) -> None:
    sweep, store = from_mapping(FUNCTION_SWEEP, "sweep.yaml", [HERE]), Store(str(tmp_path / "store"))
    open_store(store, sweep, Progress(io.StringIO))
    command = [sys.executable, "-m", "raysweep", "status", store.uri, "--watch", "--every", "0.2", *arguments]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE)
    assert watch.stdout is not None
    said = [watch.stdout.readline()]  # it has looked once
    rest = threading.Thread(target=lambda: said.extend(watch.stdout or ()))
    rest.start()
    assert run(sweep, store, make_executor("inline")).counts.ok == 18
    assert watch.wait(timeout=200) == 0
    rest.join(timeout=200)
    if arguments:
        looks = [json.loads(line) for line in said]
        assert (looks[0]["pending"], looks[-1]["pending"]) == (18, 0)
    else:
        assert re.match(r"\d\d:\d\d:\d\d\n", said[0])
        assert "  18 ok of 18; 0 pending\n" in said


@pytest.mark.parametrize("arguments", [["--json"], []])
def test_watching_waits_for_a_store_that_is_about_to_be_made(arguments: list[str], tmp_path: Path) -> None:
    sweep, store = from_mapping(FUNCTION_SWEEP, "sweep.yaml", [HERE]), Store(str(tmp_path / "store"))
    command = [sys.executable, "-m", "raysweep", "status", store.uri, "--watch", "--every", "0.2", *arguments]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE)
    assert watch.stdout is not None
    first = [watch.stdout.readline() for _ in range(1 if arguments else 2)]  # with the time of day above
    assert not (tmp_path / "store").exists()  # looking makes nothing
    assert run(sweep, store, make_executor("inline")).counts.ok == 18
    said, _ = watch.communicate(timeout=200)
    assert watch.returncode == 0
    waiting = f"waiting for {store.uri} to be created"
    if arguments:
        assert json.loads(first[0]) == {"store": store.uri, "waiting": waiting}
        assert json.loads(said.splitlines()[-1])["pending"] == 0
    else:
        assert first[1] == f"{waiting}\n"
        assert waiting not in said
        assert "  18 ok of 18; 0 pending\n" in said


def test_a_silent_driver_of_unknown_age_is_marked() -> None:
    silent = {**FOUND["drivers"][0], "alive": False, "heartbeat_age": None}
    assert "  driver node7 (process 42): SILENT; 3 packs free for other drivers" in lines(
        {**FOUND, "drivers": [silent]}
    )
