"""What becomes of a pack that two workers train together when one's node is lost, and another node joins later.

    python tests/benchmarks/team_node.py [--out tests/benchmarks]

A Ray cluster of two nodes with one CPU each, on this machine; one node is killed by SIGKILL in the middle of the first
pack, and another joins five seconds later. Each pack must end complete, and the one that lost a worker must go on from
its saved state: its cells from before keep their rows of attempt 1, the others are of attempt 2.

Prints, and writes to OUT/team_node.json, the rows of each pack by attempt and how long each part took.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from fault_tools import Nodes, Run  # noqa: E402

from raysweep.store import Store  # noqa: E402

TIMES = [50 * i for i in range(1, 41)]
SWEEP: dict[str, Any] = {
    "name": "team_node",
    "experiment": "classifier",
    "world": {"kind": "gaussian", "dim": 4, "classes": 3},
    "grid": {
        "n_train": 32,
        "width": [128, 129],
        "depth": 3,
        "seed": 0,
        "steps": TIMES,
        "k": 1,
        "batch": 256,
        "pool": 512,
        "eval_items": 256,
        "select_items": 128,
    },
    "resources": {"workers_per_run": 2, "checkpoint_seconds": 1, "attempts": 2},
}


def measure(folder: Path) -> dict[str, Any]:
    """Drive the sweep, lose a node, and wait for the end."""
    nodes = Nodes(cpus=1)
    nodes.start(2)
    run = Run(folder / "run", Store(str(folder / "store")), SWEEP)
    began = time.monotonic()
    try:
        run.drive(nodes.address)
        run.until(len(TIMES) // 4, 300)
        lost = time.monotonic()
        nodes.kill(nodes.workers[0])
        time.sleep(5.0)
        nodes.add()
        while all(row["attempt"] == 1 for row in run.finished().values()) and time.monotonic() < lost + 600:
            time.sleep(0.2)
        again = time.monotonic()
        run.ends(0, 900)
        ended = time.monotonic()
        rows = run.finished().values()
    finally:
        run.stop()
        nodes.cluster.shutdown()
    by = Counter((row["width"], row["attempt"]) for row in rows)
    return {
        "rows": [{"width": w, "attempt": a, "cells": n} for (w, a), n in sorted(by.items())],
        "complete": len(rows) == 2 * len(TIMES),
        "resumed": sum(by.values()) == len(rows) and any(a > 1 and n < len(TIMES) for (_, a), n in by.items()),
        "seconds_until_the_loss": round(lost - began, 1),
        "seconds_from_the_loss_to_a_row_of_attempt_2": round(again - lost, 1),
        "seconds_in_all": round(ended - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="raysweep-team-"))
    try:
        found = measure(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found |= {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs",
        "versions": {name: version(name) for name in ("ray", "torch")} | {"python": platform.python_version()},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    (given.out / "team_node.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
